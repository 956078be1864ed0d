"""A run folder that was cut, filled up or scribbled in is read as far as it goes, and says so."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import Columns, Pulse
from gradwatch.core.record import Call, Layer, Record
from gradwatch.core.report import Report
from gradwatch.core.runfolder import FutureVersion, RunWriter, read
from gradwatch.core.stats import Active, Stats

COLUMNS = Columns(("w",), ("a",))
ONE = np.ones(1, np.float32)
STEPS = 4


def exam(step: int) -> Record:
    layer = Layer("a", "ReLU")
    active = Active(8, np.asarray([1, 2]))
    return Record(step, (Call(layer, gain=-1.0, output=Stats.empty(), active=active),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with four exams, pulses and reports."""
    writer = RunWriter(tmp_path, model="Net")
    for step in range(STEPS):
        writer.add_pulses([Pulse(step, COLUMNS, ONE, ONE)])
        writer.add_record(exam(step))
        writer.add_report(Report("Net", step, (Finding("x", Severity.NOTE, f"at {step}"),)))
    return tmp_path / "gradwatch"


def steps(folder: Path) -> tuple[list[int], list[int], list[int]]:
    run = read(folder)
    return (
        [record.step for record in run.history],
        [pulse.step for pulse in run.history.pulses],
        list(run.findings_by_step),
    )


ALL = list(range(STEPS))


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        ("records.jsonl", (ALL[:-1], ALL, ALL)),
        ("findings.jsonl", (ALL, ALL, ALL[:-1])),
        ("pulses.bin", (ALL, ALL[:-1], ALL)),
        ("stats.bin", (ALL[:-1], ALL, ALL)),
        ("gains.bin", (ALL[:-1], ALL, ALL)),
        ("active.bin", (ALL[:-1], ALL, ALL)),
        ("layouts.jsonl", ([], ALL, ALL)),
    ],
)
def test_a_torn_last_row_is_ignored_and_said(
    folder: Path, suffix: str, expected: tuple[list[int], list[int], list[int]]
) -> None:
    """A process killed while it wrote loses what it was writing and nothing else."""
    file = folder / f"seg-000.{suffix}"
    os.truncate(file, file.stat().st_size - 1)
    assert steps(folder) == expected
    assert any(
        file.name in problem or "exam of step" in problem for problem in read(folder).problems
    )


def test_rows_without_their_line_do_not_exist(folder: Path) -> None:
    """An exam is written completely or not at all, and this is no problem of the run."""
    with (folder / "seg-000.stats.bin").open("ab") as stream:
        stream.write(b"x" * 100)
    assert steps(folder) == (ALL, ALL, ALL)
    assert read(folder).problems == ()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"\xff\xfe\x00\n",
        b"[1, 2\n",
        b"null\n",
        b'{"step": "soon"}\n',
        b'{"step": 1e999}\n',
        b"[" * 100_000 + b"\n",
        b'{"from": "the future"}\n',
    ],
)
@pytest.mark.parametrize("suffix", ["records.jsonl", "findings.jsonl"])
def test_garbage_lines_are_skipped_and_counted(folder: Path, suffix: str, garbage: bytes) -> None:
    """Lines that are not ours cost nothing but a sentence."""
    file = folder / f"seg-000.{suffix}"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([garbage, *lines[:2], garbage, *lines[2:]]))
    assert steps(folder) == (ALL, ALL, ALL)
    assert read(folder).problems == (
        f"{file.name}: lines that could not be read and were skipped: 2.",
    )


@pytest.mark.parametrize(
    "change",
    [
        {"stats": [0, 2**62]},
        {"stats": [-1, 1]},
        {"stats": [10**30, 1]},
        {"stats": "all"},
        {"gains": [0, 0]},
        {"gains": [1, 1]},
        {"layout": [0, 10]},
        {"layout": [3.5, 1]},
        {"active": {"at": 0, "width": 3, "of": []}},
        {"active": {"at": 0, "width": 4, "of": [[0, 1, 10**9]]}},
        {"loss": "much"},
        {"notes": None},
    ],
)
def test_an_exam_with_absurd_places_is_skipped(folder: Path, change: dict[str, object]) -> None:
    """No size in a file is believed: nothing is allocated for rows that are not there."""
    file = folder / "seg-000.records.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0].update(change)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert steps(folder) == (ALL[1:], ALL, ALL)
    assert "the exam of step 0 was skipped" in read(folder).problems[0]


