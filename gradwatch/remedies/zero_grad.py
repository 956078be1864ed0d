"""zero_grad: each step with its own gradient, and the calls of the loop in their order."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading, _training


@dataclass(frozen=True)
class ZeroGrad:
    """Clear the gradients before each backward pass, and step after it.

    `backward()` adds to what is in `.grad`. Without `zero_grad()` a step follows the sum of all
    gradients since the beginning, which is a momentum of 1 that nothing damps; with `zero_grad()`
    between `backward()` and `step()` it follows nothing.

    Helps when: `zero_grad()` is missing, is called on another optimizer, or stands in the wrong
    place.
    Does not help when: gradients are accumulated over micro-batches on purpose: then it is called
    once for each step. A trial clears the gradients in any case, so that it cannot be tried there.

    Karpathy 2019, "A Recipe for Training Neural Networks".
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "zero-grad"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Clear the gradients before each backward pass"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            {("accumulating-gradients", "optimizer"), ("stalled-updates", "optimizer")}
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the loop; raises `CannotPrescribe` where nothing speaks for another order."""
        carried = any(p.carried for p in record.parameters)
        if not carried and not _training.asked(finding, self):
            raise CannotPrescribe("no gradient was left over from an earlier step")
        return Prescription(
            self.name,
            self.title if carried else "Call zero_grad, backward and step in this order",
            "# In every step, on the optimizer that steps:\n"
            "#   optimizer.zero_grad()\n"
            "#   loss.backward()\n"
            "#   optimizer.step()",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (ZeroGrad(),)
CURES = ()
DOES_NOT_CURE = ()
