"""Why steps are too large: the momentum, the second moment, the loss, the data, or the rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from gradwatch.core.finding import Cause
from gradwatch.core.history import History
from gradwatch.core.losses import CROSS_ENTROPY, NLL
from gradwatch.core.record import Group, Record
from gradwatch.detectors import _outcome, _steps

MOMENTUM: Final = 0.99
"""Momentum from which on a step is that of a hundred steps: 0.9 is usual."""
SECOND: Final = 0.5
"""Second beta under which the size that a gradient is divided by is that of one or two steps."""
UNBOUNDED: Final = 5.0
"""Step over learning rate (root mean squares) that an optimizer that normalises does not make."""
USUAL_RATIO: Final = 0.01
"""Update-to-weight ratio that a text compares with."""
PLAIN: Final = 0.95
"""Cosine between the first step and the negative gradient: no normalising optimizer makes it."""
SUMMED: Final = 4.0
"""Times the mean that a sum over a batch is, at least."""
LARGE: Final = 50.0
"""Sensitivity of the loss to the answer of a sample, averaged: 1 to 5 for the usual losses of
answers and targets of unit size (measured: at most 20 in healthy trainings)."""


def why(history: History, record: Record, typical: float) -> Cause:
    """Name the cause of steps that change the typical weight by so much of its size."""
    layers = _outcome.owners(_outcome.weights(record))
    name, text = (
        next(_optimizer(history, record), None)
        or next(_sensitivity(history), None)
        or _rate(history, record, typical)
    )
    return Cause(name, text, layers, share=1.0)


def _optimizer(history: History, record: Record) -> Iterator[tuple[str, str]]:
    for group in _groups(record):
        second, momentum = group.second_momentum, group.momentum or 0.0
        if second is None and momentum >= MOMENTUM:
            times = 1 / (1 - momentum) if momentum < 1 else math.inf
            yield (
                "optimizer",
                f"A momentum of {momentum} makes steps up to {times:.0f} times larger.",
            )
        if second is not None and second < SECOND and _unbounded(history):
            yield (
                "optimizer",
                f"With a second beta of {second} a step is divided by the size of one gradient "
                "alone, which may be next to nothing.",
            )


def _unbounded(history: History) -> bool:
    return any(
        parameter.update.rms > UNBOUNDED * group.learning_rate
        for record in history
        for parameter, group in _steps.grouped(record)
        if parameter.update is not None and group.learning_rate
    )


def _sensitivity(history: History) -> Iterator[tuple[str, str]]:
    """Yield a cause if the first gradient at the output is out of size, and the steps with it."""
    first = next(iter(history), None)
    if first is None or (first.loss is None) or (_steps.direction(first) or 0.0) < PLAIN:
        return
    outermost = [call for call in first.calls if call.parent is None and call.grad_output]
    answer = first.answer
    if not outermost or answer is None or outermost[-1].grad_output is None:
        return
    size = outermost[-1].grad_output.norm * math.sqrt(answer.samples)
    if not LARGE < size < 10 * max(1.0, abs(first.loss)):  # larger than that: a loss scale
        return
    times = first.loss / answer.loss if answer.loss > 0 else 1.0  # NaN where it is not known
    summed = any(
        abs(times / n - 1) < 0.02 for n in (answer.samples, answer.samples * answer.columns)
    )
    if answer.kind in (CROSS_ENTROPY, NLL) or (summed and times > SUMMED):
        text = "is it a sum over the batch, and the learning rate meant for a mean?"
        yield "loss", f"The loss is some {size:.2g} times that of a sample: {text}"
    else:
        text = "are targets or rewards in large units?"
        yield "data-scale", f"The loss changes by {size:.2g} per unit of the answer: {text}"


def _rate(history: History, record: Record, typical: float) -> tuple[str, str]:
    times = 2 ** round(math.log2(max(2.0, min(typical, 1e30) / USUAL_RATIO)))
    rates = [rate for group in _groups(record) if (rate := group.learning_rate)]
    known = f" ({max(rates):.2g})" if rates else ""
    return (
        "learning-rate",
        f"A step changes the typical weight by {typical:.0%} of its size: the learning rate{known} "
        f"is some {times} times too high.",
    )


def _groups(record: Record) -> list[Group]:
    return list(dict.fromkeys(group for _, group in _steps.grouped(record)))
