"""`assert_trainable` and `trainability`: is the verdict about the outcome right?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.checking.constant import NotApplicable, best_constant
from gradwatch.core.finding import Finding, Severity
from gradwatch.testing import Trainability, assert_trainable, trainability
from tests.zoo.trainings import (
    Batch,
    NanForward,
    PreNormTransformer,
    digit_images,
    digit_rows,
    digit_scores,
    digit_vectors,
    mlp,
    resnet,
    with_module,
)

CROSS_ENTROPY = nn.CrossEntropyLoss()
STEPS = 60


def first(data: Callable[[], Batch], size: int = 32) -> Batch:
    inputs, targets = data()
    return inputs[:size], targets[:size]


class Residual(nn.Module):
    """Twenty pre-norm blocks with a sigmoid in each: only the skip connections save it."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Sigmoid())
            for _ in range(20)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)  # type: ignore[no-any-return]


class BiasOnly(nn.Module):
    """Ignores its input: all that it can learn is a constant."""

    def __init__(self, *shape: int, last: nn.Module | None = None) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(shape))
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.constant.expand(len(x), *self.constant.shape))  # type: ignore[no-any-return]


# --- the verdict -----------------------------------------------------------------------------


def test_a_deep_sigmoid_net_does_not_train_and_the_log_says_why() -> None:
    """The message has the verdict, the losses, the constant, the main finding and what to try."""
    with pytest.raises(AssertionError) as caught:
        assert_trainable(mlp(20, nn.Sigmoid), CROSS_ENTROPY, first(digit_vectors), steps=STEPS)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("Sequential does not train: the loss went from 2.")
    assert "constant output reaches 2." in lines[0]
    assert lines[1].startswith("Found: critical vanishing-gradient: ")
    assert lines[2].startswith("Because of activation: 20 Sigmoids lose ")
    assert lines[3].startswith("Try: ") and "gradwatch explain swap-activation" in lines[3]
    assert max(map(len, lines)) < 400


def test_a_deep_relu_net_with_pytorchs_own_initialisation_does_not_train() -> None:
    result = trainability(mlp(30, nn.ReLU), CROSS_ENTROPY, first(digit_vectors), steps=STEPS)
    assert not result.trained
    finding = result.report.finding("vanishing-gradient")
    assert finding is not None and finding.cause == "depth"


HEALTHY: dict[str, tuple[Callable[[], nn.Module], nn.Module, Callable[[], Batch]]] = {
    "mlp": (lambda: mlp(2, nn.ReLU), CROSS_ENTROPY, digit_vectors),
    "residual": (Residual, CROSS_ENTROPY, digit_vectors),
    "resnet": (resnet, CROSS_ENTROPY, digit_images),
    "transformer": (lambda: PreNormTransformer(2), CROSS_ENTROPY, digit_rows),
    "regression": (lambda: mlp(2, nn.Tanh), nn.MSELoss(), digit_scores),
    "log-softmax": (
        lambda: nn.Sequential(mlp(1, nn.ReLU), nn.LogSoftmax(1)),
        nn.NLLLoss(),
        digit_vectors,
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_trains(name: str) -> None:
    model, loss, data = HEALTHY[name]
    torch.manual_seed(1)
    assert_trainable(model(), loss, first(data), steps=STEPS)


def test_a_network_that_has_converged_already_passes() -> None:
    """Its loss cannot fall much any more, but it is far below that of a constant."""
    model, (inputs, labels) = mlp(1, nn.ReLU), first(digit_vectors)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    result = trainability(model, CROSS_ENTROPY, (inputs, labels), steps=STEPS)
    assert result.trained
    assert result.baseline is not None and result.losses[0] < 0.05 * result.baseline


def test_a_network_that_learns_its_outputs_bias_only_does_not_train() -> None:
    """Though its loss falls a lot, on classes of very different frequency."""
    labels = torch.tensor([0] * 28 + [1, 2, 3, 4])
    batch = torch.randn(32, 4), labels
    result = trainability(BiasOnly(10), CROSS_ENTROPY, batch, steps=150)
    assert not result.trained
    assert result.losses[-1] < 0.4 * result.losses[0]
    assert result.baseline == pytest.approx(entropy(labels), rel=1e-3)
    assert "it would do as well to ignore its input" in result.reason


def test_a_loss_that_is_not_finite_is_no_training() -> None:
    model = with_module(mlp(2, nn.ReLU), 2, NanForward(7))
    result = trainability(model, CROSS_ENTROPY, first(digit_vectors), steps=STEPS)
    assert not result.trained
    assert math.isnan(result.losses[-1]) and len(result.losses) == 8
    assert "the loss is nan at step 7" in result.reason
    assert result.report.findings[0].name == "non-finite"


def test_a_bad_learning_rate_is_no_fault_of_the_model() -> None:
    """Targets in the hundreds need larger steps than Adam's usual ones: others are tried."""
    inputs, _ = first(digit_vectors)
    batch = inputs, 300 + 100 * inputs[:, 20:23]
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    result = trainability(model, nn.MSELoss(), batch, steps=100)
    assert result.trained
    assert "Adam(lr=0.01)" in result.reason


def test_an_optimizer_of_ones_own_is_the_only_one_tried() -> None:
    asked: list[int] = []

    def lazy_sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        asked.append(len(parameters))
        return torch.optim.SGD(parameters, lr=1e-9)

    model = mlp(1, nn.ReLU)
    model[0].bias.requires_grad_(False)
    result = trainability(model, CROSS_ENTROPY, first(digit_vectors), steps=20, optimizer=lazy_sgd)
    assert not result.trained
    assert "SGD(lr=1e-09)" in result.reason
    assert asked == [3]


def test_the_outcome_is_the_same_whatever_the_random_state() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 10))
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(trainability(model, CROSS_ENTROPY, first(digit_vectors), steps=20).losses)
    assert runs[0] == runs[1]


