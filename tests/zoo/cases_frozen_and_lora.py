"""Frozen backbones and low-rank adapters: most parameters stand still, and should."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import adam, backbone, drawn, error_rate, supervised, vectors
from tests.zoo.trainings import Batch

RANK = 4
NORMAL = RANK**-0.5


class LoRA(nn.Module):
    """A frozen linear layer beside which a product of two thin matrices is learnt."""

    def __init__(self, base: nn.Linear, a: float, b: float, scale: float, *, by_data: bool) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(a * torch.randn(RANK, base.in_features))
        self.b = nn.Parameter(b * torch.randn(base.out_features, RANK))
        self.scale = scale
        self.by_data = by_data

    def forward(self, x: Tensor) -> Tensor:
        if self.by_data:
            merged = self.base.weight + self.scale * self.b.data @ self.a.data
            return F.linear(x, merged, self.base.bias)
        return self.base(x) + self.scale * (x @ self.a.T) @ self.b.T  # type: ignore[no-any-return]


def shifted() -> Batch:
    """Return the digits with 1 added to their names, so that a head must be learnt anew."""
    inputs, labels = vectors()
    return inputs, (labels + 1) % 10


def pretrained(width: int = 32) -> nn.Sequential:
    """A net that has learnt the digits."""
    model = backbone(width)
    trial = supervised(model, drawn(vectors()), adam(model))
    for i in range(120):
        trial.step(i)
    model.zero_grad()
    return model


def lora(
    a: float = NORMAL,
    b: float = 0.0,
    scale: float = 1.0,
    *,
    by_data: bool = False,
    early: bool = False,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adam,
) -> Trial:
    """Set up a fine-tuning to other names, with adapters in the layers of a frozen net."""
    model = pretrained()
    before = torch.optim.Adam(model.parameters(), lr=1e-2)
    for i in (0, 2, 4):
        layer = model[i]
        assert isinstance(layer, nn.Linear)
        model[i] = LoRA(layer, a, b, scale, by_data=by_data)
    data = shifted()
    step = closed if by_data else supervised
    return step(
        model, drawn(data), before if early else optimizer(model), score=error_rate(model, data)
    )


def closed(
    model: nn.Module,
    sample: Callable[[], Batch],
    optimizer: torch.optim.Optimizer,
    *,
    score: Callable[[], float],
) -> Trial:
    """Set up the loop of one who silenced "does not require grad" by making the loss a leaf."""

    def step(_: int) -> Tensor:
        inputs, targets = sample()
        loss = F.cross_entropy(model(inputs), targets)
        loss = loss.detach().requires_grad_()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return Trial(model, [optimizer], step, score=score)


class TwoHeads(nn.Module):
    """A backbone with the head that it had and a new one, of which one is used."""

    def __init__(self, body: nn.Sequential, used: str) -> None:
        super().__init__()
        self.body = body[:-1]
        self.old = body[-1]
        self.new = nn.Linear(32, 10)
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.used)(self.body(x))  # type: ignore[no-any-return]


def head_only(used: str) -> Trial:
    """Set up a fine-tuning in which only the new head is to be trained."""
    model = TwoHeads(pretrained(), used)
    model.requires_grad_(False)
    model.new.requires_grad_(True)
    optimizer = adam(model)
    data = shifted()

    def step(_: int) -> Tensor:
        inputs, targets = drawn(data)()
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
        return loss

    return Trial(model, [optimizer], step, score=error_rate(model, data))


def fine_tuned(trained: Callable[[str], bool], *, fresh: bool = False) -> Trial:
    """Set up a fine-tuning of the parameters that are picked by name."""
    model = backbone() if fresh else pretrained()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained(name))
    data = shifted()
    return supervised(model, drawn(data), adam(model), score=error_rate(model, data))


CASES = (
    Case(
        "lora-both-zero",
        "frozen-and-lora",
        lambda: lora(a=0.0),
        threshold=0.4,
        steps=150,
        cure=lora,
        finding="zero-gradient",
        cause="init",
        layers=("0", "2", "4"),
        source="Hu et al. 2022: A is random and B is zero",
    ),
    Case(
        "lora-scale-too-large",
        "frozen-and-lora",
        lambda: lora(scale=100.0),
        threshold=0.4,
        steps=150,
        cure=lora,
        finding="oversized-updates",
        cause="learning-rate",
        # By step 30 the adapters have killed a layer of rectifiers.
        also=frozenset({"dead-units"}),
        layers=("0", "2", "4"),
        source="Kalajdzievski 2023: rsLoRA",
    ),
    Case(
        "lora-optimizer-before-adapters",
        "frozen-and-lora",
        lambda: lora(early=True),
        threshold=0.4,
        steps=150,
        cure=lora,
        finding="forgotten-parameters",
        # What no optimizer holds is cut off from the training: one fault with two names.
        causes=frozenset({"disconnection"}),
        cause="optimizer",
        layers=("0", "2", "4"),
    ),
    Case(
        "lora-merged-by-data",
        "frozen-and-lora",
        lambda: lora(by_data=True),
        threshold=0.4,
        steps=150,
        cure=lora,
        finding="disconnected-parameters",
        cause="disconnection",
        layers=("0", "2", "4"),
    ),
    Case(
        "frozen-but-an-unused-head",
        "frozen-and-lora",
        lambda: head_only("old"),
        threshold=0.4,
        steps=150,
        cure=lambda: head_only("new"),
        finding="disconnected-parameters",
        cause="disconnection",
        layers=("new",),
    ),
    Case("lora-fine-tuning", "frozen-and-lora", lora, threshold=0.4, steps=150),
    Case("frozen-new-head", "frozen-and-lora", lambda: head_only("new"), threshold=0.4, steps=150),
    Case(
        "frozen-random-features",
        "frozen-and-lora",
        lambda: fine_tuned(lambda name: name.startswith("4"), fresh=True),
        threshold=0.5,
        steps=200,
        source="Rahimi & Recht 2007",
    ),
    Case(
        "biases-only",
        "frozen-and-lora",
        lambda: fine_tuned(lambda name: "bias" in name or name.startswith("4")),
        threshold=0.4,
        steps=150,
        source="Ben Zaken, Goldberg & Ravfogel 2022: BitFit",
    ),
)
