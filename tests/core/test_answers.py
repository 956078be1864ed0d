"""What several exams tell together: a squared error is known by its targets if no loss is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.answers import answers
from gradwatch.core.history import History
from gradwatch.core.losses import SQUARED_ERROR
from gradwatch.core.progress import progress

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "mean": F.mse_loss,
    "half of it": lambda o, t: 0.5 * F.mse_loss(o, t),
    "sum over outputs": lambda o, t: ((o - t) ** 2).sum(1).mean(),
    "sum": lambda o, t: ((o - t) ** 2).sum(),
}


def trained(loss_fn: Loss, *, learns: bool = True) -> History:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2 if learns else 1e-9)
    with gradwatch.watch(model, optimizer, strict=True, detectors=[], every_n_steps=10) as watcher:
        for _ in range(120):
            x = torch.randn(64, 8)
            loss = loss_fn(model(x), x[:, :3] + 0.5 * x[:, 3:6])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    return watcher.history


def untold(history: History) -> History:
    return History.of([replace(record, loss=None) for record in history])


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_loss_the_skill_is_that_with_it(name: str) -> None:
    told = trained(LOSSES[name])
    mute = untold(told)
    assert not any(answer.assumed for _, answer in answers(told))
    assert all(a.assumed and a.kind == SQUARED_ERROR for _, a in answers(mute))
    skill = progress(told).skill
    assert skill is not None and skill > 0.8
    assert progress(mute).skill == pytest.approx(skill, abs=0.02)


def test_a_training_that_stands_still_has_no_skill_whatever_the_factor() -> None:
    for _, answer in answers(untold(trained(F.mse_loss, learns=False))):
        assert answer.skill is not None and abs(answer.skill) < 0.5


PULL: Loss = lambda o, t: (o**2).mean()  # noqa: E731
RANKS: Loss = lambda o, t: F.softplus(-(o[:32] - o[32:]) * (t[:32] - t[32:])).mean()  # noqa: E731


@pytest.mark.parametrize("loss_fn", [PULL, RANKS])
def test_another_loss_is_not_taken_for_one(loss_fn: Loss) -> None:
    assert not any(answer.assumed for _, answer in answers(untold(trained(loss_fn))))
