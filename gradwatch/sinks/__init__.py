"""Sinks: places that a report is written to. They render and compute nothing."""
