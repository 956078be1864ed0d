"""Stalled updates: the optimizer steps, and the weights do not move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Parameter, Record
from gradwatch.detectors import _outcome


@dataclass(frozen=True, slots=True)
class StalledUpdates:
    """Nearly all weights that get a gradient change by less than a millionth in a step.

    The update-to-weight ratio is usually around a thousandth (Karpathy's CS231n). One layer that is
    behind means little, and so does a step with a learning rate of zero in a warm-up: it takes
    nearly all weights, several exams in a row, and a loss that stays where it is. When only the
    first layers stand still, look at the vanishing gradient instead.
    """

    name: ClassVar[str] = "stalled-updates"

    ratio: float = 1e-6
    """Update-to-weight ratio, per step, under which a weight counts as standing still."""
    share: float = 0.9
    """Share of the weights (as parameters) that must stand still."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams."""
        going = progress(history)
        streak = _outcome.latest_streak(history, self._stalled)
        if going.moving is not False or not _outcome.lasting(streak):
            return ()
        measured = _measured(streak[-1])
        largest = max(ratio for _, ratio in measured)
        how = (
            "they do not change at all"
            if largest == 0
            else f"the largest change is {largest:.2g} of a weight's size"
        )
        lost = largest < _outcome.LOST
        cause = Cause(
            "learning-rate",
            "The steps are so small that they round to nothing: the learning rate is too low for "
            "these gradients, or the weights' number format is too coarse for it."
            if lost
            else "The learning rate is too low for these gradients.",
            _outcome.owners(parameter for parameter, _ in measured),
            share=1.0,
        )
        return (
            Finding(
                self.name,
                Severity.CRITICAL if lost else Severity.WARNING,
                f"the weights stand still: {how} in a step, in {len(measured)} weights",
                cause.layers,
                streak[0].step,
                streak[-1].step,
                (cause,),
                f"Measured on what the weights really moved; {going.text}.",
                {"ratio": largest},
            ),
        )

    def _stalled(self, record: Record) -> bool:
        measured = _measured(record)
        still = [ratio for _, ratio in measured if ratio < self.ratio]
        return bool(measured) and len(still) >= self.share * len(measured)


def _measured(record: Record) -> list[tuple[Parameter, float]]:
    return [
        (parameter, parameter.update_ratio)
        for parameter in _outcome.weights(record)
        if parameter.update_ratio is not None
        and parameter.held is not False
        and parameter.gradient is not None
        and parameter.gradient.squares > 0
    ]


DETECTORS = (StalledUpdates(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "warm-up")
SICK = ("low-learning-rate",)
