"""Smaller residual branches: a sum of many that stays as small as a sum of one."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.remedies import _branches, _code, _reading


@dataclass(frozen=True)
class ScaleBranches:
    """Make the residual branches small: divide the weights that each ends with by the root of
    their number, or set them to 0.

    Each branch adds its own variance to the sum, and unscaled ones double it: 30 of them make it a
    billion times larger. Divided by √n, all n together add one unit (GPT-2 does so: 1/√(2L) for L
    blocks of two branches). At 0 each block begins as the identity, and the net as a shallow one
    that grows deep as it learns. Where a normalisation ends the branch it is its gain that counts.

    Helps when: a deep residual net without normalisation in its branches explodes.
    Does not help when: a normalisation comes after each sum (post-norm) or the net has no skip
    connections; or when the fault is inside of a branch.

    Zhang, Dauphin and Ma 2019, "Fixup Initialization"; Goyal et al. 2017 (zero gain); Radford et
    al. 2019 (GPT-2). Cost: none.
    """

    zero: bool = False
    """Whether the branches begin at 0; else they are divided by the root of their number."""

    @property
    def name(self) -> str:
        """`scale-branches` or `zero-branches`."""
        return "zero-branches" if self.zero else "scale-branches"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Begin the residual branches at 0" if self.zero else "Scale the residual branches"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            (finding, cause)
            for finding in ("exploding-gradient", "signal-scale", "non-finite")
            for cause in ("init", "depth", "normalisation")
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        names = _branches.last_layers(record)
        factor = "0" if self.zero else f"{len(names)} ** -0.5"
        return Prescription(
            self.name,
            f"Begin {len(names)} residual branches at 0"
            if self.zero
            else f"Divide {len(names)} residual branches by √{len(names)}",
            "\n".join(
                [
                    _code.BEFORE_TRAINING,
                    f"for name in {_code.listing(names)}:  # what each branch ends with",
                    "    layer = model.get_submodule(name)",
                    "    with torch.no_grad():",
                    f"        layer.weight.mul_({factor})",
                    '        if getattr(layer, "bias", None) is not None:',
                    f"            layer.bias.mul_({factor})",
                ]
            ),
            answers=_reading.answers(finding, self),
        )


REMEDIES = (ScaleBranches(), ScaleBranches(zero=True))
CURES = ("depth-residual-unscaled-branches",)
DOES_NOT_CURE = ("default-relu-mlp",)
