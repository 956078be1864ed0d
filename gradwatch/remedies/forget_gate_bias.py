"""Gates that begin open: a cell that keeps its state until it has learnt to forget."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading, _recurrent


@dataclass(frozen=True)
class ForgetGateBias:
    """Set the biases of the gates that keep the state: the forget gate of an LSTM, the update gate
    of a GRU.

    With torch's biases (about 0) such a gate keeps half of the state in a step, and of what was
    read 30 steps ago a billionth. A bias of 1 keeps 73 % and is the usual advice. For long
    sequences of T steps the bias is drawn as log(U(1, T - 1)), unit by unit: each keeps its state
    for a time of its own, up to the whole sequence; an LSTM's input gate gets the opposite.

    Helps when: what is to be remembered lies many steps back.
    Does not help when: the answer depends on the latest steps only, or the state is cut off between
    the steps. A plain RNN has no such gate: see `gated-cell`.

    Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever 2015 (1); Tallec and
    Ollivier 2018, "Can Recurrent Neural Networks Warp Time?" (by length). Cost: none.
    """

    bias: float | None = 1.0
    """What the biases of such a gate add up to; None for draws by the sequences' length."""

    @property
    def name(self) -> str:
        """`forget-gate-bias` or `forget-gate-bias-by-length`."""
        return "forget-gate-bias" + ("-by-length" if self.bias is None else "")

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Begin with open forget gates"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            (finding, cause)
            for finding in ("vanishing-over-time", "vanishing-gradient")
            for cause in ("init", "time")
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        layers = _recurrent.layers(record, _recurrent.GATED)
        biases = [p.name for p in record.parameters if p.name.rpartition(".")[2][:5] == "bias_"]
        biased = [name for name in layers if any(b.rpartition(".")[0] == name for b in biases)]
        if not biased:
            raise CannotPrescribe("its recurrent layers have no biases")
        steps = max(_recurrent.steps(record, name) for name in biased)
        if self.bias is None and steps < 4:
            raise CannotPrescribe("it is not seen to be read over more than a few time steps")
        return Prescription(
            self.name,
            f"Begin {_code.counted(len(biased), 'recurrent layer')} with open gates"
            + (f", for {steps} steps" if self.bias is None else f": a bias of {self.bias:g}"),
            "\n".join([_code.BEFORE_TRAINING, open_gates(biased, self.bias, steps)]),
            answers=_reading.answers(finding, self),
        )


def open_gates(names: list[str], bias: float | None, steps: int) -> str:
    """Return code that sets the biases of the gates that keep the state."""
    if bias is None:
        opened = [
            f"parameter[keep] = torch.rand_like(parameter[keep]).mul({steps - 2}).add(1).log()",
            "if len(parameter) == 4 * n:  # an LSTM",
            "    parameter[:n] = -parameter[keep]",
        ]
    else:
        opened = [f"parameter[keep] = {bias!r}"]
    return "\n".join(
        [
            f"for name in {_code.listing(names)}:",
            "    layer = model.get_submodule(name)",
            "    n = layer.hidden_size",
            "    # An LSTM has the gates input, forget, cell, output; a GRU reset, update, new.",
            "    keep = slice(n, 2 * n)",
            "    with torch.no_grad():",
            "        for key, parameter in layer.named_parameters():",
            '            if "bias_ih" in key:',
            *(f"                {line}" for line in opened),
            '            elif "bias_hh" in key:  # the two are added',
            "                parameter[keep] = 0",
        ]
    )


REMEDIES = (ForgetGateBias(None), ForgetGateBias())
CURES = ("lstm-negative-forget-bias",)
DOES_NOT_CURE = ("rnn-chaotic",)
