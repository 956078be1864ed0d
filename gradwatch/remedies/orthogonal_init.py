"""Orthogonal initialisation: weights that keep every length, and not only the usual one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.remedies import _code, _reading

_RECTIFIERS: Final = frozenset({"relu", "relu6", "leakyrelu", "prelu", "gelu", "silu", "mish"})


@dataclass(frozen=True)
class OrthogonalInit:
    """Draw orthogonal weights, times √2 before a rectifier, and set the biases to 0.

    Weights drawn one by one keep the length of a vector on average only: some directions grow in
    each layer and others shrink, and after many layers few are left. An orthogonal matrix keeps the
    length of each, forward and backward.

    Helps when: a net of tanh or of linear units is so deep that Xavier's weights fade (100 layers
    of tanh learn with it), or a cell that is called in a loop forgets.
    Does not help when: activations are sigmoids, or rectifiers in a very deep and narrow net, whose
    zeros undo it. Layers that change the width keep lengths one way only.

    Saxe, McClelland and Ganguli 2014; Pennington, Schoenholz and Ganguli 2017. Cost: one QR
    decomposition a layer, once.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "orthogonal-init"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Initialise with orthogonal weights"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        depth = {(finding, "depth") for finding in ("vanishing-gradient", "exploding-gradient")}
        return frozenset(
            depth
            | {
                (finding, "init")
                for finding in (
                    "vanishing-gradient",
                    "exploding-gradient",
                    "non-finite",
                    "signal-scale",
                    "saturated-activation",
                    "symmetric-units",
                    "learns-nothing",
                    "vanishing-over-time",
                )
            }
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        chosen = _reading.to_initialise(finding, self, record)
        output = _reading.places(record)[-1].layer.name
        rectified = {
            place.layer.name
            for place in chosen
            if place.activation is not None
            and _reading.canonical(place.activation.layer.kind) in _RECTIFIERS
            and place.layer.name != output
        }
        names = _reading.names(chosen)
        groups = {
            "2**0.5": [name for name in names if name in rectified],
            "1": [name for name in names if name not in rectified],
        }
        parts = [
            _code.redraw(some, f"torch.nn.init.orthogonal_(layer.weight, gain={gain})")
            for gain, some in groups.items()
            if some
        ]
        return Prescription(
            self.name,
            f"Initialise {_code.counted(len(names), 'layer')} with orthogonal weights",
            "\n".join([_code.BEFORE_TRAINING, *parts]),
            answers=_reading.answers(finding, self),
        )


REMEDIES = (OrthogonalInit(),)
CURES = ("depth-plain-large-tanh", "init-constant-relu")
DOES_NOT_CURE = ("activation-deep-sigmoid",)
