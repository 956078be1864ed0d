"""A file that is being written is whole, or as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gradwatch.core.whole_file import whole_file


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    """An error in the middle leaves neither half a file nor a temporary one."""
    target = tmp_path / "a.csv"
    for before in (None, "old"):
        if before:
            target.write_text(before)
        with pytest.raises(RuntimeError), whole_file(target) as out:
            out.write("half")
            raise RuntimeError
        assert [file.name for file in tmp_path.iterdir()] == (["a.csv"] if before else [])
    assert target.read_text() == "old"
    with whole_file(target) as out:
        out.write("new")
    assert target.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_a_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    """Not those of a temporary one; and what it had before stays."""
    usual, ours = tmp_path / "usual", tmp_path / "ours"
    usual.touch()
    with whole_file(ours) as out:
        out.write("x")
    assert ours.stat().st_mode == usual.stat().st_mode
    ours.chmod(0o640)
    with whole_file(ours) as out:
        out.write("y")
    assert ours.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch()
    link.symlink_to(target)
    with whole_file(link) as out:
        out.write("x")
    assert (link.is_symlink(), target.read_text()) == (True, "x")
    with whole_file(os.devnull) as out:
        out.write("x")
    assert Path(os.devnull).is_char_device()
