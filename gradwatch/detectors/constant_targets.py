"""Constant targets: every sample has the same class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.answers import answers
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.losses import CROSS_ENTROPY
from gradwatch.core.progress import takes_turns
from gradwatch.detectors import _outcome


@dataclass(frozen=True, slots=True)
class ConstantTargets:
    """All targets that were seen are one and the same class.

    A cross-entropy then falls to nothing, and the net has learnt to say always the same: the labels
    were lost on their way (a cast of numbers below 1 to integers, a wrong column, a filter, a file
    that is sorted by class). It is told from the targets, which the gradient at the output gives
    away: the best constant answer has a loss of zero.

    Losses of yes and no are left in peace: a discriminator sees real samples and generated ones in
    batches of their own.
    """

    name: ClassVar[str] = "constant-targets"

    zero: float = 1e-6
    """Loss of the best constant answer, in nats, up to which it is always right."""
    samples: int = 16
    """Samples of a batch from which on one class is no chance."""
    steps: int = 40
    """Steps after which it is critical: a file may be sorted."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge all exams whose targets are known: one other class is enough."""
        seen = [
            (record, answer)
            for record, answer in answers(history)
            if answer.kind == CROSS_ENTROPY and not answer.through and answer.classes > 1
        ]
        records = tuple(record for record, _ in seen)
        if not _outcome.lasting(records) or takes_turns(history):
            return ()
        if any(a.constant > self.zero or a.samples < self.samples for _, a in seen):
            return ()
        if min(a.loss for _, a in seen) > math.log(seen[-1][1].classes):
            return ()  # whoever is shown one class only knows it soon: it is another loss
        since, until = records[0].step, records[-1].step
        return (
            Finding(
                self.name,
                Severity.CRITICAL if until - since >= self.steps else Severity.WARNING,
                f"in each of {len(records)} examined batches all targets are one class (of "
                f"{seen[-1][1].classes})",
                (),
                since,
                until,
                (
                    Cause(
                        "data",
                        "The labels say nothing: look at what the loss is given (a cast to "
                        "integers, a wrong column, data that are sorted by class).",
                        share=1.0,
                    ),
                ),
                "Read from the gradient at the output, which is the softmax minus the target.",
                {"classes": float(seen[-1][1].classes), "exams": float(len(records))},
            ),
        )


DETECTORS = (ConstantTargets(),)
HEALTHY = ("digits-mlp", "resnet")
SICK = ("targets-all-one-class",)
