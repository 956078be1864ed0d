"""Gradient norms by step and parameter, in bounded memory however long the run was."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.history import Pulse
from gradwatch.core.record import Record

MAX_NUMBERS: Final = 2_000_000
"""Gradient norms in one page, some 2.5 bytes each: of more, neighbouring steps are merged."""
NOT_REACHED: Final = -1.0
NOT_MEASURED: Final = -2.0


class NormTable:
    """Rows of steps in ascending order. When they become too many, each two are made one: the
    larger number is kept, and NaN before all, so that no spike gets lost."""

    def __init__(self) -> None:
        self.every = 1
        """Steps to a row."""
        self._names: dict[str, int] = {}
        self._steps: list[int] = []
        self._rows: list[NDArray[np.float32]] = []
        self._losses: list[float] = []  # -inf where it is not known
        self._known: list[bool] = []
        self._open = 0  # steps in the last row
        self._numbers = 0
        self._last = -1
        self._places: tuple[object, NDArray[np.intp]] = (None, np.zeros(0, np.intp))

    def add(self, pulse: Pulse, exam: Record | None = None) -> None:
        """Append a step, with the exact norms of its exam where there was one."""
        columns = pulse.columns
        if self._places[0] is not columns:
            places = [self._place(name) for name in columns.parameters]
            self._places = (columns, np.asarray(places, np.intp))
        row = self._row(exam)
        row[self._places[1]] = pulse.norms
        if exam is not None:
            self._examine(exam, row)
        loss = (pulse.loss, True) if pulse.loss_known else (-np.inf, False)
        self._append(pulse.step, row, *loss)

    def add_exam(self, exam: Record) -> None:
        """Append a step of which only the exam is known."""
        row = self._row(exam)
        self._examine(exam, row)
        loss = (-np.inf, False) if exam.loss is None else (exam.loss, True)
        self._append(exam.step, row, *loss)

    def merged(
        self,
    ) -> tuple[list[int], list[str], NDArray[np.float32], list[float | None]]:
        """Return steps (the first of each row), names, norms and losses (None: not known)."""
        norms = np.full((len(self._rows), len(self._names)), NOT_MEASURED, np.float32)
        for at, row in zip(norms, self._rows, strict=True):
            at[: row.size] = row
        losses = [
            loss if known else None for loss, known in zip(self._losses, self._known, strict=True)
        ]
        return self._steps, list(self._names), norms, losses

    def _place(self, name: str) -> int:
        return self._names.setdefault(name, len(self._names))

    def _row(self, exam: Record | None) -> NDArray[np.float32]:
        for parameter in exam.parameters if exam else ():
            self._place(parameter.name)
        return np.full(len(self._names), NOT_MEASURED, np.float32)

    def _append(self, step: int, row: NDArray[np.float32], loss: float, known: bool) -> None:
        if step <= self._last:  # a damaged row: steps ascend
            return
        self._last = step
        if 0 < self._open < self.every:
            self._open += 1
            self._rows[-1] = _larger(self._rows[-1], row)
            self._losses[-1] = float(np.maximum(self._losses[-1], loss))
            self._known[-1] |= known
            return
        self._open = 1
        self._steps.append(step)
        self._rows.append(row)
        self._losses.append(loss)
        self._known.append(known)
        self._numbers += row.size
        if self._numbers > MAX_NUMBERS:
            self._halve()

    def _halve(self) -> None:
        pairs = [slice(i, i + 2) for i in range(0, len(self._rows), 2)]
        # All rows are full but the last, which has one step only.
        self._open = 1 if len(self._rows) % 2 else self.every + 1
        self._steps = self._steps[::2]
        self._rows = [_larger(*self._rows[pair]) for pair in pairs]
        self._losses = [float(np.maximum.reduce(self._losses[pair])) for pair in pairs]
        self._known = [any(self._known[pair]) for pair in pairs]
        self._numbers = sum(row.size for row in self._rows)
        self.every *= 2

    def _examine(self, exam: Record, row: NDArray[np.float32]) -> None:
        """Fill in what a pulse lacks: norms out of the range of float32's squares."""
        for parameter in exam.parameters:
            i = self._names[parameter.name]
            if row[i] not in (0.0, np.inf, NOT_MEASURED):
                continue
            if parameter.gradient is None:
                if row[i] == NOT_MEASURED and parameter.trainable and not parameter.reached:
                    row[i] = NOT_REACHED
            elif not parameter.gradient.nonfinite:
                row[i] = min(parameter.gradient.norm, float(np.finfo(np.float32).max))
            elif row[i] == NOT_MEASURED:
                row[i] = np.nan if parameter.gradient.nans else np.inf


def _larger(
    first: NDArray[np.float32], second: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    if second is None:
        return first
    if first.size < second.size:  # a parameter that came later
        first, second = second, first
    larger = first.copy()
    larger[: second.size] = np.maximum(first[: second.size], second)
    return larger
