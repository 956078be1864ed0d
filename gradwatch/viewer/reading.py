"""What the page shows of a run folder, read in a process of its own.

A large run takes seconds of computing and hundreds of megabytes to read, for a page of a few: here
TensorBoard keeps answering meanwhile, its memory stays as it is, and nothing in a damaged folder
can end it.
"""

from __future__ import annotations

import gc
import gzip
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from gradwatch.core.catalog import remedies
from gradwatch.core.history import History
from gradwatch.core.remedy import Remedy
from gradwatch.core.report import Report
from gradwatch.core.runfolder import FutureVersion, Run, read
from gradwatch.core.runfolder_format import to_line
from gradwatch.core.runfolder_stream import Stream
from gradwatch.sinks._text import clean
from gradwatch.viewer.compare_data import compare_data
from gradwatch.viewer.page_data import page_data, pulse_data

log = logging.getLogger("gradwatch")
LAST: Final = 10**15 - 1
"""A step that no run gets to."""
LONGEST: Final = 60.0
"""Seconds after which reading is given up."""


def answer(
    folder: Path,
    name: str,
    first: int = 0,
    last: int = LAST,
    other: Path | None = None,
    other_name: str = "",
) -> bytes:
    """Return the data of the page as compressed JSON; of a run that cannot be read, why not.

    Of a run that is too long to be shown step by step, only the steps from `first` to `last`; and
    how an `other` one differs from it.
    """
    command = [sys.executable, "-P", "-m", __name__, str(folder), name, str(first), str(last)]
    if other is not None:
        command += [str(other), other_name]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=LONGEST, check=True)
        return done.stdout
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("%s could not be read: %s", folder, error)
        return _packed(_unreadable("the output of TensorBoard tells how it failed"), name)


def data_of(
    folder: Path,
    first: int = 0,
    last: int = LAST,
    other: Path | None = None,
    other_name: str = "",
) -> dict[str, Any]:
    """Return the data of the page, whatever is in the folders."""
    try:
        run = read(folder)
        stream = Stream(folder)
        data = page_data(run.report(_remedies()), run.history, stream.pulses(), stream)
        if data["pulse"]["merged"] > 1 and (first > 0 or last < LAST):
            exams = (record for record in run.history.records if first <= record.step <= last)
            pulses = (pulse for pulse in stream.pulses() if first <= pulse.step <= last)
            data["pulse"] = {**pulse_data(History.of(exams), pulses), "part": True}
        # Some damage is met only where a history does not reach.
        data["notes"] = list(dict.fromkeys([*data["notes"], *map(clean, stream.problems)]))
        if other is not None:
            data["beside"] = _beside(run, other, other_name)
        return data
    except Exception as error:
        return _unreadable(_why(error, folder))


def _beside(run: Run, other: Path, name: str) -> dict[str, Any]:
    try:
        return compare_data(run, read(other), name)
    except Exception as error:
        return {"problem": f"{clean(name)} cannot be read: {_why(error, other)}."}


def _why(error: Exception, folder: Path) -> str:
    if isinstance(error, FutureVersion):
        return str(error).replace(f"{folder}{os.sep}", "")
    if isinstance(error, FileNotFoundError):
        return "its files are gone, or not written yet"
    log.warning("%s could not be read", folder, exc_info=error)
    return f"{type(error).__name__}, see the output of TensorBoard"


def _unreadable(why: str) -> dict[str, Any]:
    data = page_data(Report("", -1), History())
    return {**data, "severity": "unknown", "verdict": f"This run cannot be read: {why}."}


def _packed(data: dict[str, Any], name: str) -> bytes:
    return gzip.compress(to_line({**data, "run": name}).encode(), 3, mtime=0)


def _remedies() -> Iterable[Remedy]:
    try:
        return remedies()
    except Exception:  # somebody else's remedy, by an entry point
        log.warning("No remedies are shown: they cannot be loaded", exc_info=True)
        return ()


if __name__ == "__main__":
    gc.disable()  # a seventh of the time, for garbage that this process does not live to see
    run, name, first, last, *other = sys.argv[1:]
    beside = (Path(other[0]), other[1]) if other else ()
    sys.stdout.buffer.write(_packed(data_of(Path(run), int(first), int(last), *beside), name))
