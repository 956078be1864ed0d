"""What is out of the ordinary where nothing is proved, what one step predicts, and look-alikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Severity
from gradwatch.core.history import History
from gradwatch.detectors import _suspects
from gradwatch.detectors.disconnected import DisconnectedParameters
from gradwatch.detectors.forgotten import ForgottenParameters
from gradwatch.detectors.no_skill import LearnsNothing
from gradwatch.detectors.nonfinite import NonFinite
from gradwatch.detectors.squashed_logits import SquashedLogits
from gradwatch.detectors.stalled import StalledUpdates
from gradwatch.detectors.zero_gradient import ZeroGradient

Batch = tuple[Tensor, Tensor]
MIX = torch.randn(16, 4, generator=torch.Generator().manual_seed(5))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def labels() -> Batch:
    x = torch.randn(64, 16)
    return x, (x @ MIX).argmax(1)


def net(*ends: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4), *ends)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Read(nn.Module):
    """The last answer of a recurrent net on sequences of 8."""

    def __init__(self, kind: type[nn.RNNBase], scale: float = 1.0) -> None:
        super().__init__()
        self.rnn, self.head, self.scale = kind(2, 8, batch_first=True), nn.Linear(8, 4), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.scale * x.view(-1, 8, 2))[0][:, -1])  # type: ignore[no-any-return]


def watched(
    model: nn.Module, steps: int = 2, loss_fn: Any = F.cross_entropy, rate: float = 1e-3
) -> History:
    optimizer = torch.optim.SGD(model.parameters(), rate)
    with gradwatch.watch(model, optimizer, strict=True, detectors=[], every_n_steps=10) as watcher:
        for _ in range(steps):
            x, y = labels()
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    return watcher.history


def large(kind: type[nn.RNNBase]) -> Read:
    model = Read(kind)
    for parameter in model.rnn.parameters():
        nn.init.normal_(parameter, std=8.0)
    return model


def halved(x: Tensor) -> Tensor:
    return (x.half() * 1.0).float()


SUSPECTS: dict[str, tuple[Callable[[], nn.Module], float, str]] = {
    "ordinary": (net, 0.05, "data"),
    "no steps to speak of": (net, 1e-9, "learning-rate"),
    "steps of its own size": (net, 50.0, "learning-rate"),
    "volts into a recurrent net": (lambda: Read(nn.GRU, 1e-5), 0.1, "data-scale"),
    "ordinary sequences": (lambda: Read(nn.GRU), 0.1, "data"),
    "recurrent weights of 8": (lambda: large(nn.LSTM), 0.1, "init"),
    "a bell": (
        lambda: nn.Sequential(
            nn.Linear(16, 32), Function(lambda x: torch.exp(-((8 * x) ** 2))), nn.Linear(32, 4)
        ),
        0.1,
        "activation",
    ),
    "an island of half precision": (
        lambda: nn.Sequential(nn.Linear(16, 32), Function(halved), nn.Linear(32, 4)),
        0.1,
        "precision",
    ),
}


@pytest.mark.parametrize("name", SUSPECTS)
def test_what_is_out_of_the_ordinary_is_suspected(name: str) -> None:
    build, rate, cause = SUSPECTS[name]
    records = watched(build(), rate=rate).records
    found = _suspects.suspect(records[0], records[0])
    assert found.name == cause, found
    assert found.text


def test_a_table_of_embeddings_is_no_oversized_weight() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(64, 64), nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x.abs().argmax(1)))  # type: ignore[no-any-return]

    records = watched(Tokens(), rate=0.1).records
    assert _suspects.suspect(records[0], records[0]).name == "data"


# --- a check-up: what one step tells ---------------------------------------------------------


PREDICTED: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "a temperature of 100": (
        lambda: net(Function(lambda x: x / 100)),
        F.cross_entropy,
        "squashed-logits",
    ),
    "a temperature of 1/1000": (
        lambda: net(Function(lambda x: x * 1000)),
        F.cross_entropy,
        "saturated-output",
    ),
    "prices": (
        net,
        lambda output, target: F.mse_loss(output[:, 0], 1e4 * (target + 1.0)),
        "unscaled-targets",
    ),
    "units that are dead": (
        lambda: net(nn.Linear(4, 64), Function(lambda x: x - 100), nn.ReLU(), nn.Linear(64, 4)),
        F.cross_entropy,
        "dead-units",
    ),
}


@pytest.mark.parametrize("name", PREDICTED)
def test_what_one_step_can_tell_is_predicted(name: str) -> None:
    build, loss_fn, finding = PREDICTED[name]
    report = gradwatch.diagnose(build(), loss_fn, labels())
    found = report.finding(finding)
    assert found is not None, report
    assert found.severity == Severity.WARNING
    assert "prediction" in found.confidence


@pytest.mark.parametrize("zero", ["head", "branch"])
def test_zeros_that_are_meant_are_not_predicted_to_stay(zero: str) -> None:
    """A head of zeros (its layers in front get no gradient in the first step)."""
    model = net(nn.ReLU(), nn.Linear(4, 4))
    nn.init.zeros_(model[-1].weight if zero == "head" else model[2].weight)
    report = gradwatch.diagnose(model, F.cross_entropy, labels())
    assert report.finding("zero-gradient") is None


# --- look-alikes -----------------------------------------------------------------------------


def test_a_constant_in_the_loss_does_not_make_it_flat() -> None:
    """Of a loss of 1000 nobody sees what is learnt; the gradient at the output tells."""
    model = net()
    history = watched(model, 120, lambda o, t: F.cross_entropy(o, t) + 1000, rate=0.5)
    assert LearnsNothing()(history) == ()


def test_weights_that_are_copied_from_a_master_are_not_forgotten() -> None:
    model = net()
    master = [p.detach().clone().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.SGD(master, 0.5)
    with gradwatch.watch(model, optimizer, strict=True, detectors=[], every_n_steps=5) as watcher:
        for _ in range(40):
            x, y = labels()
            loss = F.cross_entropy(model(x), y)
            model.zero_grad()
            loss.backward()
            for own, copied in zip(master, model.parameters(), strict=True):
                own.grad = copied.grad.clone()  # type: ignore[union-attr]
            optimizer.step()
            with torch.no_grad():
                for own, copied in zip(master, model.parameters(), strict=True):
                    copied.copy_(own)
            watcher.step(loss)
    assert ForgottenParameters()(watcher.history) == ()


def test_descent_by_hand_with_functional_gradients_is_connected() -> None:
    """`torch.autograd.grad` leaves nothing in `.grad`: a training that learns is connected."""
    model = net()
    with gradwatch.watch(model, strict=True, detectors=[], every_n_steps=5) as watcher:
        for _ in range(60):
            x, y = labels()
            loss = F.cross_entropy(model(x), y)
            gradients = torch.autograd.grad(loss, [*model.parameters()])
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.5 * gradient
            watcher.step(loss)
    assert all(f.severity == Severity.NOTE for f in DisconnectedParameters()(watcher.history))


def test_a_hinge_is_no_cross_entropy_of_nothing() -> None:
    def hinge(output: Tensor, target: Tensor) -> Tensor:
        return (1 - (2.0 * (target % 2) - 1) * output[:, 0]).clamp(min=0).mean()

    class One(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :1]  # type: ignore[no-any-return]

    assert SquashedLogits()(watched(One(*net()), 60, hinge, rate=0.1)) == ()


def test_a_gradient_that_is_zero_everywhere_is_told_whatever_the_loss_does() -> None:
    """The loss of a policy wanders about by itself."""

    def wandering(output: Tensor, target: Tensor) -> Tensor:
        return output.sum() * 0 + 0.01 * torch.randn(()) + 0.02

    (found,) = ZeroGradient()(watched(net(), 60, wandering))
    assert found.severity == Severity.CRITICAL


def test_a_loss_that_has_often_no_value_is_not_over_when_it_has_one_again() -> None:
    step = iter(range(1000))

    def log(output: Tensor, target: Tensor) -> Tensor:
        loss = F.cross_entropy(output, target)
        return loss + (torch.nan if next(step) < 30 else 0.0)

    (found,) = NonFinite()(watched(net(), 100, log, rate=0.1))
    assert found.severity >= Severity.WARNING


# --- what is made of good gradients ----------------------------------------------------------


def test_an_optimizer_that_never_steps() -> None:
    """Of two, one is forgotten: its weights get gradients and stay what they are."""
    model = net(nn.ReLU(), nn.Linear(4, 64))
    first = torch.optim.SGD(model[:3].parameters(), 0.3)
    second = torch.optim.SGD(model[3:].parameters(), 0.3)
    for forgotten, layers in ((True, ("4",)), (False, None)):
        options: Any = {"strict": True, "detectors": [], "every_n_steps": 10}
        with gradwatch.watch(model, [first, second], **options) as watcher:
            for _ in range(60):
                x, y = labels()
                loss = F.cross_entropy(model(x), y)
                model.zero_grad()
                loss.backward()
                first.step()
                if not forgotten:
                    second.step()
                watcher.step(loss)
        found = [f for f in StalledUpdates()(watcher.history) if f.cause == "disconnection"]
        assert (found[0].layers if found else None) == layers


@pytest.mark.parametrize(("momentum", "sick"), [(0.9999, True), (0.5, False)])
def test_answers_that_become_worse_than_constant_by_heavy_momentum(
    momentum: float, sick: bool
) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=momentum)
    with gradwatch.watch(model, optimizer, strict=True, detectors=[], every_n_steps=10) as watcher:
        for _ in range(200):
            x, y = labels()
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    found = LearnsNothing()(watcher.history)
    assert bool(found) == sick
    assert [f.cause for f in found] == (["optimizer"] if sick else [])
