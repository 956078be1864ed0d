"""`python -m tests.zoo record | verify`: keep specimens for the detectors, or prove the labels."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from gradwatch.core import specimens
from tests.zoo import verify
from tests.zoo.trainings import HEALTHY, SICK, run


def record() -> None:
    """Train each by name, and store its run folder as a specimen of that name."""
    torch.set_num_threads(1)
    for name, training in {**HEALTHY, **SICK}.items():
        with tempfile.TemporaryDirectory() as folder:
            watcher, losses = run(training, log_dir=Path(folder))
            path = specimens.save(folder, name)
        worst = watcher.report().severity
        print(
            f"{name:25} loss {losses[0]:10.4g} -> {losses[-1]:10.4g}  {worst or 'silent'}  {path}"
        )


def main() -> int:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record", help="train the specimens and store their run folders")
    verifying = commands.add_parser("verify", help="prove every label of the corpus by training")
    verifying.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    verifying.add_argument("--only", nargs="+", metavar="NAME", help="cases; all if left out")
    arguments = parser.parse_args()
    if arguments.command == "verify":
        return verify.main(arguments.only, arguments.seeds)
    record()
    return 0


if __name__ == "__main__":
    sys.exit(main())
