"""Why a recurrent layer does not keep its state: for those who find that its gradient dies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from gradwatch.core.finding import Cause
from gradwatch.core.record import Parameter, Record
from gradwatch.detectors._time import Course

GATED: Final = frozenset({"LSTM", "LSTMCell", "GRU", "GRUCell"})
"""Recurrent layers whose state is kept by a gate, and not by the size of its weights."""
DEFAULT: Final = 1 / math.sqrt(3)
"""Size of torch's initial recurrent weights as a part of what keeps a state: uniform numbers up to
1 / sqrt(n)."""
CLOSED: Final = -1.0
"""Sum of the biases of an LSTM's gates, per unit, from which on one of them is nearly closed: in
torch's init it is 0 give or take 0.1, with an open forget gate it is 1 and more."""


def causes(record: Record, course: Course) -> Iterator[Cause]:
    """Yield the causes, the main one first; `record` is the first exam that shows it."""
    layers = course.layers
    shown = f"`{layers[0] or '(model)'}`"
    init = _closed_gate(record, course) or _small_weights(record, course)
    if init:
        yield Cause("init", f"{shown}: {init}", layers, share=1.0)
    else:
        yield Cause(
            "time",
            f"{shown} ({course.kind}) {course.pace}. A state that is kept by a gate which is open "
            "at first (an LSTM or GRU with a bias for it), or by an orthogonal recurrent weight, "
            "loses almost none.",
            layers,
            share=1.0,
        )
    for call in record.calls:
        output = call.output
        if call.layer.kind == "Embedding" and output and output.zeros > 0.5 * output.count:
            yield Cause(
                "data",
                f"{output.zeros / output.count:.0%} of what `{call.layer.label}` gives is exactly "
                "0, as padding is: if the answer is read after it, pack the sequences or read at "
                "the last real step.",
                (call.layer.name,),
            )
            break


def _closed_gate(record: Record, course: Course) -> str:
    """Say whether the biases of an LSTM's gates lie far below zero: only their sum is known."""
    if not course.kind.startswith("LSTM"):
        return ""
    sums: dict[str, float] = {}
    for parameter in _inside(record, course):
        place, _, name = parameter.name.rpartition(".")
        if name.startswith("bias_") and parameter.weight is not None:
            layer = place + name.removeprefix("bias_ih").removeprefix("bias_hh")
            sums[layer] = sums.get(layer, 0.0) + 4 * parameter.weight.mean
    lowest = min(sums.values(), default=0.0)
    if lowest > CLOSED:
        return ""
    return (
        f"the biases of its gates add up to {lowest:.2g}; a forget gate with such a bias keeps "
        f"{1 / (1 + math.exp(-lowest)):.2g} of the cell from one step to the next (0.5 with "
        "torch's, 0.73 with a bias of 1)."
    )


def _small_weights(record: Record, course: Course) -> str:
    """Say whether the recurrent weights are far smaller than torch makes them."""
    if course.kind in GATED:
        return ""
    sizes = [
        parameter.weight.rms * math.sqrt(parameter.shape[1])
        for parameter in _inside(record, course)
        if len(parameter.shape) == 2
        and parameter.shape[0] == parameter.shape[1]
        and parameter.weight is not None
    ]
    if not sizes or max(sizes) > DEFAULT / 2:
        return ""
    return (
        f"its recurrent weights are {1 / max(max(sizes), 1e-12):.2g} times smaller than what keeps "
        "a state (an orthogonal matrix)."
    )


def _inside(record: Record, course: Course) -> list[Parameter]:
    return [
        parameter
        for parameter in record.parameters
        if any(parameter.name.startswith(f"{layer}.") for layer in course.layers)
    ]
