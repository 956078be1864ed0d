"""Weights that nobody has trained are told from trained ones by their distribution alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import gradwatch
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.record import Parameter
from gradwatch.core.stats import Stats
from gradwatch.detectors._drawn import as_drawn
from gradwatch.instrument.kernel import measure


def _seen(weight: Tensor) -> Parameter:
    stats = Stats.unpack(measure(weight.detach()).numpy())
    return Parameter("weight", tuple(weight.shape), weight=stats)


DRAWS: dict[str, Callable[[], Tensor]] = {
    "linear": lambda: nn.Linear(64, 32).weight,
    "narrow": lambda: nn.Linear(10, 10).weight,
    "conv": lambda: nn.Conv2d(8, 16, 3).weight,
    "transposed": lambda: nn.ConvTranspose1d(8, 16, 5).weight,
    "he-uniform": lambda: nn.init.kaiming_uniform_(torch.empty(64, 48), nonlinearity="relu"),
    "xavier-uniform": lambda: nn.init.xavier_uniform_(torch.empty(64, 48)),
    "he-normal": lambda: nn.init.kaiming_normal_(torch.empty(64, 48), nonlinearity="relu"),
    "resnet": lambda: nn.init.kaiming_normal_(torch.empty(64, 32, 3, 3), mode="fan_out"),
    "xavier-normal": lambda: nn.init.xavier_normal_(torch.empty(64, 48)),
    "transformer": lambda: nn.init.normal_(torch.empty(64, 192), std=0.02),
}


@pytest.mark.parametrize("name", DRAWS)
def test_what_was_drawn_is_known(name: str) -> None:
    drawn = 0
    for seed in range(50):
        torch.manual_seed(seed)
        drawn += as_drawn([_seen(DRAWS[name]())])
    assert drawn >= 48  # a bound of four standard errors, and of e^-10


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_what_was_trained_is_not(optimizer: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    head = nn.Linear(32, 4)
    x, y = torch.randn(256, 16), torch.randint(0, 4, (256,))
    weights = [*model.parameters(), *head.parameters()]
    steps = optimizer(weights, lr=0.1 if optimizer is torch.optim.SGD else 3e-3)  # type: ignore[call-arg]
    assert as_drawn(_seen(p) for p in model.parameters())
    for _ in range(200):
        steps.zero_grad()
        nn.functional.cross_entropy(head(model(x)), y).backward()
        steps.step()
    assert not as_drawn(_seen(p) for p in model.parameters())


def test_the_sample_of_a_frozen_weight_serves_as_well() -> None:
    seen = _seen(nn.Linear(64, 32).weight)
    assert as_drawn([replace(seen, weight=None, sample=seen.weight)])
    assert not as_drawn([replace(seen, weight=None)])


def _two_spirals(n: int) -> tuple[Tensor, Tensor]:
    y = torch.randint(0, 2, (n,))
    angle = 3 * torch.rand(n) + torch.pi * y
    x = torch.stack([angle.cos(), angle.sin()], 1) * (angle - torch.pi * y + 0.3)[:, None]
    return x, y


def _frozen(body: nn.Module, *, trained: bool) -> tuple[Finding, ...]:
    head = nn.Linear(3, 2)
    model = nn.Sequential(body, head)

    def train(parameters: list[nn.Parameter], steps: int, watched: bool) -> tuple[Finding, ...]:
        optimizer = torch.optim.Adam(parameters, lr=1e-2)
        watcher = gradwatch.watch(model, optimizer, strict=True) if watched else None
        for _ in range(steps):
            x, y = _two_spirals(128)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            if watcher is not None:
                watcher.step(loss)
        if watcher is None:
            return ()
        watcher.close()
        return watcher.report().findings

    if trained:
        train(list(model.parameters()), 600, watched=False)
    body.requires_grad_(requires_grad=False)
    return train(list(head.parameters()), 150, watched=True)


@pytest.mark.parametrize("trained", [False, True])
def test_a_body_that_was_frozen_as_it_was_drawn(trained: bool) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 3), nn.Tanh())
    found = _frozen(body, trained=trained)
    loud = [f for f in found if f.severity >= Severity.WARNING]
    if trained:
        assert not loud
    else:
        assert [f.name for f in loud] == ["disconnected-parameters"]
        assert "as they were drawn" in loud[0].confidence
