"""The answers of a run: what several exams tell together of a loss that one of them cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median, pstdev
from typing import Final

from gradwatch.core.answer import Answer, assume, factor_of, read, usual
from gradwatch.core.history import History
from gradwatch.core.losses import MATCHES, SQUARED_ERROR
from gradwatch.core.record import Record

AGREEING: Final = 3
"""Exams that have to agree on the factor of a squared error."""
EXAMS: Final = 5
"""Exams that are needed where no loss is told."""
STEADY: Final = 0.2
"""Standard deviation of the size of the targets from exam to exam, relative to it, up to which they
are those of one data set: that of a batch of 16 varies by 0.13."""
MIRROR: Final = 1e-3
"""Relative difference of the spreads of outputs and implied targets up to which they are one."""
WORST: Final = -0.5
"""Skill under which the assumption is more likely to be wrong than the answers."""
FITTED: Final = 0.5
"""Skill from which on targets that are implied may be the outputs themselves, of any other loss."""
LESS: Final = 0.7
"""The usual factor (the mean over all entries) is taken unless another does so much better."""
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
    if seen and all(record.loss is None for record in seen):
        return _untold(seen)
    factor = _common_factor(seen)
    found = tuple((record, read(record.output, record.loss, factor)) for record in seen)
    if not found or any(answer.kind for _, answer in found):
        return found
    return _with_surplus(seen) or found


def _with_surplus(records: Sequence[Record]) -> tuple[tuple[Record, Answer], ...]:
    """Read answers of a loss of which something that does not come from the output is a part, as
    of a penalty on the weights: it is more than the squared error alone would be. Returns none if
    that is not so."""
    found = _untold(records)
    less = all(
        not answer.assumed or record.loss is None or answer.loss <= record.loss
        for record, answer in found
    )
    skills = [answer.skill for _, answer in found if answer.skill is not None]
    return found if less and skills and median(skills) < FITTED else ()


def _untold(records: Sequence[Record]) -> tuple[tuple[Record, Answer], ...]:
    """Read answers without a loss. A gradient that is none of those with a mark of their own is
    taken for a squared error's, if with one of the usual factors the targets that it implies are
    of one size in all exams: those of a data set are, and what another loss implies goes with the
    output, or with the error."""
    found = tuple((record, read(record.output, None)) for record in records)
    unknown = [(record, answer) for record, answer in found if not answer.kind and answer.size > 0]
    if len(unknown) < max(EXAMS, 0.8 * len(found)) or any(a.outputs > 1 for _, a in unknown):
        return found
    best, spread = 0.0, STEADY / LESS
    for factor in usual(unknown[0][0].output):
        implied = [
            assumed.target_rms
            for record, _ in unknown
            if (assumed := assume(record.output, factor)).kind == SQUARED_ERROR
        ]
        if len(implied) == len(unknown) and (size := mean(implied)) > 0:
            apart = pstdev(implied) / size
            if apart < LESS * spread:
                best, spread = factor, apart
    if not best:
        return found
    read_so = [assume(record.output, best) for record, _ in unknown]
    skills = [answer.skill for answer in read_so if answer.skill is not None]
    # A pull to zero, as of a prior, has targets that are the outputs once more.
    mirrored = [abs(a.target_varying - a.varying) <= MIRROR * a.varying for a in read_so]
    if not skills or median(skills) < WORST or sum(mirrored) > len(read_so) / 2:
        return found
    return tuple(
        (record, answer if answer.kind else assume(record.output, best)) for record, answer in found
    )


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
