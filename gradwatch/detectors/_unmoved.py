"""Weights that get gradients and never change, not in the last bit, while others do, or though
the steps move them."""

from __future__ import annotations

import math
from typing import Final

from gradwatch.core.history import History
from gradwatch.core.record import Record
from gradwatch.detectors import _outcome

PART: Final = 0.05
"""Share of all trainable elements under which they are no matter."""
ROUNDS: Final = 2.0**-20
"""Part of a weight from which on a step of plain descent is seen in some of its elements."""
LEAST: Final = 1e-8
"""Learning rate under which a weight may well round back to what it was."""


def unmoved(history: History) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """Return the exams that show it, and the parameters: held by an optimizer with a rate, in
    single precision, with a gradient in each of these exams, and of one value in all of them."""
    changed = _outcome.changed(history)
    exams = tuple(r for r in history if any(p.update is not None for p in r.parameters))
    if not _outcome.lasting(exams) or not (changed or _put_back(exams)):
        return (), ()
    latest = exams[-1]
    stuck = [
        p.name
        for p in latest.parameters
        if p.held and p.trainable and p.name not in changed and len(p.shape) > 1
    ]
    stuck = [name for name in stuck if all(_pushed(record, name) for record in exams)]
    sizes = {p.name: math.prod(p.shape) for p in latest.parameters if p.trainable}
    if not stuck or sum(sizes[name] for name in stuck) < PART * sum(sizes.values()):
        return (), ()
    return exams, tuple(stuck)


def _put_back(exams: tuple[Record, ...]) -> bool:
    """Whether steps move weights that are, in each exam, what they were in all others."""
    return all(any(p.update is not None and p.update.squares for p in r.parameters) for r in exams)


def _pushed(record: Record, name: str) -> bool:
    """Whether a parameter gets a gradient, and a rate to follow it with."""
    p = next((p for p in record.parameters if p.name == name), None)
    if p is None or p.gradient is None or not p.gradient.squares or p.dtype != "float32":
        return False
    group = record.groups[p.group] if p.group is not None else None
    rate = None if group is None else group.learning_rate
    if rate is None or p.weight is None:
        return False
    # A step that rounds to nothing is no step that was not made.
    return rate >= LEAST and rate * p.gradient.rms > ROUNDS * p.weight.rms
