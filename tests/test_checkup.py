"""`diagnose`, and what it shares with the rest: batches, errors, and that nothing is changed."""

from __future__ import annotations

import random
import threading
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch import diagnose
from gradwatch.core.finding import Severity
from gradwatch.instrument.probe import Probe
from gradwatch.testing import assert_trainable, trainability
from tests.zoo.trainings import PreNormTransformer, digit_rows, digit_vectors, mlp

CROSS_ENTROPY = nn.CrossEntropyLoss()


def digits_batch(size: int = 32) -> tuple[Tensor, Tensor]:
    inputs, labels = digit_vectors()
    return inputs[:size], labels[:size]


# --- predictions -----------------------------------------------------------------------------


def test_a_vanishing_gradient_is_predicted_before_any_training() -> None:
    report = diagnose(mlp(20, nn.Sigmoid), CROSS_ENTROPY, digits_batch())
    finding = report.finding("vanishing-gradient")
    assert finding is not None
    assert finding.severity == Severity.WARNING  # a prediction
    assert finding.cause == "activation"
    assert report.prescriptions
    assert (report.model, report.step) == ("Sequential", 0)
    assert report.record is not None and report.record.loss is not None
    assert 2 < report.record.loss < 3


@pytest.mark.parametrize("healthy", ["mlp", "transformer"])
def test_nothing_is_predicted_for_a_healthy_network(healthy: str) -> None:
    if healthy == "mlp":
        report = diagnose(mlp(2, nn.ReLU), CROSS_ENTROPY, digits_batch())
    else:
        rows, labels = digit_rows()
        report = diagnose(PreNormTransformer(2), CROSS_ENTROPY, (rows[:32], labels[:32]))
    assert report.healthy
    assert report.ledger.entries


def test_detectors_of_ones_own_are_used_instead() -> None:
    finding = gradwatch.Finding("mine", Severity.NOTE, "seen")
    report = diagnose(
        mlp(1, nn.ReLU), CROSS_ENTROPY, digits_batch(), detectors=[lambda history: (finding,)]
    )
    assert report.findings == (finding,)


def test_a_compiled_model_is_examined_as_the_eager_one() -> None:
    model = mlp(2, nn.ReLU)
    model.compile(backend="eager")
    report = diagnose(model, CROSS_ENTROPY, digits_batch())
    assert report.notes == ()
    assert report.record is not None and len(report.record.calls) == 6
    assert model._compiled_call_impl is not None


def test_a_model_in_eval_mode_is_examined_in_training_mode() -> None:
    """As `from_pretrained` gives it; a frozen part of a model in training mode stays frozen."""
    modes: list[bool] = []

    class Noting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(x)

    diagnose(nn.Sequential(Noting(64, 10)).eval(), CROSS_ENTROPY, digits_batch())
    model = nn.Sequential(Noting(64, 10))
    model[0].eval()
    diagnose(model, CROSS_ENTROPY, digits_batch())
    assert modes == [True, False]


def test_an_error_of_the_probe_is_not_taken_for_one_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> None:
        raise AssertionError("a bug in the probe")

    monkeypatch.setattr(Probe, "_leave", broken)
    with pytest.raises(AssertionError, match="a bug in the probe"):
        diagnose(mlp(1, nn.ReLU), CROSS_ENTROPY, digits_batch())


# --- the model is left as it was -------------------------------------------------------------


