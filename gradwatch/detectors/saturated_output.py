"""Saturated output: the function at the end is where its slope is nearly zero, and the answers are
wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.answers import answers
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.ledger import Entry
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _decided, _depth, _ending, _outcome, _saturated


@dataclass(frozen=True, slots=True)
class SaturatedOutput:
    """The last function of the model, or that of its loss, is saturated while its answers are
    wrong, so that the whole net gets next to no gradient.

    Seven ways to get there are told apart, each by what is exact about it:

    - the targets lie outside of the range of a sigmoid or tanh at the end: no output in it is near
      enough, and it is driven to where it is flat;
    - targets are negative, and a rectifier, softplus or sigmoid at the end gives nothing below 0;
    - a rectifier stands between the last weights and a binary cross-entropy of logits;
    - such a function takes bits beyond what it takes at its steepest, and the loss (a squared
      error) does not give them back, as a cross-entropy would;
    - a policy whose logits were born so large that it tries one action only;
    - a cross-entropy that was born at many times that of a constant answer and stays there, because
      a product after the last weights (a temperature that is too low) or those weights make the
      logits too large;
    - a generator whose loss is log(1 - D), of which nothing is left where D is sure.

    An answer that is certain and right is left in peace, and so is one that was not born this way
    and whose loss is not known: a trained policy is certain, too.
    """

    name: ClassVar[str] = "saturated-output"

    beyond: float = 0.3
    """Part of the loss that no output in the function's range can take away."""
    bits: float = 5.0
    """Bits that a function takes beyond those at its steepest: it passes a 32nd."""
    flat: float = 7.0
    """Size of the inputs of a sigmoid at which its slope is a 256th of its largest."""
    decided: float = 0.2
    """Entropy of a policy, of the largest possible, under which it is born decided ..."""
    large: float = 16.0
    """... by logits of this size: those of trained nets are 4 to 10."""
    wrong: float = 5.0
    """Times a constant answer's loss that confident and wrong answers have; and times
    1 / sqrt(fan-in) from which on the last weights are too large."""
    learnt: float = 0.7
    """Skill with which what stays of the loss does no harm."""
    rescaled: float = 3.3
    """Bits by which products after the last weights make the logits larger: ten times."""
    sure: float = -4.0
    """Logit of the best generated sample at which a discriminator is sure of all of them."""
    moved: float = 1e-4
    """Update-to-weight ratio under which a generator does not move."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the exams whose output was seen."""
        seen = answers(history)
        going = progress(history)
        if not seen:
            return ()
        for look in (_saturated.out_of_reach, _saturated.below_zero, _saturated.never_no):
            sight = look(seen, self.beyond) if (going.skill or 0.0) < self.learnt else None
            if sight and (
                found := self._found(sight, going, patient=not history.checkup, stubborn=True)
            ):
                return found
        if sight := _decided.decided_policy(seen, self.decided, self.large):
            signed = bool((history.losses()[1] <= 0).any())  # a policy's loss says nothing
            return self._found(sight, going, patient=not history.checkup, stubborn=signed)
        if sight := _decided.sure_discriminator(seen, self.sure, self.moved):
            return self._found(sight, going, patient=not history.checkup, stubborn=True)
        if going.moving or (going.skill or 0.0) > 0.05:
            return ()
        if sight := _saturated.flat_end(seen, self.bits):
            return self._found(sight, going)
        if sight := _saturated.flat_outside(seen, self.flat, self.decided / 10):
            return self._found(sight, going, patient=not history.checkup)
        if sight := _decided.confident(seen, self.wrong, self.rescaled, self.large, _last_factor):
            return self._found(sight, going, patient=not history.checkup)
        return ()

    def _found(
        self,
        sight: _saturated.Sight,
        going: Progress,
        *,
        patient: bool = False,
        stubborn: bool = False,
    ) -> tuple[Finding, ...]:
        """`patient` waits until it lasts; `stubborn` does not believe a loss that falls."""
        lasts = _outcome.lasting(sight.records)
        if patient and not lasts:
            return ()
        severity, confidence = _outcome.verdict(sight.records, going)
        if stubborn and lasts and (sight.certain or going.moving is False):
            severity = Severity.CRITICAL
        elif severity == Severity.NOTE:
            severity = Severity.WARNING
        cause = Cause(sight.cause, sight.why, sight.layers, share=1.0)
        return (
            Finding(
                self.name,
                severity,
                sight.summary,
                sight.layers,
                sight.records[0].step,
                sight.records[-1].step,
                (cause,),
                confidence,
                sight.numbers,
            ),
        )


def _last_factor(record: Record) -> float | None:
    """By how much the last weights are larger than what keeps the signal's size."""
    call = _ending.last_weighted(record)
    if call is None:
        return None
    return _depth.init_factor(record, [Entry((call.layer.name,), call.layer.kind, 0.0, call)], 1.0)


DETECTORS = (SaturatedOutput(),)
HEALTHY = ("digits-mlp", "output-sigmoid-mse", "reinforce-bandit", "output-confident")
SICK = ("output-sigmoid-mse-far-off", "output-tanh-out-of-range", "reinforce-saturated-policy")
