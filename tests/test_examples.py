"""The examples are what people copy: they run, quietly, and do what their first lines say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
PLAIN = EXAMPLES[0].with_name("plain_pytorch.py")


def run(example: Path, cwd: Path, *arguments: str) -> str:
    """Run an example in a process of its own, with warnings as errors; return what it printed."""
    process = subprocess.run(
        [sys.executable, "-W", "error", str(example), *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs_without_a_warning(example: Path, tmp_path: Path) -> None:
    assert run(example, tmp_path, "--quick").strip()


def test_the_sick_digits_network_is_diagnosed(tmp_path: Path) -> None:
    """By default the gradient vanishes, the Sigmoids get the blame, and a cure is prescribed."""
    printed = run(PLAIN, tmp_path)
    assert "Critical" in printed
    assert "Sigmoid" in printed
    assert "ReLU" in printed, "another activation should be prescribed"
    assert list(tmp_path.glob("runs/digits/events.out.tfevents.*"))
    assert (tmp_path / "runs/digits/gradwatch").is_dir()


def test_the_healthy_digits_network_gets_no_complaint(tmp_path: Path) -> None:
    printed = run(PLAIN, tmp_path, "--activation", "ReLU", "--depth", "4")
    assert "Healthy as of step" in printed
    recognised = int(printed.split("% of the 297 test images")[0].split()[-1])
    assert recognised > 80


def test_watching_takes_three_lines() -> None:
    """Only the marked lines of the plain example know of gradwatch (its data set aside)."""
    code = PLAIN.read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
    marked = [line for line in code if "# <-" in line]
    aware = [line for line in code if "gradwatch" in line or "watcher" in line]
    assert len(marked) == 3
    assert [line for line in aware if line not in marked] == [
        "from gradwatch.data import digits",
        '    """Train with stochastic gradient descent, as one would without gradwatch."""',
    ]
