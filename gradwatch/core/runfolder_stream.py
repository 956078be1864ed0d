"""Reads all of a run folder, a row at a time: what is exported, however long the run was.

`runfolder.read` keeps as much as a `History` does; here nothing is left out and nothing is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gradwatch.core.history import Pulse
from gradwatch.core.record import Record
from gradwatch.core.runfolder import find, resumed


class Stream:
    """The exams and the pulses of a run, oldest first.

    Raises as `runfolder.read` does. What is damaged is skipped and said in `problems`, which is
    complete only when everything has been read.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.path, headers = find(Path(run_dir))
        self.problems: list[str] = []
        self._parts = resumed(headers, self.problems)
        self._exams = {step: part for part in self._parts for step in part.records}

    @property
    def steps(self) -> list[int]:
        """The examined steps."""
        return sorted(self._exams)

    def records(self, steps: list[int] | None = None) -> Iterator[Record]:
        """Yield the exams of these steps, or all of them."""
        for step in self.steps if steps is None else steps:
            record = self._exams[step].record(step)
            if record is not None:
                yield record

    def pulses(self) -> Iterator[Pulse]:
        """Yield every pulse."""
        for part in self._parts:
            yield from part.all_pulses()
