"""Lost updates: the weights' number format is too coarse for the steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, Final

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Parameter, Record
from gradwatch.detectors import _outcome, _steps

DIGITS: Final = {"bfloat16": 8, "float16": 11}
"""Significant bits of the formats in which a usual step is lost."""


@dataclass(frozen=True, slots=True)
class LostUpdates:
    """Weights in bfloat16 or float16 to which most steps add nothing: the sum rounds back.

    A bfloat16 number has 8 significant bits, so that a step under a 500th of the weight is lost
    altogether, every time (Zamirai et al. 2020). Counted on a sample of each weight: elements that
    a step did not change although they have a gradient. The loss falls all the same, only slower:
    where two thirds are lost, at 0.9 instead of 0.3 after 300 steps. So it is a warning while the
    training is on its way, and a note once it is nearly there. Master weights in float32 (autocast
    instead of casting the model) or stochastic rounding cure it.
    """

    name: ClassVar[str] = "lost-updates"

    share: float = 0.6
    """Share of a weight's elements that a step leaves as they are, in the typical weight."""
    rate: float = 1e-6
    """Learning rate over the weights' size under which a step is too small for any format."""
    whole: float = 0.99
    """The same from which on nothing can be learnt ..."""
    fallen: float = 0.5
    """... unless the loss has fallen by this part of what it was."""
    learnt: float = 0.8
    """Part of the way to the right answers from which it is only a note."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams."""
        streak = _steps.since(history, self._loses)
        if not _outcome.lasting(streak):
            return ()
        going = progress(history)
        latest = streak[-1]
        lost = median(share for _, share in _lost(latest))
        severity = Severity.WARNING
        if going.moving is False:
            severity = Severity.CRITICAL
        elif going.moving and (going.skill is None or going.skill > self.learnt):
            # What stands still altogether may have been born near the right answers.
            whole = lost >= self.whole and going.fall < self.fallen * abs(going.begin)
            severity = Severity.WARNING if whole else Severity.NOTE
        layers = _outcome.owners(parameter for parameter, _ in _lost(latest))
        formats = sorted({parameter.dtype for parameter, _ in _lost(latest)})
        cause = Cause(
            "precision",
            f"Weights in {' and '.join(formats)} have {DIGITS[formats[0]]} significant bits: keep "
            "them in float32 and compute under autocast.",
            layers,
            share=1.0,
        )
        return (
            Finding(
                self.name,
                severity,
                f"{lost:.0%} of the elements of the typical weight do not change in a step, "
                "although they have a gradient",
                layers,
                streak[0].step,
                latest.step,
                (cause,),
                f"Counted on a sample of each weight since step {streak[0].step}; {going.text}.",
                {"lost": lost},
            ),
        )

    def _loses(self, record: Record) -> bool | None:
        found = list(_lost(record))
        if not found or (record.learning_rates and not any(record.learning_rates)):
            return None
        rates = [
            group.learning_rate / parameter.weight.rms
            for parameter, group in _steps.grouped(record)
            if parameter.weight is not None and parameter.weight.rms and group.learning_rate
        ]
        if rates and median(rates) < self.rate:
            return False
        return median(share for _, share in found) >= self.share


def _lost(record: Record) -> Iterator[tuple[Parameter, float]]:
    """Yield the weights in a coarse format, with the share of elements that should have moved and
    did not."""
    for parameter in _outcome.weights(record):
        gradient, update = parameter.gradient, parameter.update
        if parameter.dtype not in DIGITS or gradient is None or update is None:
            continue
        due = 1 - gradient.zeros / max(1, gradient.count)
        if update.count and due > 0 and parameter.held is not False:
            still = update.zeros / update.count - (1 - due)
            yield parameter, max(0.0, still / due)


DETECTORS = (LostUpdates(),)
HEALTHY = ("bfloat16-autocast", "half-autocast", "digits-mlp", "resnet")
SICK = ("bfloat16-weights",)
