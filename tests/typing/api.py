"""The public API as a contract for the type checker: this file is checked and never run."""

from __future__ import annotations

from typing import assert_type

import torch
from torch.utils.tensorboard import SummaryWriter

import gradwatch
from gradwatch.core.catalog import detectors
from gradwatch.core.finding import Detector
from gradwatch.core.history import History
from gradwatch.core.sink import Sink


def nothing(history: History, /) -> tuple[gradwatch.Finding, ...]:
    """A detector is a function."""
    return ()


class Null:
    """A sink needs no base class."""

    def write(self, report: gradwatch.Report, /) -> None: ...

    def close(self) -> None: ...


def use(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    writer: SummaryWriter,
    loss: torch.Tensor,
) -> None:
    """Use all that is public."""
    detector: Detector = nothing
    sink: Sink = Null()

    assert_type(gradwatch.watch(model), gradwatch.Watcher)
    gradwatch.watch(model, optimizer, log_dir="runs/a")
    gradwatch.watch(
        model,
        optimizer,
        every_n_steps=1,
        loss_fn=torch.nn.CrossEntropyLoss(),
        scaler=torch.amp.GradScaler(),
        writer=writer,
        sinks=(sink,),
        detectors=[*detectors(), detector],
        strict=True,
    )

    with gradwatch.watch(model) as watcher:
        assert_type(watcher, gradwatch.Watcher)
        watcher.step()
        watcher.step(loss)
        watcher.step(0.5)
        with watcher.paused():
            pass
        watcher.detach()
        watcher.close()

    assert_type(gradwatch.trial(model, None, [loss], log_dir="runs/a"), gradwatch.Verdicts)

    report = watcher.report()
    assert_type(report, gradwatch.Report)
    assert_type(report.trial, gradwatch.Verdicts | None)
    assert_type(report.healthy, bool)
    assert_type(report.severity, gradwatch.Severity | None)
    assert_type(report.findings, tuple[gradwatch.Finding, ...])
    assert_type(report.prescriptions, tuple[gradwatch.Prescription, ...])
    assert_type(report.findings[0].causes, tuple[gradwatch.Cause, ...])
    assert_type(gradwatch.__version__, str)
