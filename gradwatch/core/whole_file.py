"""A file that is whole or not there: whoever looks in between sees what was there before."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Open a file for writing that is there when all is written, and as it was before until then.

    What is no file (`/dev/stdout`, a named pipe) is written to at once.
    """
    given = Path(path)  # a pipe of the shell has no real path
    if given.exists() and not given.is_file():
        with given.open("w", encoding="utf-8", newline="") as out:
            yield out
        return
    target = Path(os.path.realpath(path))
    handle, unfinished = tempfile.mkstemp(dir=target.parent, prefix=".gradwatch-", suffix=".part")
    try:
        with open(handle, "w", encoding="utf-8", newline="") as out:
            yield out
        mode = target.stat().st_mode if target.exists() else 0o666 & ~_umask()
        os.chmod(unfinished, mode & 0o777)  # mkstemp lets nobody else read it
        os.replace(unfinished, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise


def _umask() -> int:
    mask = os.umask(0o077)  # can only be read by setting it
    os.umask(mask)
    return mask
