"""TensorBoard's own dashboards: a small set that reads well there, in the writer of the training.

Histograms are over x = log2|value|, one bucket per power of two. Over the values themselves,
gradients of a deep net are one spike at 0. The counts come from the statistics, so that no tensor
goes to the host. Torch and tensorboard are imported at the first write.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Final

import numpy as np

from gradwatch.core.finding import Finding
from gradwatch.core.history import Pulse
from gradwatch.core.record import Record
from gradwatch.core.report import Report
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Stats
from gradwatch.sinks._text import clean, code_lines, name

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SUFFIX: Final = ".gradwatch"
"""How our own event files end, so that they can be told from other writers'."""
MAX_LAYERS: Final = 40
"""Histograms of one group; more is a page that nobody scrolls through."""
SLIVER: Final = 1e-6
"""Count of an empty bucket at either end: TensorBoard cuts empty ends off and stretches the next
bucket over the gap."""

FINDINGS: Final = "gradwatch/findings"
GRADIENTS: Final = "gradwatch gradients, log2"
OUTPUTS: Final = "gradwatch layer outputs, log2"
WEIGHTS: Final = "gradwatch weights, log2"
WINDOWS: Final = {GRADIENTS: (-80, 10), OUTPUTS: (-22, 8), WEIGHTS: (-22, 8)}
"""Powers of two that each group covers; what lies outside is counted in the first or the last.
TensorBoard draws 30 bars, whole octaves each if the width is a multiple of 30. All histograms of a
group have the same window, so that a hill can be seen to move from layer to layer and run to run;
that of the gradients is wide because 20 sigmoid layers alone take 60 octaves."""


