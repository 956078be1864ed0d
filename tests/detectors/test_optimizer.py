"""Learning rates, optimizers and number formats: closed forms, and small trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import Columns, History, Pulse
from gradwatch.core.record import Group, Parameter, Record
from gradwatch.core.stats import OCTAVES, Stats
from gradwatch.detectors import _jumps, _steps
from gradwatch.detectors.accumulating_gradients import AccumulatingGradients
from gradwatch.detectors.always_clipped import AlwaysClipped
from gradwatch.detectors.ascending_loss import AscendingLoss
from gradwatch.detectors.epsilon import EpsilonDominates
from gradwatch.detectors.lost_updates import LostUpdates
from gradwatch.detectors.oversized import OversizedUpdates
from gradwatch.detectors.spike import GradientSpike
from gradwatch.detectors.stalled import StalledUpdates
from gradwatch.detectors.weight_decay import WeightDecayDominates

STEPS = (0, 1, 2, 5, 10, 20, 40)
DETECTORS = (
    AccumulatingGradients(),
    AlwaysClipped(),
    AscendingLoss(),
    EpsilonDominates(),
    LostUpdates(),
    OversizedUpdates(),
    GradientSpike(),
    StalledUpdates(),
    WeightDecayDominates(),
)


def stats(rms: float, count: int = 100, zeros: int = 0) -> Stats:
    """Statistics of numbers of one size."""
    return Stats(count, zeros, 0, 0, 0.0, rms**2 * count, np.zeros(OCTAVES, np.int64), rms)


def parameter(
    *, gradient: float = 0.1, update: float = 1e-3, weight: float = 1.0, cosine: float = 1.0
) -> Parameter:
    """A weight of a hundred elements."""
    return Parameter(
        "0.weight",
        (10, 10),
        gradient=stats(gradient),
        weight=stats(weight),
        update=stats(update),
        sample=stats(weight),
        group=0,
        dtype="float32",
        descent=cosine,
        carried=0.0,
    )


def history(
    one: Parameter | Sequence[Parameter],
    group: Group,
    losses: Callable[[int], float] = lambda step: 1.0,
    clip: float = 1.0,
) -> History:
    """Exams of one weight, and the pulses of every step."""
    parameters = [one] * len(STEPS) if isinstance(one, Parameter) else list(one)
    records = [
        Record(step, (), (each,), losses(step), clip, groups=(group,))
        for step, each in zip(STEPS, parameters, strict=True)
    ]
    columns = Columns(("0.weight",))
    norms, outputs = np.ones(1, np.float32), np.zeros(0, np.float32)
    pulses = [
        Pulse(step, columns, norms, outputs, losses(step), True, clip)
        for step in range(STEPS[-1] + 1)
    ]
    return History.of(records, pulses)


SGD = Group("SGD", 0.1, 0.0)
ADAM = Group("Adam", 1e-3, 0.0, 1e-8, 0.9, 0.999)


def test_a_step_promises_the_product_of_gradient_and_movement() -> None:
    record = Record(0, (), (parameter(gradient=0.1, update=0.01, cosine=0.5),))
    assert _steps.promised(record) == pytest.approx(0.5 * 1.0 * 0.1)
    assert _steps.direction(record) == pytest.approx(0.5)


def test_the_walk_is_the_area_under_the_steps() -> None:
    walk = _steps.walk(history(parameter(gradient=0.1, update=0.01), SGD))
    assert walk is not None
    assert walk.promise == pytest.approx(40 * 0.1)
    assert walk.movement == pytest.approx(40 * 0.01)
    assert walk.response == pytest.approx(10)


def test_steps_that_promise_next_to_nothing_are_stalled() -> None:
    (finding,) = StalledUpdates()(history(parameter(update=1e-7), SGD))
    assert finding.cause == "learning-rate"


def test_they_are_not_while_the_loss_falls() -> None:
    assert not StalledUpdates()(history(parameter(update=1e-7), SGD, lambda s: 1 - s / 60))


def test_a_loss_that_does_not_depend_on_the_weights_is_not_the_rate_s_fault() -> None:
    assert not StalledUpdates()(history(parameter(gradient=1e-4, update=1e-6), SGD))


def test_an_optimizer_that_gets_no_gradient_is_told_from_a_low_rate() -> None:
    (finding,) = StalledUpdates()(history(parameter(update=0.0), SGD, clip=0.0))
    assert (finding.cause, finding.severity) == ("optimizer", Severity.CRITICAL)
    (finding,) = StalledUpdates()(history(parameter(update=0.0), replace(SGD, learning_rate=0.0)))
    assert finding.cause == "learning-rate"


def test_clipping_is_blamed_only_if_it_makes_the_difference() -> None:
    slow = parameter(update=1e-6)
    (finding,) = AlwaysClipped()(history(slow, SGD, clip=1e-3))
    assert finding.cause == "optimizer"
    assert not AlwaysClipped()(history(slow, SGD, clip=0.5))
    # Adam: the factor has no influence on its steps.
    assert not AlwaysClipped()(history(parameter(update=1e-6, cosine=0.6), ADAM, clip=1e-3))


def test_epsilon_has_to_be_larger_than_the_gradients() -> None:
    small = parameter(gradient=1e-11, update=1e-6)
    (finding,) = EpsilonDominates()(history(small, ADAM))
    assert finding.numbers["ratio"] == pytest.approx(1e-3)
    assert not EpsilonDominates()(history(parameter(gradient=1e-6, update=1e-6), ADAM))
    assert not EpsilonDominates()(history(small, ADAM, lambda s: 1 - s / 60))


def test_weights_must_really_have_shrunk_under_decay() -> None:
    decay = replace(SGD, weight_decay=1.0)
    shrinking = [parameter(gradient=0.1, weight=0.9**step) for step in STEPS]
    (finding,) = WeightDecayDominates()(history([*shrinking[:6], parameter(weight=0.2)], decay))
    assert finding.severity == Severity.CRITICAL
    assert not WeightDecayDominates()(history(parameter(gradient=0.1), decay))


@pytest.mark.parametrize(("cosine", "found"), [(-1.0, True), (-0.4, True), (0.4, False)])
def test_every_step_has_to_go_up_the_gradient(cosine: float, found: bool) -> None:
    assert bool(AscendingLoss()(history(parameter(cosine=cosine), SGD))) is found


def test_one_step_down_the_gradient_is_enough() -> None:
    mixed = [parameter(cosine=1.0), *(parameter(cosine=-0.5) for _ in STEPS[1:])]
    assert not AscendingLoss()(history(mixed, SGD))


def test_updates_are_lost_in_a_coarse_format_only() -> None:
    lost = replace(parameter(), update=stats(1e-4, zeros=90))
    assert not LostUpdates()(history(lost, SGD))
    (finding,) = LostUpdates()(history(replace(lost, dtype="bfloat16"), SGD))
    assert finding.numbers["lost"] == pytest.approx(0.9)


def test_a_jump_of_loss_and_gradient_alike_is_a_factor_of_the_loss() -> None:
    columns = Columns(("0.weight", "0.bias"), ("0",))

    def pulse(step: int, factor: float, output: float = 1.0) -> Pulse:
        norms = np.asarray([factor, factor], np.float32)
        return Pulse(step, columns, norms, np.asarray([output], np.float32), factor, True)

    usual = [pulse(step, 1.0 + 0.01 * (step % 3)) for step in range(40)]
    pulses = [*usual, pulse(40, 500.0)]
    assert _jumps.jumps(pulses) == [40]
    assert _jumps.source(History(), pulses, 40).cause == "loss"
    thrown = [*usual, pulse(40, 500.0, output=900.0)]
    assert _jumps.source(History(), thrown, 40).cause == "learning-rate"


def findings(
    make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer],
    *,
    order: str = "zero backward step",
    steps: int = 60,
    known: bool = True,
) -> list[Finding]:
    """Train a small net on a plane, watched, and return what is wrong."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = make(list(model.parameters()))
    watcher = gradwatch.watch(
        model, optimizer if known else None, strict=True, every_n_steps=20, detectors=DETECTORS
    )
    for _ in range(steps):
        x = torch.randn(64, 8)
        loss: Tensor = F.mse_loss(model(x), x[:, :1] - x[:, 1:2])
        for action in order.split():
            if action == "zero":
                optimizer.zero_grad()
            elif action == "backward":
                loss.backward()
            else:
                optimizer.step()
        watcher.step(loss)
    watcher.close()
    assert all(
        math.isfinite(number) for f in watcher.report().findings for number in f.numbers.values()
    )
    return [f for f in watcher.report().findings if f.severity >= Severity.WARNING]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3),
        lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, 3e-3),
    ],
)
def test_a_training_that_learns_hears_nothing(
    make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer], known: bool
) -> None:
    assert not findings(make, known=known)


@pytest.mark.parametrize(
    ("make", "order", "name", "cause"),
    [
        (
            lambda p: torch.optim.SGD(p, 0.1),
            "backward step",
            "accumulating-gradients",
            "optimizer",
        ),
        (
            lambda p: torch.optim.SGD(p, 0.1),
            "backward zero step",
            "stalled-updates",
            "optimizer",
        ),
        (
            lambda p: torch.optim.Adam(p, 1e-7),
            "zero backward step",
            "stalled-updates",
            "learning-rate",
        ),
        (
            lambda p: torch.optim.Adam(p, 1e-2, maximize=True),
            "zero backward step",
            "ascending-loss",
            "optimizer",
        ),
        (
            lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=50.0),
            "zero backward step",
            "weight-decay-dominates",
            "optimizer",
        ),
        (
            lambda p: torch.optim.Adam(p, 1e-2, eps=100.0),
            "zero backward step",
            "epsilon-dominates",
            "optimizer",
        ),
    ],
)
def test_a_fault_is_named_with_its_cause(
    make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer],
    order: str,
    name: str,
    cause: str,
) -> None:
    found = {finding.name: finding.cause for finding in findings(make, order=order)}
    assert found.get(name) == cause, found
