"""Epsilon: small beside the gradients, and no zero in the format of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading


@dataclass(frozen=True)
class AdamEpsilon:
    """Set the optimizer's epsilon to fit the gradients.

    Adam divides by the root of the squares plus epsilon. Where epsilon is larger than the
    gradients they are not normalised any more, and a step is only a part of the learning rate.
    Where it is less than the smallest number of the format (6e-8 in float16), it is 0, and a
    gradient of 0 gives 0 / 0.

    Helps when: gradients are far below epsilon, because the loss is scaled down or epsilon was
    raised, or weights are kept in float16.
    Does not help when: epsilon is small beside the gradients, which is refused. Gradients that
    vanished in the first layers only are small for another reason, and come as noise.

    Kingma and Ba 2015, with 1e-8; Wortsman et al. 2024, "Small-scale proxies for large-scale
    transformer training instabilities": epsilon beside the gradients.
    """

    usual: float = 1e-8
    """PyTorch's default, and never exceeded but in float16."""
    part: float = 1e-3
    """Of the gradient that epsilon is at most: a step is then shortened by a thousandth."""
    too_large: float = 0.01
    """Of the gradient, from which on it is changed."""
    half: float = 1e-4
    """For weights in float16: well above its smallest number."""

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "adam-epsilon"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Set epsilon to fit the gradients"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            {("epsilon-dominates", "optimizer")}
            | {("non-finite", cause) for cause in ("optimizer", "precision", "numerics")}
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change, with the size of the gradients; raises `CannotPrescribe`."""
        known = [group.epsilon for group in record.groups if group.epsilon is not None]
        if not known:
            raise CannotPrescribe("no optimizer with an epsilon is known")
        if any(p.dtype == "float16" and p.trainable for p in record.parameters):
            if min(known) >= 2.0**-24:
                raise CannotPrescribe(f"an epsilon of {min(known):.1g} is a number in float16")
            return self._set(finding, self.half, "which is 0 in float16")
        sizes = [
            p.gradient.rms
            for p in record.parameters
            if p.gradient is not None and p.gradient.rms and p.trainable
        ]
        if not sizes:
            raise CannotPrescribe("no gradient was measured")
        size = median(sizes)
        if max(known) <= self.too_large * size:
            raise CannotPrescribe(f"{max(known):.1g} is small beside gradients of {size:.1g}")
        wanted = min(self.usual, 10.0 ** math.floor(math.log10(self.part * size)))
        return self._set(finding, wanted, f"beside gradients of {size:.1g}")

    def _set(self, finding: Finding, epsilon: float, why: str) -> Prescription:
        return Prescription(
            self.name,
            f"Set epsilon to {epsilon:.0e}",
            "for group in optimizer.param_groups:\n"
            '    if "eps" in group:\n'
            f'        group["eps"] = {epsilon!r}  # {why}',
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (AdamEpsilon(),)
CURES = ("half-adam-epsilon-is-zero",)
DOES_NOT_CURE = ()
