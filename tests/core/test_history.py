"""The memory of a run is bounded, and keeps its birth and its latest steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.core.history import (
    FIRST_PULSES,
    FIRST_RECORDS,
    LAST_PULSES,
    LAST_RECORDS,
    Columns,
    History,
    Pulse,
)
from gradwatch.core.record import Record

COLUMNS = Columns(("w",), ())


def pulse(step: int, loss: float = math.nan, *norms: float) -> Pulse:
    values = np.asarray(norms or (1.0,), np.float32)
    outputs = np.zeros(0, np.float32)
    return Pulse(step, COLUMNS, values, outputs, loss, loss_known=not math.isnan(loss))


@given(st.integers(0, 200))
@settings(max_examples=30)
def test_the_first_and_the_last_exams_are_kept(count: int) -> None:
    """However long a run is, its first 8 and its last 56 exams are there, in order."""
    history = History.of(Record(step) for step in range(count))
    steps = list(range(count))
    expected = steps[:FIRST_RECORDS] + steps[FIRST_RECORDS:][-LAST_RECORDS:]
    assert [record.step for record in history] == expected
    assert len(history) == len(expected)
    assert history.last_step == count - 1
    assert (history.latest.step if history.latest else -1) == count - 1


def test_the_first_and_the_last_pulses_are_kept() -> None:
    """A million steps need the memory of a few thousand."""
    count = FIRST_PULSES + LAST_PULSES + 10
    history = History.of((), (pulse(step) for step in range(count)))
    steps = [p.step for p in history.pulses]
    assert steps[:FIRST_PULSES] == list(range(FIRST_PULSES))
    assert steps[FIRST_PULSES:] == list(range(count - LAST_PULSES, count))
    assert history.last_step == count - 1


@given(st.integers(1, 100))
@settings(max_examples=20)
def test_the_latest_exam_is_replaced_in_place(count: int) -> None:
    """A loss that becomes known later completes its exam and no other one."""
    history = History.of(Record(step) for step in range(count))
    before = [record.step for record in history]
    history.replace_latest(Record(count - 1, loss=2.5))
    assert [record.step for record in history] == before
    assert [record.loss for record in history] == [None] * (len(before) - 1) + [2.5]


def test_losses_come_from_the_pulses_or_else_from_the_exams() -> None:
    """Only losses that are known count; a specimen of exams alone has losses too."""
    exams = [Record(0, loss=4.0), Record(5), Record(9, loss=math.inf)]
    steps, losses = History.of(exams).losses()
    assert (steps.tolist(), losses.tolist()) == ([0, 9], [4.0, math.inf])
    steps, losses = History.of(exams, [pulse(0), pulse(1, 3.0)]).losses()
    assert (steps.tolist(), losses.tolist()) == ([1], [3.0])


def test_the_latest_step_is_that_of_an_exam_or_of_a_pulse() -> None:
    """Whichever is later counts; nothing at all is -1."""
    assert History().last_step == -1
    assert History().latest is None
    assert History.of([Record(7)], [pulse(3)]).last_step == 7
    assert History.of([Record(3)], [pulse(7)]).last_step == 7


def test_the_norm_of_a_pulse_skips_what_was_not_reached() -> None:
    """-1 stands for a parameter without a gradient; NaN is not hidden; large ones fit."""
    assert pulse(0, 0.0, 3.0, -1.0, 4.0).norm == 5.0
    assert math.isnan(pulse(0, 0.0, 3.0, math.nan).norm)
    assert pulse(0, 0.0, 1e30, 1e30).norm == pytest.approx(2**0.5 * 1e30)
