"""RMS normalisation: each sample's size, set right in every step, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _normalise, _reading


@dataclass(frozen=True)
class RMSNorm:
    """Put an RMS normalisation between each hidden layer and its activation.

    Each sample's features are divided by their root mean square: `layer-norm` without taking the
    mean away and without a bias. It is what most language models have today.

    Helps when: what `layer-norm` helps: a deep net that vanishes or explodes from its weights.
    Does not help when: the features have a mean far from zero, which stays; layers are
    convolutions, whose channels are not the last axis (`group-norm`). The layer's name in
    state_dict changes ("0" becomes "0.0").

    Zhang and Sennrich 2019, "Root Mean Square Layer Normalization". Cost: a little less than
    `layer-norm`.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "rms-norm"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Add RMS normalisation before the hidden activations"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return _normalise.TREATS

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        layers = _normalise.hidden_layers(record)
        if any(_normalise.axes(call) for call in layers):
            raise CannotPrescribe(
                "torch's normalises the last axis, which of a convolution holds no channels"
            )
        layers = tuple(call for call in layers if call.layer.weight_shape[0] > 1)
        if not layers:
            raise CannotPrescribe("the hidden layers have one feature each, which is only its sign")
        return Prescription(
            self.name,
            f"Add RMS normalisation to {_code.counted(len(layers), 'hidden layer')}",
            _normalise.wrap(layers, lambda axes, width: f"torch.nn.RMSNorm({width})"),
            answers=_reading.answers(finding, self),
        )


REMEDIES = (RMSNorm(),)
CURES = ("activation-square", "large-tanh-mlp")
DOES_NOT_CURE = ("sigmoid-mlp",)
