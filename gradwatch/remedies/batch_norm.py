"""Batch normalisation: each unit's scale, set right in every step."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Call, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _normalise, _reading


@dataclass(frozen=True)
class BatchNorm:
    """Put a batch normalisation between each hidden layer and its activation.

    Each unit gets mean 0 and variance 1 over the batch, whatever the size of the weights, and the
    gradient through it is divided by the same scale: a too small or too large init loses its
    effect. Sigmoid and tanh are kept where they have a slope.

    Helps when: a deep net vanishes or explodes from its weights or from saturation; of the common
    remedies it repaired most (19 of 58 sick trainings).
    Does not help when: batches are small (its statistics are noise, and one sample alone is an
    error) or samples are sequences (`layer-norm`). The gradient grows a little in each layer at
    initialisation, so that a net of 50 such layers without skip connections explodes. It behaves
    differently in `model.eval()`. The layer's name in state_dict changes ("0" becomes "0.0").

    Ioffe and Szegedy 2015, "Batch Normalization"; Yang et al. 2019 (on the growth with depth).
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "batch-norm"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Add batch normalisation before the hidden activations"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return _normalise.TREATS

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        layers = _normalise.hidden_layers(record)
        linear = [call for call in layers if not _normalise.axes(call)]
        if linear:
            _normalise.refuse_sequences(record)
        if any(_one_sample(call) for call in linear):
            raise CannotPrescribe("the batch holds one sample, which has no variance")
        return Prescription(
            self.name,
            f"Add batch normalisation to {_code.counted(len(layers), 'hidden layer')}",
            _normalise.wrap(layers, lambda axes, width: f"torch.nn.BatchNorm{axes or 1}d({width})"),
            answers=_reading.answers(finding, self),
        )


def _one_sample(call: Call) -> bool:
    return call.output is not None and call.output.count <= call.layer.weight_shape[0]


REMEDIES = (BatchNorm(),)
CURES = ("large-tanh-mlp", "activation-deep-sigmoid")
DOES_NOT_CURE = ("init-zeros",)
