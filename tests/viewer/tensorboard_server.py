"""A real TensorBoard with the tab of this tree, for the tests and for the pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def tensorboard(tmp: Path, *flags: str) -> Iterator[str]:
    """Start TensorBoard with the entry points of this tree, however it was installed."""
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    metadata = tmp / "metadata" / "gradwatch-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gradwatch\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[tensorboard_plugins]\n"
        + "\n".join(f"{k} = {v}" for k, v in project["entry-points"]["tensorboard_plugins"].items())
    )
    command = [sys.executable, "-m", "tensorboard.main", "--port=0", "--host=localhost", *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(metadata.parent), str(root)])}
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stderr is not None
    said: list[str] = []
    try:
        address = None
        for line in server.stderr:
            said.append(line)
            if address := re.search(r"at (http://\S+)", line):
                break
        assert address, "".join(said)
        drain = threading.Thread(target=lambda: said.extend(server.stderr or ()), daemon=True)
        drain.start()
        yield address[1]
        assert server.poll() is None, "".join(said)
    finally:
        server.terminate()
        server.wait(20)
    drain.join(5)
    server.stderr.close()
    assert "gradwatch" not in "".join(line for line in said if "rror" in line or "arn" in line)
