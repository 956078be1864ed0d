"""Losses that say the wrong thing: targets that are broadcast, temperatures, ranges, signs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress, takes_turns
from gradwatch.core.record import Record
from gradwatch.core.shared_target import shared_target
from gradwatch.detectors.ascending_loss import AscendingLoss
from gradwatch.detectors.broadcast_targets import BroadcastTargets
from gradwatch.detectors.drowned_task import DrownedTask
from gradwatch.detectors.no_skill import LearnsNothing
from gradwatch.detectors.saturated_output import SaturatedOutput
from gradwatch.detectors.squashed_logits import SquashedLogits
from gradwatch.instrument.answer import read_targets

Loss = Callable[[Any, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]
DETECTORS: tuple[Any, ...] = (
    AscendingLoss(),
    BroadcastTargets(),
    DrownedTask(),
    SaturatedOutput(),
    SquashedLogits(),
)
MIX = torch.randn(10, generator=torch.Generator().manual_seed(5))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def regression(samples: int = 48) -> Batch:
    x = torch.randn(samples, 10)
    return x, torch.sin(x @ MIX) + x[:, 0] + 1


def classes(samples: int = 64) -> Batch:
    x = torch.randn(samples, 10)
    return x, x[:, :5].argmax(1)


def net(outputs: int = 1, *ends: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, outputs), *ends)


def trained(
    model: nn.Module,
    loss_fn: Loss,
    data: Callable[[], Batch] = regression,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    rate: float = 5e-3,
    steps: int = 100,
) -> History:
    held = optimizer(model.parameters(), lr=rate)
    with gradwatch.watch(model, held, strict=True, every_n_steps=20, detectors=[]) as watcher:
        for _ in range(steps):
            inputs, targets = data()
            loss = loss_fn(model(inputs), targets)
            held.zero_grad()
            loss.backward()
            held.step()
            watcher.step(loss)
    return watcher.history


def said(history: History) -> dict[str, tuple[Severity, str]]:
    found = [finding for detector in DETECTORS for finding in detector(history)]
    return {finding.name: (finding.severity, finding.cause) for finding in found}


CRITICAL = (Severity.CRITICAL, "loss")

# --- broadcast -----------------------------------------------------------------------------------


def each(kind: Loss) -> Loss:
    """The same without the warning that PyTorch gives: all outputs against all targets."""
    return lambda y, t: kind(*torch.broadcast_tensors(y, t))


@pytest.mark.parametrize("kind", [F.mse_loss, F.l1_loss, F.smooth_l1_loss])
def test_outputs_that_are_compared_with_all_targets(kind: Loss) -> None:
    found = said(trained(net(), each(kind)))
    assert found["broadcast-targets"][1] == "loss" and len(found) == 1


def test_values_that_are_gathered_and_compared_with_all_targets() -> None:
    """The usual mistake with the values of actions: [N, 1] after `gather`, against [N]."""

    def loss(kind: Loss) -> Loss:
        return lambda y, t: kind(y.gather(1, (t > 1).long()[:, None]), t)

    assert said(trained(net(2), loss(each(F.mse_loss)))) == {"broadcast-targets": CRITICAL}
    assert said(trained(net(2), loss(lambda y, t: F.mse_loss(y[:, 0], t)))) == {}


def test_the_same_with_all_data_in_each_step() -> None:
    batch = regression(100)
    found = said(trained(net(), each(F.mse_loss), lambda: batch))
    assert found == {"broadcast-targets": CRITICAL}


@pytest.mark.parametrize("kind", [F.mse_loss, F.l1_loss, F.smooth_l1_loss])
def test_outputs_that_are_compared_with_their_own(kind: Loss) -> None:
    assert said(trained(net(), lambda y, t: kind(y[:, 0], t))) == {}


def test_one_target_for_all_may_be_meant() -> None:
    constant: Loss = lambda y, t: (y - 0.7).square().mean()  # noqa: E731
    assert said(trained(net(), constant)) == {}
    of_the_episode: Loss = lambda y, t: (y - t.mean()).square().mean()  # noqa: E731
    assert said(trained(net(), of_the_episode)) == {}


def test_the_common_target_and_the_variance_of_all() -> None:
    """By hand: the mean of the targets, and what no output can take away."""
    y, t = torch.randn(40, 1, requires_grad=True), torch.randn(40) + 3
    loss = (y - t).square().mean()
    (gradient,) = torch.autograd.grad(loss, y)
    found = shared_target(read_targets(y, gradient).tolist(), loss.item())
    assert found is not None and found.shape == "affine"
    assert found.value == pytest.approx(t.mean().item(), rel=1e-4)
    assert found.excess == pytest.approx(t.var(correction=0).item(), rel=1e-3)


# --- temperatures --------------------------------------------------------------------------------


def contrastive(temperature: float) -> Loss:
    def loss(z: Tensor, _: Tensor) -> Tensor:
        a, b = F.normalize(z, dim=1).chunk(2)
        return F.cross_entropy(a @ b.T / temperature, torch.arange(len(a)))

    return loss


def views() -> Batch:
    x = torch.randn(32, 10)
    return torch.cat([x + 0.2 * torch.randn_like(x), x + 0.2 * torch.randn_like(x)]), x


@pytest.mark.parametrize(
    ("temperature", "found"), [(200.0, {"squashed-logits": CRITICAL}), (0.1, {}), (1.0, {})]
)
def test_a_temperature_of_similarities(temperature: float, found: dict[str, Any]) -> None:
    history = trained(net(16), contrastive(temperature), views, torch.optim.SGD, 0.1)
    assert said(history) == found


@pytest.mark.parametrize(("temperature", "squared"), [(50.0, False), (50.0, True), (2.0, True)])
def test_a_temperature_of_distillation(temperature: float, squared: bool) -> None:
    teacher = net(6).requires_grad_(False)

    def loss(y: Tensor, x: Tensor) -> Tensor:
        logs, p = F.log_softmax(y / temperature, 1), F.softmax(4 * teacher(x) / temperature, 1)
        factor = temperature**2 if squared else 1
        return F.kl_div(logs, p, reduction="batchmean") * factor

    history = trained(net(6), loss, lambda: (views()[1],) * 2, torch.optim.SGD, 0.05)
    assert said(history) == ({} if squared else {"squashed-logits": CRITICAL})


# --- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [nn.Softplus(), nn.Sigmoid()])
@pytest.mark.parametrize("kind", [F.mse_loss, F.l1_loss])
def test_negative_targets_of_what_is_never_negative(end: nn.Module, kind: Loss) -> None:
    history = trained(net(1, end), lambda y, t: kind(y[:, 0], t - 5))
    assert said(history)["saturated-output"] == (Severity.CRITICAL, "activation")


def test_targets_that_are_negative_in_part() -> None:
    found = said(trained(net(1, nn.ReLU()), lambda y, t: F.mse_loss(y[:, 0], t - 1), steps=160))
    assert found["saturated-output"][1] == "activation"


@pytest.mark.parametrize("end", [nn.Softplus(), nn.ReLU()])
def test_positive_targets_can_be_reached(end: nn.Module) -> None:
    assert said(trained(net(1, end), lambda y, t: F.mse_loss(y[:, 0], t.abs()))) == {}


# --- signs ---------------------------------------------------------------------------------------


def picked(y: Tensor, labels: Tensor) -> Tensor:
    return y.gather(1, labels[:, None]).mean()


@pytest.mark.parametrize(
    ("ends", "loss"),
    [
        ((), lambda y, t: -F.cross_entropy(y, t)),
        ((nn.LogSoftmax(1),), picked),
        ((), lambda y, t: -F.binary_cross_entropy_with_logits(y, F.one_hot(t, 5).float())),
        ((), lambda y, t: -F.l1_loss(y, F.one_hot(t, 5).float())),
        ((), lambda y, t: -F.mse_loss(y, F.one_hot(t, 5).float())),
    ],
)
def test_minus_a_loss(ends: tuple[nn.Module, ...], loss: Loss) -> None:
    found = said(trained(net(5, *ends), loss, classes, steps=120))
    assert found["ascending-loss"] == CRITICAL


# --- policies and adversaries --------------------------------------------------------------------


def policy(reward: Callable[[Tensor], Tensor], bonus: float = 0.01, actions: int = 4) -> History:
    def loss(y: Tensor, best: Tensor) -> Tensor:
        tried = Categorical(logits=y)
        action = tried.sample()
        worth = reward((action == best).float())
        return -(worth * tried.log_prob(action)).mean() - bonus * tried.entropy().mean()

    def states() -> Batch:
        x = torch.randn(128, 10)
        return x, x[:, :actions].argmax(1)

    return trained(net(actions), loss, states, steps=120)


@pytest.mark.parametrize(
    "reward", [lambda r: r - r.mean(), lambda r: r - 1, lambda r: -torch.ones_like(r)]
)
@pytest.mark.parametrize("actions", [2, 4])
def test_a_policy_is_no_classifier(reward: Callable[[Tensor], Tensor], actions: int) -> None:
    history = policy(reward, actions=actions)
    assert said(history) == {} and LearnsNothing()(history) == ()


def test_the_loss_of_a_policy_does_not_say_that_it_stands_still() -> None:
    assert progress(policy(lambda r: r - r.mean())).moving is not False


def test_a_bonus_that_is_worth_more_than_all_rewards() -> None:
    found = said(policy(lambda r: r - r.mean(), bonus=3.0))
    assert found == {"drowned-task": CRITICAL}


def test_adversaries_take_turns() -> None:
    g, d = net(2), nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(), nn.Linear(16, 1))
    both = nn.ModuleDict({"g": g, "d": d})
    ours, theirs = (torch.optim.Adam(m.parameters(), 1e-3) for m in (g, d))
    kind = F.binary_cross_entropy_with_logits
    yes, no = torch.ones(32, 1), torch.zeros(32, 1)
    options: dict[str, Any] = {"strict": True, "every_n_steps": 20, "detectors": []}
    with gradwatch.watch(both, [ours, theirs], **options) as watcher:
        for _ in range(60):
            made = g(torch.randn(32, 10))
            loss = kind(d(torch.randn(32, 2)), yes) + kind(d(made.detach()), no)
            theirs.zero_grad()
            loss.backward()
            theirs.step()
            ours.zero_grad()
            kind(d(made), yes).backward()
            ours.step()
            watcher.step(loss)
    assert takes_turns(watcher.history)
    assert progress(watcher.history).moving is not False
    assert said(watcher.history) == {}
    assert not takes_turns(policy(lambda r: r - r.mean()))


def test_a_loss_of_either_sign_is_no_measure() -> None:
    """A likelihood that hovers about 0 is not known to stand still; one that rests is."""
    scatter = torch.randn(60, generator=torch.Generator().manual_seed(0)).tolist()
    wanders = History.of(Record(i, loss=0.1 * value) for i, value in enumerate(scatter))
    assert progress(wanders).moving is None
    rests = History.of(Record(i, loss=-4.2 + 1e-3 * value) for i, value in enumerate(scatter))
    assert progress(rests).moving is False
    assert math.isfinite(progress(rests).begin)
