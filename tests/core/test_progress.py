"""Whether a training gets anywhere is judged on its losses, or on the error at its output."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.core.history import History
from gradwatch.core.progress import MIN_LOSSES, Progress, progress
from gradwatch.core.record import Call, Layer, Record
from gradwatch.core.stats import OCTAVES, Stats


def of(losses: Iterable[float]) -> Progress:
    # At most 64, so that the exams of the history hold them all.
    return progress(History.of(Record(step, loss=loss) for step, loss in enumerate(losses)))


def test_an_unknown_loss_is_said_to_be_unknown() -> None:
    """Without a loss there is no verdict, and the text says how to give one."""
    found = of([])
    assert found.moving is None
    assert "watcher.step(loss)" in found.text


def test_a_few_losses_say_nothing() -> None:
    """Less than 8 losses are no trend."""
    assert of([1.0 / (n + 1) for n in range(MIN_LOSSES - 1)]).moving is None
    assert of([1.0 / (n + 1) for n in range(MIN_LOSSES)]).moving is True


@given(st.floats(0.1, 100), st.floats(0.90, 0.97))
@settings(max_examples=40)
def test_a_loss_that_decays_is_progress(scale: float, factor: float) -> None:
    """Whatever the unit of the loss, a steady fall is progress."""
    found = of(scale * factor**step for step in range(60))
    assert found.moving is True
    assert not found.diverged
    assert found.fall > 0


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.02))
@settings(max_examples=40)
def test_a_loss_that_stays_is_no_progress(seed: int, noise: float) -> None:
    """A plateau is a plateau, with or without a little noise."""
    rng = np.random.default_rng(seed)
    found = of(0.693 + noise * rng.uniform(-0.2, 0.2, 60))
    assert found.moving is False
    assert "stays" in found.text


def test_a_training_that_is_done_has_learnt() -> None:
    """A loss that fell early and rests on its floor is no stalled training."""
    assert of([2.0 * 0.5**step + 0.01 for step in range(60)]).moving is True


@given(st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_loss_that_is_not_finite_has_diverged(last: float) -> None:
    """One NaN at the end is the end."""
    found = of([*([1.0] * 20), last])
    assert (found.moving, found.diverged) == (False, True)
    assert str(last) in found.text


def test_a_loss_far_above_its_beginning_has_diverged() -> None:
    """A blow-up is seen before it reaches infinity."""
    assert of([1.0 * 1.2**step for step in range(60)]).diverged
    assert not of([1.0] * 60).diverged


def exam(step: int, error: float) -> Record:
    gradient = Stats(100, 0, 0, 0, 0.0, 100 * error**2, np.zeros(OCTAVES, np.int64), error)
    return Record(step, (Call(Layer("", "Net"), grad_output=gradient),))


@pytest.mark.parametrize(
    ("errors", "moving"),
    [
        ([1.0, 1.0, 0.98, 0.97, 0.99, 1.01], False),
        ([1.0, 1.0, 0.9, 0.7, 0.5, 0.4], True),
        ([1.0, 1.0, 0.95, 0.9, 0.86, 0.84], None),
        ([1.0, 0.1], None),
    ],
)
def test_without_a_loss_the_error_at_the_output_tells(
    errors: list[float], moving: bool | None
) -> None:
    found = progress(History.of(exam(step, error) for step, error in enumerate(errors)))
    assert found.moving is moving
    assert "the loss is not known" in found.text


def test_a_loss_back_from_a_spike_is_no_progress_until_it_is_below_its_beginning() -> None:
    losses = [2.3] * 2 + list(np.linspace(30, 2.4, 25))
    assert of(losses).moving is False
    assert of([*losses, *np.linspace(2.4, 1.0, 30)]).moving