def test_every_step_is_announced() -> None:
    said: list[tuple[str, int]] = []
    trainability(
        mlp(1, nn.ReLU),
        CROSS_ENTROPY,
        first(digit_vectors),
        steps=30,
        on_step=lambda optimizer, step: said.append((optimizer, step)),
    )
    assert said == [("Adam(lr=0.001)", step) for step in range(30)]


def test_it_can_be_made_to_fail_on_less() -> None:
    """What trains passes unless something as severe as `fail_on` was found."""
    warning = Finding("x", Severity.WARNING, "seen")
    result = Trainability(True, "", (1.0,), None, gradwatch.Report("Net", 9, (warning,)))
    assert result.passes(Severity.CRITICAL)
    assert not result.passes(Severity.WARNING)
    assert not Trainability(False, "", (1.0,), None, gradwatch.Report("Net", 9)).passes(
        Severity.CRITICAL
    )


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"steps": 19}, ValueError, "steps must be an int of at least 20, got 19"),
        ({"steps": True}, ValueError, "steps must be an int"),
        ({"fail_on": "fatal"}, ValueError, '"warning", "critical", got \'fatal\''),
        ({"optimizer": 0.1}, TypeError, "optimizer must be a function of the parameters, got 0.1"),
        ({"optimizer": lambda p: None}, TypeError, "must return a torch optimizer, it returned N"),
        (
            {"optimizer": lambda p: torch.optim.LBFGS(p)},
            RuntimeError,
            "the step of LBFGS.lr=1. raised TypeError",
        ),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        assert_trainable(mlp(1, nn.ReLU), CROSS_ENTROPY, first(digit_vectors), **options)


# --- the best constant -----------------------------------------------------------------------


def entropy(labels: Tensor) -> float:
    shares = torch.bincount(labels).double() / len(labels)
    return -sum(float(p * p.log()) for p in shares if p > 0)


def constant(loss: Callable[[Any], Tensor], output: Any, head: int | None = None) -> float:
    return best_constant(loss, output, output, head).loss


LABELS = torch.tensor([0] * 5 + [1] * 2 + [2])


def test_it_is_the_entropy_for_classes_in_whatever_form_they_are_given() -> None:
    expected = pytest.approx(entropy(LABELS), rel=1e-3)
    logits = torch.randn(8, 3)
    assert constant(lambda o: F.cross_entropy(o, LABELS), logits) == expected
    assert constant(lambda o: F.nll_loss(o, LABELS), logits.log_softmax(1)) == expected
    assert constant(lambda o: F.nll_loss(o.log(), LABELS), logits.softmax(1)) == expected


def test_it_is_the_entropy_for_probabilities_of_yes() -> None:
    """`BCELoss` raises for anything that is no probability."""
    yes = (LABELS > 0).float()
    found = constant(lambda o: F.binary_cross_entropy(o, yes), torch.rand(8))
    assert found == pytest.approx(entropy(yes.long()), rel=1e-3)


