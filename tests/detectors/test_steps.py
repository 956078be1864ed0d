"""Weights that nobody knows, gradients that are kept in a part, rates, clipping, batch norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.record import Call, Layer, Record
from gradwatch.core.stats import OCTAVES, Stats
from gradwatch.detectors.accumulating_gradients import AccumulatingGradients
from gradwatch.detectors.always_clipped import AlwaysClipped
from gradwatch.detectors.disconnected import DisconnectedParameters
from gradwatch.detectors.forgotten import ForgottenParameters
from gradwatch.detectors.norm_statistics import NormStatistics
from gradwatch.detectors.oversized import OversizedUpdates
from gradwatch.detectors.stalled import StalledUpdates
from gradwatch.detectors.weight_decay import WeightDecayDominates
from gradwatch.detectors.zero_gradient import ZeroGradient
from tests.zoo.trainings import digit_vectors

Step = Callable[[Tensor, Tensor], Tensor]
ALL = (
    AccumulatingGradients(),
    AlwaysClipped(),
    DisconnectedParameters(),
    ForgottenParameters(),
    NormStatistics(),
    OversizedUpdates(),
    StalledUpdates(),
    WeightDecayDominates(),
    ZeroGradient(),
)


class Net(nn.Module):
    """Modules, and what is done with them."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.of = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.of(self, x)


def layers(*widths: int) -> nn.Sequential:
    """Linear layers with rectifiers between them."""
    found: list[nn.Module] = []
    for before, after in pairwise(widths):
        found += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*found[:-1])


