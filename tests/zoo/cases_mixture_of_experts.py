"""Mixtures of experts: a router sends each sample to few of them, and they learn what they see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import adam

TASKS = 4
WIDTH = 8


@dataclass(frozen=True)
class Routing:
    """How samples come to experts."""

    experts: int = TASKS
    top: int = 1
    bias: float = 0.0
    """Advantage of the first expert before training."""
    gain: float = 1.0
    """Factor of the router's initial weights."""
    noise: float = 0.0
    weighted: bool = True
    """Whether an expert's output is multiplied with its probability."""
    balance: float = 0.0
    """Weight of the load-balancing loss of Switch Transformers."""
    capacity: float = 1.0
    """Share of a batch that an expert takes at most; the rest is dropped."""


class Mixture(nn.Module):
    """Linear experts behind a linear router."""

    def __init__(self, routing: Routing) -> None:
        super().__init__()
        self.routing = routing
        self.router = nn.Linear(TASKS + WIDTH, routing.experts)
        self.experts = nn.ModuleList(
            nn.Linear(TASKS + WIDTH, WIDTH) for _ in range(routing.experts)
        )
        self.balance = torch.zeros(())
        with torch.no_grad():
            self.router.weight.mul_(routing.gain)
            self.router.bias.zero_()
            self.router.bias[0] = routing.bias

    def forward(self, x: Tensor) -> Tensor:
        routing = self.routing
        logits = self.router(x)
        if self.training and routing.noise:
            logits = logits + routing.noise * torch.randn_like(logits)
        probabilities = logits.softmax(-1)
        weights, picked = probabilities.topk(routing.top, -1)
        if routing.top > 1:
            weights = weights / weights.sum(-1, keepdim=True)
        load = F.one_hot(picked[:, 0], routing.experts).float().mean(0)
        self.balance = routing.experts * (load * probabilities.mean(0)).sum()
        out = x.new_zeros(len(x), WIDTH)
        for i, expert in enumerate(self.experts):
            row, rank = (picked == i).nonzero(as_tuple=True)
            kept = int(routing.capacity * len(x))
            row, rank = row[:kept], rank[:kept]
            if len(row):
                y = expert(x[row])
                out = out.index_add(0, row, y * weights[row, rank, None] if routing.weighted else y)
        return out


def mixture(routing: Routing, rate: float = 1e-2) -> Trial:
    """Set up a regression in which the first inputs say which linear map is meant; scored by the
    error relative to that of answering zero."""
    model = Mixture(routing)
    optimizer = adam(model, rate)
    maps = torch.randn(TASKS, WIDTH, WIDTH) / WIDTH**0.5

    def batch(size: int) -> tuple[Tensor, Tensor]:
        task = torch.randint(0, TASKS, (size,))
        x = torch.randn(size, WIDTH)
        y = torch.einsum("ni,nij->nj", x, maps[task])
        return torch.cat([3 * F.one_hot(task, TASKS), x], -1), y

    def step(_: int) -> Tensor:
        x, y = batch(128)
        loss = (model(x) - y).square().mean() + routing.balance * model.balance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss  # type: ignore[no-any-return]

    def score() -> float:
        model.eval()
        x, y = batch(1000)
        error = (model(x) - y).square().mean() / y.square().mean()
        model.train()
        return error.item()  # type: ignore[no-any-return]

    return Trial(model, [optimizer], step, score=score)


def routed(**options: Any) -> Callable[[], Trial]:
    return lambda: mixture(Routing(**options))


CASES = (
    Case(
        "experts-router-collapsed",
        "mixture-of-experts",
        routed(experts=8, bias=40.0),
        threshold=0.15,
        steps=300,
        cure=routed(experts=8),
        finding="collapsed-router",
        cause="init",
        # An expert that is never picked gets no gradient.
        also=frozenset({"disconnected-parameters"}),
        layers=("router",),
        source="Shazeer et al. 2017, section 4: the same few experts are always favoured",
    ),
    Case(
        "experts-router-saturated",
        "mixture-of-experts",
        routed(top=4, gain=100.0),
        threshold=0.15,
        steps=300,
        cure=routed(top=4),
        finding="saturated-activation",
        cause="init",
        layers=("router",),
        source="Zoph et al. 2022: ST-MoE, the router z-loss",
    ),
    Case(
        "experts-picked-without-weight",
        "mixture-of-experts",
        routed(experts=8, weighted=False),
        threshold=0.15,
        steps=300,
        cure=routed(experts=8),
        finding="disconnected-parameters",
        cause="disconnection",
        # The router is reached, by the balancing loss with its weight of 0.
        also=frozenset({"zero-gradient"}),
        layers=("router",),
        source="Fedus, Zoph & Shazeer 2022: the gate's value multiplies the expert's output",
    ),
    Case(
        "experts-capacity-too-small",
        "mixture-of-experts",
        routed(experts=8, balance=0.1, capacity=0.03),
        threshold=0.15,
        steps=300,
        cure=routed(experts=8, balance=0.1, capacity=0.5),
        finding="dropped-samples",
        cause="disconnection",
        layers=("experts",),
        source="Fedus, Zoph & Shazeer 2022, section 2.2: capacity factor",
    ),
    Case("experts-dense", "mixture-of-experts", routed(top=4), threshold=0.15, steps=300),
    Case(
        "experts-top-two-noisy",
        "mixture-of-experts",
        routed(experts=8, top=2, noise=1.0, balance=0.1),
        threshold=0.15,
        steps=300,
        source="Shazeer et al. 2017",
    ),
    Case(
        "experts-switch",
        "mixture-of-experts",
        routed(experts=8, balance=0.1),
        threshold=0.15,
        steps=300,
        source="Fedus, Zoph & Shazeer 2022",
    ),
)
