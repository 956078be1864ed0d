"""Two runs side by side: the numbers are those of both folders, and there are never too many."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gradwatch.core import catalog, specimens
from gradwatch.core.comparison import compare
from gradwatch.core.history import Columns, History, Pulse
from gradwatch.core.ledger import ledger
from gradwatch.core.record import Record
from gradwatch.core.report import examine
from gradwatch.core.runfolder import Run, RunWriter, read
from gradwatch.core.runfolder_format import to_line
from gradwatch.viewer import compare_data as module
from gradwatch.viewer.compare_data import compare_data, loss_data

NONE = np.zeros(0, np.float32)


def recorded(folder: Path, past: History) -> Run:
    writer = RunWriter(folder, model="Net")
    for record in past.records:
        writer.add_record(record)
    writer.add_pulses(past.pulses)
    writer.add_report(examine(past, catalog.detectors(), (), model="Net"))
    return read(folder)


def losses(folder: Path, *told: tuple[int, float]) -> Run:
    RunWriter(folder).add_pulses(Pulse(i, Columns(), NONE, NONE, loss, True) for i, loss in told)
    return read(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("runs")
    sick, well = (recorded(folder / n, specimens.load(n)) for n in ("sigmoid-mlp", "digits-mlp"))
    return sick, well


def test_it_says_what_diff_says(runs: tuple[Run, Run]) -> None:
    """The same sentence, findings and layers, with 4 digits."""
    data, found = compare_data(*runs), compare(*runs)
    assert data["headline"] == found.headline
    assert [(f["name"], f["kind"]) for f in data["findings"]] == [
        (change.name, change.kind) for change in found.changes
    ]
    assert data["step"] == found.step
    assert [layer[0] for layer in data["layers"]] == [layer.layer for layer in found.layers]
    for shown, layer in zip(data["layers"], found.layers, strict=True):
        assert shown[1] == pytest.approx(layer.gradient.before, rel=5e-4)
        assert shown[2] == pytest.approx(layer.gradient.after, rel=5e-4)
        assert shown[3] == pytest.approx(layer.gradient.bits, rel=5e-4)
        assert shown[4] == pytest.approx(layer.update_ratio.before, rel=5e-4)
        assert shown[5] == pytest.approx(layer.update_ratio.after, rel=5e-4)
    assert data["only"] == [list(names) for names in (found.only_before, found.only_after)]


def test_the_ledgers_are_those_of_both(runs: tuple[Run, Run]) -> None:
    """Line by line, matched by layer; nothing is lost."""
    data, step = compare_data(*runs)["ledger"], compare(*runs).step
    for side, run in enumerate(runs):
        record = next(record for record in reversed(run.history.records) if record.step <= step)
        shown = [line[2 + side] for line in data if line[2 + side] is not None]
        assert sorted(shown) == pytest.approx(
            sorted(entry.bits for entry in ledger(record).entries), abs=1e-3
        )


def test_losses_share_an_axis(tmp_path: Path) -> None:
    """Each at its own steps; what was not told is no number, what is not finite is one."""
    a = losses(tmp_path / "a", (0, 2.0), (1, math.nan), (3, 1.0))
    losses(tmp_path / "b", (0, 4.0), (2, math.inf))
    RunWriter(tmp_path / "b").add_record(Record(5, loss=0.5))
    data = loss_data(a, read(tmp_path / "b"))
    assert (data["steps"], data["merged"]) == ([0, 1, 2, 3, 5], 1)
    assert json.loads(to_line(data["losses"])) == [
        [2.0, "nan", None, 1.0, None],
        [4.0, None, "inf", None, 0.5],
    ]


def test_of_a_long_run_no_spike_is_lost(tmp_path: Path) -> None:
    """The largest of some steps stands for them, NaN before all."""
    told = [(step, 1.0) for step in range(25_000)]
    told[777], told[24_001] = (777, 9.0), (24_001, math.nan)
    data = loss_data(losses(tmp_path / "a", *told), losses(tmp_path / "b", (3, 2.0)))
    assert data["merged"] == 25 and len(data["steps"]) == 1000
    first, second = data["losses"]
    assert first[777 // 25] == 9.0 and math.isnan(first[24_001 // 25])
    assert second == [2.0, *[None] * 999]


def test_layers_are_bounded(runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that differ most, in their order, and how many are left out."""
    whole = compare_data(*runs)
    monkeypatch.setattr(module, "MAX_LAYERS", 3)
    some = compare_data(*runs)
    assert len(some["layers"]) == len(some["ledger"]) == 3
    assert some["moreLayers"] == len(whole["layers"]) - 3
    kept = [line for line in whole["layers"] if line in some["layers"]]
    assert kept == some["layers"]


def test_a_run_without_anything_is_shown(tmp_path: Path, runs: tuple[Run, Run]) -> None:
    """Not judged, no exam: said, and no error."""
    data = compare_data(runs[0], losses(tmp_path / "b", (0, 1.0)), "b\u202e")
    assert data["runs"][1]["severity"] == "unknown" and data["runs"][1]["name"] == "b"
    assert data["runs"][1]["verdict"].startswith("Not judged")
    assert (data["step"], data["layers"], data["ledger"]) == (-1, [], [])
