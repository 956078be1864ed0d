"""Weights & Biases, by its own client: a few scalars, a few histograms, and the findings.

The number of keys is bounded whatever the model's size. wandb is imported when a sink is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gradwatch.core.record import Record
from gradwatch.core.report import Report
from gradwatch.core.sink import Sink
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES
from gradwatch.sinks._text import clean

if TYPE_CHECKING:
    import wandb

MAX_LAYERS: Final = 12
"""Layers with a histogram, evenly chosen: each is a panel of its own."""
MAX_KEY: Final = 40
"""Characters of a layer's name in a key."""
STEP: Final = "gradwatch/step"
"""The x axis of all others: optimizer steps done before. The run's own step is its owner's."""
FINDINGS: Final = "gradwatch/findings table"
GRADIENTS: Final = "gradwatch gradients (log2)"
WINDOW: Final = (-60, 4)
"""Powers of two that the histograms cover, one bucket each; what lies outside is counted at the
edges. wandb draws 64 buckets at most without merging them."""
COLUMNS: Final = ("severity", "finding", "since step", "layers", "cause", "what", "follows from")


class WandB:
    """Logs each exam to a run of Weights & Biases: the one given, or the one that is active.

    The run stays its owner's: it is never finished here, and its step is never advanced, because
    wandb drops what is logged with a step below the latest. So the numbers of an exam arrive with
    the next `run.log(...)` of the training. With `commit=True` each exam is a row of its own: for a
    run that nothing else logs to.
    """

    def __init__(self, run: wandb.Run | None = None, *, commit: bool = False) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            if error.name != "wandb":
                raise
            raise ImportError(
                "gradwatch.sinks.wandb needs the package wandb: pip install 'gradwatch[wandb]'"
            ) from error
        if run is None:
            run = wandb.run
        if run is None:
            raise ValueError("run must be a run of wandb, or one must be active: call wandb.init()")
        self._wandb: Any = wandb
        self._run = run
        self._commit = commit
        self._chosen: dict[str, str] = {}
        self._exam: int | None = None
        self._said: object = None
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("gradwatch/*", step_metric=STEP)
        self._run.define_metric(f"{GRADIENTS}/*", step_metric=STEP)

    def write(self, report: Report, /) -> None:
        """Log what is new; what has no number is left out."""
        row: dict[str, Any] = {}
        record = report.record
        if record is not None and record.step != self._exam:
            self._exam = record.step
            row |= {key: value for key, value in _scalars(report) if math.isfinite(value)}
            row |= self._histograms(record)
        # Sentences change with every exam, and a table is a file: written when its lines change.
        said = [(finding.name, finding.severity, finding.since) for finding in report.findings]
        if said != self._said and (said or self._said):
            row[FINDINGS] = self._wandb.Table(columns=list(COLUMNS), data=_rows(report))
        self._said = said
        if row:
            self._run.log({STEP: max(report.step, 0), **row}, commit=self._commit)
        severity = "none" if report.severity is None else str(report.severity)
        self._run.summary["gradwatch/verdict"] = clean(report.verdict)
        self._run.summary["gradwatch/severity"] = severity

    def close(self) -> None:
        """Do nothing: the run is its owner's."""

    def _histograms(self, record: Record) -> dict[str, Any]:
        low, high = WINDOW
        matrices = [p for p in record.parameters if len(p.shape) > 1 and p.trainable]
        if not self._chosen and matrices:
            self._chosen = _keys([parameter.name for parameter in matrices])
        found: dict[str, Any] = {}
        for parameter in matrices:
            key, stats = self._chosen.get(parameter.name), parameter.gradient
            if key is None or stats is None or not stats.octaves.any():
                continue
            octaves = np.clip(np.arange(OCTAVE_LOW, OCTAVE_LOW + OCTAVES), low, high - 1)
            counts = np.bincount(octaves - low, weights=stats.octaves, minlength=high - low)
            edges = np.arange(low, high + 1)
            found[key] = self._wandb.Histogram(np_histogram=(counts.tolist(), edges.tolist()))
        return found


def example(path: Path) -> Sink:
    """Return a sink that writes below `path` and reaches no network."""
    import wandb

    settings = wandb.Settings(console="off", x_disable_stats=True, silent=True)
    return WandB(wandb.init(mode="offline", dir=path, project="example", settings=settings))


def _keys(names: list[str]) -> dict[str, str]:
    """Return the keys of evenly chosen layers, in whose order wandb shows them."""
    count = min(len(names), MAX_LAYERS)
    places = [round(i * (len(names) - 1) / max(1, count - 1)) for i in range(count)]
    width = len(str(len(names) - 1))
    return {
        names[place]: f"{GRADIENTS}/{place:0{width}} {_plain(names[place])}" for place in places
    }


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[-MAX_KEY:]


def _scalars(report: Report) -> Iterator[tuple[str, float]]:
    record = report.record
    if record is None:
        return
    yield "gradwatch/number of findings", len(report.findings)
    yield "gradwatch/severity level", -1 if report.severity is None else int(report.severity)
    norm = record.gradient_norm
    yield "gradwatch/gradient norm (log10)", math.log10(norm) if 0 < norm < math.inf else math.nan
    if report.ledger.entries:
        yield "gradwatch/bits from output to first layer", report.ledger.total
    if record.clip_ratio is not None:
        yield "gradwatch/clip ratio", record.clip_ratio
    if record.learning_rates:
        yield "gradwatch/learning rate", max(record.learning_rates)
    if record.loss is not None:
        yield "gradwatch/loss", record.loss


def _rows(report: Report) -> list[list[object]]:
    return [
        [
            str(finding.severity),
            clean(finding.name),
            finding.since,
            clean(", ".join(layer or "(model)" for layer in finding.layers)),
            clean(finding.cause),
            clean(finding.summary),
            clean(finding.because_of),
        ]
        for finding in report.findings
    ]
