"""A trial in a run folder: read back as it was, or said why not; never a crash."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report
from gradwatch.core.runfolder import RunWriter, read
from gradwatch.core.runfolder_trial import TRIAL, TRIAL_SCHEMA, write_trial
from gradwatch.core.verdict import Outcome, Verdict, Verdicts

FOUND = Finding("stalled", Severity.WARNING, "it stands", ("a",), causes=(Cause("init", "small"),))
UNTREATED = Outcome((2.3, math.nan, math.inf), (0.0, None, 0.01), 40, (FOUND,), -26.0, 1e-3, 90)
SWAP = Prescription("swap-relu", "Swap 9 Sigmoid for ReLU", "model[1] = torch.nn.ReLU()")
LOSS = Prescription(
    "other-loss", "Take logits", "loss_fn = 1", of_optimizer=True, changes_loss=True
)
HELPS = Verdict(
    (SWAP,), True, "97%", Outcome((0.1, 0.2, 0.1), (0.9, 0.8, 0.9), 40, (), -1.5), UNTREATED, 12
)
NOT = replace(HELPS, prescriptions=(SWAP, LOSS), recommended=False, steps_to_match=None)
VERDICTS = Verdicts(
    (HELPS, NOT),
    UNTREATED,
    replace(UNTREATED, losses=(2.2, 2.2, 2.2)),
    replace(NOT, prescriptions=(LOSS,)),
    dropped=("clip (loss 2.3 after 20 steps)",),
    not_reached=("norm",),
    not_applied=("Use an LSTM: there is none",),
    seconds=12.5,
    summary="Swap 9 Sigmoid for ReLU: 97%.",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = RunWriter(tmp_path, model="Net")
    writer.add_record(Record(3))
    writer.add_report(Report("Net", 3))
    return tmp_path / "gradwatch"


def test_what_was_measured_is_read_back(folder: Path) -> None:
    """Every number, name and line of code, also what is not finite."""
    write_trial(folder, VERDICTS)
    run = read(folder)
    assert run.problems == ()
    assert run.trial is not None and run.report().trial is run.trial
    assert repr(run.trial) == repr(VERDICTS)  # NaN is not equal to itself
    assert run.trial[0].bits_recovered == 24.5 and run.trial[1].name == "swap-relu + other-loss"


def test_a_later_trial_replaces_it(folder: Path) -> None:
    """And nothing else is left in the folder."""
    before = sorted(file.name for file in folder.iterdir())
    for summary in ("first", "second"):
        write_trial(folder, replace(VERDICTS, summary=summary))
    run = read(folder)
    assert run.trial is not None and run.trial.summary == "second"
    assert sorted(file.name for file in folder.iterdir()) == sorted([*before, TRIAL])


def test_a_run_that_was_begun_anew_has_no_trial(folder: Path) -> None:
    """It may be of another model; and that is said."""
    write_trial(folder, VERDICTS)
    RunWriter(folder.parent, model="Net").add_record(Record(0))
    run = read(folder)
    assert run.trial is None
    assert run.problems == ("trial.json: its remedies were tried for an earlier training here.",)


def test_without_a_run_there_is_nothing_to_keep_it_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run"):
        write_trial(tmp_path, VERDICTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"trial": None},
        {"trial": {}},
        {"schema": "soon"},
        {"schema": 1e999},
        {"trial": {**VERDICTS.to_json(), "untreated": {**UNTREATED.to_json(), "losses": []}}},
        {"trial": {**VERDICTS.to_json(), "verdicts": [1]}},
        {"trial": {**VERDICTS.to_json(), "dropped": 7}},
    ],
)
def test_garbage_costs_the_trial_only(folder: Path, change: dict[str, Any]) -> None:
    write_trial(folder, VERDICTS)
    file = folder / TRIAL
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}, default=str))
    run = read(folder)
    assert run.trial is None and run.history.last_step == 3
    assert len(run.problems) == 1 and run.problems[0].startswith("trial.json: the trial could not")


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[" * 100_000, b"null", b"3"])
def test_bytes_that_are_no_trial(folder: Path, data: bytes) -> None:
    (folder / TRIAL).write_bytes(data)
    assert read(folder).trial is None
    assert read(folder).problems[0].startswith("trial.json: the trial could not be read")


def test_a_later_version_asks_for_an_upgrade(folder: Path) -> None:
    write_trial(folder, VERDICTS)
    file = folder / TRIAL
    later = {"schema": TRIAL_SCHEMA + 1, "gradwatch": "7.1"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **later}))
    run = read(folder)
    assert run.trial is None and run.history.last_step == 3
    assert "gradwatch 7.1 in version 2" in run.problems[0]
    assert run.problems[0].endswith("pip install --upgrade gradwatch.")


@given(st.floats(0, 0.999), st.binary(min_size=1, max_size=6))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_reading_survives_any_scribble(folder: Path, at: float, data: bytes) -> None:
    """Whatever bytes are overwritten: a trial, or a sentence."""
    write_trial(folder, VERDICTS)
    file = folder / TRIAL
    before = file.read_bytes()
    position = int(at * len(before))
    file.write_bytes(before[:position] + data + before[position + len(data) :])
    run = read(folder)
    assert (run.trial is None) == bool(run.problems)
    if run.trial is not None:
        assert str(run.trial)
