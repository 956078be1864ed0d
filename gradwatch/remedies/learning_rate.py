"""Another learning rate: steps of a size that the weights can bear, or feel."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.remedies import _reading


@dataclass(frozen=True)
class LowerLearningRate:
    """Divide the learning rate by ten, and start again from fresh weights.

    Helps when: the loss rises or jumps although the model was born sound, units die, or a step
    changes weights by a tenth of their size. Weights that such steps have ruined (dead units, huge
    values) do not come back by it: begin anew.
    Does not help when: the fault is in the model: of 77 sick trainings a tenth of the learning rate
    repaired 4.
    """

    factor: float = 0.1

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "lower-learning-rate"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Lower the learning rate"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = (
            "exploding-gradient",
            "non-finite",
            "oversized-updates",
            "dead-units",
            "gradient-spike",
        )
        return frozenset((finding, "learning-rate") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change: the same for every model."""
        return Prescription(
            self.name,
            f"Multiply the learning rate by {self.factor:g}, and begin with fresh weights",
            _scale(self.factor),
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


@dataclass(frozen=True)
class RaiseLearningRate:
    """Multiply the learning rate until a step changes a weight by some thousandth of its size.

    Helps when: all weights stand still and none is behind the others.
    Does not help when: only the first layers stand still (a vanishing gradient), the weights are
    kept in bfloat16 and their updates are rounded away (keep a float32 copy), or a schedule sets
    the rate back in every step.

    The thousandth is a rule of thumb of Karpathy's course notes (CS231n); measured on healthy small
    nets the ratio lies between 1e-4 and 1e-1.
    """

    ratio: float = 1e-3
    """The update-to-weight ratio to aim at."""

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "raise-learning-rate"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Raise the learning rate"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("stalled-updates", "learning-rate")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change, with a factor from the ratio that was measured."""
        ratios = [p.update_ratio for p in record.parameters if len(p.shape) > 1]
        measured = max((ratio for ratio in ratios if ratio is not None), default=0.0)
        # From a ratio that rounds to nothing no factor follows: a first step in the direction.
        factor = 10.0 ** round(math.log10(self.ratio / measured)) if measured > 0 else 1000.0
        return Prescription(
            self.name,
            f"Multiply the learning rate by {factor:g}",
            _scale(factor),
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


def _scale(factor: float) -> str:
    return (
        'for group in optimizer.param_groups:\n    group["lr"] *= '
        f"{factor!r}  # a scheduler made before this goes on from the old rate: make it anew"
    )


REMEDIES = (LowerLearningRate(), RaiseLearningRate())