def test_it_is_the_variance_or_the_deviation_for_numbers() -> None:
    targets = 1000 * torch.randn(64, 3)
    outputs = torch.randn(64, 3)
    variance = targets.var(0, correction=0).mean()
    found = constant(lambda o: F.mse_loss(o, targets), outputs)
    assert found == pytest.approx(float(variance), rel=1e-4)
    deviation = (targets - targets.median(0).values).abs().mean()
    assert constant(lambda o: F.l1_loss(o, targets), outputs) < 1.1 * float(deviation)


def test_a_sequence_has_one_constant_for_all_positions() -> None:
    """And not one for each, which could nearly know a small batch by heart."""
    tokens = torch.randint(0, 9, (2, 12))
    found = constant(
        lambda o: F.cross_entropy(o.reshape(-1, 9), tokens.reshape(-1)), torch.randn(2, 12, 9)
    )
    assert found == pytest.approx(entropy(tokens.reshape(-1)), rel=1e-2)


def test_an_image_has_one_for_each_pixel_if_the_last_layer_gives_all_of_them() -> None:
    """A `Linear` that makes an image learns the mean image; a convolution the mean colour."""
    images = torch.randn(16, 1, 4, 4) + torch.randn(1, 1, 4, 4)
    pixels = images.var(0, correction=0).mean()

    def loss(output: Tensor) -> Tensor:
        return F.mse_loss(output, images)

    assert constant(loss, torch.randn_like(images), 16) == pytest.approx(float(pixels), rel=1e-4)
    assert constant(loss, torch.randn_like(images), 1) > float(pixels)


def test_a_network_with_a_constant_output_is_never_better_than_it() -> None:
    """Even under a loss whose gradient leads nowhere."""
    targets = torch.linspace(-1, 1, 32)

    def steps(output: Tensor) -> Tensor:
        error = (output - targets).abs()
        return (0.1 * error + (3 * error).round()).mean()

    for value in (-1.0, 0.0, 0.3, 5.0):
        output = torch.full((32,), value)
        found = best_constant(steps, targets + 0.1, output, None)
        assert found.loss <= float(steps(output))
        assert found.floor < found.loss


@pytest.mark.parametrize(
    ("loss", "output", "why"),
    [
        (lambda o: -o.mean(), torch.randn(8, 3), "falls without end"),
        (lambda o: F.cross_entropy(o, LABELS[:5]), torch.randn(5, 3), "as well as any"),
        (lambda o: F.cross_entropy(o, LABELS[:1]), torch.randn(1, 3), "batch of one sample"),
        (lambda o: o.no_such_thing, torch.randn(8, 3), "no attribute 'no_such_thing'"),
        (lambda o: o, 3.0, "holds no tensor"),
    ],
)
def test_where_no_constant_can_be_compared_with_it_says_why(
    loss: Callable[[Any], Tensor], output: Any, why: str
) -> None:
    with pytest.raises(NotApplicable, match=why):
        best_constant(loss, output, output, None)


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Own(nn.Module):
    """Gives a structure, with its own loss where it gets labels, as Hugging Face models do."""

    def __init__(self, inner: nn.Module, kind: Callable[..., Any]) -> None:
        super().__init__()
        self.inner = inner
        self.kind = kind

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.inner(x)
        if labels is None:
            return self.kind(logits=logits)
        return self.kind(logits=logits, loss=F.cross_entropy(logits, labels, ignore_index=-100))


@pytest.mark.parametrize("kind", [dict, Output])
def test_the_own_loss_of_a_model_is_compared_with_a_constant_too(kind: type) -> None:
    inputs, labels = first(digit_vectors)
    labels[:4] = -100
    batch = {"x": inputs, "labels": labels}
    healthy = trainability(Own(mlp(1, nn.ReLU), kind), None, batch, steps=STEPS)
    assert healthy.trained
    assert healthy.baseline == pytest.approx(entropy(labels[4:]), rel=1e-2)
    assert not trainability(Own(BiasOnly(10), kind), None, batch, steps=STEPS).trained


def test_without_a_constant_the_loss_has_to_halve() -> None:
    inputs, labels = first(digit_vectors)

    def loss(output: Output, labels: Tensor) -> Tensor:
        return F.cross_entropy(output.logits, labels)

    healthy = trainability(Own(mlp(1, nn.ReLU), Output), loss, (inputs, labels), steps=STEPS)
    assert (healthy.trained, healthy.baseline) == (True, None)
    assert "at least halved (judged so, because the output (Output) holds no" in healthy.reason
    assert not trainability(Own(BiasOnly(10), Output), loss, (inputs, labels), steps=20).trained


def test_it_is_there_with_the_package() -> None:
    """`import gradwatch` is enough."""
    assert gradwatch.testing.assert_trainable is assert_trainable
