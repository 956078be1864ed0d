"""Norms that cannot do their work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gradwatch.core.record import Call, Record
from gradwatch.detectors import _sizes
from gradwatch.detectors._groups import before, is_norm

FEW_VALUES: Final = 4
"""Values per channel up to which a batch norm normalises them to little more than their signs."""
NO_SPREAD: Final = 1e-6
"""Share of squares in which samples differ under which they are the same."""


def norms(record: Record) -> tuple[Call, ...]:
    """Return the calls of norms whose outputs are known."""
    return tuple(c for c in record.calls if is_norm(c.layer.kind) and c.output is not None)


def unfit(calls: Sequence[Call]) -> str:
    """Return why most of some norms cannot do their work; empty if they can."""
    batch = [call for call in calls if "batch" in call.layer.kind.lower()]
    idle = [call for call in batch if not call.training]
    if 2 * len(idle) > len(calls):
        return (
            f"{len(idle)} batch norms are in evaluation mode: they use the running statistics and "
            "normalise nothing."
        )
    few = [call for call in batch if call.training and 0 < _values(call) <= FEW_VALUES]
    if 2 * len(few) > len(calls):
        return (
            f"{len(few)} batch norms have {min(map(_values, few)):.0f} values of each channel to "
            "take a mean and a deviation of."
        )
    return ""


def _values(call: Call) -> float:
    """Values per channel that a batch norm sees."""
    channels = call.layer.weight_shape[0] if call.layer.weight_shape else 0
    return call.output.count / channels if channels and call.output is not None else 0.0


def empty(record: Record, end: int) -> tuple[str, ...]:
    """Return the norms before a call that give nothing, though something comes in and their scale
    is not zero: they normalise each value by itself."""
    found = [
        call.layer.name
        for i, call in enumerate(record.calls[:end])
        if is_norm(call.layer.kind) and _gives_nothing(record, call) and _is_given(record, i)
    ]
    return tuple(dict.fromkeys(found))


def _gives_nothing(record: Record, call: Call) -> bool:
    parameter = _sizes.weight(record, call.layer.name)
    scale = parameter.weight.rms if parameter is not None and parameter.weight is not None else 1.0
    if call.output is None or not scale:
        return False
    same = call.spread is not None and call.spread < NO_SPREAD
    return same or call.output.rms < NO_SPREAD**0.5 * scale


def _is_given(record: Record, position: int) -> bool:
    call = before(record, position)
    return call is None or call.output is None or call.output.squares > 0
