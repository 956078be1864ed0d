"""Architectures that hooks are known to break or to change: what "watching changes nothing" and
"every gain is right" are tested on. Each is a model and the inputs of one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.zoo.trainings import PreNormTransformer, mlp, resnet


@dataclass(frozen=True)
class Architecture:
    """A model, the inputs of a step, and how a loss comes from its output."""

    model: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    loss: Callable[[Any], Tensor] = lambda output: output.square().mean()
    forward: Callable[..., Any] = lambda model, *inputs: model(*inputs)


def vectors(width: int = 16, batch: int = 6) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(batch, width),)


def sequences(width: int = 16, length: int = 5) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(3, length, width),)


def images() -> tuple[Tensor]:
    return (torch.randn(4, 1, 8, 8),)


class RMSNormResidual(nn.Module):
    """Uses its input twice inside the norm and once around it: full backward hooks change it."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.RMSNorm(width), nn.Linear(width, width), nn.SiLU()) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(16, 12, num_layers=2, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return self.head(out[:, -1])  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.attention(x, x, x)
        return self.head(out + x)  # type: ignore[no-any-return]


class Tied(nn.Module):
    """A language model whose output weights are its embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.body = nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embed(tokens))))  # type: ignore[no-any-return]


class Shared(nn.Module):
    """Calls one layer three times and one activation four times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.act = nn.Tanh()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.act(self.layer(x))
        return self.head(self.act(x))  # type: ignore[no-any-return]


def frozen() -> nn.Sequential:
    model = mlp(3, nn.ReLU, width=16)
    for parameter in model[:4].parameters():
        parameter.requires_grad_(False)
    return model


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.checkpointing = True
        self.first = nn.Linear(16, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.2), nn.BatchNorm1d(16), nn.ReLU())
            for _ in range(2)
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            if self.training and self.checkpointing:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
            else:
                x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


class Functional(nn.Module):
    """Has parameters and no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(0.3 * torch.randn(16, 16) for _ in range(4))
        self.bias = nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = torch.sigmoid(F.linear(x, weight, self.bias)) * 2
        return x


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    name: str = "output"


class Structured(nn.Module):
    """Gives a dataclass made from a dict, and computes its loss from its own output."""

    def __init__(self, *, as_dict: bool) -> None:
        super().__init__()
        self.as_dict = as_dict
        self.body = DictBody()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        parts = self.body(x=x)
        logits = self.head(parts["h"])
        if self.as_dict:
            return {"loss": logits.square().mean() + parts["h"].mean(), "logits": logits}
        return Output(logits, (parts["h"], x))


class DictBody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"h": F.gelu(self.layer(x)), "x": x}


class InPlaceOnView(nn.Module):
    """A Linear on three dimensions gives a view, which the in-place ReLU overwrites."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, 16), nn.ReLU(inplace=True), nn.Linear(16, 16), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Parts(nn.Module):
    """Its submodules are called by the training loop, never its `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 12), nn.ReLU())
        self.decoder = nn.Linear(12, 16)


def in_parts(model: Parts, x: Tensor) -> Tensor:
    return model.decoder(torch.tanh(model.encoder(x)))  # type: ignore[no-any-return]


class Normed(nn.Module):
    """Weight and spectral norm: reading such a weight changes buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.b = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """Parallel branches, a chunked tensor, and one branch that is not always used."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 16)
        self.b = nn.Linear(16, 32)
        self.unused = nn.Linear(16, 16)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.b(x).chunk(2, -1)
        return self.head(torch.cat([torch.tanh(self.a(x)), value * torch.sigmoid(gate)], -1))  # type: ignore[no-any-return]


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16, sparse=True)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).mean(1))  # type: ignore[no-any-return]


def tokens() -> tuple[Tensor]:
    return (torch.randint(0, 20, (4, 7)),)


ARCHITECTURES: dict[str, Architecture] = {
    "in-place-resnet": Architecture(resnet, images),
    "rms-norm-residual": Architecture(RMSNormResidual, sequences()),
    "lstm": Architecture(lambda: Recurrent(nn.LSTM), sequences()),
    "gru": Architecture(lambda: Recurrent(nn.GRU), sequences()),
    "attention": Architecture(Attention, sequences()),
    "transformer-encoder": Architecture(PreNormTransformer, sequences(8, 8)),
    "post-norm-encoder-layer": Architecture(
        lambda: nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True), sequences()
    ),
    "tied": Architecture(Tied, tokens),
    "shared": Architecture(Shared, vectors()),
    "frozen": Architecture(frozen, vectors(64)),
    "checkpoint-reentrant": Architecture(
        lambda: Checkpointed(reentrant=True), lambda: (torch.randn(6, 16, requires_grad=True),)
    ),
    "checkpoint-non-reentrant": Architecture(lambda: Checkpointed(reentrant=False), vectors()),
    "functional": Architecture(Functional, vectors()),
    "dict-output": Architecture(
        lambda: Structured(as_dict=True), vectors(), lambda output: output["loss"]
    ),
    "dataclass-output": Architecture(
        lambda: Structured(as_dict=False),
        vectors(),
        lambda output: output.logits.square().mean() + output.hidden[0].mean(),
    ),
    "dropout": Architecture(
        lambda: nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 3)),
        vectors(),
    ),
    "called-in-parts": Architecture(Parts, vectors(), forward=in_parts),
    "in-place-on-view": Architecture(InPlaceOnView, sequences()),
    "weight-and-spectral-norm": Architecture(Normed, vectors()),
    "branches": Architecture(Branches, vectors()),
    "sparse-embedding": Architecture(Sparse, tokens),
}
