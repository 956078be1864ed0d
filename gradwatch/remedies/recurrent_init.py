"""Recurrent weights that keep a state: orthogonal, or the identity."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.remedies import _code, _reading, _recurrent


@dataclass(frozen=True)
class RecurrentInit:
    """Draw the weights from state to state anew, orthogonal, gate by gate, and zero a plain RNN's
    biases. An RNN with ReLU gets the identity: it begins by adding up what it reads.

    The state is multiplied with the same matrix in every step. Of torch's default (uniform up to
    1/√n) the largest factor is about 0.58: after 50 steps 1e-12 is left. An orthogonal matrix keeps
    all lengths; only the slope of tanh takes something then.

    Helps when: a plain RNN forgets, or its gradient explodes over time, by the size of its weights.
    Does not help when: an LSTM or a GRU forgets by its gates (`forget-gate-bias`), or sequences are
    so long that tanh's slope is too much to lose in each step (`gated-cell`).

    Saxe, McClelland and Ganguli 2014; Henaff, Szlam and LeCun 2016 (orthogonal); Le, Jaitly and
    Hinton 2015 (identity). Cost: none.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "recurrent-init"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Initialise the recurrent weights to keep the state"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            (finding, cause)
            for finding in ("vanishing-over-time", "vanishing-gradient", "exploding-gradient")
            for cause in ("init", "time")
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        layers = _recurrent.layers(record, _recurrent.PLAIN | _recurrent.GATED)
        return Prescription(
            self.name,
            f"Initialise {_code.counted(len(layers), 'recurrent layer')} to keep the state",
            f"""\
{_code.BEFORE_TRAINING}
for name in {_code.listing(tuple(layers))}:
    layer = model.get_submodule(name)
    relu = getattr(layer, "nonlinearity", "") == "relu"
    plain = hasattr(layer, "nonlinearity")
    with torch.no_grad():
        for key, parameter in layer.named_parameters():
            if "weight_hh" in key:
                for gate in parameter.split(layer.hidden_size):
                    torch.nn.init.eye_(gate) if relu else torch.nn.init.orthogonal_(gate)
            elif "bias" in key and plain:
                parameter.zero_()""",
            answers=_reading.answers(finding, self),
        )


REMEDIES = (RecurrentInit(),)
CURES = ("rnn-chaotic",)
DOES_NOT_CURE = ("lstm-negative-forget-bias",)