class TensorBoard:
    """Writes histograms of each exam, scalars of every step and the findings as a table.

    Give either `log_dir`, for an event file of its own, or the `writer` that the training already
    has: it is flushed, never closed. A second event file beside another writer's makes TensorBoard
    stop reading the first, so `write` raises `RuntimeError` when `log_dir` holds one.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        writer: SummaryWriter | None = None,
    ) -> None:
        if (log_dir is None) == (writer is None):
            raise ValueError(
                f"exactly one of log_dir and writer must be given, got log_dir={log_dir!r} "
                f"and writer={writer!r}"
            )
        self._log_dir = None if log_dir is None else Path(log_dir)
        self._writer = writer
        self._chosen: dict[str, frozenset[str]] = {}
        self._omitted: dict[str, int] = {}
        self._step: int | None = None
        self._text = ""

    def write(self, report: Report, /) -> None:
        """Append what is new; what has no number is left out."""
        writer = self._open()
        for pulse in report.pulses:
            _add_scalars(writer, pulse.step, _pulse(pulse))
        record = report.record
        if record is not None and record.step != self._step:
            self._step = record.step
            _add_scalars(writer, record.step, _exam(report))
            self._histograms(writer, record)
        if (text := self._findings(report)) != self._text:
            self._text = text
            writer.add_text(FINDINGS, text, max(report.step, 0))
        writer.flush()

    def close(self) -> None:
        """Close the writer if it is our own."""
        if self._writer is None:
            return
        self._writer.flush()
        if self._log_dir is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> SummaryWriter:
        if self._log_dir is not None:
            # Looked at every time: the training may open its writer after ours.
            for path in self._log_dir.glob("*tfevents*"):
                if not path.name.endswith(SUFFIX):
                    self.close()
                    raise RuntimeError(
                        f"log_dir {str(self._log_dir)!r} already holds the event file of another "
                        "writer, and TensorBoard would stop reading it beside a second one: pass "
                        "writer=<your SummaryWriter> instead"
                    )
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                if error.name is None or not error.name.startswith("tensorboard"):
                    raise
                raise ImportError(
                    "gradwatch.sinks.tensorboard needs the package tensorboard: "
                    "pip install tensorboard"
                ) from error
            self._writer = SummaryWriter(str(self._log_dir), filename_suffix=SUFFIX)
        return self._writer

    def _histograms(self, writer: SummaryWriter, record: Record) -> None:
        for group, stats in _groups(record).items():
            if group not in self._chosen:
                self._chosen[group] = evenly(list(stats), MAX_LAYERS)
                self._omitted[group] = len(stats) - len(self._chosen[group])
            for layer in stats:
                row = stats[layer]
                if layer in self._chosen[group] and row is not None and row.octaves.any():
                    _add_histogram(writer, group, name(layer), row, record.step)

    def _findings(self, report: Report) -> str:
        # Without its step, which would make it a new text every time.
        verdict = report.verdict if report.findings else NOTHING_FOUND
        parts = [f"**{_inline(verdict)}**", "\n".join(_table(report.findings))]
        if report.prescriptions:
            parts.append("### What to try, one at a time")
        for number, prescription in enumerate(report.prescriptions, start=1):
            parts.append(f"**{number}\\. {_inline(prescription.title)}**")
            # Indented code: there is no fence in it that a name could close.
            parts.append("\n".join(f"    {line}" for line in code_lines(prescription.code)))
        parts += ["### How to read the histograms", HOW_TO_READ]
        for group, omitted in self._omitted.items():
            if omitted:
                shown = len(self._chosen[group])
                parts.append(f"{group}: {shown} of {shown + omitted} layers, evenly chosen.")
        return "\n\n".join(part for part in parts if part)


NOTHING_FOUND: Final = "Nothing was found so far; this text is written anew when that changes."
HOW_TO_READ: Final = (
    "x is log2 of the magnitude: at -10 a value is about 1/1000, at -20 a millionth, and one step "
    "to the left is half of it. Compare the hills of the layers: in a healthy model those of the "
    "gradients stand at about the same place; where they march to the left from layer to layer, "
    "the gradient vanishes, to the right it explodes. Exact zeros, NaNs and infinities are not in "
    "the hills; what lies outside the window is counted at its edge."
)


def evenly(names: list[str], most: int) -> frozenset[str]:
    """Return at most so many of the names, evenly spaced, the first and the last among them."""
    if len(names) <= most:
        return frozenset(names)
    return frozenset(names[round(i * (len(names) - 1) / (most - 1))] for i in range(most))


def _add_scalars(writer: SummaryWriter, step: int, points: Iterable[tuple[str, float]]) -> None:
    from tensorboard.compat.proto.summary_pb2 import (  # type: ignore[import-untyped]  # no stubs
        Summary,
    )
    from torch.utils.tensorboard import SummaryWriter

    finite = [(tag, value) for tag, value in points if math.isfinite(value)]
    if not isinstance(writer, SummaryWriter):  # another package's, with the same methods
        for tag, value in finite:
            writer.add_scalar(tag, value, step)
    elif finite:
        # One event for all, in every step of the training: a fourth of what add_scalar takes.
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in finite]
        writer._get_file_writer().add_summary(Summary(value=values), step)


def _pulse(pulse: Pulse) -> Iterator[tuple[str, float]]:
    if pulse.loss_known:
        yield "gradwatch/loss", pulse.loss
    yield "gradwatch/gradient norm, log10", _log10(pulse.norm)
    yield "gradwatch/clip ratio", pulse.clip_ratio


def _exam(report: Report) -> Iterator[tuple[str, float]]:
    if report.ledger.entries:
        yield "gradwatch/bits from output to first layer", report.ledger.total
    yield "gradwatch/number of findings", len(report.findings)
    if report.record is not None and report.record.learning_rates:
        yield "gradwatch/learning rate", max(report.record.learning_rates)


def _log10(value: float) -> float:
    return math.log10(value) if 0 < value < math.inf else math.nan


def _groups(record: Record) -> dict[str, dict[str, Stats | None]]:
    """Return the statistics by group and layer; of the parameters only the matrices."""
    matrices = [parameter for parameter in record.parameters if len(parameter.shape) > 1]
    parents = {call.parent for call in record.calls}
    outputs: dict[str, Stats | None] = {}
    for position, call in enumerate(record.calls):
        if position not in parents:  # calls within calls show the same twice
            before = outputs.setdefault(call.layer.label, call.output)
            if call.index and before is not None and call.output is not None:
                outputs[call.layer.label] = before + call.output
    return {
        GRADIENTS: {parameter.name: parameter.gradient for parameter in matrices},
        WEIGHTS: {parameter.name: parameter.weight for parameter in matrices},
        OUTPUTS: outputs,
    }


def _add_histogram(writer: SummaryWriter, group: str, layer: str, stats: Stats, step: int) -> None:
    low, high = WINDOWS[group]
    octaves = np.clip(np.arange(OCTAVE_LOW, OCTAVE_LOW + OCTAVES), low, high - 1)
    counts = np.bincount(octaves - low, weights=stats.octaves, minlength=high - low)
    counts[[0, -1]] = np.maximum(counts[[0, -1]], SLIVER)
    centres = np.arange(low, high) + 0.5
    writer.add_histogram_raw(
        f"{group}/{layer}",
        min=low,
        max=high,
        num=int(stats.octaves.sum()),
        sum=float(counts @ centres),
        sum_squares=float(counts @ centres**2),
        bucket_limits=list(range(low + 1, high + 1)),
        bucket_counts=counts.tolist(),
        global_step=step,
    )


def _table(findings: Iterable[Finding]) -> Iterator[str]:
    rows = [
        ([str(finding.severity)], [finding.name], [str(finding.since)], _why(finding))
        for finding in findings
    ]
    if rows:
        yield "| severity | finding | since step | what and why |"
        yield "|---|---|---|---|"
    for row in rows:
        yield "| " + " | ".join(_cell(lines) for lines in row) + " |"


def _why(finding: Finding) -> list[str]:
    return [finding.summary, *(f"{cause.name}: {cause.text}" for cause in finding.causes)]


def _cell(sentences: list[str]) -> str:
    # TensorBoard breaks words anywhere and gives a column room by its longest line: with lines of
    # our own the narrow columns are not squeezed to "critic-al".
    return "<br>".join(_inline(line) for text in sentences for line in wrap(clean(text), 70))


def _inline(text: str) -> str:
    """Return text as Markdown that shows just that text."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!|" else escape(c) for c in clean(text))
