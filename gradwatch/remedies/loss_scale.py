"""Loss scale: gradients that fit into float16."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading


@dataclass(frozen=True)
class LossScale:
    """Scale the loss with a GradScaler, and bring the gradients back before they are used.

    float16 has nothing between 0 and 6e-8, where most gradients of a mean loss lie. A GradScaler
    multiplies the loss by some ten thousand, divides the gradients before the step, skips steps in
    which something overflowed, and lowers its factor then. Whoever clips has to divide first.

    Helps when: gradients are exactly 0 under float16 autocast, a factor set by hand overflows, or
    clipping acts on scaled gradients.
    Does not help when: the format is bfloat16 or float32, whose range is wide enough: then it is
    refused; or the weights themselves are in float16 (`full-precision`).

    Micikevicius et al. 2018, "Mixed Precision Training", section 3.2; PyTorch's AMP examples.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "loss-scale"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Scale the loss with a GradScaler"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = ("flushed-gradients", "non-finite", "always-clipped", "zero-gradient")
        return frozenset((finding, "precision") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the loop: it is the user's; raises `CannotPrescribe` outside of float16."""
        if not any(call.dtype == "float16" for call in record.calls):
            raise CannotPrescribe("nothing is known to be computed in float16")
        clipped = finding.name == "always-clipped"
        return Prescription(
            self.name,
            "Unscale the gradients before they are clipped" if clipped else self.title,
            "# Once, before the loop (on a CPU with 'cpu'):\n"
            "#   scaler = torch.amp.GradScaler()\n"
            "# In every step:\n"
            "#   optimizer.zero_grad()\n"
            "#   scaler.scale(loss).backward()\n"
            "#   scaler.unscale_(optimizer)  # before gradients are clipped or looked at\n"
            "#   torch.nn.utils.clip_grad_norm_(model.parameters(), ...)\n"
            "#   scaler.step(optimizer)\n"
            "#   scaler.update()",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (LossScale(),)
CURES = ()
DOES_NOT_CURE = ()
