"""How large the numbers of a layer are, exam by exam: the share in each power of two.

The parameters of a layer are added up, and so are the outputs of all calls of it. A share is one of
all numbers, zeros and non-finite ones included, so that the shares of an exam add up to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.record import Record
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Stats
from gradwatch.viewer.exams import evenly
from gradwatch.viewer.order import execution_order, owner
from gradwatch.viewer.packing import label, pack

QUANTITIES: Final = ("gradient", "weight", "output")
MAX_NUMBERS: Final = 145_000
"""Shares above 0 in one page, some 1.8 bytes each: of more, exams are left out, then layers."""
FEWEST: Final = 8
"""Exams that remain, where there are so many, before layers are left out."""
DROPPED_BITS: Final = 15
"""Of the 23 bits of a share's fraction: what remains is exact to 1 part in 500."""
REST: Final = 3
"""Numbers of an exam before its octaves: the shares of zeros, of NaNs and of infinities."""


def octave_data(exams: Sequence[Record], made: int | None = None) -> dict[str, Any]:
    """Return the shares of each layer's numbers, for the exams given, of as many as were `made`.

    `shares` holds, for each of `rows` (layer, quantity, first octave, octaves, count of numbers),
    a line of exams for the zeros, the NaNs, the infinities and each octave; NaN: not measured.
    """
    # What was all NaN at the end has few octaves there.
    size = max(map(_numbers, map(_distributions, (*exams[:1], *exams[-1:]))), default=1)
    shown = evenly(exams, max(FEWEST, MAX_NUMBERS // size))
    found = list(map(_distributions, shown))
    layers = list(dict.fromkeys(layer for each in reversed(found) for layer, _ in each))
    layers = [layers[i] for i in execution_order(layers, exams[-1] if exams else None)]
    kept = evenly(layers, max(2, len(layers) * MAX_NUMBERS // max(1, size * len(shown))))
    rows: list[list[int]] = []
    blocks: list[NDArray[np.float32]] = []
    for position, layer in enumerate(kept):
        for quantity, _ in enumerate(QUANTITIES):
            over_time = [each.get((layer, quantity)) for each in found]
            measured = [stats for stats in over_time if stats is not None and stats.count]
            if measured:
                low, end = _window(measured)
                blocks.append(_shares(over_time, low, end))
                count = measured[-1].count
                rows.append([position, quantity, low + OCTAVE_LOW, end - low, count])
    flat = np.concatenate([block.ravel() for block in blocks]) if blocks else np.zeros(0)
    return {
        "steps": [record.step for record in shown],
        "made": len(exams) if made is None else made,
        "ends": [OCTAVE_LOW, OCTAVE_LOW + OCTAVES - 1],
        "layers": [label(layer) for layer in kept],
        "left_out": len(layers) - len(kept),
        "rows": rows,
        "shares": pack(flat.astype(np.float32), DROPPED_BITS),
    }


def _distributions(record: Record) -> dict[tuple[str, int], Stats]:
    """Return the statistics by layer and position in `QUANTITIES`."""
    found: dict[tuple[str, int], Stats] = {}

    def add(layer: str, quantity: int, stats: Stats | None) -> None:
        if stats is not None:
            place = (layer, quantity)
            found[place] = found[place] + stats if place in found else stats

    for parameter in record.parameters:
        add(owner(parameter.name), 0, parameter.gradient)
        add(owner(parameter.name), 1, parameter.weight)
    owners = {owner(parameter.name) for parameter in record.parameters}
    containers = {call.parent for call in record.calls}
    for position, call in enumerate(record.calls):
        # A container's output is its last part's, again.
        if position not in containers or call.layer.name in owners:
            add(call.layer.name, 2, call.output)
    return found


def _numbers(found: dict[tuple[str, int], Stats]) -> int:
    """Return how many shares above 0 there are in the octaves; at least 1."""
    return max(1, sum(int(np.count_nonzero(stats.octaves)) for stats in found.values()))


def _window(measured: Sequence[Stats]) -> tuple[int, int]:
    """Return the octaves from the first to after the last in which there ever was a number."""
    (used,) = np.nonzero(np.sum([stats.octaves for stats in measured], axis=0))
    return (int(used[0]), int(used[-1]) + 1) if used.size else (-OCTAVE_LOW, 1 - OCTAVE_LOW)


def _shares(over_time: Sequence[Stats | None], low: int, end: int) -> NDArray[np.float32]:
    """Return the shares by column (the three of `REST`, then octaves) and exam."""
    block = np.full((REST + end - low, len(over_time)), np.nan, np.float32)
    for exam, stats in enumerate(over_time):
        if stats is not None and stats.count:
            block[:REST, exam] = np.divide((stats.zeros, stats.nans, stats.infs), stats.count)
            block[REST:, exam] = stats.octaves[low:end] / stats.count
    return block
