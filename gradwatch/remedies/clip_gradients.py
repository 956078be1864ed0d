"""Gradient clipping: a bound on the length of one step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading


@dataclass(frozen=True)
class ClipGradients:
    """Scale the gradient down to a given norm whenever it is longer.

    The direction stays and the length is bounded, so that one steep place does not throw the
    weights away. The bound is 1, or twice the norm of an ordinary step where the finding knows it:
    a loss that is a sum has gradients of hundreds, one that is scaled down of millionths.

    Helps when: rare spikes end an otherwise sound training, as in recurrent nets and transformers.
    Does not help when: every step explodes, since all of them are then clipped and the profile
    over the layers stays as lopsided as it was (it repaired 3 of 77 sick trainings); a gradient
    vanishes; a gradient is already NaN, which clipping spreads to all parameters. A bound that is
    always reached is a lower learning rate in disguise: then a higher one is prescribed.

    Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks".
    """

    max_norm: float = 1.0
    """Bound on the norm of all gradients together, where that of an ordinary step is not known."""
    times: float = 2.0
    """Bound over the norm of an ordinary step, where it is known."""

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {self.max_norm}")

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "clip-gradients"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Clip the norm of the gradients"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        exploding = {("exploding-gradient", cause) for cause in ("init", "learning-rate", "depth")}
        others = ("non-finite", "gradient-spike", "dead-units")
        return frozenset(
            exploding
            | {(finding, "learning-rate") for finding in others}
            | {("gradient-spike", cause) for cause in ("data", "data-scale", "loss")}
            | {("always-clipped", "optimizer")}
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        if finding.name == "always-clipped":
            return self._raised(finding, record)
        if record.clip_ratio is not None and record.clip_ratio < 1:
            raise CannotPrescribe(
                f"the gradients are clipped already (to {record.clip_ratio:.2g} of their norm)"
            )
        bound = self._bound(finding)
        return Prescription(
            self.name,
            f"Clip the norm of the gradients at {bound:g}",
            "# Between backward() and optimizer.step(); "
            "with a GradScaler call scaler.unscale_(optimizer) first.\n"
            f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={bound!r})",
            per_step=True,
            answers=_reading.answers(finding, self),
        )

    def _bound(self, finding: Finding) -> float:
        usual = finding.numbers.get("usual", 0.0)  # of the steps before a spike
        if 0 < usual < math.inf:
            return _round(self.times * usual)
        return self.max_norm  # the examined step may be the one that explodes

    def _raised(self, finding: Finding, record: Record) -> Prescription:
        norm = record.gradient_norm
        if not 0 < norm < math.inf:
            raise CannotPrescribe("the norm of the gradients before clipping is not known")
        bound = _round(self.times * norm)
        return Prescription(
            self.name,
            f"Clip the norm of the gradients at {bound:g}, not in every step",
            f"# Their norm is {norm:.2g} before: the bound is for what is far above that.\n"
            f"# torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={bound!r})",
            runnable=False,
            per_step=True,
            answers=_reading.answers(finding, self),
        )


def _round(value: float) -> float:
    """To one significant digit."""
    return float(f"{value:.0e}")


REMEDIES = (ClipGradients(),)
CURES = ("transient-outlier-input",)
DOES_NOT_CURE = ("lr-adam-too-high",)
