"""What an answer is worth, from rows of numbers that are written down here."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradwatch.core.answer import Answer, factor_of, heads, read
from gradwatch.core.answers import answers
from gradwatch.core.history import History
from gradwatch.core.losses import ABSOLUTE_ERROR, BINARY, CROSS_ENTROPY, FIELDS, SQUARED_ERROR
from gradwatch.core.record import Record

OLDER = FIELDS.index("var_gradient") + 1
"""Fields of a row before there were several outputs."""


def row(**values: float) -> tuple[float, ...]:
    """A row of one output of 64 samples of which nothing fits but what is given."""
    whole = {"alone": 1, "samples": 64, "columns": 1, "asked": 64, "asked_columns": 1, "part": 1}
    numbers = dict.fromkeys(FIELDS, math.nan) | {"call": 0, "outputs": 1, "inside": 0} | whole
    return tuple(float(value) for value in (numbers | values).values())


def squares(residual: float, factor: float = 1.0, scale: float = 1.0, **more: float) -> Any:
    """A row of a squared error: all answers are 1, and all are off by the same."""
    size = 2 * factor * scale * residual / 64
    sums = {"squares": 64 * size**2, "square_output": 64.0, "product": 64 * size}
    sums |= {"total": 64.0, "tilt": 64 * size, "uneven": 1.0}
    return row(**(sums | {"var_output": 0, "covariance": 0, "var_gradient": 0} | more))


def cross_entropy(loss: float, **more: float) -> Any:
    return row(**({"ce_error": 1e-7, "ce_loss": loss, "ce_constant": 2.0, "ce_scale": 1.0} | more))


@pytest.mark.parametrize(("loss", "skill"), [(2.0, 0.0), (0.5, 0.75), (0.0, 1.0), (6.0, -2.0)])
def test_skill_is_the_way_from_the_best_constant_answer_to_the_right_one(
    loss: float, skill: float
) -> None:
    got = read(cross_entropy(loss), None)
    assert (got.kind, got.skill) == (CROSS_ENTROPY, skill)


@pytest.mark.parametrize(
    "answer", [Answer(), Answer(BINARY, 0.1, 0.0), Answer(BINARY, math.nan, 1)]
)
def test_what_is_not_known_has_no_skill(answer: Answer) -> None:
    assert answer.skill is None


@pytest.mark.parametrize("told", [0.5, 0.25, 1.5, 0.5 * 31, 0.5 / 2**16])
def test_a_loss_that_was_told_may_be_divided_by_micro_batches_or_scaled(told: float) -> None:
    assert read(cross_entropy(0.5), told).kind == CROSS_ENTROPY


@pytest.mark.parametrize("told", [0.45, 0.37, -0.5, 0.5 / 100])
def test_a_loss_that_was_told_and_is_another_is_not_taken_for_this_one(told: float) -> None:
    assert read(cross_entropy(0.5), told).kind == ""
    assert read(cross_entropy(0.5, alone=0), told).kind == CROSS_ENTROPY  # it is not known whose
    assert read(cross_entropy(0.5, part=0.5), told).kind == CROSS_ENTROPY


@pytest.mark.parametrize("factor", [1.0, 64.0, 0.5, 32.0])
def test_a_squared_error_is_known_by_its_value(factor: float) -> None:
    got = read(squares(3.0, factor), 9 * factor)
    assert got.kind == SQUARED_ERROR
    assert got.loss == pytest.approx(9)
    assert (got.residual, got.target_rms, got.target_mean) == pytest.approx((3, 2, -2))
    assert read(squares(3.0, factor), 9 * factor * 1.05).kind == ""


def test_a_squared_error_under_a_loss_scale_tells_the_same_targets() -> None:
    got = read(squares(3.0, scale=2.0**16), 9.0)
    assert (got.kind, got.residual, got.target_rms) == (SQUARED_ERROR, 3.0, pytest.approx(2))


def test_without_its_value_it_is_not_known() -> None:
    assert read(squares(3.0), None).kind == ""


def test_a_gradient_of_one_size_is_that_of_an_absolute_error_but_not_of_a_mean() -> None:
    even = squares(7.0, uneven=0.0)
    sizes = 64 * 2 * 7.0 / 64
    assert read(even, 5.0).kind == ABSOLUTE_ERROR
    assert read(even, 5.0).residual == pytest.approx(5 / sizes)
    assert read(even, sizes).kind == ""


def test_logits_near_zero_are_not_said_to_have_gone_through_a_softmax() -> None:
    alike = {"twice_error": 1e-8, "twice_loss": 2.0, "twice_constant": 2.0, "twice_scale": 1.0}
    assert read(cross_entropy(2.0, **alike), None).through == ""
    assert read(cross_entropy(2.0, **alike | {"ce_error": 1e-3}), None).through == "softmax"


def test_of_several_outputs_none_has_the_loss_and_each_has_its_own() -> None:
    rows = (*cross_entropy(0.5, outputs=2), *squares(3.0, outputs=2))
    assert read(rows, 9.5).kind == ""
    assert read(rows, 9.5).outputs == 2
    assert [head.kind for head in heads(rows)] == [CROSS_ENTROPY, ""]


def test_of_several_calls_the_last_one_has_the_loss() -> None:
    rows = (*squares(3.0, call=0), *cross_entropy(0.5, call=1))
    assert read(rows, 0.5).kind == CROSS_ENTROPY


def test_what_is_read_inside_the_model_counts_if_nothing_else_is() -> None:
    inside = cross_entropy(0.5, inside=1, outputs=0)
    assert read(inside, 0.5).kind == CROSS_ENTROPY
    assert heads(inside) == ()
    assert read((*inside, *row(outputs=1)), 0.5).kind == ""


def test_a_row_of_an_older_version_is_read() -> None:
    got = read(cross_entropy(0.5)[:OLDER], 0.5)
    assert (got.kind, got.skill) == (CROSS_ENTROPY, 0.75)


def test_an_unusual_factor_is_known_if_exams_with_different_losses_agree_on_it() -> None:
    losses = (0.09, 0.04, 0.01)
    records = [
        Record(i, loss=loss, output=squares(math.sqrt(100 * loss), 0.01))
        for i, loss in enumerate(losses)
    ]
    assert [record.answer.kind for record in records if record.answer] == ["", "", ""]
    found = answers(History.of(records))
    assert [answer.kind for _, answer in found] == [SQUARED_ERROR] * 3
    assert [answer.loss for _, answer in found] == pytest.approx([9, 4, 1])
    assert factor_of(records[0].output, losses[0]) == pytest.approx(0.01)


@pytest.mark.parametrize("losses", [(0.09, 0.09, 0.09), (0.09, 0.04)])
def test_exams_that_agree_on_everything_or_are_few_tell_nothing(losses: tuple[float, ...]) -> None:
    records = [
        Record(i, loss=loss, output=squares(math.sqrt(100 * loss), 0.01))
        for i, loss in enumerate(losses)
    ]
    assert all(answer.kind == "" for _, answer in answers(History.of(records)))
