"""`gradwatch demo`: a training that does not learn, why, and the same one repaired.

A deep net of sigmoids reads real handwritten digits and stays at chance. gradwatch names the fault;
the demo executes what it prescribes, on a fresh copy of the net, and trains that with the same
data, seed and number of steps.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from gradwatch.core import catalog, runfolder
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report
from gradwatch.data import digits
from gradwatch.sinks.console import render
from gradwatch.viewer.report import write_html
from gradwatch.watcher import watch

DEPTH: Final = 12
WIDTH: Final = 64
BATCH: Final = 64
STEPS: Final = 700
RATE: Final = 0.01
TEST: Final = 297
"""Digits that are kept for the test, of 1,797."""
APPLIED: Final = 2
"""Prescriptions that are executed together: another activation, and the weights that suit it."""
LEARNT: Final = 0.9
"""Share of the test digits that the repaired net must recognise."""


@dataclass(frozen=True)
class Outcome:
    """What became of a training."""

    report: Report
    accuracy: float
    loss: float


def main(folder: Path, *, console: Console | None = None, steps: int = STEPS) -> int:
    """Run the demo and write to `folder`; returns 0 if the fault is found and the repair learns."""
    log = logging.getLogger("gradwatch")
    level = log.level
    log.setLevel(logging.ERROR)  # the report says it all
    try:
        return _run(folder, console or Console(), steps)
    finally:
        log.setLevel(level)


def _run(folder: Path, console: Console, steps: int) -> int:
    console.print(
        f"A net of {DEPTH} layers of {WIDTH} sigmoids learns to read handwritten digits "
        f"(1,797 of them, 8 x 8 pixels), {steps} steps of gradient descent."
    )
    torch.manual_seed(0)
    sick = _net()
    repaired = copy.deepcopy(sick)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("as it is", total=steps)
        before = _train(sick, folder / "before", steps, lambda: progress.advance(bar))
    console.print(
        f"It recognises {before.accuracy:.0%} of the test digits: guessing gives 10 %. Why?\n"
    )
    chosen = before.report.prescriptions[:APPLIED]
    console.print(*_shortened(before.report), sep="\n")
    if before.report.healthy or not chosen or not all(p.runnable for p in chosen):
        console.print("\ngradwatch did not find the fault: please report this.", style="red")
        return 1
    console.print(
        "\nThe demo now executes the code of "
        + " and ".join(f"{i}." for i in range(1, APPLIED + 1))
        + " on a fresh copy of the net, and trains that.\n"
    )
    for prescription in chosen:
        execute(prescription, repaired)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("repaired", total=steps)
        after = _train(repaired, folder / "after", steps, lambda: progress.advance(bar))
    console.print(_side_by_side(before, after))
    for name in ("before", "after"):
        run = runfolder.read(folder / name)
        write_html(run.report(catalog.remedies()), run.history, folder / f"{name}.html")
    console.print(
        Text(
            f"\nThe pages     {folder}/before.html and {folder}/after.html, in a browser\n"
            f"TensorBoard   tensorboard --logdir {folder}\n"
            f"Again here    gradwatch report {folder}/before"
        )
    )
    return 0 if after.accuracy >= LEARNT and after.accuracy > before.accuracy else 1


def execute(prescription: Prescription, model: nn.Module) -> None:
    """Run the code of a prescription on a model, as if it had been pasted."""
    exec(prescription.code, {"torch": torch, "model": model})


def _net() -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(DEPTH):
        layers += [nn.Linear(WIDTH if i else 64, WIDTH), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def _data() -> tuple[Tensor, Tensor]:
    images, labels = digits()
    inputs = torch.from_numpy(images).reshape(len(images), -1)
    # The files are in the order of their writers, and the last of them write unlike the others.
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    return ((inputs - inputs.mean()) / inputs.std())[order], torch.from_numpy(labels)[order]


def _batches(inputs: Tensor, targets: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        picked = torch.randint(len(inputs), (BATCH,), generator=generator)
        yield inputs[picked], targets[picked]


def _train(model: nn.Module, folder: Path, steps: int, advance: Callable[[], None]) -> Outcome:
    inputs, targets = _data()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    loss_fn = nn.CrossEntropyLoss()
    with watch(model, optimizer, loss_fn=loss_fn, log_dir=folder) as watcher:
        for batch, wanted in _batches(inputs[:-TEST], targets[:-TEST], steps):
            optimizer.zero_grad()
            loss_fn(model(batch), wanted).backward()
            optimizer.step()
            advance()
    with torch.no_grad():
        output = model(inputs[-TEST:])
    accuracy = float((output.argmax(1) == targets[-TEST:]).float().mean())
    loss = float(nn.functional.cross_entropy(output, targets[-TEST:]))
    return Outcome(watcher.report(), accuracy, loss)


def _shortened(report: Report) -> list[RenderableType]:
    """Render a report with the prescriptions that the demo executes, and no others."""
    return list(render(replace(report, prescriptions=report.prescriptions[:APPLIED])))


def _side_by_side(before: Outcome, after: Outcome) -> Table:
    table = Table(title="Before and after")
    for title in ("", "as it is", "repaired"):
        table.add_column(title, justify="left" if not title else "right")
    both = (before, after)
    table.add_row("test digits recognised", *(f"{o.accuracy:.1%}" for o in both), style="bold")
    table.add_row("loss on them", *(f"{o.loss:.3f}" for o in both))
    table.add_row("bits from output to first layer", *(_bits(o.report) for o in both))
    table.add_row("verdict", *(str(o.report.severity or "healthy") for o in both))
    return table


def _bits(report: Report) -> str:
    return f"{report.ledger.total:+.1f}"
