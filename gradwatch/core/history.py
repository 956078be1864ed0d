"""The bounded memory of a run: the examined steps and the pulse of every step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.record import Record

T = TypeVar("T")
FIRST_RECORDS: Final = 8
"""The first exams are kept for the whole run: they tell what it was born with from what came."""
LAST_RECORDS: Final = 56
LAST_PULSES: Final = 4096
FIRST_PULSES: Final = 256


@dataclass(frozen=True, slots=True)
class Columns:
    """What the numbers of a pulse belong to."""

    parameters: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    """Modules whose outputs are looked at in every step, in execution order."""


@dataclass(frozen=True, slots=True, eq=False)
class Pulse:
    """What is measured in every step. NaN stands for "not known" in `loss` and `clip_ratio`."""

    step: int
    columns: Columns
    norms: NDArray[np.float32]
    """Gradient norm per parameter, in float32; NaN when the gradient holds a NaN, -1 when the
    parameter was not reached. 0 and inf may be float32's range and not the gradient's: an exam
    measures them exactly."""
    outputs: NDArray[np.float32]
    """Sum of each tapped output: only whether it is finite means anything. 0 when not called."""
    loss: float = math.nan
    loss_known: bool = False
    clip_ratio: float = math.nan

    @property
    def norm(self) -> float:
        """The norm of all gradients together."""
        norms = self.norms[~(self.norms < 0)].astype(np.float64)
        return float(np.sqrt(np.square(norms).sum()))


class History:
    """The exams and pulses of one run, oldest first; bounded, whatever the run's length."""

    def __init__(self) -> None:
        self._first: list[Record] = []
        self._last: deque[Record] = deque(maxlen=LAST_RECORDS)
        self._first_pulses: list[Pulse] = []
        self._last_pulses: deque[Pulse] = deque(maxlen=LAST_PULSES)
        self._computed: dict[Callable[[History], Any], Any] = {}

    def once(self, compute: Callable[[History], T]) -> T:
        """Return what a pure function makes of this history; computed anew only when it has grown:
        many detectors ask for the same."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        return self._computed[compute]  # type: ignore[no-any-return]

    @staticmethod
    def of(records: Iterable[Record], pulses: Iterable[Pulse] = ()) -> History:
        """Build a history from records and pulses in the order of their steps."""
        history = History()
        for record in records:
            history.add(record)
        history.extend(pulses)
        return history

    def add(self, record: Record) -> None:
        """Append an exam."""
        self._computed.clear()
        if len(self._first) < FIRST_RECORDS:
            self._first.append(record)
        else:
            self._last.append(record)

    def replace_latest(self, record: Record) -> None:
        """Put a completed version of the latest exam in its place."""
        self._computed.clear()
        records = self._last or self._first
        records[-1] = record

    def extend(self, pulses: Iterable[Pulse]) -> None:
        """Append pulses."""
        self._computed.clear()
        for pulse in pulses:
            if len(self._first_pulses) < FIRST_PULSES:
                self._first_pulses.append(pulse)
            else:
                self._last_pulses.append(pulse)

    @property
    def records(self) -> tuple[Record, ...]:
        """The exams that are kept."""
        return (*self._first, *self._last)

    @property
    def latest(self) -> Record | None:
        """The latest exam."""
        records = self._last or self._first
        return records[-1] if records else None

    @property
    def checkup(self) -> bool:
        """Whether it is one exam of a model that is not trained: what one step can tell has to be
        said now, as a prediction, for no other will come."""
        return len(self.records) == 1 and not self._first_pulses and not self.records[0].step

    @property
    def pulses(self) -> tuple[Pulse, ...]:
        """The pulses that are kept."""
        return (*self._first_pulses, *self._last_pulses)

    @property
    def last_step(self) -> int:
        """The latest step that anything is known of; -1 for an empty history."""
        steps = [record.step for record in (*self._first[-1:], *self._last)[-1:]]
        pulses = self._last_pulses or self._first_pulses
        return max([*steps, *(pulse.step for pulse in list(pulses)[-1:])], default=-1)

    def losses(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the steps whose loss is known, and those losses."""
        known = [(p.step, p.loss) for p in self.pulses if p.loss_known]
        if not known:  # a history of exams alone, as a specimen may be
            known = [(r.step, r.loss) for r in self.records if r.loss is not None]
        steps = np.asarray([step for step, _ in known], np.int64)
        return steps, np.asarray([loss for _, loss in known], np.float64)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self._first) + len(self._last)
