"""A gated cell instead of a plain RNN: a state that is kept, and not multiplied away."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading, _recurrent
from gradwatch.remedies.forget_gate_bias import open_gates


@dataclass(frozen=True)
class GatedCell:
    """Replace each plain RNN by a GRU or an LSTM of the same sizes, whose gates begin open.

    A plain RNN multiplies its state with a matrix and with the slope of tanh in every step. A gate
    decides unit by unit how much of the state stays as it is: at 1 the gradient passes unchanged
    through any number of steps. The gates' biases are drawn for the sequences' length, as in
    `forget-gate-bias-by-length`.

    Helps when: a plain RNN has to remember over more than some ten steps, or explodes over time.
    Does not help when: the answer lies in the latest steps. A GRU is called as an RNN is; so is the
    LSTM that is put in here, whose cell begins at zero in each call: where a sequence is read in
    pieces take the GRU. Three (GRU) or four (LSTM) times the parameters and the time.

    Hochreiter and Schmidhuber 1997 (LSTM); Cho et al. 2014 (GRU).
    """

    to: str = "GRU"
    """`GRU` or `LSTM`."""

    def __post_init__(self) -> None:
        if self.to not in ("GRU", "LSTM"):
            raise ValueError(f"to must be GRU or LSTM, got {self.to!r}")

    @property
    def name(self) -> str:
        """`gated-cell-gru` or `gated-cell-lstm`."""
        return f"gated-cell-{self.to.lower()}"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return f"Take {'a GRU' if self.to == 'GRU' else 'an LSTM'} instead of the plain RNN"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            (finding, cause)
            for finding in ("vanishing-over-time", "exploding-gradient")
            for cause in ("time", "init")
        ) | {("vanishing-gradient", "time")}

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        layers = _recurrent.layers(record, _recurrent.PLAIN)
        fit = [name for name in layers if _recurrent.replaceable(record, name)]
        if not fit:
            raise CannotPrescribe("the plain RNN stands where no other module can")
        if self.to == "LSTM":  # an LSTMCell has two states, and the loop around it keeps one
            fit = [name for name in fit if layers[name] == "RNN"]
        if not fit:
            raise CannotPrescribe("a cell in a loop of its own has one state, and an LSTM two")
        return Prescription(
            self.name,
            f"Take {self.to} instead of RNN in {_code.counted(len(fit), 'recurrent layer')}",
            (_code.definition("LSTMLikeRNN") if self.to == "LSTM" else "")
            + self._body(fit, record),
            runs=self._body(fit, record),
            answers=_reading.answers(finding, self),
        )

    def _body(self, names: list[str], record: Record) -> str:
        whole = "torch.nn.GRU" if self.to == "GRU" else "LSTMLikeRNN"
        # Of one that is called once the steps are not always known: then the usual bias.
        steps = max(_recurrent.steps(record, name) for name in names)
        return f"""\
new = {{}}
for name in {_code.listing(names)}:
    old = model.get_submodule(name)
    options = {{"bias": old.bias}}
    if isinstance(old, torch.nn.RNNCell):
        cell = torch.nn.GRUCell(old.input_size, old.hidden_size, **options)
    else:
        for option in ("num_layers", "batch_first", "dropout", "bidirectional"):
            options[option] = getattr(old, option)
        cell = {whole}(old.input_size, old.hidden_size, **options)
    new[old] = cell.to(next(old.parameters()))
for name, module in list(model.named_modules(remove_duplicate=False)):
    if module in new:
        model.set_submodule(name, new[module])
{open_gates(names, None if steps > 3 else 1.0, steps)}
{_code.NEW_OPTIMIZER}"""


REMEDIES = (GatedCell("GRU"), GatedCell("LSTM"))
CURES = ("embedding-padding-read", "rnn-chaotic")
DOES_NOT_CURE = ("lstm-negative-forget-bias",)
