"""Which bounded activations are flat where the signal is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from gradwatch.core.record import Call, Record
from gradwatch.core.stats import OCTAVE_LOW, Stats

_OF_OUTPUT: Final[dict[str, Callable[[Stats], float]]] = {
    "Tanh": lambda y: 1 - y.squares / y.finite,
    "Sigmoid": lambda y: 4 * (y.mean - y.squares / y.finite),
    "Hardtanh": lambda y: 1 - float(y.octaves[-OCTAVE_LOW:].sum()) / y.finite if y.peak == 1 else 1,
}
"""The mean slope as a share of the largest, from the outputs alone: tanh' = 1 - y^2 and
sigmoid' = y (1 - y), so that the mean is known exactly; a hard tanh (from -1 to 1) is flat where it
gives its bounds."""
_LARGEST: Final = {"tanh": 1.0, "sigmoid": 0.25}
"""Largest slopes of those whose outputs say too little, or are not recorded."""
GATE_REACH: Final = 8
"""Calls after a gate up to the product: what it is multiplied with may be computed in between."""
KINDS: Final = frozenset((*_OF_OUTPUT, *_LARGEST))


def slope(call: Call) -> float | None:
    """Return the mean slope of a bounded activation as a share of its largest; None if it is none
    or not known.

    For an operation it is told from its gain, the root mean square r of its slope: for a tanh whose
    input is wide and normal the mean is 1.5 r^2.
    """
    kind = call.layer.kind
    if kind in _OF_OUTPUT:
        output = call.output
        return _OF_OUTPUT[kind](output) if output is not None and output.finite else None
    if kind not in _LARGEST or call.gain is None or not math.isfinite(call.gain):
        return None
    return min(1.0, 1.5 * float(2.0**call.gain / _LARGEST[kind]) ** 2)


def flat(record: Record, limit: float) -> list[tuple[int, float]]:
    """Return the positions and slopes of activations in the trunk with a mean slope under `limit`.

    Gates are left out (their output multiplies something), and so is what ends the model: the
    answer may well be certain.
    """
    found = []
    for i, call in enumerate(record.calls):
        mean = slope(call) if call.layer.kind in KINDS else None
        if mean is not None and mean < limit and not _last(record, i) and not _gate(record, i):
            found.append((i, mean))
    return found


def _last(record: Record, position: int) -> bool:
    """Whether no weights come after it: then its output is the answer."""
    return not any(call.layer.weighted for call in record.calls[position + 1 :])


def _gate(record: Record, position: int) -> bool:
    """Whether its output is what something is multiplied with: one of the next operations beside
    it, or beside the container that ends with it, is a product."""
    parent = record.calls[position].parent
    while True:
        beside = [call.layer for call in record.calls[position + 1 :] if call.parent == parent]
        if beside:
            return any(at.functional and at.kind == "mul" for at in beside[:GATE_REACH])
        if parent is None:
            return False
        position, parent = parent, record.calls[parent].parent


def ends_part(record: Record, position: int) -> bool:
    """Whether it ends a part of the model that is called as a whole, as the generator of a GAN."""
    parent = record.calls[position].parent
    if parent is None or any(c.parent == parent for c in record.calls[position + 1 :]):
        return False
    grandparent = record.calls[parent].parent
    return grandparent is None or record.calls[grandparent].parent is None
