"""Epsilon dominates: the gradients are smaller than what Adam adds to their size."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Record
from gradwatch.detectors import _outcome, _steps


@dataclass(frozen=True, slots=True)
class EpsilonDominates:
    """An optimizer that divides by the gradient's size divides by its epsilon instead.

    Adam and RMSprop move a weight by the learning rate times gradient / (size of the gradient +
    epsilon). Once epsilon is the larger one, the step shrinks with the gradient and the learning
    rate means nothing any more (Everett et al. 2024; Wortsman et al. 2024). This is one of the two
    places where the absolute size of a gradient matters; the other is the number format.

    It takes the weight with the largest gradients to be far under epsilon, steps that are indeed
    only a small part of the learning rate, and a training that gets nowhere.
    """

    name: ClassVar[str] = "epsilon-dominates"

    ratio: float = 0.1
    """Largest root mean square of a weight's gradient over epsilon."""
    step: float = 0.1
    """Root mean square of the typical weight's step over the learning rate: 0.1 to 1 is usual."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams."""
        streak = _steps.since(history, self._dominates)
        going = progress(history)
        if not streak or going.moving:
            return ()
        found = _measured(streak[-1])
        assert found is not None
        gradient, epsilon, step = found
        certain = _outcome.lasting(streak) and going.moving is False
        layers = _outcome.owners(parameter for parameter, _ in _steps.grouped(streak[-1]))
        remedy = (
            f"an epsilon of {epsilon:.1g} is too large for them"
            if epsilon > gradient * 1e6 or epsilon > 1e-6
            else "the loss is scaled down too far for the usual epsilon"
        )
        cause = Cause(
            "optimizer",
            f"The gradients are at most {gradient:.2g} (root mean square of a weight's): {remedy}. "
            f"A step is {step:.2g} of the learning rate.",
            layers,
            share=1.0,
        )
        return (
            Finding(
                self.name,
                Severity.CRITICAL if certain else Severity.WARNING,
                f"the gradients are {gradient / epsilon:.2g} of the optimizer's epsilon or less: "
                "it does not normalise them",
                layers,
                streak[0].step,
                streak[-1].step,
                (cause,),
                f"Seen since step {streak[0].step}; {going.text}.",
                {"ratio": gradient / epsilon, "step": step},
            ),
        )

    def _dominates(self, record: Record) -> bool | None:
        found = _measured(record)
        if found is None:
            return None
        gradient, epsilon, step = found
        return gradient < self.ratio * epsilon and step < self.step


def _measured(record: Record) -> tuple[float, float, float] | None:
    """Return the largest gradient, its epsilon, and the typical step per learning rate."""
    found = [
        (parameter.gradient.rms, group.epsilon, parameter.update.rms / group.learning_rate)
        for parameter, group in _steps.grouped(record)
        if parameter.gradient is not None
        and parameter.update is not None
        and group.epsilon
        and group.learning_rate
        and group.second_momentum is not None  # Adagrad's sum only grows
    ]
    if not found or not any(gradient for gradient, _, _ in found):
        return None
    gradient, epsilon, _ = max(found, key=lambda one: one[0] / one[1])
    return gradient, epsilon, median(step for _, _, step in found)


DETECTORS = (EpsilonDominates(),)
HEALTHY = ("adagrad", "half-autocast", "default-relu-mlp-adam", "pre-norm-transformer")
SICK = ("large-epsilon",)
