"""Layer normalisation: each sample's scale, set right in every step."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _normalise, _reading


@dataclass(frozen=True)
class LayerNorm:
    """Put a layer normalisation between each hidden layer and its activation.

    Each sample gets mean 0 and variance 1 over its features: the size of the weights loses its
    effect, as with `batch-norm`, but no sample depends on its batch, and sequences, single samples
    and `model.eval()` are no special cases. Convolutions get `GroupNorm(1, channels)`, which is the
    same over channels and positions.

    Helps when: a deep net vanishes or explodes from its weights or from saturation, in recurrent
    nets and transformers most of all (there before the block: pre-norm).
    Does not help when: it stands after the sum of a skip connection (post-norm: large gradients
    near the output, warm-up needed, Xiong et al. 2020); a layer has few features. In 63 sick
    trainings it repaired 11. The layer's name in state_dict changes ("0" becomes "0.0").

    Ba, Kiros and Hinton 2016, "Layer Normalization".
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "layer-norm"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Add layer normalisation before the hidden activations"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return _normalise.TREATS

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        layers = tuple(
            call
            for call in _normalise.hidden_layers(record)
            # One feature alone, less its own mean, is always 0.
            if call.layer.weight_shape[0] > 1 or _normalise.axes(call)
        )
        if not layers:
            raise CannotPrescribe("the hidden layers have one feature each, which has no variance")
        return Prescription(
            self.name,
            f"Add layer normalisation to {_code.counted(len(layers), 'hidden layer')}",
            _normalise.wrap(
                layers,
                lambda axes, width: (
                    f"torch.nn.GroupNorm(1, {width})" if axes else f"torch.nn.LayerNorm({width})"
                ),
            ),
            answers=_reading.answers(finding, self),
        )


REMEDIES = (LayerNorm(),)
CURES = ("activation-square", "init-uniform-zero-one-sigmoid")
DOES_NOT_CURE = ("sigmoid-mlp",)
