"""A NaN is found where and when it was put in, examined or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gradwatch.core.finding import Finding, Severity
from gradwatch.detectors.nonfinite import NonFinite
from tests.zoo.trainings import (
    NanBackward,
    NanForward,
    Training,
    digit_vectors,
    mlp,
    run,
    with_module,
)

BASE = Training(lambda: mlp(4, nn.ReLU), digit_vectors, steps=16)


def finding(training: Training, **options: object) -> Finding:
    watcher, _ = run(training, **options)  # type: ignore[arg-type]
    (found,) = NonFinite()(watcher.history)
    return found


@pytest.mark.parametrize("every_n_steps", [1, 50])
@pytest.mark.parametrize(("position", "step"), [(0, 0), (4, 7), (6, 12), (8, 3)])
def test_born_in_the_forward_pass(position: int, step: int, every_n_steps: int) -> None:
    model = lambda: with_module(mlp(4, nn.ReLU), position, NanForward(step))  # noqa: E731
    found = finding(replace(BASE, model=model), every_n_steps=every_n_steps)
    assert (found.since, found.layers[0]) == (step, str(position))
    assert "forward" in found.summary
    assert found.severity == Severity.CRITICAL


@pytest.mark.parametrize("every_n_steps", [1, 50])
@pytest.mark.parametrize(("position", "step"), [(3, 0), (4, 7), (7, 12)])
def test_born_in_the_backward_pass(position: int, step: int, every_n_steps: int) -> None:
    model = lambda: with_module(mlp(4, nn.ReLU), position, NanBackward(step))  # noqa: E731
    found = finding(replace(BASE, model=model), every_n_steps=every_n_steps)
    assert found.since == step
    assert found.layers[0].split(":")[0] == str(position)
    assert "backward" in found.summary


@pytest.mark.parametrize("every_n_steps", [1, 50])
@pytest.mark.parametrize(("layer", "step"), [(0, 5), (4, 9)])
def test_a_weight_that_is_poisoned(layer: int, step: int, every_n_steps: int) -> None:
    def poison(model: nn.Module, now: int) -> None:
        if now == step:
            with torch.no_grad():
                model.get_parameter(f"{layer}.weight")[1, 2] = torch.nan

    found = finding(replace(BASE, disturb=poison), every_n_steps=every_n_steps)
    assert (found.since, found.layers[0]) == (step, str(layer))
    if every_n_steps == 1 or step == 5:  # an examined step knows that it was the weight
        assert "weights" in found.summary


@pytest.mark.parametrize("step", [0, 9])
def test_an_operation_that_is_no_module(step: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x = torch.relu(self.a(x))
            x = torch.log(x - x - 1) if self.calls == step + 1 else x * 1.0
            return self.c(torch.relu(self.b(x)))  # type: ignore[no-any-return]

    found = finding(replace(BASE, model=Net))
    assert found.since == step
    assert "b" in found.layers
    assert "into `b`" in found.summary


def test_a_batch_that_is_not_finite_is_no_fault_of_the_model() -> None:
    def data() -> tuple[Tensor, Tensor]:
        inputs, targets = digit_vectors()
        inputs = inputs.clone()
        inputs[::50, 3] = torch.inf
        return inputs, targets

    found = finding(replace(BASE, data=data))
    assert found.cause == "data"
    assert "input" in found.summary


def test_born_in_the_loss() -> None:
    class Loss(nn.Module):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return (output.sum() * 0 - 1).log()

    found = finding(replace(BASE, loss=Loss()))
    assert found.since == 0
    assert found.layers == ()
    assert "loss" in found.summary


def test_without_taps_the_step_is_still_exact_and_the_layer_is_not_made_up() -> None:
    model = lambda: with_module(mlp(4, nn.ReLU), 4, NanForward(12))  # noqa: E731
    found = finding(replace(BASE, model=model), trace_forward=False)
    assert found.since == 12
    assert "4" not in found.layers


def test_a_gradient_that_was_skipped_over_is_a_note() -> None:
    """A loop that throws non-finite gradients away goes on, and is not alarmed for ever."""
    import gradwatch

    torch.manual_seed(0)
    model = mlp(4, nn.ReLU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = digit_vectors()
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        for step in range(16):
            loss = nn.functional.cross_entropy(model(inputs[:64]), targets[:64])
            loss = loss * torch.nan if step == 8 else loss
            optimizer.zero_grad()
            loss.backward()
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad.nan_to_num_()
            optimizer.step()
    (found,) = NonFinite()(watcher.history)
    assert (found.since, found.severity) == (8, Severity.NOTE)
    assert "over" in found.summary


class Once(nn.Module):
    """Applies a function from one of its calls on."""

    def __init__(self, function: Callable[[Tensor], Tensor], step: int) -> None:
        super().__init__()
        self.function, self.step, self.calls = function, step, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.function(x) if self.calls > self.step else x * 1.0


def by_hand(x: Tensor) -> Tensor:
    exponentials = (1000 * x).exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


@pytest.mark.parametrize("step", [0, 7])
@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (by_hand, "exp"),
        (lambda x: (x - x.detach()).log(), "log"),
        (lambda x: x.masked_fill(x < 1e9, -torch.inf).softmax(-1), "softmax"),
        (lambda x: x / (0 * x).std(0), "std"),
        (lambda x: torch.where(x > 0, x.sqrt(), 0 * x), "sqrt"),
    ],
    ids=["softmax by hand", "log of zero", "all masked", "no deviation", "where"],
)
def test_the_operation_is_named(
    function: Callable[[Tensor], Tensor], operation: str, step: int
) -> None:
    model = lambda: with_module(mlp(4, nn.ReLU), 5, Once(function, step))  # noqa: E731
    found = finding(replace(BASE, model=model))
    assert (found.since, found.cause) == (step, "numerics")
    assert found.layers[0].partition(":")[0] == "5"
    assert any(layer.startswith(f"5:{operation}") for layer in found.layers), found.layers


def test_targets_that_are_not_finite() -> None:
    def data() -> tuple[Tensor, Tensor]:
        inputs, labels = digit_vectors()
        targets = nn.functional.one_hot(labels, 10).float()
        targets[::8, 2] = torch.nan
        return inputs, targets

    found = finding(replace(BASE, data=data, loss=nn.MSELoss()))
    assert (found.since, found.cause, found.layers) == (0, "data", ())


def test_an_epsilon_that_is_zero_in_half_precision() -> None:
    def data() -> tuple[Tensor, Tensor]:
        inputs, labels = digit_vectors()
        return inputs.half(), labels

    training = replace(
        BASE,
        model=lambda: mlp(2, nn.ReLU).half(),
        data=data,
        optimizer=torch.optim.Adam,
        learning_rate=1e-3,
    )
    found = finding(training)
    assert (found.since, found.cause) == (1, "precision")


def test_an_operation_that_leaves_the_range_of_half_precision() -> None:
    class Distances(nn.Module):
        """Squared distances to ten centres, worked out in half precision and given in single."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(64, 8)
            self.centres = nn.Parameter(torch.randn(10, 8))

        def forward(self, x: Tensor) -> Tensor:
            apart = (300 * self.encoder(x))[:, None].half() - self.centres.half()
            return -apart.pow(2).sum(-1).float()

    found = finding(replace(BASE, model=Distances))
    assert (found.since, found.cause) == (0, "precision")
    assert "float16" in found.causes[0].text


def test_a_loss_of_nan_with_finite_gradients_is_not_over() -> None:
    class Loss(nn.Module):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return nn.functional.cross_entropy(output, target) + 0 * output.mean() + torch.nan

    found = finding(replace(BASE, loss=Loss()))
    assert found.severity >= Severity.WARNING
    assert "the loss is" in found.summary
