"""What is wrong with the output: thresholds in closed form, and small trainings of other kinds than
the specimens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.losses import FIELDS
from gradwatch.core.record import Call, Layer, Parameter, Record
from gradwatch.core.stats import Stats
from gradwatch.detectors import _ending
from gradwatch.detectors.collapsed_output import CollapsedOutput
from gradwatch.detectors.drowned_task import DrownedTask
from gradwatch.detectors.no_skill import LearnsNothing
from gradwatch.detectors.saturated_output import SaturatedOutput
from gradwatch.detectors.squashed_logits import SquashedLogits
from gradwatch.detectors.unscaled_targets import UnscaledTargets
from gradwatch.detectors.zero_gradient import ZeroGradient

Detector = Callable[[History], tuple[Finding, ...]]
Batch = tuple[Tensor, Tensor]
OUTPUT: tuple[Detector, ...] = (
    CollapsedOutput(),
    DrownedTask(),
    LearnsNothing(),
    SaturatedOutput(),
    SquashedLogits(),
    UnscaledTargets(),
    ZeroGradient(),
)
CENTERS = 2 * torch.randn(4, 8, generator=torch.Generator().manual_seed(1))


def clusters() -> Batch:
    labels = torch.randint(0, 4, (64,))
    return CENTERS[labels] + torch.randn(64, 8), labels


def net(outputs: int = 4, *ends: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, outputs), *ends)


def trained(
    model: nn.Module,
    loss_fn: Callable[[Any, Tensor], Tensor],
    steps: int = 120,
    rate: float = 1e-2,
    data: Callable[[], Batch] = clusters,
) -> History:
    """Train with Adam and return what was recorded."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    with gradwatch.watch(model, optimizer, strict=True, every_n_steps=20, detectors=[]) as watcher:
        for _ in range(steps):
            inputs, targets = data()
            loss = loss_fn(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    return watcher.history


def said(history: History) -> dict[str, tuple[Severity, str]]:
    found = [finding for detector in OUTPUT for finding in detector(history)]
    return {finding.name: (finding.severity, finding.cause) for finding in found}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def one_hot(output: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(output, F.one_hot(labels, 4).float())


def odd(output: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output[:, 0], (labels % 2).float())


# --- squashed logits -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "loss_fn"),
    [
        (lambda: net(4, nn.Softmax(-1)), F.cross_entropy),
        (lambda: net(4), lambda y, t: F.cross_entropy(y.softmax(-1), t)),
        (lambda: net(1, nn.Sigmoid()), odd),
        (lambda: net(1), lambda y, t: odd(y.sigmoid(), t)),
        (lambda: net(4), lambda y, t: F.cross_entropy(y / 1e4, t)),
    ],
    ids=["softmax", "softmax outside", "sigmoid", "sigmoid outside", "temperature outside"],
)
def test_a_function_too_many_is_said_at_once(model: Any, loss_fn: Any) -> None:
    (finding,) = SquashedLogits()(trained(model(), loss_fn, steps=1))
    assert (finding.name, finding.cause) == ("squashed-logits", "loss")
    assert finding.severity == Severity.WARNING


@pytest.mark.parametrize("classes", [2, 10])
def test_the_loss_of_probabilities_cannot_fall_below_this(classes: int) -> None:
    best = F.cross_entropy(torch.eye(classes), torch.arange(classes)).item()
    history = trained(net(classes, nn.Softmax(-1)), lambda y, t: F.cross_entropy(y, t % classes), 1)
    (finding,) = SquashedLogits()(history)
    assert finding.numbers["floor"] == pytest.approx(best, rel=1e-5)


# --- saturated outputs ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "gain", "lost"), [("Sigmoid", -2, 0), ("Tanh", -5, 5)])
def test_bits_are_lost_beyond_those_at_the_steepest(kind: str, gain: float, lost: float) -> None:
    call = Call(Layer("f", kind), gain=gain)
    record = Record(0, output=(0.0,) * len(FIELDS))
    assert record.answer is not None
    assert _ending.lost_bits(call, record.answer) == pytest.approx(lost)


def test_a_sigmoid_that_was_born_flat_is_the_losss_doing() -> None:
    model = net(4, nn.Sigmoid())
    nn.init.constant_(model[2].bias, -30.0)
    assert said(trained(model, one_hot, rate=1e-3))["saturated-output"] == (
        Severity.CRITICAL,
        "loss",
    )


def test_so_is_one_outside_of_the_model() -> None:
    model = net(4)
    nn.init.constant_(model[2].bias, -16.0)
    history = trained(model, lambda y, t: one_hot(y.sigmoid(), t), rate=1e-3)
    assert said(history)["saturated-output"] == (Severity.CRITICAL, "loss")


@pytest.mark.parametrize("loss_fn", [F.mse_loss, F.l1_loss])
def test_targets_out_of_a_tanhs_range_are_out_of_reach(loss_fn: Any) -> None:
    history = trained(net(1, nn.Tanh()), lambda y, t: loss_fn(y[:, 0], 30.0 * t - 45), steps=60)
    assert said(history)["saturated-output"] == (Severity.CRITICAL, "activation")


# --- targets -------------------------------------------------------------------------------------


def test_logits_that_cannot_be_negative_deny_nothing() -> None:
    def loss_fn(output: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output[:, 0], (labels % 2).float())

    found = said(trained(net(1, nn.ReLU()), loss_fn))
    assert found["saturated-output"][1] == "loss"
    assert "saturated-output" not in said(trained(net(1), loss_fn))


def regression(scale: float) -> Callable[[], Batch]:
    def sample() -> Batch:
        inputs = torch.randn(64, 8)
        return inputs, scale * (inputs[:, :1] + 0.5 * inputs[:, 1:2] * inputs[:, 2:3])

    return sample


@pytest.mark.parametrize("scale", [1e5, 1e-5])
def test_targets_in_other_units(scale: float) -> None:
    history = trained(net(1), F.mse_loss, rate=1e-3, data=regression(scale))
    (finding,) = UnscaledTargets()(history)
    assert (finding.severity, finding.cause) == (Severity.CRITICAL, "data-scale")


def test_targets_far_from_zero_that_are_reached_but_for_what_tells_them_apart() -> None:
    def far(output: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(output, targets + 300)

    history = trained(net(1), far, steps=400, rate=1e-2, data=regression(1.0))
    assert said(history)["unscaled-targets"][1] == "data-scale"
    history = trained(net(1), F.mse_loss, steps=400, rate=1e-2, data=regression(1.0))
    assert said(history) == {}


def test_a_sigmoid_before_the_cross_entropy_that_has_come_down_to_its_floor() -> None:
    history = trained(net(4, nn.Sigmoid()), F.cross_entropy, steps=300)
    floor = math.log1p(3 * math.exp(-1))  # three wrong classes at 0, the right one at 1
    finding = next(iter(SquashedLogits()(history)))
    assert (finding.severity, finding.cause) == (Severity.WARNING, "loss")
    assert finding.numbers["floor"] == pytest.approx(floor)
    assert finding.numbers["loss"] < 1.1 * floor


def test_weights_from_zero_to_one_are_named_however_far_the_loss_has_come_down() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    model.append(nn.Linear(64, 4))
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    history = trained(model, lambda y, t: F.cross_entropy(y, torch.randint_like(t, 4)), steps=160)
    (finding,) = SaturatedOutput()(history)
    assert (finding.cause, finding.since) == ("init", 0)


# --- zeros ---------------------------------------------------------------------------------------


class Op(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("function", [torch.round, torch.sign, torch.floor, torch.ceil])
def test_what_has_no_derivative_is_where_the_zero_begins(function: Any) -> None:
    model = nn.Sequential(nn.Linear(8, 6), Op(function), nn.Linear(6, 4))
    (finding,) = ZeroGradient()(trained(model, F.cross_entropy, steps=25))
    assert finding.cause == "disconnection"
    assert finding.layers == ("0",)
    assert finding.causes[0].layers[0].startswith("1")


def test_a_loss_that_counts_has_no_gradient() -> None:
    def wrong(output: Tensor, labels: Tensor) -> Tensor:
        return 1 - ((output > 0).float() + 0 * output).gather(1, labels[:, None]).mean()

    assert said(trained(net(), wrong))["zero-gradient"] == (Severity.CRITICAL, "loss")


def test_a_softmax_over_one_unit_says_nothing() -> None:
    def loss_fn(output: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy(output[:, 0], (labels % 2).float())

    assert said(trained(net(1, nn.Softmax(-1)), loss_fn))["zero-gradient"][1] == "loss"


def test_two_layers_of_zeros_get_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert said(trained(model, F.cross_entropy))["zero-gradient"] == (Severity.CRITICAL, "init")


def test_one_gradient_in_any_exam_is_enough() -> None:
    zero = Stats(4, 4, 0, 0, 0.0, 0.0, Stats.empty().octaves, 0.0)
    some = replace(zero, zeros=3, total=1.0, squares=1.0, peak=1.0)
    outer = Call(Layer("", "Net"), grad_output=zero)

    def history(*gradients: Stats) -> History:
        parameters = [(Parameter("a.weight", (2, 2), gradient=g),) for g in gradients]
        return History.of(Record(10 * i, (outer,), p) for i, p in enumerate(parameters))

    assert len(ZeroGradient()(history(zero, zero, zero))) == 1
    assert ZeroGradient()(history(zero, some, zero)) == ()
    assert ZeroGradient()(history(zero, zero)) == ()


# --- heads and skill -----------------------------------------------------------------------------


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.name, self.size = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.trunk(x)
        return self.name(hidden), self.size(hidden), x


@pytest.mark.parametrize("units", [1.0, 3e3])
def test_a_task_is_drowned_by_one_in_large_units(units: float) -> None:
    model = Heads()
    nn.init.zeros_(model.name.weight)  # no luck at the start
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, optimizer, strict=True, every_n_steps=20, detectors=[]) as watcher:
        for _ in range(160):
            inputs, labels = clusters()
            named, size, x = model(inputs)
            loss = F.cross_entropy(named, labels) + F.mse_loss(size, units * x[:, :1])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            watcher.step(loss)
    found = DrownedTask()(watcher.history)
    assert [finding.layers for finding in found] == ([("name",)] if units > 1 else [])


def test_labels_that_say_nothing_of_the_inputs_are_not_learnt() -> None:
    history = trained(net(), F.cross_entropy, 200, 1e-3, lambda: (clusters()[0], clusters()[1]))
    (finding,) = LearnsNothing()(history)
    assert (finding.severity, finding.cause) == (Severity.CRITICAL, "data")
    assert abs(finding.numbers["skill"]) < 0.03


@pytest.mark.parametrize(
    ("outputs", "ends", "loss_fn"),
    [
        (4, (), F.cross_entropy),
        (4, (nn.LogSoftmax(-1),), F.nll_loss),
        (4, (nn.LogSoftmax(-1),), F.cross_entropy),
        (4, (nn.Sigmoid(),), one_hot),
        (4, (nn.Softmax(-1),), one_hot),
        (4, (nn.Softmax(-1),), lambda y, t: F.nll_loss((y + 1e-8).log(), t)),
        (4, (Op(lambda y: 10 * y.tanh()),), F.cross_entropy),
        (4, (Op(lambda y: y / 8),), F.cross_entropy),
        (1, (), odd),
        (1, (nn.Sigmoid(),), lambda y, t: F.binary_cross_entropy(y[:, 0], (t % 2).float())),
        (1, (nn.Tanh(),), lambda y, t: F.mse_loss(y[:, 0], (t % 2) * 2.0 - 1)),
        (1, (), lambda y, t: F.mse_loss(y[:, 0], 10.0 + t)),
        (1, (), lambda y, t: F.l1_loss(y[:, 0], 3.0 * t)),
        (1, (), lambda y, t: F.poisson_nll_loss(y[:, 0], t.float())),
        (4, (), F.multi_margin_loss),
    ],
)
def test_a_training_that_learns_hears_nothing(outputs: int, ends: Any, loss_fn: Any) -> None:
    history = trained(net(outputs, *ends), loss_fn)
    assert said(history) == {}
    begun = History.of(history.records[:6], history.pulses[:21])
    assert not [s for s, _ in said(begun).values() if s > Severity.WARNING]


def test_no_answer_is_no_reason_to_speak() -> None:
    assert said(History.of([Record(10 * i, loss=math.nan) for i in range(5)])) == {}