class Delicate(nn.Module):
    """Has whatever a step changes: buffers, dropout, counters, a graph; raises when told to."""

    def __init__(self, *, copied: bool, raises: bool) -> None:
        super().__init__()
        self.first = nn.Linear(64, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(16, 10)
        self.head.bias.requires_grad_(False)
        self.raises = raises
        self.calls = 0
        self.seen: dict[str, int] = {}
        self.kept: list[Tensor] = []
        if not copied:
            self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen[str(self.calls)] = self.calls
        x = self.drop(torch.relu_(self.norm(self.first(x))))
        x = x + float(np.random.rand() + random.random())
        self.kept.append(x)
        self.cache = x  # no leaf: a model that was called once cannot be copied any more
        if self.raises and self.calls % 5 == 0:
            raise ValueError("the fifth call")
        return self.head(x)  # type: ignore[no-any-return]


def delicate(*, copied: bool, raises: bool) -> Delicate:
    """Return one in the middle of its life: with gradients, statistics, hooks and a frozen part."""
    model = Delicate(copied=copied, raises=raises)
    inputs, labels = digits_batch()
    if not copied:
        for _ in range(4 if raises else 2):
            F.cross_entropy(model(inputs), labels).backward()
    else:
        model.calls = 4 if raises else 2
        model.first.weight.grad = torch.randn(16, 64)
    model.norm.eval()
    model.first.register_forward_hook(lambda *_: None)
    model.head.weight.register_hook(lambda gradient: gradient * 2)
    return model


def trace(model: nn.Module) -> dict[str, Any]:
    """Return all that a check-up could have left behind on a model, and around it."""
    modules = dict(model.named_modules())
    attributes = {
        f"{name}.{key}": id(value) if isinstance(value, Tensor) else repr(value)
        for name, module in modules.items()
        for key, value in vars(module).items()
    }
    return {
        "attributes": attributes,
        "hooks": {n: [*m._forward_hooks, *m._forward_pre_hooks] for n, m in modules.items()},
        "parameters": [id(p) for p in model.parameters()],
        "gradients": [(id(p.grad), p.requires_grad) for p in model.parameters()],
        "numbers": [t.clone() for t in model.state_dict().values()]
        + [p.grad.clone() for p in model.parameters() if p.grad is not None]
        + [torch.get_rng_state()],
        "random": (random.getstate(), repr(np.random.get_state())),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    numbers = list(zip(before.pop("numbers"), after.pop("numbers"), strict=True))
    return before == after and all(torch.equal(a, b) for a, b in numbers)


CHECKUPS: dict[str, Callable[..., object]] = {
    "diagnose": diagnose,
    "trainability": lambda *arguments: trainability(*arguments, steps=20),
    "assert_trainable": lambda *arguments: assert_trainable(*arguments, steps=20),
}


@pytest.mark.parametrize("raises", [False, True], ids=["works", "raises"])
@pytest.mark.parametrize("copied", [True, False], ids=["copied", "in-place"])
@pytest.mark.parametrize("checkup", CHECKUPS)
def test_the_model_is_left_exactly_as_it_was(checkup: str, copied: bool, raises: bool) -> None:
    """Weights, gradients, buffers, modes, hooks, attributes and random generators."""
    model = delicate(copied=copied, raises=raises)
    before = trace(model)
    if raises:
        with pytest.raises(RuntimeError, match="the forward of Delicate raised ValueError: the f"):
            CHECKUPS[checkup](model, CROSS_ENTROPY, digits_batch())
    else:
        CHECKUPS[checkup](model, CROSS_ENTROPY, digits_batch())
    assert same(before, trace(model))


def test_the_comparison_can_fail() -> None:
    """One forward pass by hand, or one module put in another mode, is seen."""
    model = delicate(copied=True, raises=False)
    before = trace(model)
    model.drop.eval()
    assert not same(before, trace(model))
    before = trace(model)
    model(digits_batch()[0])
    assert not same(before, trace(model))


def test_a_backward_pass_that_is_still_to_come_can_be_made_after_it() -> None:
    for copied in (True, False):
        model = delicate(copied=copied, raises=False)
        inputs, labels = digits_batch()
        loss = F.cross_entropy(model(inputs), labels)
        diagnose(model, CROSS_ENTROPY, (inputs, labels))
        loss.backward()


def test_a_loss_that_reaches_the_model_itself_leaves_no_gradient() -> None:
    """Weight decay written into the loss; a loss function that is a method of the model."""
    model = mlp(1, nn.ReLU)

    def decayed(output: Tensor, labels: Tensor) -> Tensor:
        squares = torch.stack([p.square().sum() for p in model.parameters()])
        return F.cross_entropy(output, labels) + 1e-4 * squares.sum()

    diagnose(model, decayed, digits_batch())
    assert all(p.grad is None for p in model.parameters())

    class WithLoss(nn.Linear):
        def loss(self, output: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(output, labels) + self.weight.square().sum()

    own = WithLoss(64, 10)
    report = diagnose(own, own.loss, digits_batch())
    assert own.weight.grad is None
    assert report.record is not None
    gradient = report.record.parameters[0].gradient
    own.loss(own(digits_batch()[0]), digits_batch()[1]).backward()
    assert gradient is not None and own.weight.grad is not None
    assert gradient.norm == pytest.approx(float(own.weight.grad.norm()), rel=1e-5)


def test_a_loss_module_with_weights_of_its_own_is_left_as_it_was() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(output * self.scale, labels)

    loss = Weighted()
    for copied in (True, False):
        diagnose(delicate(copied=copied, raises=False), loss, digits_batch())
        assert loss.scale.grad is None


def test_the_batch_is_left_as_it_was() -> None:
    """Also by a model that changes its input in place, and where the input requires grad."""
    inputs, labels = digits_batch()
    kept = inputs.clone()
    diagnose(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(64, 10)), CROSS_ENTROPY, digits_batch())
    leaf = inputs.requires_grad_()
    diagnose(nn.Linear(64, 10), CROSS_ENTROPY, (leaf, labels))
    assert torch.equal(inputs, kept)
    assert leaf.grad is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode: Callable[[], Any]) -> None:
    model = mlp(1, nn.ReLU)
    with mode():
        before = trace(model)
        report = diagnose(model, CROSS_ENTROPY, digits_batch())
        assert same(before, trace(model))
    assert report.record is not None and report.record.gradient_norm > 0


def test_a_watched_model_is_watched_on_and_sees_nothing_of_it() -> None:
    model = mlp(1, nn.ReLU)
    with gradwatch.watch(model, strict=True) as watcher:
        diagnose(model, CROSS_ENTROPY, digits_batch())
        trainability(model, CROSS_ENTROPY, digits_batch(), steps=20)
        assert watcher.history.last_step == -1
        F.cross_entropy(model(digits_batch()[0]), digits_batch()[1]).backward()
        watcher.step()
        assert watcher.history.last_step == 0


def test_what_is_random_in_it_is_the_same_every_time() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10))
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        record = diagnose(model, CROSS_ENTROPY, digits_batch()).record
        losses.append(record.loss if record else None)
    assert losses[0] == losses[1] is not None


