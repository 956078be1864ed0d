from __future__ import annotations

import builtins
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.record import Parameter, Record
from gradwatch.core.report import Report
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Stats
from gradwatch.sinks.wandb import FINDINGS, GRADIENTS, MAX_LAYERS, STEP, WandB, example

wandb = pytest.importorskip("wandb", reason="the package wandb is not installed")

VANISHING = Finding("vanishing-gradient", Severity.CRITICAL, "57 bits are lost", ("a", "b"), 3, 9)


class Run:
    """Keeps what it is given, as a run of wandb would."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.commits: list[bool] = []
        self.summary: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}

    def define_metric(self, name: str, **options: Any) -> None:
        self.metrics[name] = options

    def log(self, row: dict[str, Any], commit: bool) -> None:
        self.rows.append(row)
        self.commits.append(commit)


def stats(octaves: dict[int, int], squares: float = 1.0) -> Stats:
    counts = np.zeros(OCTAVES, np.int64)
    for octave, count in octaves.items():
        counts[octave - OCTAVE_LOW] = count
    return Stats(int(counts.sum()), 0, 0, 0, 0.0, squares, counts, 1.0)


def record(step: int, gradient: Stats | None, layers: int = 1, name: str = "layers") -> Record:
    parameters = [Parameter(f"{name}.{i}.weight", (3, 3), gradient=gradient) for i in range(layers)]
    return Record(step, (), (Parameter("bias", (3,), gradient=gradient), *parameters), loss=0.5)


def written(*reports: Report, commit: bool = False) -> Run:
    run: Any = Run()
    sink = WandB(run, commit=commit)
    for report in reports:
        sink.write(report)
    sink.close()
    return run  # type: ignore[no-any-return]


def test_an_exam_is_a_row_with_an_axis_of_its_own() -> None:
    """The run's step stays its owner's: nothing is committed, no step is given."""
    run = written(Report("M", 7, record=record(7, stats({-3: 9}, 100.0))))
    (row,) = run.rows
    assert row[STEP] == 7
    assert row["gradwatch/gradient norm (log10)"] == pytest.approx(0.5 * math.log10(200))
    assert row["gradwatch/number of findings"] == 0
    assert run.commits == [False]
    assert run.metrics["gradwatch/*"] == {"step_metric": STEP}
    assert written(Report("M", 7, record=record(7, None)), commit=True).commits == [True]


def test_histograms_come_binned_by_powers_of_two() -> None:
    """No tensor is sent; what lies outside the window is counted at its edges."""
    run = written(Report("M", 0, record=record(0, stats({-80: 1, -3: 5, 15: 2}))))
    histogram = run.rows[0][f"{GRADIENTS}/0 layers.0.weight"]
    counts = dict(zip(histogram.bins, histogram.histogram, strict=False))
    assert {octave: count for octave, count in counts.items() if count} == {-60: 1, -3: 5, 3: 2}


def test_the_number_of_keys_is_bounded() -> None:
    """A model of 1,000 layers has as many panels as one of 12, in the order of its layers."""
    exams = [record(step, stats({-3: 1}), layers=1000) for step in (0, 10)]
    run = written(*(Report("M", exam.step, (VANISHING,), record=exam) for exam in exams))
    keys = sorted({key for row in run.rows for key in row})
    histograms = [key for key in keys if key.startswith(GRADIENTS)]
    assert len(histograms) == MAX_LAYERS
    assert (histograms[0], histograms[-1]) == (
        f"{GRADIENTS}/000 layers.0.weight",
        f"{GRADIENTS}/999 layers.999.weight",
    )
    assert len(keys) <= MAX_LAYERS + 9


def test_names_make_harmless_keys_that_stay_apart() -> None:
    """What wandb could not take in a key is replaced, and two long names remain two."""
    evil = "</script>\n\u202e\x1b/" + "x" * 2000
    run = written(Report("M", 0, record=record(0, stats({-3: 1}), 2, evil)))
    keys = [key for key in run.rows[0] if key.startswith(GRADIENTS)]
    assert len(set(keys)) == 2
    assert all(len(key) < 80 and key.count("/") == 1 and key.isascii() for key in keys)
    assert not any(set(key) & set("<>\n\x1b") for key in keys)


def test_the_table_is_written_when_a_finding_comes_or_goes() -> None:
    """A table is a file: not one for every exam."""
    sick = [Report("M", s, (replace(VANISHING, until=s),), record=Record(s)) for s in (1, 2)]
    run = written(Report("M", 0, record=Record(0)), *sick, Report("M", 3, record=Record(3)))
    tables = [row.get(FINDINGS) for row in run.rows]
    assert [table is not None for table in tables] == [False, True, False, True]
    assert tables[1].data == [
        ["critical", "vanishing-gradient", 3, "a, b", "", "57 bits are lost", ""]
    ]
    assert tables[3].data == []


def test_the_summary_holds_the_verdict() -> None:
    """It stands in the table of runs, to sort and filter by."""
    summary = written(Report("M", 9, (VANISHING,), record=Record(9))).summary
    assert summary["gradwatch/verdict"] == "Critical: 57 bits are lost"
    assert summary["gradwatch/severity"] == "critical"


def test_what_is_not_known_is_left_out() -> None:
    """NaN, infinite and missing numbers have no key."""
    broken = replace(stats({}), squares=math.inf)
    run = written(
        Report("M", -1),
        Report("M", 0, record=replace(record(0, None), loss=math.nan)),
        Report("M", 1, record=replace(record(1, broken), loss=math.inf)),
    )
    assert [sorted(row) for row in run.rows] == 2 * [
        ["gradwatch/number of findings", "gradwatch/severity level", STEP]
    ]


def test_without_a_run_the_error_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"call wandb\.init"):
        WandB()


@pytest.fixture
def no_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    original = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    yield


@pytest.mark.usefixtures("no_wandb")
def test_without_the_package_the_error_says_what_to_install() -> None:
    """The sentence names who needs what, and the command."""
    with pytest.raises(ImportError, match=r"needs the package wandb: pip install 'gradwatch\[wan"):
        WandB()


def test_a_real_offline_run_holds_the_training_and_ours(tmp_path: Path) -> None:
    """Rows of the training keep their steps, and ours come with them."""
    model = nn.Sequential(*(m for _ in range(15) for m in (nn.Linear(8, 8), nn.Sigmoid())))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn, data = nn.MSELoss(), torch.randn(16, 8)
    sink: Any = example(tmp_path)
    run = wandb.run
    try:
        sinks = [sink]
        with gradwatch.watch(
            model, optimizer, loss_fn=loss_fn, sinks=sinks, strict=True, every_n_steps=10
        ):
            for step in range(40):
                optimizer.zero_grad()
                loss = loss_fn(model(data), data)
                loss.backward()
                optimizer.step()
                run.log({"loss": loss.item()}, step=step)
    finally:
        run.finish()
    rows = list(history(tmp_path))
    assert [row["_step"] for row in rows if "loss" in row] == list(range(40))
    assert [row[STEP] for row in rows if STEP in row][-3:] == [10, 20, 30]
    assert any(key.startswith(f"{GRADIENTS}/") for row in rows for key in row)


def history(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of an offline run, which another process writes, to its end."""
    deadline = time.monotonic() + 30
    found: list[Any] = []
    while "exit" not in {message.WhichOneof("record_type") for message in found}:
        assert time.monotonic() < deadline, "the run was not written to its end"
        time.sleep(0.05)
        found = [message for file in path.glob("wandb/offline*/*.wandb") for message in scan(file)]
    for message in found:
        if message.WhichOneof("record_type") == "history":
            yield {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in message.history.item
            }


def scan(file: Path) -> Iterator[Any]:
    """Read a file in the format of LevelDB's log, after 7 bytes of header, as far as it goes."""
    from wandb.proto.wandb_internal_pb2 import Record as Message

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (rest := 32768 - at % 32768) < 7:  # no header fits there
            at += rest
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if at + 7 + length > len(data):
            break
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            message = Message()
            message.ParseFromString(parts)
            yield message
            parts = b""