def findings(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    step: Step | None = None,
    *,
    clip: Callable[[], object] = lambda: None,
    steps: int = 120,
) -> dict[str, Finding]:
    """Train on digits; return what is worth a warning, by name."""

    def plain(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        clip()
        for optimizer in optimizers:
            optimizer.step()
        return loss

    inputs, labels = digit_vectors()
    watcher = gradwatch.watch(model, list(optimizers), strict=True, every_n_steps=20, detectors=ALL)
    with watcher:
        for _ in range(steps):
            picked = torch.randint(0, len(inputs), (32,))
            watcher.step((step or plain)(inputs[picked], labels[picked]))
    return {f.name: f for f in watcher.report().findings if f.severity > Severity.NOTE}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_layers_in_a_plain_list_are_forgotten_and_those_in_a_module_list_are_not() -> None:
    def through(net: Net, x: Tensor) -> Tensor:
        for layer in net.hidden:  # type: ignore[union-attr]
            x = torch.tanh(layer(x))  # type: ignore[operator]
        return net.out(x)  # type: ignore[no-any-return, operator]

    hidden = [nn.Linear(64, 32), nn.Linear(32, 3)]
    model = Net(through, out=nn.Linear(3, 10))
    model.__dict__["hidden"] = hidden
    found = findings(model, [torch.optim.Adam(model.parameters(), 1e-3)])
    assert found["forgotten-parameters"].cause == "disconnection"
    assert found["forgotten-parameters"].layers == (":linear#0", ":linear#1")
    model = Net(through, hidden=nn.ModuleList(hidden), out=nn.Linear(3, 10))
    assert not findings(model, [torch.optim.Adam(model.parameters(), 1e-2)])


def test_what_the_optimizer_holds_is_known_wherever_it_stands() -> None:
    other = nn.Linear(64, 3)
    model = Net(lambda net, x: net.out(torch.tanh(other(x))), out=nn.Linear(3, 10))  # type: ignore
    held = [*model.parameters(), *other.parameters()]
    assert "forgotten-parameters" not in findings(model, [torch.optim.SGD(held, 1e-2)], steps=40)


def test_a_router_behind_an_argmax() -> None:
    def through(net: Net, x: Tensor) -> Tensor:
        gates = F.one_hot(net.router(x).argmax(-1), 3).float()  # type: ignore[operator]
        said = torch.stack([expert(x) for expert in net.experts], 1)  # type: ignore[union-attr, operator]
        return net.out((gates[:, :, None] * said).sum(1))  # type: ignore[no-any-return, operator]

    experts = nn.ModuleList(nn.Linear(64, 2) for _ in range(3))
    model = Net(through, router=nn.Linear(64, 3), experts=experts, out=nn.Linear(2, 10))
    found = findings(model, [torch.optim.SGD(model.parameters(), 1e-2)])
    assert found["disconnected-parameters"].layers == ("router",)


def test_an_optimizer_of_which_nothing_gets_a_gradient() -> None:
    one, other = layers(64, 16, 10), layers(64, 16, 10)
    model = Net(lambda net, x: net.one(x).detach() + net.other(x), one=one, other=other)  # type: ignore
    found = findings(model, [torch.optim.Adam(one.parameters(), 1e-3)], steps=40)
    assert found["disconnected-parameters"].layers == ("one.0", "one.2")
    assert found["disconnected-parameters"].severity == Severity.CRITICAL


def test_a_body_that_was_frozen_before_it_was_trained() -> None:
    body, head = layers(64, 16, 16, 2), nn.Linear(2, 10)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.mul_(0.3)
    body.requires_grad_(requires_grad=False)
    model = nn.Sequential(body, head)
    found = findings(model, [torch.optim.SGD(head.parameters(), 0.1)])
    assert found["disconnected-parameters"].cause == "disconnection"


def test_random_features_that_a_head_can_learn_from_are_no_fault() -> None:
    body, head = nn.Sequential(nn.Linear(64, 256), nn.ReLU()), nn.Linear(256, 10)
    body.requires_grad_(requires_grad=False)
    model = nn.Sequential(body, head)
    assert not findings(model, [torch.optim.Adam(head.parameters(), 1e-2)])


@pytest.mark.parametrize("apart", [False, True])
def test_gradients_that_are_kept_in_a_part_of_the_model(apart: bool) -> None:
    body, head = layers(64, 32, 16), nn.Sequential(nn.ReLU(), nn.Linear(16, 10))
    model = nn.Sequential(body, head)
    optimizers: list[torch.optim.Optimizer] = (
        [torch.optim.SGD(body.parameters(), 0.02), torch.optim.SGD(head.parameters(), 0.1)]
        if apart
        else [torch.optim.SGD(model.parameters(), 0.02)]
    )

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        head.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss

    found = findings(model, optimizers, step, steps=60)
    assert found["accumulating-gradients"].layers == ("0.0", "0.2")


def test_a_weight_of_the_loss_itself_has_its_gradient_first_and_keeps_none() -> None:
    model = Net(lambda net, x: net.body(x), body=layers(64, 32, 10))  # type: ignore
    model.scale = nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def step(x: Tensor, y: Tensor) -> Tensor:
        scale = model.scale
        assert isinstance(scale, Tensor)
        loss = (F.cross_entropy(model(x), y) * (-scale).exp() + scale).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    assert "accumulating-gradients" not in findings(model, [optimizer], step, steps=60)


@pytest.mark.parametrize(("limit", "sick"), [(1e-6, True), (1e-2, False)])
def test_clipping_by_value(limit: float, sick: bool) -> None:
    model = layers(64, 32, 10)

    def clip() -> None:
        nn.utils.clip_grad_value_(model.parameters(), limit)

    found = findings(model, [torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)], clip=clip)
    assert (found["always-clipped"].cause == "optimizer") if sick else not found


def test_an_optimizer_that_never_steps_is_told_once_the_loop_has_made_many() -> None:
    model = layers(64, 32, 10)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        return loss

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = findings(model, [optimizer], step, steps=120)["stalled-updates"]
    assert (found.severity, found.cause) == (Severity.CRITICAL, "optimizer")
    assert "never called" in found.causes[0].text
    assert findings(model, [optimizer], step, steps=60) == {}  # it may be accumulating


def test_steps_that_peter_out_at_a_rate_that_stays() -> None:
    model = layers(64, 32, 10)
    faded = torch.optim.Adagrad(model.parameters(), 1e-3, lr_decay=50.0)
    found = findings(model, [faded], steps=160)["stalled-updates"]
    assert found.cause == "optimizer"
    usual = layers(64, 32, 10)
    assert findings(usual, [torch.optim.Adagrad(usual.parameters(), 0.02)], steps=160) == {}


