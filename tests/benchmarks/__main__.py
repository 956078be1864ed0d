"""`python -m tests.benchmarks overhead | detection | remedies`."""

from __future__ import annotations

import argparse
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def main() -> None:
    """Run the benchmark that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    commands = parser.add_subparsers(dest="benchmark", required=True)
    costs = commands.add_parser("overhead", help="what watching costs")
    costs.add_argument("--quick", action="store_true", help="small models, few rounds")
    detecting = commands.add_parser("detection", help="what is found in the corpus, and by whom")
    detecting.add_argument("--quick", action="store_true", help="every eighth case")
    detecting.add_argument("--only", nargs="+", metavar="NAME", help="cases; all if left out")
    detecting.add_argument(
        "--unseen", metavar="MODULE", help="another corpus: path or name of a module with CASES"
    )
    detecting.add_argument(
        "--json", type=Path, metavar="FILE", help="write what was said of each training"
    )
    detecting.add_argument(
        "--readme", action="store_true", help="write the README's table: needs the whole corpus"
    )
    remedying = commands.add_parser("remedies", help="what trials advise, and what comes of it")
    remedying.add_argument("--quick", action="store_true", help="every eighth case")
    remedying.add_argument("--only", nargs="+", metavar="NAME", help="cases; all if left out")
    remedying.add_argument(
        "--unseen", metavar="MODULE", help="another corpus: path or name of a module with CASES"
    )
    remedying.add_argument("--json", type=Path, metavar="FILE", help="write what came of each")
    arguments = parser.parse_args()
    if arguments.benchmark == "overhead":
        from tests.benchmarks import overhead

        overhead.main(quick=arguments.quick)
        return
    if arguments.benchmark == "remedies":
        from tests.benchmarks import remedies

        remedies.main(
            arguments.only,
            quick=arguments.quick,
            unseen=arguments.unseen,
            to_json=arguments.json,
        )
        return
    if arguments.readme and (arguments.quick or arguments.only or arguments.unseen):
        detecting.error("--readme is for the whole corpus: without --quick, --only and --unseen")
    from tests.benchmarks import detection

    detection.main(
        arguments.only,
        quick=arguments.quick,
        unseen=arguments.unseen,
        to_json=arguments.json,
        readme=README if arguments.readme else None,
    )


if __name__ == "__main__":
    main()
