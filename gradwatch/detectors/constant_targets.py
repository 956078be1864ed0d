"""Constant targets: every sample has the same class, or the same number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.answer import Answer
from gradwatch.core.answers import answers
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.losses import CROSS_ENTROPY, SQUARED_ERROR
from gradwatch.core.progress import takes_turns
from gradwatch.detectors import _outcome


@dataclass(frozen=True, slots=True)
class ConstantTargets:
    """All targets that were seen are one and the same class, or one and the same number.

    A cross-entropy then falls to nothing, and the net has learnt to say always the same: the labels
    were lost on their way (a cast of numbers below 1 to integers, a wrong column, a filter, a file
    that is sorted by class). It is told from the targets, which the gradient at the output gives
    away: the best constant answer has a loss of zero.

    Losses of yes and no are left in peace: a discriminator sees real samples and generated ones in
    batches of their own. So is a squared error whose targets are all 0 or 1, which may be a
    residual, a penalty, or such a discriminator's.
    """

    name: ClassVar[str] = "constant-targets"

    zero: float = 1e-6
    """Loss of the best constant answer, in nats, up to which it is always right."""
    rounding: float = 1e-6
    """Standard deviation of a squared error's targets, relative to their size, that is none."""
    samples: int = 16
    """Samples of a batch from which on one class is no chance."""
    steps: int = 40
    """Steps after which it is critical: a file may be sorted."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge all exams whose targets are known: one other class is enough."""
        seen = [
            (record, answer)
            for record, answer in answers(history)
            if answer.kind in (CROSS_ENTROPY, SQUARED_ERROR)
            and not (answer.through or answer.assumed)
        ]
        records = tuple(record for record, _ in seen)
        if not _outcome.lasting(records) or takes_turns(history):
            return ()
        if not all(self._same(answer) for _, answer in seen):
            return ()
        if len({round(a.target_mean, 6) for _, a in seen if a.kind == SQUARED_ERROR}) > 1:
            return ()  # each batch has one of its own
        last, since, until = seen[-1][1], records[0].step, records[-1].step
        if last.kind == CROSS_ENTROPY:
            # Whoever is shown one class only knows it soon: it is another loss.
            if min(a.loss for _, a in seen) > math.log(last.classes):
                return ()
            what, proof = f"one class (of {last.classes})", "softmax minus the target"
        else:
            what, proof = f"{last.target_mean:.4g}", "difference from the target"
        text = (
            "The labels say nothing: look at what the loss is given (a cast to integers, a wrong "
            "column, a clip, data that are sorted by class)."
        )
        return (
            Finding(
                self.name,
                Severity.CRITICAL if until - since >= self.steps else Severity.WARNING,
                f"in each of {len(records)} examined batches all targets are {what}",
                (),
                since,
                until,
                (Cause("data", text, share=1.0),),
                f"Read from the gradient at the output, which is the {proof}.",
                {"classes": float(last.classes), "exams": float(len(records))},
            ),
        )

    def _same(self, answer: Answer) -> bool:
        if answer.samples < self.samples:
            return False
        if answer.kind == CROSS_ENTROPY:
            return answer.classes > 1 and answer.constant <= self.zero
        usual = min(abs(abs(answer.target_mean) - usual) for usual in (0, 1)) < self.rounding
        same = answer.target_varying <= self.rounding * answer.target_rms
        return same and not usual


DETECTORS = (ConstantTargets(),)
HEALTHY = ("digits-mlp", "resnet")
SICK = ("targets-all-one-class",)
