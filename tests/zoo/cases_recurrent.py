"""Recurrent nets over long sequences: what they are to remember lies far in the past."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import Sample, adam, drawn, supervised, vectors
from tests.zoo.trainings import Batch


class Reader(nn.Module):
    """Reads a sequence and answers from its last state."""

    def __init__(self, rnn: nn.RNNBase, outputs: int) -> None:
        super().__init__()
        self.rnn = rnn
        directions = 2 if rnn.bidirectional else 1
        self.head = nn.Linear(rnn.hidden_size * directions, outputs)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(x)
        return self.head(states[:, -1])  # type: ignore[no-any-return]


class SigmoidCell(nn.Module):
    """A recurrent cell of the textbooks of 1990: its state is a sigmoid of state and input."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(inputs, width)
        self.of_state = nn.Linear(width, width)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return torch.sigmoid(self.of_input(x) + self.of_state(state))


class CellReader(nn.Module):
    """Reads with a cell in a loop of its own; the state can be detached after each step."""

    def __init__(self, cell: nn.Module, *, detached: bool = False) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(24, 4)
        self.detached = detached

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 24)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state.detach() if self.detached else state)
        return self.head(state)  # type: ignore[no-any-return]


def first_symbol(length: int, *, noise: float = 0.3) -> Sample:
    """Draw sequences of noise; the class is which of four symbols stands at the beginning."""

    def sample() -> Batch:
        symbols = torch.randint(0, 4, (32,))
        x = noise * torch.randn(32, length, 2)
        x[:, 0] = torch.stack([symbols % 2, symbols // 2], -1) * 2.0 - 1
        return x, symbols

    return sample


def sums(length: int, scale: float = 1.0) -> Sample:
    """Draw the adding problem (Hochreiter & Schmidhuber 1997): add the two marked numbers."""

    def sample() -> Batch:
        x = torch.stack([torch.rand(32, length), torch.zeros(32, length)], -1)
        half = length // 2
        rows = torch.arange(32)
        x[rows, torch.randint(0, half, (32,)), 1] = 1
        x[rows, torch.randint(half, length, (32,)), 1] = 1
        return x, scale * (x[..., 0] * x[..., 1]).sum(1, keepdim=True)

    return sample


def digit_rows() -> Sample:
    """Draw digits as sequences of 8 rows."""
    inputs, labels = vectors()
    return drawn((inputs.reshape(-1, 8, 8), labels), 32)


def recurrent(rnn: nn.RNNBase, init: Callable[[Tensor], object]) -> nn.RNNBase:
    """Initialise the weights from state to state, and zero the biases."""
    for name, parameter in rnn.named_parameters():
        if "weight_hh" in name:
            init(parameter)
        elif "bias" in name:
            nn.init.zeros_(parameter)
    return rnn


def scaled_identity(factor: float) -> Callable[[Tensor], object]:
    def init(weight: Tensor) -> None:
        with torch.no_grad():
            weight.copy_(factor * torch.eye(len(weight)))

    return init


def forgetting(bias: float) -> nn.LSTM:
    """An LSTM whose forget gates begin with a bias."""
    rnn = nn.LSTM(2, 24, batch_first=True)
    with torch.no_grad():
        for name, parameter in rnn.named_parameters():
            if "bias" in name:
                parameter.zero_()
                parameter[24:48] = bias / 2
    return rnn


def vanilla(inputs: int = 2, nonlinearity: str = "tanh", layers: int = 1) -> nn.RNN:
    return nn.RNN(inputs, 24, layers, nonlinearity=nonlinearity, batch_first=True)


def remembering(rnn: Callable[[], nn.RNNBase], length: int, rate: float = 5e-3) -> Trial:
    model = Reader(rnn(), 4)
    return supervised(model, first_symbol(length), adam(model, rate))


def in_cells(cell: Callable[[int, int], nn.Module], *, detached: bool = False) -> Trial:
    model = CellReader(cell(2, 24), detached=detached)
    return supervised(model, first_symbol(12), adam(model))


def adding(rnn: Callable[[], nn.RNNBase], rate: float = 1e-2) -> Trial:
    model = Reader(rnn(), 1)
    return supervised(model, sums(20), adam(model, rate), nn.functional.mse_loss)


def reading(rnn: Callable[[], nn.RNNBase], sample: Sample, rate: float = 1e-2) -> Trial:
    model = Reader(rnn(), 10)
    return supervised(model, sample, adam(model, rate))


CHAOTIC = partial(nn.init.normal_, std=0.8)
"""Four times the size that keeps a state of 24 units."""
ORTHOGONAL = nn.init.orthogonal_
vanishing_over_time = partial(Case, finding="vanishing-over-time", cause="time", layers=("rnn",))

CASES = (
    vanishing_over_time(
        "rnn-default-long-memory",
        "recurrent",
        lambda: remembering(vanilla, 50),
        threshold=0.7,
        steps=120,
        cure=lambda: remembering(lambda: recurrent(vanilla(), ORTHOGONAL), 50),
        # The gradient vanishes, over time; another initialisation is the cure here.
        also=frozenset({"vanishing-gradient"}),
        causes=frozenset({"init"}),
        source="Bengio, Simard & Frasconi 1994; Henaff, Szlam & LeCun 2016",
    ),
    vanishing_over_time(
        "sigmoid-cell",
        "recurrent",
        lambda: in_cells(SigmoidCell),
        threshold=0.7,
        steps=200,
        cure=lambda: in_cells(nn.GRUCell),
        layers=("cell",),
        # The gradient vanishes, over time, by the sigmoid: a cell with a tanh cures it, too.
        also=frozenset({"vanishing-gradient"}),
        causes=frozenset({"activation"}),
        source="Hochreiter 1991; Bengio, Simard & Frasconi 1994",
    ),
    vanishing_over_time(
        "lstm-negative-forget-bias",
        "recurrent",
        lambda: remembering(lambda: forgetting(-3.0), 30, 1e-2),
        threshold=0.7,
        steps=160,
        cure=lambda: remembering(lambda: forgetting(4.0), 30, 1e-2),
        # The gradient vanishes, over time; another initialisation is the cure here.
        also=frozenset({"vanishing-gradient"}),
        causes=frozenset({"init"}),
        source="Gers, Schmidhuber & Cummins 2000; Jozefowicz, Zaremba & Sutskever 2015",
    ),
    Case(
        "rnn-chaotic",
        "recurrent",
        lambda: remembering(lambda: recurrent(vanilla(), CHAOTIC), 50),
        threshold=0.7,
        steps=120,
        cure=lambda: remembering(lambda: recurrent(vanilla(), ORTHOGONAL), 50),
        finding="exploding-gradient",
        cause="init",
        # It explodes over time, and a cell with gates (an LSTM) cures it, too.
        causes=frozenset({"time"}),
        layers=("rnn",),
        source="Pascanu, Mikolov & Bengio 2013",
    ),
    Case(
        "state-detached-each-step",
        "recurrent",
        lambda: in_cells(nn.GRUCell, detached=True),
        threshold=0.7,
        steps=200,
        cure=lambda: in_cells(nn.GRUCell),
        finding="disconnected-state",
        cause="disconnection",
        layers=("cell",),
    ),
    Case(
        "rnn-orthogonal-long-memory",
        "recurrent",
        lambda: remembering(lambda: recurrent(vanilla(), ORTHOGONAL), 50),
        threshold=0.7,
        steps=120,
    ),
    Case(
        "rnn-default-short-memory",
        "recurrent",
        lambda: remembering(vanilla, 5, 1e-2),
        threshold=0.7,
        steps=80,
    ),
    Case(
        "irnn-long-memory",
        "recurrent",
        lambda: remembering(
            lambda: recurrent(vanilla(nonlinearity="relu"), scaled_identity(1.0)), 40, 2e-3
        ),
        threshold=0.9,
        steps=120,
        source="Le, Jaitly & Hinton 2015",
    ),
    Case(
        "lstm-open-forget-gate",
        "recurrent",
        lambda: remembering(lambda: forgetting(4.0), 30, 1e-2),
        threshold=0.7,
        steps=160,
    ),
    Case(
        "gru-adding-problem",
        "recurrent",
        lambda: adding(lambda: nn.GRU(2, 24, batch_first=True)),
        threshold=0.1,
        steps=200,
        source="Hochreiter & Schmidhuber 1997",
    ),
    Case(
        "lstm-digit-rows",
        "recurrent",
        lambda: reading(lambda: nn.LSTM(8, 24, 2, batch_first=True), digit_rows()),
        threshold=1.0,
        steps=100,
    ),
    Case(
        "rnn-digit-rows-both-ways",
        "recurrent",
        lambda: reading(lambda: nn.GRU(8, 16, batch_first=True, bidirectional=True), digit_rows()),
        threshold=1.0,
        steps=100,
    ),
)
