"""A `Waiver` says what is not counted against a training, and why; `Evidence` is what it rests on.

Many healthy networks have gradients that are zero by construction. Each is recognised by the
structure that makes it so *and* by the numbers that must follow from it, never by a name alone: a
layer that has really died fulfils the one or the other, and not both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from gradwatch.core.history import History, Pulse
from gradwatch.core.record import Parameter, Record
from gradwatch.core.stats import Stats

NAMED: Final = 2
"""Names that a reason tells; of more, how many."""


@dataclass(frozen=True, slots=True)
class Waiver:
    """What is not counted, and why."""

    name: str
    """The kind of structural zero: `cancelled-by-normalisation`, ..."""
    reason: str
    """Why, with numbers, to be read after the parameters' names and a colon."""
    parameters: tuple[str, ...]
    """Names of the parameters it is about; empty when it is about whole steps."""
    steps: tuple[int, ...] = ()
    """The steps that it holds for; empty when it holds for the run as it is now."""


class Evidence:
    """A history as the rules look at it."""

    def __init__(self, history: History, latest: Record) -> None:
        self.history = history
        self.records = history.records
        self.latest = latest
        pulses = history.pulses
        alike = [p for p in pulses if p.columns.parameters == pulses[-1].columns.parameters]
        self.names, self._rows = (
            (alike[-1].columns.parameters, [_row(pulse) for pulse in alike])
            if alike
            else _examined(self.records)
        )

    @cached_property
    def steps(self) -> np.ndarray:
        """The steps that are known of, ascending."""
        return np.asarray([step for step, _ in self._rows], np.int64)

    @cached_property
    def norms(self) -> np.ndarray:
        """Gradient norms by step and parameter, negative where it was not reached."""
        return np.asarray([row for _, row in self._rows], np.float64).reshape(
            len(self._rows), len(self.names)
        )

    @cached_property
    def reached(self) -> np.ndarray:
        """Whether backward reached the parameter in the step."""
        return np.asarray(~(self.norms < 0))

    @cached_property
    def complete(self) -> np.ndarray:
        """The steps in which anything at all was reached, as positions."""
        return np.flatnonzero(self.reached.any(1))

    @cached_property
    def exams(self) -> tuple[dict[str, Parameter], ...]:
        """The parameters of each exam by name."""
        return tuple(map(by_name, self.records))

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Those of the latest exam."""
        return self.exams[-1]


def _row(pulse: Pulse) -> tuple[int, np.ndarray]:
    return pulse.step, np.asarray(pulse.norms)


def _examined(records: tuple[Record, ...]) -> tuple[tuple[str, ...], list[tuple[int, np.ndarray]]]:
    """Stand in for the pulses that a history of exams alone does not have."""
    names = tuple(p.name for p in records[-1].parameters if p.trainable)
    rows = []
    for record in records:
        found = by_name(record)
        rows.append((record.step, np.asarray([_norm(found.get(name)) for name in names])))
    return names, rows


def _norm(parameter: Parameter | None) -> float:
    if parameter is None or not parameter.reached or parameter.gradient is None:
        return -1.0
    return math.nan if parameter.gradient.nonfinite else size(parameter.gradient, mean=False)


def size(stats: Stats | None, *, mean: bool = True) -> float:
    """Return the root mean square, or the norm; 0 for what was not measured."""
    if stats is None or not stats.squares > 0:  # what is read from a damaged folder may be anything
        return 0.0
    return math.sqrt(stats.squares / max(1, stats.finite) if mean else stats.squares)


def by_name(record: Record) -> dict[str, Parameter]:
    """Return the parameters of an exam by name."""
    return {parameter.name: parameter for parameter in record.parameters}


def owner(name: str) -> str:
    """Return the name of the layer that a parameter belongs to."""
    module, parametrized, _ = name.partition(".parametrizations.")
    return module if parametrized else name.rpartition(".")[0]


def listed(names: list[str] | tuple[str, ...]) -> str:
    """Name some things in a sentence."""
    shown = ", ".join(f"`{name or '(model)'}`" for name in names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"


def between(low: float, high: float, form: str) -> str:
    """Return a range of numbers, or the one number where both are written alike."""
    first, last = format(low, form), format(high, form)
    return first if first == last else f"{first} to {last}"