@pytest.mark.parametrize(("rate", "sick"), [(4.0, True), (1e-2, False)])
def test_a_head_whose_group_is_far_too_fast(rate: float, sick: bool) -> None:
    model = nn.Sequential(
        nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
    )
    groups = [{"params": model[:4].parameters()}, {"params": model[4:].parameters(), "lr": rate}]
    optimizer = torch.optim.Adam(groups, lr=3e-3)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = (model(x)[:, 0] - torch.randn(len(y))).square().mean()  # there is nothing to learn
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    found = findings(model, [optimizer], step, steps=160)
    assert ("oversized-updates" in found) == sick


def test_adam_does_not_mind_clipping() -> None:
    model = layers(64, 32, 10)

    def clip() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)

    assert not findings(model, [torch.optim.Adam(model.parameters(), 3e-3)], clip=clip)


@pytest.mark.parametrize(("rate", "sick"), [(1e-7, True), (1e-3, False)])
def test_a_group_whose_rate_is_far_too_low(rate: float, sick: bool) -> None:
    body, head = layers(64, 64, 64, 1), nn.Sequential(nn.ReLU(), nn.Linear(1, 10))
    model = nn.Sequential(body, head)
    groups = [{"params": body.parameters(), "lr": rate}, {"params": head.parameters()}]
    found = findings(model, [torch.optim.Adam(groups, 1e-2)], steps=150)
    named = found.get("stalled-updates")
    assert (named is not None) == sick
    if named is not None:
        assert (named.cause, named.layers) == ("learning-rate", ("0.0", "0.2", "0.4"))


def statistics(drifts: Sequence[float], values: int = 64, *, again: bool = False) -> History:
    """Exams of a batch norm with four channels, whose running statistics are so far off."""
    count = 4 * values
    layer = Layer("norm", "BatchNorm1d", weight_shape=(4,), builtin=True)
    output = Stats(count, 0, 0, 0, 0.0, float(count), _octaves(count), 1.0)
    return History.of(
        Record(
            step,
            tuple(Call(layer, i, output=output, drift=drift) for i in range(1 + again)),
        )
        for step, drift in zip((10, 20, 40, 60, 80, 100), drifts, strict=True)
    )


def _octaves(count: int) -> NDArray[np.int64]:

    octaves = np.zeros(OCTAVES, np.int64)
    octaves[0] = count
    return octaves


def test_running_statistics_that_do_not_follow() -> None:
    (found,) = NormStatistics()(statistics([5.0] * 6))
    assert (found.severity, found.cause) == (Severity.CRITICAL, "normalisation")
    (found,) = NormStatistics()(statistics([0.3] * 6))
    assert found.severity == Severity.WARNING
    assert not NormStatistics()(statistics([0.05] * 6))


def test_running_statistics_that_are_on_their_way() -> None:
    assert not NormStatistics()(statistics([3.0, 2.5, 1.7, 1.2, 0.8, 0.5]))
    assert not NormStatistics()(statistics([3.0] * 6, again=True))


def test_batches_of_two() -> None:
    (found,) = NormStatistics()(statistics([2.0, 1.4, 0.5, 0.7, 0.6, 0.4], values=2))
    assert "2 values" in found.causes[0].text


@pytest.mark.parametrize(("strength", "sick"), [(0.3, True), (1e-4, False)])
def test_a_penalty_on_the_weights_in_the_loss(strength: float, sick: bool) -> None:
    model = layers(64, 32, 10)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def step(x: Tensor, y: Tensor) -> Tensor:
        penalty = sum((p.square().sum() for p in model.parameters()), torch.zeros(()))
        loss = F.cross_entropy(model(x), y) + strength * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    found = findings(model, [optimizer], step, steps=150)
    assert ("weight-decay-dominates" in found) == sick
    if sick:
        assert "0.3 times the sum of the squared weights" in (
            found["weight-decay-dominates"].causes[0].text
        )
