"""Specimens: recorded trainings by name, healthy and sick, that detectors are judged on.

A specimen is the run folder of a real training as one small zip file; a committed script records
them, and no number in them is typed by hand.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from gradwatch.core import runfolder
from gradwatch.core.history import History

FOLDER: Final = Path(__file__).parents[1] / "specimens"
LARGEST: Final = 64 * 2**20
"""Bytes of a file in a specimen, unpacked; what is larger is none."""
_TIME: Final = (1980, 1, 1, 0, 0, 0)  # the same run gives the same zip file


def names(*, folder: Path = FOLDER) -> tuple[str, ...]:
    """Return the names of all specimens, sorted."""
    return tuple(sorted(file.stem for file in folder.glob("*.zip")))


def load(name: str, *, folder: Path = FOLDER) -> History:
    """Return the history of a specimen; raises `KeyError` when there is none of that name."""
    file = _file(name, folder)
    if not file.is_file():
        raise KeyError(f"name must be one of {', '.join(names(folder=folder))}; got {name!r}")
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            # The name is checked and the size bounded: an archive cannot write elsewhere.
            if not re.fullmatch(r"seg-[0-9]+(\.[a-z]+)+", member.filename):
                raise ValueError(f"{file} must hold the files of a run folder only: {member}")
            if member.file_size > LARGEST:
                raise ValueError(f"{file} must hold files of at most {LARGEST} bytes: {member}")
            with (
                archive.open(member) as source,
                open(Path(temporary) / member.filename, "wb") as target,
            ):
                shutil.copyfileobj(source, target)
        return runfolder.read(temporary).history


def save(run_dir: str | os.PathLike[str], name: str, *, folder: Path = FOLDER) -> Path:
    """Store the run folder in `run_dir` as a specimen and return its file."""
    run = runfolder.read(run_dir)
    if run.problems:
        raise ValueError(f"run_dir must hold an undamaged run, got {run_dir}: {run.problems[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    file = _file(name, folder)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for source in sorted(run.path.glob("seg-*")):
            member = zipfile.ZipInfo(source.name, _TIME)
            archive.writestr(member, source.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return file


def _file(name: str, folder: Path) -> Path:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name must be lower-case words joined by hyphens, got {name!r}")
    return folder / f"{name}.zip"
