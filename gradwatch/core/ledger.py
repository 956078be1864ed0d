"""The ledger: where between the loss and the first layer the gradient's bits are lost or gained.

Gains add up along a chain, so blame is a sum. They do not add up across branches: with a skip
connection most of the gradient bypasses the block, and adding up the gains of its inner layers
calls a healthy residual net sick. So a container is split only at its *cuts*, the outputs that all
of the gradient passes through, and a stretch between two cuts that holds several calls is blamed
as a whole. The entries then add up to the total by construction.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gradwatch.core.record import PASS_THROUGH, Call, Layer, Record

TOLERANCE: Final = 0.05
"""Bits by which a call's own gain may differ from the stretch it fills alone (unseen plumbing)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger: the finest part of the model that can honestly be blamed."""

    layers: tuple[str, ...]
    """Names of the layers that it covers, in execution order."""
    kind: str
    """Class or operation; for a stretch of several, their kinds joined by " + "."""
    bits: float
    """By how much backpropagation through it multiplied the gradient, as log2."""
    call: Call | None = None
    """The call, where the entry is exactly one."""


@dataclass(frozen=True, slots=True)
class KindTotal:
    """All entries of one kind together."""

    kind: str
    layers: tuple[str, ...]
    bits: float

    @property
    def each(self) -> float:
        """Bits of one of them, on average."""
        return self.bits / len(self.layers)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The entries in execution order; empty when the step has no gradient to account for."""

    entries: tuple[Entry, ...] = ()

    @property
    def total(self) -> float:
        """log2 of (gradient norm at the deepest measured place) / (at the model's output)."""
        return math.fsum(entry.bits for entry in self.entries)

    def by_kind(self) -> tuple[KindTotal, ...]:
        """Return the entries grouped by kind, the largest loss first."""
        groups: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            groups[entry.kind].append(entry)
        totals = (
            KindTotal(
                kind,
                tuple(entry.layers[0] for entry in entries),
                math.fsum(entry.bits for entry in entries),
            )
            for kind, entries in groups.items()
        )
        return tuple(sorted(totals, key=lambda total: total.bits))


def ledger(record: Record) -> Ledger:
    """Account for the gradient of one examined step, from the model's output to its first layer."""
    return Ledger(tuple(_Accounts(record).inside(None)))


class _Accounts:
    def __init__(self, record: Record) -> None:
        self.calls = record.calls
        self.children: defaultdict[int | None, list[int]] = defaultdict(list)
        for position, call in enumerate(record.calls):
            if _level(call) is not None and call.reason != PASS_THROUGH:
                self.children[call.parent].append(position)

    def inside(self, position: int | None) -> Iterator[Entry]:
        """Yield the entries of one call, or of the whole step for None."""
        own = None if position is None else self.calls[position]
        children = self.children[position]
        if own is None and len(children) == 1:
            yield from self.inside(children[0])
            return
        stretches = list(self._stretches(children))
        # A container that no cut divides is itself the finest thing to blame.
        if own is not None and (not stretches or len(stretches) == 1 < len(stretches[0])):
            if own.gain is not None:
                yield Entry((own.layer.name,), own.layer.kind, own.gain, own)
            return
        end = None if own is None else _level(own)
        low = None if own is None else _input_level(own)
        for stretch in stretches:
            last = self.calls[stretch[-1]]
            if last.cut:
                high = _level(last)
            elif end is not None:  # what follows the last cut ends at the container's output
                high = end
            else:
                return
            yield from self._stretch(low, high, stretch)
            low = high
        if own is not None and low is not None and end is not None and abs(low - end) > TOLERANCE:
            yield Entry((own.layer.name,), own.layer.kind, low - end)

    def _stretches(self, children: Sequence[int]) -> Iterator[list[int]]:
        stretch: list[int] = []
        for position in children:
            stretch.append(position)
            if self.calls[position].cut:
                yield stretch
                stretch = []
        if stretch:
            yield stretch

    def _stretch(
        self, low: float | None, high: float | None, stretch: list[int]
    ) -> Iterator[Entry]:
        if high is None:
            return
        if len(stretch) == 1:
            call = self.calls[stretch[0]]
            whole = low is None or (
                call.gain is not None
                and abs(call.gain - (low - high)) <= TOLERANCE + 0.01 * abs(call.gain)
            )
            if whole:
                yield from self.inside(stretch[0])
                return
        if low is None:  # several calls before the first cut, and no gradient at their input
            return
        layers = [self.calls[position].layer for position in stretch]
        yield Entry(tuple(layer.name for layer in layers), _kind(layers), low - high)


def _kind(layers: Sequence[Layer]) -> str:
    kinds = list(dict.fromkeys(layer.kind for layer in layers))
    return " + ".join(kinds if len(kinds) <= 4 else [*kinds[:3], "..."])


def _level(call: Call) -> float | None:
    """log2 of the norm of the gradient at its output, where there is one."""
    gradient = call.grad_output
    if gradient is None or gradient.nonfinite or not 0 < gradient.squares < math.inf:
        return None
    return 0.5 * math.log2(gradient.squares)


def _input_level(call: Call) -> float | None:
    level = _level(call)
    return None if level is None or call.gain is None else level + call.gain
