"""The answers of a run: what several exams tell together of a loss that one of them cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from gradwatch.core.answer import Answer, factor_of, read
from gradwatch.core.history import History
from gradwatch.core.losses import MATCHES
from gradwatch.core.record import Record

AGREEING: Final = 3
"""Exams that have to agree on the factor of a squared error."""
APART: Final = 1.05
"""Ratio of the largest loss to the smallest from which on to agree means something: of a loss that
stands still, every function is constant."""


def answers(history: History) -> tuple[tuple[Record, Answer], ...]:
    """Return the exams in which an answer was seen, with it.

    A squared error that is multiplied with an unusual number is known by that number: it is the
    same in all exams, while the loss is not.
    """
    return history.once(_answers)


def _answers(history: History) -> tuple[tuple[Record, Answer], ...]:
    seen = [record for record in history if record.output]
    factor = _common_factor(seen)
    return tuple((record, read(record.output, record.loss, factor)) for record in seen)


def _common_factor(records: Sequence[Record]) -> float | None:
    found = [
        (record.loss, factor_of(record.output, record.loss))
        for record in records
        if record.loss is not None and record.loss > 0
    ]
    losses = [loss for loss, _ in found]
    if len(found) < AGREEING or max(losses) < APART * min(losses):
        return None
    middle = median(factor for _, factor in found)
    agreeing = [loss for loss, factor in found if abs(factor - middle) <= MATCHES * middle]
    if len(agreeing) < max(AGREEING, 0.8 * len(found)) or max(agreeing) < APART * min(agreeing):
        return None
    return middle
