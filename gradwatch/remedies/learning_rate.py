"""Another learning rate: steps of a size that the weights can bear, or feel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading, _training


@dataclass(frozen=True)
class LowerLearningRate:
    """Divide the learning rate by ten, or by a hundred, and start again from fresh weights.

    Helps when: the loss rises or jumps although the model was born sound, units die, or a step
    changes weights by a tenth of their size. Weights that such steps have ruined (dead units, huge
    values) do not come back by it: begin anew.
    Does not help when: the fault is in the model: of 77 sick trainings a tenth of the learning rate
    repaired 4, a hundredth 4.
    """

    factor: float = 0.1
    large: float = 1e-2
    """Typical update-to-weight ratio under which a training that learns nothing does not do so
    since its steps are large; one in a thousand is usual."""

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ValueError(f"factor must be between 0 and 1, got {self.factor}")

    @property
    def name(self) -> str:
        """`lower-learning-rate` for a tenth, `lower-learning-rate-100` for a hundredth."""
        return "lower-learning-rate" + ("" if self.factor == 0.1 else f"-{1 / self.factor:.0f}")

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Lower the learning rate" + (
            "" if self.factor == 0.1 else f" {1 / self.factor:.0f} times"
        )

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = (
            "exploding-gradient",
            "non-finite",
            "oversized-updates",
            "dead-units",
            "gradient-spike",
            "saturated-activation",
            "learns-nothing",
            "constant-output",
            "vanishing-gradient",
        )
        return frozenset((finding, "learning-rate") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change: the same for every model; raises `CannotPrescribe` where nothing is
        learnt since the steps are small."""
        typical = median(_ratios(record) or [math.nan])
        nothing = finding.name == "learns-nothing" and _training.asked(finding, self)
        if nothing and typical < self.large:
            raise CannotPrescribe(f"a step changes the typical weight by {typical:.1g} only")
        return Prescription(
            self.name,
            f"Multiply the learning rate by {self.factor:g}, and begin with fresh weights",
            _scale(self.factor),
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


@dataclass(frozen=True)
class RaiseLearningRate:
    """Multiply the learning rate until a step changes the weights by some thousandths of their
    size, and none by more than a hundredth.

    Helps when: all weights stand still and none is behind the others.
    Does not help when: only the first layers stand still (a vanishing gradient), the weights are
    kept in bfloat16 and their updates are rounded away (keep a float32 copy), or a schedule sets
    the rate back in every step. Where steps are of that size already it is refused.

    The thousandth is a rule of thumb of Karpathy's course notes (CS231n), for the typical weight;
    measured on healthy small nets the ratio lies between 1e-4 and 1e-1.
    """

    ratio: float = 1e-2
    """The update-to-weight ratio to aim at, for the weight that moves most."""
    most: float = 1e8
    """Factor from which on it is no rate that is wrong: weights that stand still without any
    gradient."""

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
        findings = ("stalled-updates", "learns-nothing")
        return frozenset((finding, "learning-rate") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change, with a factor from the ratio that was measured; raises
        `CannotPrescribe` where that asks for none."""
        ratios = _ratios(record)
        if not ratios:
            raise CannotPrescribe("how far a step moves the weights was not measured")
        measured = max(ratios)
        # From a ratio that rounds to nothing no factor follows: a first step in the direction.
        factor = 10.0 ** round(math.log10(self.ratio / measured)) if measured > 0 else 1000.0
        if factor > self.most:
            raise CannotPrescribe(
                f"a step changes a weight by {measured:.1g} of its size: the gradient is missing"
            )
        if factor <= 1:
            raise CannotPrescribe(f"a step changes a weight by {measured:.1g} of its size already")
        return Prescription(
            self.name,
            f"Multiply the learning rate by {factor:g}",
            _scale(factor),
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


def _ratios(record: Record) -> list[float]:
    """By what part of its size each weight changes in a step."""
    return [
        ratio
        for p in record.parameters
        if len(p.shape) > 1 and (ratio := p.update_ratio) is not None
    ]


def _scale(factor: float) -> str:
    return (
        'for group in optimizer.param_groups:\n    group["lr"] *= '
        f"{factor!r}  # a scheduler made before this goes on from the old rate: make it anew"
    )


REMEDIES = (LowerLearningRate(), LowerLearningRate(0.01), RaiseLearningRate())
CURES = ("lr-no-warm-up-post-norm", "lr-adam-too-low")
DOES_NOT_CURE = ("sigmoid-mlp",)
