"""`python -m tests.benchmarks overhead | detection`."""

from __future__ import annotations

import argparse


def main() -> None:
    """Run the benchmark that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    commands = parser.add_subparsers(dest="benchmark", required=True)
    costs = commands.add_parser("overhead", help="what watching costs")
    costs.add_argument("--quick", action="store_true", help="small models, few rounds")
    detecting = commands.add_parser("detection", help="what is found in the corpus, and by whom")
    detecting.add_argument("--quick", action="store_true", help="every eighth case")
    detecting.add_argument("--only", nargs="+", metavar="NAME", help="cases; all if left out")
    arguments = parser.parse_args()
    if arguments.benchmark == "overhead":
        from tests.benchmarks import overhead

        overhead.main(quick=arguments.quick)
    else:
        from tests.benchmarks import detection

        detection.main(arguments.only, quick=arguments.quick)


if __name__ == "__main__":
    main()
