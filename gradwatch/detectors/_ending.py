"""What stands between the last weights of a model and its loss: shared by the detectors of what is
wrong with the output."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from gradwatch.core.answer import Answer
from gradwatch.core.record import ZERO_GRADIENT, Call, Record

RANGES: Final = {
    "Sigmoid": (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "Hardsigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "tanh": (-1.0, 1.0),
    "Hardtanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0),
    "Softsign": (-1.0, 1.0),
}
"""Functions that are bounded on both sides, and their ranges."""
STEEPEST: Final = {
    "Tanh": 1.0,
    "Hardtanh": 1.0,
    "Softsign": 1.0,
    "Sigmoid": 1 / 4,
    "Hardsigmoid": 1 / 6,
}
"""Their largest slopes; that of a softmax over n classes is 1/n where it is undecided."""


def leaves(record: Record) -> Iterator[tuple[int, Call]]:
    """Yield the calls that hold no other, with their positions."""
    parents = {call.parent for call in record.calls}
    for i, call in enumerate(record.calls):
        if i not in parents:
            yield i, call


def ending(record: Record) -> tuple[Call, ...]:
    """Return the calls after the last one with weights, in execution order."""
    last = max((i for i, call in enumerate(record.calls) if call.layer.weighted), default=-1)
    return tuple(call for i, call in leaves(record) if i > last)


def bounded(record: Record) -> Call | None:
    """Return the bounded function that the output comes from, if there is one."""
    found = [call for call in ending(record) if call.layer.kind in RANGES]
    return found[-1] if found else None


def lost_bits(call: Call, answer: Answer) -> float | None:
    """Bits of the gradient that a bounded function takes beyond what it takes at its steepest;
    infinite if nothing passes, None where it has no number."""
    if call.reason == ZERO_GRADIENT and call.grad_output is not None and call.grad_output.squares:
        return math.inf
    if call.gain is None:
        return None
    steepest = STEEPEST.get(call.layer.kind.capitalize(), 1 / max(2, answer.classes))
    return math.log2(steepest) - call.gain


def rescaled_bits(record: Record) -> tuple[float, tuple[str, ...]]:
    """Return by how many bits products and quotients after the last weights make the output
    larger, which is what they do to the gradient, and where they are. What is done to a single
    number is done to a loss that the model computes itself."""
    found = [
        call
        for call in ending(record)
        if call.layer.functional
        and call.layer.kind in ("mul", "div")
        and call.gain is not None
        and call.grad_output is not None
        and call.grad_output.count > 1
    ]
    return math.fsum(call.gain or 0.0 for call in found), tuple(c.layer.name for c in found)


def last_weighted(record: Record) -> Call | None:
    """Return the last call with weights."""
    return next((call for call in reversed(record.calls) if call.layer.weighted), None)


def source(record: Record, answer: Answer) -> Call | None:
    """Return the innermost call whose output this is, if it can be told."""
    for call in reversed(record.calls):
        out = call.output
        if (
            out is not None
            and out.count == answer.samples * answer.columns
            and out.peak == max(-answer.low, answer.high)
        ):
            return call
    return None
