"""He initialisation: weights whose size suits ReLU."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.remedies import _code, _reading


@dataclass(frozen=True)
class HeInit:
    """Draw the weights anew with variance 2/fan_in, and set the biases to 0.

    ReLU passes on half of what it gets; a variance of 2/fan_in makes up for that half, so that the
    signal keeps its size from layer to layer, and the gradient too. PyTorch's default for Linear
    and Conv layers has variance 1/(3 fan_in), a sixth of it: 1.3 bits are lost in each ReLU layer.

    Helps when: a deep net of ReLU, LeakyReLU, PReLU or GELU vanishes or explodes from its weights;
    all units of a layer are alike, or all zero, since their weights were not drawn at random.
    Does not help when: the activations are sigmoids, whose slope of 1/4 at most costs 2 bits a
    layer whatever the weights (a 20-layer sigmoid net went from 58 lost bits to 30, not to 0); the
    net is narrow and very deep, where the gradient's size is a random walk (Hanin 2018); the
    weights must stay, as in a trained model.

    He, Zhang, Ren and Sun 2015, "Delving Deep into Rectifiers".
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "he-init"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Initialise the weights after He (Kaiming)"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        # Weights as torch draws them are too much for many layers, and these for more of them.
        depth = {(finding, "depth") for finding in ("vanishing-gradient", "dead-units")}
        return frozenset(
            depth
            | {
                (finding, "init")
                for finding in (
                    "vanishing-gradient",
                    "exploding-gradient",
                    "non-finite",
                    "signal-scale",
                    "dead-units",
                    "symmetric-units",
                    "zero-gradient",
                    "learns-nothing",
                    "constant-output",
                )
            }
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        chosen = _reading.to_initialise(finding, self, record)
        # Nothing halves the signal after the last layer: there the gain is that of a linear unit.
        hidden = _reading.names(_reading.hidden(record))
        groups = {
            "relu": [name for name in _reading.names(chosen) if name in hidden],
            "linear": [name for name in _reading.names(chosen) if name not in hidden],
        }
        parts = [
            _code.redraw(
                names,
                f'torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="{nonlinearity}")',
            )
            for nonlinearity, names in groups.items()
            if names
        ]
        return Prescription(
            self.name,
            f"Initialise {_code.counted(len(_reading.names(chosen)), 'layer')} after He (Kaiming)",
            "\n".join([_code.BEFORE_TRAINING, *parts]),
            answers=_reading.answers(finding, self),
        )


REMEDIES = (HeInit(),)
CURES = ("init-constant-relu", "large-relu-mlp")
DOES_NOT_CURE = ("activation-deep-sigmoid",)