@given(
    st.sampled_from(["records.jsonl", "layouts.jsonl", "findings.jsonl", "json", "columns.json"]),
    st.floats(0, 0.999),
    st.binary(min_size=1, max_size=6),
)
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_reading_survives_any_scribble(folder: Path, suffix: str, at: float, data: bytes) -> None:
    """Whatever bytes are overwritten, the answer is a run or an error that says what is wrong."""
    file = folder / f"seg-000.{suffix}"
    before = file.read_bytes()
    position = int(at * len(before))
    file.write_bytes(before[:position] + data + before[position + len(data) :])
    try:
        run = read(folder)
        assert len(run.history) <= STEPS
        assert str(run.report().verdict)
    except FutureVersion:
        assert suffix == "json"
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("suffix", ["columns.json", "layouts.jsonl", "stats.bin", "json"])
def test_a_missing_file_costs_what_was_in_it(folder: Path, suffix: str) -> None:
    """The rest of the run is still there, or the error names the folder."""
    (folder / f"seg-000.{suffix}").unlink()
    if suffix == "json":
        with pytest.raises(FileNotFoundError, match="holds none"):
            read(folder)
    else:
        assert read(folder).problems
        assert steps(folder)[2] == ALL


def test_a_broken_header_costs_its_segment(folder: Path) -> None:
    """The other segments are read; a new writer leaves the broken one alone."""
    (folder / "seg-000.json").write_text("{")
    RunWriter(folder.parent).add_record(exam(9))
    run = read(folder)
    assert [record.step for record in run.history] == [9]
    assert "seg-000.json: its segment was skipped" in run.problems[0]


def test_a_later_version_is_named(folder: Path) -> None:
    """What a newer gradwatch wrote is an error that says what to do."""
    file = folder / "seg-000.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99, "gradwatch": "7.1"}))
    with pytest.raises(FutureVersion, match=r"gradwatch 7\.1 in version 99"):
        read(folder)


def test_a_later_version_s_segment_hides_no_other(folder: Path) -> None:
    """A run that a newer gradwatch went on with: what came before is read, the rest is said."""
    RunWriter(folder.parent).add_record(exam(9))
    file = folder / "seg-001.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99, "gradwatch": "7.1"}))
    assert steps(folder) == (ALL, ALL, ALL)
    (problem,) = read(folder).problems
    assert problem.startswith("seg-001.json: its segment was skipped (written by gradwatch 7.1 in")
    assert "pip install --upgrade gradwatch" in problem and str(folder) not in problem


def test_no_run_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    """A folder without a run, or no folder at all."""
    (tmp_path / "gradwatch").mkdir()
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=str(path)):
            read(path)


def half(descriptor: int, data: bytes) -> int:
    return os.pwrite(descriptor, data[: len(data) // 2], os.fstat(descriptor).st_size)


def full(descriptor: int, data: bytes) -> int:
    half(descriptor, data)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("write", [half, full])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_full_disk_leaves_no_torn_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., int], restarts: bool
) -> None:
    """The append that did not fit is taken back and raised; later ones succeed and are read."""
    writer = RunWriter(folder.parent)
    if restarts:
        writer.add_record(exam(STEPS))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for add in (
        lambda: writer.add_record(exam(STEPS + 1)),
        lambda: writer.add_pulses([Pulse(STEPS, COLUMNS, ONE, ONE)]),
        lambda: writer.add_report(Report("Net", STEPS)),
    ):
        with monkeypatch.context() as patch, pytest.raises(OSError) as error:
            patch.setattr(os, "write", write)
            add()
        assert error.value.errno == errno.ENOSPC
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert {name: data for name, data in after.items() if data} == before
    writer.add_record(exam(STEPS + 1))
    assert steps(folder)[0] == [*ALL, *([STEPS] if restarts else []), STEPS + 1]
    assert read(folder).problems == ()
