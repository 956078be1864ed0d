"""What the optimizer's steps amount to: shared by the detectors of learning rates and optimizers.

A step of size d along a gradient g promises a fall of the loss by -g.d. Compared with the loss that
is free of any scale, and holds for every optimizer: it is measured on what the weights really did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

import numpy as np

from gradwatch.core.history import History
from gradwatch.core.record import Group, Parameter, Record
from gradwatch.detectors import _outcome

FIRST_LOSSES: Final = 5
"""The loss that promised falls are compared with is the median of so many first ones."""
STILL_SHARE: Final = 0.9
"""A run's movement is that of the weight that so many of the weights do not exceed."""


def moved(record: Record) -> list[Parameter]:
    """Return the parameters that this step moved, and that got a gradient in it."""
    return [
        parameter
        for parameter in record.parameters
        if parameter.trainable
        and parameter.gradient is not None
        and parameter.update is not None
        and parameter.update.squares > 0
    ]


def ratios(record: Record) -> list[float]:
    """Return the update-to-weight ratios of the weights; one that was zero has none."""
    found = [parameter.update_ratio for parameter in _outcome.weights(record)]
    return [ratio for ratio in found if ratio is not None and math.isfinite(ratio)]


def typical(record: Record) -> float:
    """Return the median of the update-to-weight ratios; 0 when there are none."""
    return median(ratios(record) or [0.0])


def promised(record: Record) -> float | None:
    """Return the fall of the loss that the gradient promises for this step, -g.d; None when no
    movement was measured. Negative for a step that goes up the gradient."""
    total, seen = 0.0, False
    for parameter in record.parameters:
        gradient, update = parameter.gradient, parameter.update
        if not parameter.trainable or gradient is None or update is None:
            continue
        seen = True
        if parameter.descent is not None and not gradient.nonfinite and not update.nonfinite:
            size = update.rms * math.sqrt(gradient.count)  # of the sample, taken for the whole
            total += parameter.descent * gradient.norm * size
    return total if seen else None


def direction(record: Record) -> float | None:
    """Return the cosine between the whole step and the whole negative gradient; None for none."""
    gain = promised(record)
    parts = moved(record)
    gradient = math.sqrt(math.fsum(p.gradient.squares for p in parts if p.gradient is not None))
    step = math.sqrt(
        math.fsum(
            p.update.rms**2 * p.gradient.count
            for p in parts
            if p.update is not None and p.gradient is not None
        )
    )
    if gain is None or not 0 < gradient * step < math.inf:
        return None
    return gain / (gradient * step)


@dataclass(frozen=True, slots=True)
class Walk:
    """What all steps of a run come to, between its first exam and its last."""

    steps: int
    movement: float
    """Sum of the update-to-weight ratios: no weight (but a tenth of them) can have moved by more,
    as a part of its size."""
    promise: float | None
    """Sum of the promised falls, as a part of the first losses; None when no loss is known."""

    reach: float | None
    """What the same steps would have promised straight down the gradient: steps that round to
    nothing have no direction."""

    @property
    def response(self) -> float | None:
        """The relative fall of the loss per relative movement of the weights, down the gradient:
        how much the loss depends on them at all."""
        return self.reach / self.movement if self.reach and self.movement else None


def walk(history: History) -> Walk | None:
    """Add up the steps, by the exams' trapezoids; None before there are two."""
    records = [record for record in history if _judged(record)]
    if len(records) < 2:
        return None
    # What was born as zero (half of an adapter) moves by many times its size whatever the rate.
    born = {p.name for p in records[0].parameters if p.sample is not None and not p.sample.squares}
    exams = [(r.step, _movement(r, born), promised(r) or 0.0, _reach(r)) for r in records]
    _, losses = history.losses()
    first = np.abs(losses[np.isfinite(losses)][:FIRST_LOSSES])
    begin = float(np.median(first)) if first.size else 0.0
    fall = _area([(step, fall) for step, _, fall, _ in exams])
    reach = _area([(step, most) for step, _, _, most in exams])
    return Walk(
        exams[-1][0] - exams[0][0],
        _area([(step, movement) for step, movement, _, _ in exams]),
        fall / begin if begin > 0 else None,
        reach / begin if begin > 0 else None,
    )


def clipped(history: History) -> float | None:
    """Return the median of what clipping leaves of the gradient's norm; None when not known."""
    known = [pulse.clip_ratio for pulse in history.pulses if 0 < pulse.clip_ratio < math.inf] or [
        r.clip_ratio for r in history if r.clip_ratio is not None and 0 < r.clip_ratio < math.inf
    ]
    return float(np.median(known)) if known else None


def grouped(record: Record) -> Iterator[tuple[Parameter, Group]]:
    """Yield the weights that a known optimizer steps, with their groups."""
    for parameter in _outcome.weights(record):
        if parameter.group is not None and parameter.gradient is not None:
            yield parameter, record.groups[parameter.group]


def since(history: History, bad: Callable[[Record], bool | None]) -> tuple[Record, ...]:
    """Return the exams at the end of the history that are bad; those of which it is not known
    (None) neither count nor break the streak."""
    streak: list[Record] = []
    for record in reversed(history.records):
        verdict = bad(record)
        if verdict is False:
            break
        if verdict:
            streak.append(record)
    return tuple(reversed(streak))


def _judged(record: Record) -> bool:
    return any(p.gradient is not None and p.gradient.squares > 0 for p in record.parameters)


def _reach(record: Record) -> float:
    return math.fsum(
        p.gradient.norm * p.update.rms * math.sqrt(p.gradient.count)
        for p in moved(record)
        if p.gradient is not None and p.update is not None
        if not p.gradient.nonfinite and not p.update.nonfinite
    )


def _movement(record: Record, born_zero: Set[str]) -> float:
    found = {p.name: p.update_ratio for p in _outcome.weights(record)}
    known = [(name, ratio) for name, ratio in found.items() if ratio and math.isfinite(ratio)]
    others = [ratio for name, ratio in known if name not in born_zero]
    sizes = others or [ratio for _, ratio in known] or [0.0]
    return float(np.quantile(sizes, STILL_SHARE))


def _area(points: Sequence[tuple[int, float]]) -> float:
    return math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
