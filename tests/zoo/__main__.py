"""`python -m tests.zoo record`: train everything and keep each as a specimen for the detectors."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from gradwatch.core import specimens
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


if __name__ == "__main__":
    if sys.argv[1:] != ["record"]:
        sys.exit("usage: python -m tests.zoo record")
    record()
