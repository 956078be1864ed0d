from __future__ import annotations

import csv
import io
import json
import math
import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import FIRST_PULSES, LAST_PULSES, Columns, Pulse
from gradwatch.core.record import NO_GRAD_INPUT, Call, Layer, Parameter, Record
from gradwatch.core.report import Report
from gradwatch.core.runfolder import RunWriter, read
from gradwatch.core.runfolder_stream import Stream
from gradwatch.core.stats import OCTAVES, Stats
from gradwatch.sinks.export import write_csv, write_json

NAMES = ("a.weight", "b.weight")


def stats(squares: float, nans: int = 0) -> Stats:
    return Stats(4 + nans, 0, nans, 0, 0.0, squares, np.zeros(OCTAVES, np.int64), 1.0)


def pulse(step: int, norms: Sequence[float], loss: float = math.nan) -> Pulse:
    outputs = np.zeros(0, np.float32)
    values = np.asarray(norms, np.float32)
    return Pulse(step, Columns(NAMES), values, outputs, loss, not math.isnan(loss), 0.5)


def exam(step: int) -> Record:
    call = Call(Layer("a", "Linear"), reason=NO_GRAD_INPUT, output=stats(16.0))
    return Record(
        *(step, (call,), (Parameter("a.weight", (2, 2), gradient=stats(36.0, 1)),)),
        *(math.inf, 0.5),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    writer = RunWriter(tmp_path, model="Net")
    writer.add_record(exam(1))
    writer.add_pulses([pulse(0, (0.1, 2e-30), 2.5), pulse(1, (math.nan, math.inf))])
    writer.add_pulses([pulse(2, (-1.0, 0.0), math.inf)])
    finding = Finding("x", Severity.CRITICAL, "it is", numbers={"bits": -math.inf})
    writer.add_report(Report("Net", 2, (finding,), record=exam(1)))
    return tmp_path


def table(run: Path) -> list[dict[str, str]]:
    out = io.StringIO()
    write_csv(Stream(run), out)
    return list(csv.DictReader(io.StringIO(out.getvalue())))


def document(run: Path) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    out = io.StringIO()
    write_json(Stream(run), read(run), out)
    return json.loads(out.getvalue(), parse_constant=refuse)


def test_a_line_of_the_table_is_one_number(run: Path) -> None:
    """Every step, every parameter; in the fewest digits that are the same float32."""
    pulses = [row for row in table(run) if row["source"] == "pulse"]
    norms = [(r["step"], r["name"], r["value"]) for r in pulses if r["quantity"] == "gradient_norm"]
    assert norms == [
        *(("0", "a.weight", "0.1"), ("0", "b.weight", "2e-30")),
        *(("1", "a.weight", "nan"), ("1", "b.weight", "inf")),
        *(("2", "a.weight", ""), ("2", "b.weight", "0.0")),
    ]
    losses = [(row["step"], row["value"]) for row in pulses if row["quantity"] == "loss"]
    assert losses == [("0", "2.5"), ("2", "inf")]
    assert [row["value"] for row in pulses if row["quantity"] == "clip_ratio"] == 3 * ["0.5"]


def test_exams_are_in_the_table(run: Path) -> None:
    """With layer, call and quantity; what was not measured has no line."""
    exams = [row for row in table(run) if row["source"] == "exam"]
    assert {row["step"] for row in exams} == {"1"}
    known = {(row["name"], row["call"], row["quantity"]): row["value"] for row in exams}
    assert known["", "", "loss"] == "inf"
    assert known["a", "0", "output_rms"] == "2.0"
    assert known["a.weight", "", "gradient_norm"] == "6.0"
    assert known["a.weight", "", "gradient_nans"] == "1"
    assert ("a", "0", "gain_bits") not in known
    assert ("a.weight", "", "weight_norm") not in known


def test_json_is_one_strict_object(run: Path) -> None:
    """What is no number is a string as in the run folder; what is not known is null."""
    data = document(run)
    assert (data["model"], data["step"], data["verdict"]) == ("Net", 2, "Critical: it is")
    assert data["findings"][0]["numbers"] == {"bits": "-inf"}
    assert data["pulses"] == [
        {"step": 0, "loss": 2.5, "clip_ratio": 0.5, "norms": {"a.weight": 0.1, "b.weight": 2e-30}},
        {
            "step": 1,
            "loss": None,
            "clip_ratio": 0.5,
            "norms": {"a.weight": "nan", "b.weight": "inf"},
        },
        {"step": 2, "loss": "inf", "clip_ratio": 0.5, "norms": {"a.weight": None, "b.weight": 0.0}},
    ]
    (exam,) = data["exams"]
    assert (exam["step"], exam["loss"]) == (1, "inf")
    assert exam["layers"][0]["gain_bits"] is None
    assert exam["layers"][0]["reason"] == NO_GRAD_INPUT
    assert exam["parameters"][0]["gradient"]["nans"] == 1
    assert data["problems"] == []


def test_a_run_without_anything_is_valid_too(tmp_path: Path) -> None:
    RunWriter(tmp_path, model="Net").add_report(Report("Net", -1))
    assert table(tmp_path) == []
    assert (document(tmp_path)["pulses"], document(tmp_path)["exams"]) == ([], [])


def test_no_step_is_left_out_however_long_the_run(tmp_path: Path) -> None:
    """A history keeps some 4,000 pulses; the export has all."""
    steps = FIRST_PULSES + LAST_PULSES + 500
    RunWriter(tmp_path).add_pulses([pulse(step, (1.0, step)) for step in range(steps)])
    assert len(read(tmp_path).history.pulses) < steps
    rows = [row for row in table(tmp_path) if row["name"] == "b.weight"]
    assert [row["step"] for row in rows] == [str(step) for step in range(steps)]
    assert [float(row["value"]) for row in rows] == list(range(steps))
    assert [one["step"] for one in document(tmp_path)["pulses"]] == list(range(steps))


def test_a_resumed_run_is_one_series(tmp_path: Path) -> None:
    """What was done again replaces what was done before."""
    RunWriter(tmp_path).add_pulses([pulse(step, (1.0, 1.0)) for step in range(6)])
    RunWriter(tmp_path).add_pulses([pulse(step, (2.0, 2.0)) for step in range(4, 8)])
    rows = [row for row in table(tmp_path) if row["name"] == "a.weight"]
    assert [row["value"] for row in rows] == 4 * ["1.0"] + 4 * ["2.0"]


def test_it_takes_no_memory_for_the_length_of_a_run(tmp_path: Path) -> None:
    """40 MB of rows go through a few."""
    columns = Columns(tuple(f"layers.{i}.weight" for i in range(400)))
    norms, outputs = np.ones(400, np.float32), np.zeros(0, np.float32)
    writer = RunWriter(tmp_path)
    for start in range(0, 25_000, 1_000):
        steps = range(start, start + 1_000)
        writer.add_pulses([Pulse(step, columns, norms, outputs) for step in steps])
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.pulses.bin"))
    tracemalloc.start()
    count = sum(1 for _ in Stream(tmp_path).pulses())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, size > 40e6) == (25_000, True)
    assert peak < 20e6


EVIL = '=HYPERLINK(1)\n\u202e\x1b\ud800, "q" \'x' + "x" * 2000


def test_names_are_harmless_in_a_spreadsheet_and_whole(tmp_path: Path) -> None:
    """No formula, no line break, no control character; in JSON they are what they were."""
    norms, outputs = np.ones(1, np.float32), np.zeros(0, np.float32)
    RunWriter(tmp_path).add_pulses([Pulse(0, Columns((EVIL,)), norms, outputs)])
    (row,) = table(tmp_path)
    assert row["name"] == "'=HYPERLINK(1) , \"q\" 'x" + "x" * 2000
    assert list(document(tmp_path)["pulses"][0]["norms"]) == [EVIL]


def test_what_is_damaged_is_left_out_and_said(run: Path) -> None:
    """The rest is exported."""
    (file,) = run.rglob("*.pulses.bin")
    os.truncate(file, file.stat().st_size - 3)
    data = document(run)
    assert [one["step"] for one in data["pulses"]] == [0, 1]
    assert any("torn" in problem for problem in data["problems"])
