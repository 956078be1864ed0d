"""`python -m tests.zoo record | verify`: keep specimens for the detectors, or prove the labels."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from gradwatch.core import catalog, specimens
from tests.zoo import verify
from tests.zoo.case import train
from tests.zoo.corpus import collect
from tests.zoo.trainings import HEALTHY, SICK, run

EVERY_N_STEPS = 20
"""How often the corpus' cases are examined, as in the benchmark of detection."""


def wanted() -> list[str]:
    """Return the specimens' names: all of `trainings`, and what detectors name of the corpus."""
    modules = catalog.modules("gradwatch.detectors")
    claims = (getattr(module, claim, ()) for module in modules for claim in ("HEALTHY", "SICK"))
    return list(dict.fromkeys([*HEALTHY, *SICK, *(name for claim in claims for name in claim)]))


def record(names: Sequence[str]) -> None:
    """Train each by name, and store its run folder as a specimen of that name."""
    torch.set_num_threads(1)
    cases = collect()
    trainings = {**HEALTHY, **SICK}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            if name in trainings:
                watcher, losses = run(trainings[name], log_dir=Path(folder))
            else:
                case = cases[name]
                options = {"log_dir": folder, "every_n_steps": EVERY_N_STEPS}
                outcome = train(case.build, case.steps, watch=True, **options)
                assert outcome.watcher is not None
                watcher, losses = outcome.watcher, list(outcome.losses)
            path = specimens.save(folder, name)
        worst = watcher.report().severity
        print(
            f"{name:25} loss {losses[0]:10.4g} -> {losses[-1]:10.4g}  {worst or 'silent'}  {path}"
        )


def main() -> int:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo")
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser(
        "record", help="train the specimens and store their run folders"
    )
    recording.add_argument("--only", nargs="+", metavar="NAME", help="all if left out")
    verifying = commands.add_parser("verify", help="prove every label of the corpus by training")
    verifying.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    verifying.add_argument("--only", nargs="+", metavar="NAME", help="cases; all if left out")
    arguments = parser.parse_args()
    if arguments.command == "verify":
        return verify.main(arguments.only, arguments.seeds)
    record(arguments.only or wanted())
    return 0


if __name__ == "__main__":
    sys.exit(main())
