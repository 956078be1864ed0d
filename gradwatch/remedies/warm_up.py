"""Warm-up: small steps first, while the optimizer knows nothing of the gradients yet."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.remedies import _reading


@dataclass(frozen=True)
class WarmUp:
    """Let the learning rate grow linearly to its value over the first steps.

    Adam's first steps are all of full length, since its second moment has seen one gradient only;
    and weights as they were drawn have a sharper loss than those that have been trained a little.
    A few small steps lead past both.

    Helps when: the first steps throw the weights away and the rate is right for all later ones: in
    post-norm transformers, with large batches, with Adam's second beta close to 1.
    Does not help when: the rate is too high for good: it then diverges a few steps later. Of 77
    sick trainings it repaired 1.

    Goyal et al. 2017 (large batches); Xiong et al. 2020 (post-norm); Ma and Yarats 2021: about
    2 / (1 - beta2) steps for Adam, 2000 by default; in a short trial there are fewer.
    """

    steps: int = 20
    """Steps until the rate is reached."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "warm-up"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Warm the learning rate up"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = ("oversized-updates", "exploding-gradient", "gradient-spike")
        return frozenset((finding, "learning-rate") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change: the same for every model."""
        return Prescription(
            self.name,
            f"Warm the learning rate up over the first {self.steps} steps",
            "# A long training takes more steps: some hundreds, 1 to 5 % of them all.\n"
            "warm_up = torch.optim.lr_scheduler.LinearLR(\n"
            f"    optimizer, start_factor={1 / self.steps!r}, total_iters={self.steps!r}\n"
            ")\n"
            "optimizer.register_step_post_hook(lambda *_: warm_up.step())  # after each step",
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (WarmUp(),)
# At rates that are too high for the first steps only, small nets come back by themselves.
CURES = ()
DOES_NOT_CURE = ("lora-scale-too-large",)
