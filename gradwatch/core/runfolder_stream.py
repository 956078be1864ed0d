"""Reads all of a run folder, a row at a time: what is exported, however long the run was.

`runfolder.read` keeps as much as a `History` does; here nothing is left out and nothing is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gradwatch.core.history import Pulse
from gradwatch.core.record import Record
from gradwatch.core.runfolder import _find, _resumed
from gradwatch.core.runfolder_format import pulse_rows
from gradwatch.core.runfolder_segment import DAMAGE, Segment

CHUNK: Final = 2**22
"""Bytes of pulses that are read at once."""


class Stream:
    """The exams and the pulses of a run, oldest first.

    Raises as `runfolder.read` does. What is damaged is skipped and said in `problems`, which is
    complete only when everything has been read.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.path, headers = _find(Path(run_dir))
        self.problems: list[str] = []
        self._parts = _resumed(headers, self.problems)
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
            try:
                yield from _pulses(part)
            except DAMAGE as damage:
                part._problem(".pulses.bin", f"its pulses were skipped ({damage})")


def _pulses(part: Segment) -> Iterator[Pulse]:
    # The files are the segment's own affair; this module only reads more of them than it does.
    kind, count = pulse_rows(part._columns), part._pulse_count
    chunk = max(1, CHUNK // kind.itemsize)
    for start in range(0, count, chunk):
        for row in part._rows(".pulses.bin", kind, start, min(chunk, count - start)):
            yield Pulse(
                *(int(row["step"]), part._columns, row["norms"], row["outputs"]),
                *(float(row["loss"]), bool(row["loss_known"]), float(row["clip_ratio"])),
            )
