"""Benchmarks: commands of their own, never tests; every figure a ratio within one run."""
