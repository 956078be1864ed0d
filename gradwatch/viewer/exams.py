"""Exams for the page, evenly over the whole run: a history forgets the middle of a long one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeVar

from gradwatch.core.history import History
from gradwatch.core.record import Record

T = TypeVar("T")
MOST: Final = 32
"""Exams that are shown side by side: what a window has room for."""


class Folder(Protocol):
    """Where all exams of a run are: `core.runfolder_stream.Stream`."""

    @property
    def steps(self) -> list[int]:
        """The examined steps."""
        ...

    def records(self, steps: list[int] | None = None) -> Iterator[Record]:
        """Yield the exams of these steps."""
        ...


def some_exams(history: History, folder: Folder | None = None) -> tuple[list[Record], int]:
    """Return at most `MOST` exams, the first and the last among them, and how many there are.

    What the history keeps is not read from the folder again.
    """
    kept = {record.step: record for record in history.records}
    steps = sorted({*kept, *(folder.steps if folder else ())})
    chosen = evenly(steps, MOST)
    missing = [step for step in chosen if step not in kept]
    if folder and missing:
        kept |= {record.step: record for record in folder.records(missing)}
    return [kept[step] for step in chosen if step in kept], len(steps)


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most so many of them (two or more), evenly spaced, from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]
