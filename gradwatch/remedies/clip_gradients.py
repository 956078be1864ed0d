"""Gradient clipping: a bound on the length of one step."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading


@dataclass(frozen=True)
class ClipGradients:
    """Scale the gradient down to a given norm whenever it is longer.

    The direction stays and the length is bounded, so that one steep place does not throw the
    weights away.

    Helps when: rare spikes end an otherwise sound training, as in recurrent nets and transformers.
    Does not help when: every step explodes, since all of them are then clipped and the profile
    over the layers stays as lopsided as it was (it repaired 3 of 77 sick trainings); a gradient
    vanishes; a gradient is already NaN, which clipping spreads to all parameters.

    Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks".
    """

    max_norm: float = 1.0
    """Bound on the norm of all gradients together."""

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
        return frozenset(exploding | {(finding, "learning-rate") for finding in others})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        if record.clip_ratio is not None and record.clip_ratio < 1:
            raise CannotPrescribe(
                f"the gradients are clipped already (to {record.clip_ratio:.2g} of their norm)"
            )
        return Prescription(
            self.name,
            f"Clip the norm of the gradients at {self.max_norm:g}",
            "# Between backward() and optimizer.step(); "
            "with a GradScaler call scaler.unscale_(optimizer) first.\n"
            f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={self.max_norm!r})",
            per_step=True,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (ClipGradients(),)