# --- batches ---------------------------------------------------------------------------------


class Two(nn.Module):
    """Takes two arguments, by place or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor, labels: Tensor | None = None) -> Any:
        output = self.layer(x) + 2 * y
        return output if labels is None else {"loss": (output - labels).square().mean()}


X, Y, T = torch.randn(3, 8, 4).unbind()


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def batches() -> Iterator[tuple[nn.Module, Any, Any, Callable[[Any], Tensor]]]:
    one, two = nn.Linear(4, 4), Two()
    loss = F.mse_loss
    yield one, loss, (X, T), lambda m: loss(m(X), T)
    yield one, loss, [X, T], lambda m: loss(m(X), T)
    yield two, loss, ((X, Y), T), lambda m: loss(m(X, Y), T)
    yield two, loss, [[X, Y], T], lambda m: loss(m(X, Y), T)
    yield two, loss, ({"y": Y, "x": X}, T), lambda m: loss(m(x=X, y=Y), T)
    yield one, lambda output: output.square().sum(), X, lambda m: m(X).square().sum()
    by_name = {"x": X, "y": Y}
    yield two, lambda o, batch: squared(o, batch["x"]), by_name, lambda m: squared(m(X, Y), X)
    own = {"x": X, "y": Y, "labels": T}
    yield two, None, own, lambda m: m(**own)["loss"]
    yield two, None, UserDict(own), lambda m: m(**own)["loss"]  # what tokenizers give


@pytest.mark.parametrize("case", range(9))
def test_a_batch_may_have_any_usual_form(case: int) -> None:
    model, loss_fn, batch, expected = list(batches())[case]
    record = diagnose(model, loss_fn, batch).record
    assert record is not None
    assert record.loss == pytest.approx(expected(model).item(), rel=1e-6)


class Raising(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("no mask")


def raising_loss(output: Tensor, target: Tensor) -> Tensor:
    raise IndexError("no class 11")


LINEAR = nn.Linear(4, 4)
FROZEN = nn.Linear(4, 4).requires_grad_(False)
WRONG: dict[str, tuple[Any, Any, Any, type[Exception], str]] = {
    "no model": (42, squared, (X, T), TypeError, "model must be a torch.nn.Module, got 42"),
    "no parameters": (nn.ReLU(), squared, (X, T), ValueError, "have parameters, ReLU has none"),
    "frozen": (FROZEN, squared, (X, T), ValueError, "all 2 of Linear are frozen"),
    "lazy": (nn.LazyLinear(4), squared, (X, T), ValueError, "`weight` is lazy: call the model"),
    "loss": (LINEAR, "mse", (X, T), TypeError, "loss_fn must be callable, got 'mse' .str."),
    "no loss": (LINEAR, None, (X, T), TypeError, "None only for a mapping as batch"),
    "no own loss": (Two(), None, {"x": X, "y": Y}, TypeError, r"output\[.loss.\], the output is"),
    "one": (LINEAR, squared, (X,), ValueError, "got a tuple of 1 .Tensor."),
    "three": (LINEAR, squared, [X, Y, T], ValueError, "got a list of 3 .Tensor, Tensor, Tensor."),
    "no scalar": (LINEAR, torch.sub, (X, T), ValueError, r"it is a tensor of shape \(8, 4\)"),
    "a number": (LINEAR, lambda o, t: 3.0, (X, T), TypeError, "it is 3.0 .float."),
    "detached": (LINEAR, lambda o, t: o.detach().sum(), (X, T), ValueError, "must require grad"),
    "forward": (Raising(4, 4), squared, (X, T), RuntimeError, "forward of Raising raised KeyErr"),
    "loss raises": (LINEAR, raising_loss, (X, T), RuntimeError, "loss_fn raised IndexError: no c"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("checkup", [diagnose, trainability])
def test_an_error_names_what_is_wrong(checkup: Callable[..., object], name: str) -> None:
    model, loss_fn, batch, kind, said = WRONG[name]
    with pytest.raises(kind, match=said) as caught:
        checkup(model, loss_fn, batch)
    if kind is RuntimeError:
        assert isinstance(caught.value.__cause__, KeyError | IndexError)
