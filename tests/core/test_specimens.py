"""A specimen is a recorded run, as one small file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from gradwatch.core import specimens
from gradwatch.core.record import Call, Layer, Record
from gradwatch.core.runfolder import RunWriter


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A recorded run of two exams."""
    writer = RunWriter(tmp_path / "run")
    writer.add_record(Record(0, (Call(Layer("a", "Linear"), gain=-2.0),), loss=1.0))
    writer.add_record(Record(1, (Call(Layer("a", "Linear"), gain=-3.0),), loss=0.5))
    return tmp_path / "run"


def test_a_specimen_is_the_run_that_was_recorded(run: Path, tmp_path: Path) -> None:
    """What is loaded is what was saved, by its name."""
    folder = tmp_path / "specimens"
    assert specimens.names(folder=folder) == ()
    file = specimens.save(run, "tanh-small-init", folder=folder)
    assert specimens.names(folder=folder) == ("tanh-small-init",)
    history = specimens.load("tanh-small-init", folder=folder)
    assert [(r.step, r.loss, r.calls[0].gain) for r in history] == [(0, 1.0, -2.0), (1, 0.5, -3.0)]
    before = file.read_bytes()
    assert specimens.save(run, "tanh-small-init", folder=folder).read_bytes() == before


def test_a_specimen_that_does_not_exist_names_those_that_do(run: Path, tmp_path: Path) -> None:
    """A typing error in HEALTHY or SICK is found at once."""
    specimens.save(run, "mlp", folder=tmp_path)
    with pytest.raises(KeyError, match="one of mlp; got 'mlpp'"):
        specimens.load("mlpp", folder=tmp_path)


@pytest.mark.parametrize("name", ["", "../mlp", "MLP", "a b", "a/b", "-a"])
def test_a_name_is_a_name_and_no_path(name: str, run: Path, tmp_path: Path) -> None:
    """Neither loading nor saving leaves the folder."""
    with pytest.raises(ValueError, match="name must be"):
        specimens.load(name, folder=tmp_path)
    with pytest.raises(ValueError, match="name must be"):
        specimens.save(run, name, folder=tmp_path)


@pytest.mark.parametrize("member", ["../evil", "/evil", "seg-000.json/../../evil", "evil.py"])
def test_an_archive_cannot_write_elsewhere(member: str, tmp_path: Path) -> None:
    """A zip file from elsewhere is refused before anything of it is unpacked."""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(member, "x")
    with pytest.raises(ValueError, match="files of a run folder only"):
        specimens.load("bad", folder=tmp_path)


def test_an_archive_cannot_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip bomb is refused by the size that it would have."""
    monkeypatch.setattr(specimens, "LARGEST", 10)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as archive:
        archive.writestr("seg-000.json", "x" * 11)
    with pytest.raises(ValueError, match="at most 10 bytes"):
        specimens.load("bomb", folder=tmp_path)


def test_a_damaged_run_is_no_specimen(run: Path, tmp_path: Path) -> None:
    """What detectors are judged on is whole."""
    with (run / "gradwatch" / "seg-000.records.jsonl").open("a") as stream:
        stream.write("torn")
    with pytest.raises(ValueError, match="undamaged run"):
        specimens.save(run, "torn", folder=tmp_path)


@pytest.mark.parametrize("name", specimens.names())
def test_every_specimen_can_be_read(name: str) -> None:
    """Those that are shipped are whole, and small."""
    assert len(specimens.load(name)) > 0
    assert (specimens.FOLDER / f"{name}.zip").stat().st_size < 300_000
