"""Gains of 1: normalisations whose own weight was set to nothing."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _branches, _code, _reading


@dataclass(frozen=True)
class NormGain:
    """Set the weight of each normalisation that is about 0 back to 1, and its bias to 0.

    What comes out of a normalisation is multiplied with that weight. At 0 nothing comes out, and no
    gradient goes back. To begin with 0 is meant for the last normalisation of a residual branch,
    beside which a skip connection goes: there it is left as it is.

    Helps when: every normalisation of a model got a zero weight, by a loop over all modules or by
    an option that was made for residual nets.
    Does not help when: weights became small while learning, as weight decay has them do.

    Goyal et al. 2017, "Accurate, Large Minibatch SGD" (on where a zero gain belongs). Cost: none.
    """

    tiny: float = 1e-3
    """Root mean square of a gain from which on downward it is as good as 0; learnt ones are above
    0.05."""

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "norm-gain"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Set the gains of the normalisations to 1"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = ("vanishing-gradient", "dead-units", "symmetric-units", "zero-gradient")
        return frozenset((finding, "init") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        weights = {p.name: p.weight for p in record.parameters if p.trainable}
        meant = _branches.ends(record)
        found = []
        for name in _reading.names(
            call for call in record.calls if "norm" in _reading.canonical(call.layer.kind)
        ):
            weight = weights.get(f"{name}.weight")
            if weight is not None and weight.rms <= self.tiny and name not in meant:
                found.append(name)
        if not found:
            raise CannotPrescribe("no normalisation has a gain of about 0 where it should not")
        return Prescription(
            self.name,
            f"Set the gains of {_code.counted(len(found), 'normalisation')} to 1",
            "\n".join(
                [
                    f"for name in {_code.listing(found)}:",
                    "    layer = model.get_submodule(name)",
                    "    torch.nn.init.ones_(layer.weight)",
                    '    if getattr(layer, "bias", None) is not None:',
                    "        torch.nn.init.zeros_(layer.bias)",
                ]
            ),
            answers=_reading.answers(finding, self),
        )


REMEDIES = (NormGain(),)
CURES = ("norm-zero-gamma-plain",)
DOES_NOT_CURE = ("init-zeros",)
