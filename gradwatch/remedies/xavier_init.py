"""Xavier (Glorot) initialisation: weights whose size suits tanh."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.remedies import _code, _reading

_GAINS: Final = {
    "tanh": "5 / 3",
    "selu": "3 / 4",
    **dict.fromkeys(("relu", "leakyrelu", "prelu", "gelu", "silu", "elu", "mish"), "2**0.5"),
}
"""torch.nn.init.calculate_gain, as code; 1 for sigmoid, for no activation and for all others."""


@dataclass(frozen=True)
class XavierInit:
    """Draw the weights anew with variance 2/(fan_in + fan_out), times the activation's gain².

    A compromise between keeping the signal's size forward and the gradient's size backward. The
    gain makes up for what the activation after the layer takes: 5/3 for tanh, √2 for ReLU; torch
    has 1 for the sigmoid.

    Helps when: a net of tanh, or of layers with different widths, has weights of the wrong size;
    all units of a layer are alike, or all zero, since their weights were not drawn at random.
    Does not help when: the activations are sigmoids and the net is deep. Around 0 it would need
    gain 4, which saturates them: no init cures a deep sigmoid net, another activation or a
    normalisation does. For ReLU nets `he-init` is the usual choice.

    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward networks".
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "xavier-init"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Initialise the weights after Xavier (Glorot)"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            (finding, "init")
            for finding in (
                "vanishing-gradient",
                "exploding-gradient",
                "non-finite",
                "signal-scale",
                "saturated-activation",
                "saturated-output",
                "symmetric-units",
                "zero-gradient",
                "learns-nothing",
                "constant-output",
            )
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        chosen = _reading.to_initialise(finding, self, record)
        output = _reading.places(record)[-1].layer.name
        groups: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for place in chosen:
            kind = "" if place.activation is None else place.activation.layer.kind
            gain = _GAINS.get(_reading.canonical(kind), "1")
            if place.layer.name == output:
                gain = "1"
            groups[gain][place.layer.name] = None
        parts = [
            _code.redraw(tuple(names), f"torch.nn.init.xavier_uniform_(layer.weight, gain={gain})")
            for gain, names in groups.items()
        ]
        number = len(_reading.names(chosen))
        return Prescription(
            self.name,
            f"Initialise {_code.counted(number, 'layer')} after Xavier (Glorot)",
            "\n".join([_code.BEFORE_TRAINING, *parts]),
            answers=_reading.answers(finding, self),
        )


REMEDIES = (XavierInit(),)
CURES = ("small-tanh-mlp", "init-uniform-zero-one-sigmoid")
DOES_NOT_CURE = ("sigmoid-mlp",)
