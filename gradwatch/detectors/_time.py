"""How the gradient changes through time: shared by the detectors that look at recurrent layers.

A recurrent layer of torch is one call for all its time steps; the gradient at its input is known
for each of them. A cell, or a weight in a hand-written loop, is called once for each time step, and
then the gradient at its output is that at the state of that step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.record import MAX_TIMES, NO_GRAD_INPUT, Call, Layer, Record

MIN_TIMES: Final = 5
"""Fewer time steps show no course; and a layer that is called two or three times in a step is more
often one that is used on several inputs."""
MAX_PAIRED: Final = 64
"""Time steps, evenly spaced, that are compared with each other to find a trend."""
MONOTONY: Final = 0.6
"""Kendall's tau from which on a course is a trend."""
FLOOR: Final = 45.0
"""Decades below the largest at which a gradient counts as nothing: float32 ends there."""


@dataclass(frozen=True, slots=True)
class Course:
    """The gradient of one recurrent layer by time step, in the order of its computation."""

    layers: tuple[str, ...]
    """The layer; of a loop around the whole model, what in it passes the state on."""
    kind: str
    norms: NDArray[np.float64]
    """log10 of the gradient norm at each time step, from the first to the last that gets any."""

    @property
    def steps(self) -> str:
        """How many time steps it has, in words."""
        more = "more than " if self.norms.size == MAX_TIMES else ""
        return f"{more}{self.norms.size} time steps"

    @property
    def drop(self) -> float:
        """Decades from the time step with the most gradient down to what a quarter of all steps do
        not reach: not the very first, for one noisy step proves nothing, and of a layer that reads
        both ways the middle counts."""
        return float(self.norms.max() - np.quantile(self.norms, 0.25))

    @property
    def growth(self) -> float:
        """Decades that it grows by from the last step back to the first: the Theil-Sen slope times
        (steps - 1); negative when it falls."""
        rises, apart = self._pairs()
        return float(np.median(rises / apart)) * (self.norms.size - 1)

    @property
    def monotony(self) -> float:
        """Kendall's tau of it: 1 when every earlier step gets more than every later one."""
        return float(np.sign(self._pairs()[0]).mean())

    @property
    def rising(self) -> bool:
        """Whether it grows on its way back, and does not only begin and end high."""
        return self.growth >= 1 and self.monotony >= MONOTONY

    @property
    def pace(self) -> str:
        """What becomes of the gradient on its way back, in words."""
        if abs(self.growth) < 1:
            return f"loses {self.drop:.1f} decades of the gradient away from the best time step"
        if self.norms.size == MAX_TIMES:  # there may be more of them
            return f"multiplies the gradient by {10**self.growth:.1g} over all its time steps"
        rate = 10 ** (self.growth / (self.norms.size - 1))
        return f"multiplies the gradient by {rate:.2g} from one time step to the one before"

    @property
    def reach(self) -> int:
        """Steps that get at least a hundredth of the largest gradient."""
        return int((self.norms >= self.norms.max() - 2).sum())

    def _pairs(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        every = -(-self.norms.size // MAX_PAIRED)
        norms = self.norms[::every]
        i, j = np.triu_indices(norms.size, 1)
        return norms[i] - norms[j], every * (j - i)


def courses(record: Record) -> Iterator[Course]:
    """Yield the course of each recurrent layer of an exam, in execution order."""
    flowing = [calls for calls in repeated(record) if _timed(calls) or chained(calls)]
    for calls in outermost(record, flowing):
        squares: list[float | None] = [square for call in calls for square in call.times]
        if not squares:
            squares = [None if (out := c.grad_output) is None else out.squares for c in calls]
        norms = _norms(squares)
        if norms is not None:
            yield Course(names(record, calls), calls[0].layer.kind, norms)


def repeated(record: Record) -> list[list[Call]]:
    """Return the calls of each layer with weights that may run through time, in their order: a call
    that knows its time steps, or many calls.

    Multiplications by a parameter that are no module count as the same layer if there are several
    times as many of them as there are parameters of that shape.
    """
    groups: dict[object, list[Call]] = {}
    for call in record.calls:
        key = _place(call.layer), call.layer.weight_shape if call.layer.functional else None
        groups.setdefault(key, []).append(call)
    return [
        calls
        for calls in groups.values()
        if _timed(calls) or (len(calls) >= MIN_TIMES and _same_weights(record, calls))
    ]


def outermost(record: Record, groups: Sequence[list[Call]]) -> list[list[Call]]:
    """Leave out the layers that are inside another of them."""
    positions = {id(call): position for position, call in enumerate(record.calls)}
    members = {positions[id(call)] for calls in groups for call in calls}
    return [calls for calls in groups if not all(call.parent in members for call in calls)]


def chained(calls: Sequence[Call]) -> bool:
    """Whether the later calls depend on something that is trained, as on the calls before them."""
    later = calls[1:]
    return 2 * sum(call.reason != NO_GRAD_INPUT for call in later) > len(later)


def names(record: Record, calls: Sequence[Call]) -> tuple[str, ...]:
    """Return the name of a layer; of a loop around the whole model, what in it is chained."""
    if calls[0].layer.name:
        return (_place(calls[0].layer),)
    groups: dict[str, list[Call]] = {}
    for call in record.calls:
        if call.layer.weighted:
            groups.setdefault(_place(call.layer), []).append(call)
    return tuple(n for n, c in groups.items() if len(c) >= MIN_TIMES and chained(c)) or ("",)


def _timed(calls: Sequence[Call]) -> bool:
    return any(call.times for call in calls)


def _same_weights(record: Record, calls: Sequence[Call]) -> bool:
    """Whether these are the same weights again and again: an activation that is used at many
    depths, or a loop over many weights, is none."""
    layer = calls[0].layer
    if layer.functional:
        shapes = [parameter.shape for parameter in record.parameters]
        return layer.weighted and len(calls) >= 2 * shapes.count(layer.weight_shape)
    inner = f"{layer.name}." if layer.name else ""
    return layer.weighted or any(
        parameter.name.startswith(inner) and len(parameter.shape) > 1
        for parameter in record.parameters
    )


def _place(layer: Layer) -> str:
    return layer.name.partition("#")[0]


def _norms(squares: Sequence[float | None]) -> NDArray[np.float64] | None:
    known = [square for square in squares if square is not None]
    if not all(map(math.isfinite, known)) or not any(known):
        return None
    # What comes after the last step that is read gets nothing, and need not; what comes before the
    # first that is connected belongs to another detector.
    values = np.asarray([square or 0.0 for square in squares], np.float64)
    first = next(i for i, square in enumerate(squares) if square is not None)
    values = values[first : np.flatnonzero(values)[-1] + 1]
    if values.size < MIN_TIMES:
        return None
    top = 0.5 * math.log10(values.max())
    with np.errstate(divide="ignore"):
        return np.maximum(0.5 * np.log10(values), top - FLOOR)
