"""The demo as a stranger sees it, a little shorter."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from gradwatch import demo
from gradwatch.cli import main
from gradwatch.core import runfolder

FEW = 350


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    folder = tmp_path_factory.mktemp("demo")
    page = io.StringIO()
    code = demo.main(folder, console=Console(file=page, width=100), steps=FEW)
    return code, page.getvalue(), folder


def test_the_fault_is_named_and_the_repair_learns(shown: tuple[int, str, Path]) -> None:
    code, page, _ = shown
    assert code == 0
    assert "Critical: the gradient loses" in page
    assert "Sigmoid x 12" in page
    assert "12 Sigmoids lose" in page
    row = next(line for line in page.splitlines() if "test digits recognised" in line)
    before, after = (float(cell.strip(" │%")) for cell in row.split("│")[2:4])
    assert before < 20
    assert after > 90


def test_what_was_executed_is_what_was_shown(shown: tuple[int, str, Path]) -> None:
    _, page, _ = shown
    assert "1. Swap 12 Sigmoid for ReLU" in page
    assert "2. Add skip connections around 12 blocks" in page
    assert "3. " not in page


def test_it_leaves_run_folders_event_files_and_pages_and_says_how_to_open_them(
    shown: tuple[int, str, Path],
) -> None:
    _, page, folder = shown
    for name, healthy in (("before", False), ("after", True)):
        run = runfolder.read(folder / name)
        assert run.problems == ()
        assert (not any(f.severity > 0 for f in run.findings)) == healthy
        assert list((folder / name).glob("*tfevents*"))
        assert (folder / f"{name}.html").stat().st_size > 20_000
    assert f"tensorboard --logdir {folder}" in page
    assert f"gradwatch report {folder}/before" in page
    assert "before.html" in page


def test_a_run_folder_of_it_can_be_made_a_page(
    shown: tuple[int, str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, folder = shown
    page = tmp_path / "report.html"
    assert main(["report", str(folder / "before"), "-o", str(page)]) == 1
    assert "vanishing-gradient" in page.read_text(encoding="utf-8")
    assert str(page) in capsys.readouterr().out
    assert main(["report", str(folder / "after"), "-o", str(page)]) == 0
    assert main(["report", str(folder / "after"), "-o", str(tmp_path / "no" / "where")]) == 2


def test_a_repair_that_does_not_learn_is_a_failure(tmp_path: Path) -> None:
    assert demo.main(tmp_path, console=Console(file=io.StringIO()), steps=24) == 1
