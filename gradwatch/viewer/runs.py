"""Finds the runs under TensorBoard's log directories. A request can name one of these and nothing
else: no path is ever made of what a request says."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from gradwatch.core.runfolder_format import FOLDER, segments

FRESH: Final = 2.0
"""Seconds for which a look at the directories is good."""
SHARE: Final = 0.1
"""At most this part of the time is spent looking, however slow the disk is."""
MAX_FOLDERS: Final = 100_000
"""Folders that one look visits: a logdir of `/` must not keep us busy for hours."""


class Runs:
    """The runs by name, as TensorBoard names them: relative to the logdir, `.` for itself."""

    def __init__(self, logdir: str | None, spec: str | None = None) -> None:
        self._roots = _roots(logdir, spec)
        self._found: Mapping[str, Path] = {}
        self._due = -1.0
        self._lock = threading.Lock()

    def find(self) -> Mapping[str, Path]:
        """Return the folder of each run; where another thread is looking, what is known so far."""
        wait = self._due < 0  # nothing is known yet
        if time.monotonic() >= self._due and self._lock.acquire(blocking=wait):
            try:
                begin = time.monotonic()
                if begin >= self._due:
                    self._found = dict(sorted(self._look()))
                    spent = time.monotonic() - begin
                    self._due = time.monotonic() + max(FRESH, spent / SHARE)
            finally:
                self._lock.release()
        return self._found

    def soon(self, patience: float) -> bool:
        """Look in the background; return whether a run is known after so many seconds."""
        if time.monotonic() >= self._due:
            thread = threading.Thread(target=self.find, name="gradwatch-runs", daemon=True)
            thread.start()
            thread.join(patience)
        return bool(self._found)

    def _look(self) -> Iterator[tuple[str, Path]]:
        for prefix, root in self._roots:
            for folder in _run_folders(root):
                name = os.path.relpath(folder.parent, root)
                if prefix:
                    name = prefix if name == "." else f"{prefix}/{name}"
                yield legible(name.replace(os.sep, "/")), folder


def legible(name: str) -> str:
    """Return a name that can be shown, and stand in an address: what cannot is escaped."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def state(folder: Path) -> str:
    """Return what changes whenever something was written to a run folder."""
    with os.scandir(folder) as entries:
        files = sorted((e.name, s.st_size, s.st_mtime_ns) for e in entries for s in [e.stat()])
    return hashlib.sha256(repr(files).encode()).hexdigest()[:24]


def _run_folders(root: Path) -> Iterator[Path]:
    visited: set[tuple[int, int]] = set()  # a link may lead back to where it lies in
    for path, folders, _ in os.walk(root, followlinks=True):
        try:
            here = os.stat(path)
        except OSError:  # gone meanwhile
            folders.clear()
            continue
        if (here.st_dev, here.st_ino) in visited or len(visited) >= MAX_FOLDERS:
            folders.clear()
            continue
        visited.add((here.st_dev, here.st_ino))
        if FOLDER in folders and _holds_run(Path(path, FOLDER)):
            folders.remove(FOLDER)
            yield Path(path, FOLDER)


def _holds_run(folder: Path) -> bool:
    try:
        return bool(segments(folder))
    except OSError:  # not ours to read, or gone
        return False


def _roots(logdir: str | None, spec: str | None) -> list[tuple[str, Path]]:
    """Return the directories with the prefix of their runs; what is on no disk is left out."""
    if logdir:
        return [] if _is_remote(logdir) else [("", Path(logdir).expanduser())]
    found = []
    for part in (spec or "").split(","):
        name, path = "", part
        named = ":" in part and not part.startswith("/") and not os.path.splitdrive(part)[0]
        if named and not _is_remote(part):
            name, _, path = part.partition(":")
        if path and not _is_remote(path):
            found.append((name, Path(path).expanduser()))
    return found


def _is_remote(path: str) -> bool:
    return re.match("[a-zA-Z][0-9a-zA-Z.]*://", path) is not None
