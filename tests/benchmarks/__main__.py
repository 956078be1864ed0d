"""`python -m tests.benchmarks overhead [--quick]`."""

from __future__ import annotations

import argparse

from tests.benchmarks import overhead


def main() -> None:
    """Run the benchmark that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("benchmark", choices=["overhead"])
    parser.add_argument("--quick", action="store_true", help="small models, few rounds")
    arguments = parser.parse_args()
    overhead.main(quick=arguments.quick)


if __name__ == "__main__":
    main()
