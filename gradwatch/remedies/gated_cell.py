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
        if self.to == "GRU" and (cells := self._of_ones_own(finding, record)):
            return self._by_hand(finding, cells)
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

    def _of_ones_own(self, finding: Finding, record: Record) -> tuple[str, ...]:
        """The layers that make a state in a loop of the user's own."""
        known = _recurrent.PLAIN | _recurrent.GATED
        kinds = {call.layer.name: call.layer.kind for call in record.calls}
        blamed = _reading.blamed(finding, self) if finding.name == "vanishing-over-time" else ()
        return tuple(name for name in blamed if kinds.get(name) not in known)

    def _by_hand(self, finding: Finding, cells: tuple[str, ...]) -> Prescription:
        return Prescription(
            self.name,
            "Keep the state by a gate that begins open",
            f"# In the loop around {_code.mention(cells)}, where each state is made:\n"
            "#   keep = torch.sigmoid(self.gate(torch.cat([x[:, t], state], 1)))\n"
            "#   state = keep * state + (1 - keep) * torch.tanh(candidate)\n"
            "# and in __init__, for sequences of `steps` steps:\n"
            "#   torch.nn.init.constant_(self.gate.bias, math.log(steps))  # open at first\n"
            "# Or cell = torch.nn.GRUCell(inputs, hidden); state = cell(x[:, t], state).\n"
            "# Without a gate: an orthogonal weight from state to state, whose other weights and\n"
            "# biases are small: torch.nn.init.orthogonal_(layer.weight).",
            runnable=False,
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
