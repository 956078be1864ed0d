"""An exam becomes a `Record`: calls of all micro-batches are merged, and every gap has a reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.losses import FIELDS
from gradwatch.core.record import (
    NO_GRAD_INPUT,
    NO_GRAD_OUTPUT,
    NO_REASON,
    NOT_FINITE,
    NOT_REACHED,
    PARTIAL,
    PASS_THROUGH,
    ZERO_GRADIENT,
    Call,
    Layer,
)
from gradwatch.core.stats import Active, Stats
from gradwatch.instrument.seen import Seen

Key = tuple[str, int]


@dataclass
class _Merged:
    layer: Layer
    index: int
    parent: Key | None
    outputs: list[Stats] = field(default_factory=list)
    grad_outputs: list[Stats] = field(default_factory=list)
    active: list[Active] = field(default_factory=list)
    common: list[float] = field(default_factory=list)
    times: list[NDArray[np.float64]] = field(default_factory=list)
    drifts: list[float] = field(default_factory=list)
    dtype: str = ""
    training: bool = True
    through: list[float] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)
    cut: bool = False
    entered: bool = False
    flows: bool = False

    def call(self, parent: int | None) -> Call:
        grad_output = _sum(self.grad_outputs)
        gain, reason = self._gain(grad_output)
        active = self.active[0] if self.active else None
        for more in self.active[1:]:
            if active is not None and more.units.shape == active.units.shape:
                active = active + more
        return Call(
            self.layer,
            self.index,
            parent,
            gain,
            reason,
            self.cut,
            _sum(self.outputs),
            grad_output,
            active,
            math.fsum(self.common) if len(self.common) == len(self.outputs) > 0 else None,
            self.dtype,
            self.training,
            _over_time(self.times),
            math.fsum(self.drifts) / len(self.drifts) if self.drifts else None,
        )

    def _gain(self, grad_output: Stats | None) -> tuple[float | None, str]:
        for reason in (PARTIAL, PASS_THROUGH, NO_GRAD_OUTPUT):
            if reason in self.reasons:
                return (None, reason)
        if grad_output is None:
            return None, NOT_REACHED
        if not self.entered:
            return None, NO_GRAD_INPUT
        if not self.flows:
            return None, NOT_REACHED
        through = math.fsum(self.through) if all(map(math.isfinite, self.through)) else math.inf
        if not math.isfinite(through) or grad_output.nonfinite:
            return None, NOT_FINITE
        if not through or not grad_output.squares or not math.isfinite(grad_output.squares):
            return None, ZERO_GRADIENT
        return 0.5 * math.log2(through / grad_output.squares), NO_REASON


def calls(seen: Sequence[Seen], numbers: Sequence[NDArray[np.float64]]) -> tuple[Call, ...]:
    """Merge what was seen of each call over the micro-batches of a step.

    `numbers` are the fetched values, by ticket. A forward pass that no gradient reached (a
    validation batch in between) is left out, if there is another.
    """
    reached = {one.top for one in seen if one.reached}
    if reached:
        seen = [one for one in seen if one.top in reached]
    ranks: dict[str, dict[int, int]] = {}
    for one in seen:
        ranks.setdefault(one.layer.name, {})[one.index] = 0
    for indices in ranks.values():
        for rank, index in enumerate(sorted(indices)):
            indices[index] = rank

    def key(one: Seen) -> Key:
        return one.layer.name, ranks[one.layer.name][one.index]

    merged: dict[Key, _Merged] = {}
    for one in seen:
        parent = None if one.parent is None else key(one.parent)
        call = merged.setdefault(key(one), _Merged(one.layer, key(one)[1], parent))
        call.outputs += [Stats.unpack(numbers[ticket]) for ticket in one.outputs]
        call.grad_outputs += [Stats.unpack(numbers[ticket]) for ticket in one.grad_outputs]
        call.active += [
            Active(int(numbers[ticket][-1]), numbers[ticket][:-1].astype(np.int64))
            for ticket in one.active
        ]
        call.through += [
            float(numbers[flow.ticket][0]) for flow in one.flows if flow.ticket is not None
        ]
        call.common += [float(numbers[ticket][0]) for ticket in one.common]
        call.times += [numbers[ticket] for ticket in one.times]
        call.drifts += [float(numbers[ticket][0]) for ticket in one.drifts]
        call.dtype = call.dtype or one.dtype
        call.training = one.training
        call.flows |= bool(one.flows)
        call.entered |= one.entered
        call.cut |= one.cut
        call.reasons.add(one.reason)
    positions = {name: position for position, name in enumerate(merged)}
    return tuple(
        call.call(None if call.parent is None else positions[call.parent])
        for call in merged.values()
    )


def _sum(parts: Sequence[Stats]) -> Stats | None:
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _over_time(parts: Sequence[NDArray[np.float64]]) -> tuple[float, ...]:
    """Add up micro-batches whose sequences have the same length, which is that of the last."""
    alike = [part for part in parts if part.shape == parts[-1].shape]
    return tuple(float(value) for value in np.sum(alike, axis=0)) if alike else ()


def answer(seen: Sequence[Seen], numbers: Sequence[NDArray[np.float64]]) -> tuple[float, ...]:
    """Return the numbers of the outermost calls that got a gradient, of each layer the last call's
    and the step's last one at the end; none if there is none."""
    answered = [one for one in seen if one.answered]
    calls = {one.layer.name: one for one in answered}
    found: list[float] = []
    for position, one in enumerate(sorted(calls.values(), key=answered.index)):
        alone = sum(other.layer.name == one.layer.name for other in answered) == 1
        tickets = [one.answered[i] for i in sorted(one.answered)]
        rows = [dict(zip(FIELDS, numbers[ticket], strict=True)) for ticket in tickets]
        outputs = sum(not row["inside"] for row in rows)
        for row in rows:
            found += (row | {"alone": alone, "call": position, "outputs": outputs}).values()
    return tuple(float(value) for value in found)
