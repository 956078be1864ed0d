"""What the gradient at the output tells of the loss and of its targets, against slow loops that
know the targets; and what must not be taken for one of these losses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import mean, variance

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

import gradwatch
from gradwatch.core.answer import Answer, heads, read
from gradwatch.core.losses import (
    ABSOLUTE_ERROR,
    BINARY,
    BINARY_OF_PROBABILITIES,
    CROSS_ENTROPY,
    FIELDS,
    NLL,
    SQUARED_ERROR,
)
from gradwatch.instrument.answer import LARGEST, read_targets, readable

Loss = Callable[[Tensor], Tensor]


def answered(output: Tensor, loss: Loss, *, told: bool = True, scale: float = 1.0) -> Answer:
    """Make one backward pass, and read the answer from what arrives at the output."""
    y = output.detach().clone().requires_grad_()
    value = loss(y)
    (gradient,) = torch.autograd.grad(value * scale, y)
    assert readable(y, gradient)
    return read(read_targets(y, gradient).tolist(), value.item() if told else None)


def entropy_of(
    labels: Sequence[int], classes: int, weights: Sequence[float] | None = None
) -> float:
    """The loss of the best constant answer, corrected for the batch that it is estimated from."""
    shares: Counter[int] = Counter()
    for label in labels:
        shares[label] += 1.0 if weights is None else weights[label]  # type: ignore[assignment]
    whole = sum(shares.values())
    entropy = -sum(s / whole * math.log(s / whole) for s in shares.values())
    return min(entropy + (len(shares) - 1) / (2 * len(labels)), math.log(classes))


def binary_entropy(column: Sequence[float], positive: float = 1.0) -> float:
    """The same for answers of yes and no."""
    n, ones = len(column), sum(column)
    if ones in (0, n):
        return 0.0
    share = positive * ones / (positive * ones + n - ones)
    mass = (positive * ones + n - ones) / n
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    return mass * min(entropy + 1 / (2 * n), math.log(2))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape) * 2


# --- cross-entropy -------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy(classes: int, reduction: str, told: bool) -> None:
    labels = torch.randint(0, classes, (64,))
    y = logits(64, classes)
    got = answered(y, lambda y: F.cross_entropy(y, labels, reduction=reduction), told=told)
    assert (got.kind, got.through) == (CROSS_ENTROPY, "")
    assert got.loss == pytest.approx(F.cross_entropy(y, labels).item(), rel=1e-4)
    assert got.constant == pytest.approx(entropy_of(labels.tolist(), classes), rel=1e-4)
    assert got.balance < 1e-5
    assert (got.samples, got.columns, got.classes) == (64, classes, classes)


@pytest.mark.parametrize("weight", [1e-6, 0.3, 1000.0])
def test_a_weight_of_the_loss_and_a_loss_scale_change_nothing(weight: float) -> None:
    labels = torch.randint(0, 5, (32,))
    y = logits(32, 5)
    got = answered(y, lambda y: weight * F.cross_entropy(y, labels), told=False)
    scaled = answered(y, lambda y: F.cross_entropy(y, labels), scale=2.0**16)
    assert got.kind == scaled.kind == CROSS_ENTROPY
    expected = F.cross_entropy(y, labels).item()
    assert got.loss == pytest.approx(expected, rel=1e-4)
    assert scaled.loss == pytest.approx(expected, rel=1e-4)


def test_rows_that_are_ignored_do_not_count() -> None:
    labels = torch.randint(0, 5, (64,))
    labels[::3] = -100
    y = logits(64, 5)
    got = answered(y, lambda y: F.cross_entropy(y, labels))
    assert got.kind == CROSS_ENTROPY
    assert got.loss == pytest.approx(F.cross_entropy(y, labels).item(), rel=1e-4)
    kept = [label for label in labels.tolist() if label >= 0]
    assert got.constant == pytest.approx(entropy_of(kept, 5), rel=1e-4)


@pytest.mark.parametrize("told", [True, False])
def test_weights_of_the_classes(told: bool) -> None:
    labels = torch.randint(0, 4, (200,))
    weights = torch.tensor([1.0, 5.0, 0.2, 2.0])
    y = logits(200, 4)
    got = answered(y, lambda y: F.cross_entropy(y, labels, weights), told=told)
    assert got.kind == CROSS_ENTROPY
    assert got.loss == pytest.approx(F.cross_entropy(y, labels, weights).item(), rel=1e-3)
    expected = entropy_of(labels.tolist(), 4, weights.tolist())
    assert got.constant == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("size", [10.0, 30.0, 100.0, 1e4])
def test_answers_that_are_right_beyond_rounding_are_right(size: float) -> None:
    labels, y = torch.randint(0, 10, (64,)), size * torch.randn(64, 10)
    got = answered(y, lambda y: F.cross_entropy(y, labels))
    assert got.kind == CROSS_ENTROPY
    # Rows without any gradient may be right, or not counted: that cannot be told.
    assert got.loss >= 0.999 * F.cross_entropy(y, labels).item()


@pytest.mark.parametrize("told", [True, False])
def test_label_smoothing(told: bool) -> None:
    labels = torch.randint(0, 10, (64,))
    y = logits(64, 10)
    got = answered(y, lambda y: F.cross_entropy(y, labels, label_smoothing=0.1), told=told)
    assert got.kind == CROSS_ENTROPY
    expected = F.cross_entropy(y, labels, label_smoothing=0.1).item()
    assert got.loss == pytest.approx(expected, rel=1e-3)


def test_targets_that_are_no_single_class() -> None:
    targets = torch.randn(64, 6).softmax(-1)
    y = logits(64, 6)
    got = answered(y, lambda y: F.cross_entropy(y, targets))
    assert got.kind == CROSS_ENTROPY
    shares = targets.mean(0).tolist()
    expected = -sum(share * math.log(share) for share in shares)
    expected = min(expected + 5 / 128, math.log(6))
    assert got.constant == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("shape", [(8, 5, 7), (8, 5, 4, 4)])
def test_classes_along_the_second_axis(shape: tuple[int, ...]) -> None:
    labels = torch.randint(0, 5, (shape[0], *shape[2:]))
    y = logits(*shape)
    got = answered(y, lambda y: F.cross_entropy(y, labels))
    assert (got.kind, got.classes) == (CROSS_ENTROPY, 5)
    assert got.loss == pytest.approx(F.cross_entropy(y, labels).item(), rel=1e-4)


def test_classes_along_the_last_axis() -> None:
    labels = torch.randint(0, 9, (8, 6))
    y = logits(8, 6, 9)
    got = answered(y, lambda y: F.cross_entropy(y.flatten(0, 1), labels.flatten()))
    assert (got.kind, got.classes) == (CROSS_ENTROPY, 9)
    assert got.constant == pytest.approx(entropy_of(labels.flatten().tolist(), 9), rel=1e-4)


def test_log_likelihood() -> None:
    labels = torch.randint(0, 5, (64,))
    y = logits(64, 5).log_softmax(-1)
    got = answered(y, lambda y: F.nll_loss(y, labels))
    assert got.kind == NLL
    assert got.loss == pytest.approx(F.nll_loss(y, labels).item(), rel=1e-4)


def test_half_precision_is_precise_enough() -> None:
    labels = torch.randint(0, 5, (64,))
    y = logits(64, 5).bfloat16()
    assert answered(y, lambda y: F.cross_entropy(y, labels)).kind == CROSS_ENTROPY


# --- functions between the model and the loss ----------------------------------------------------


def test_a_softmax_before_the_cross_entropy() -> None:
    labels = torch.randint(0, 10, (64,))
    y = logits(64, 10)
    got = answered(y, lambda y: F.cross_entropy(y.softmax(-1), labels))
    assert (got.kind, got.through) == (CROSS_ENTROPY, "softmax")
    assert got.loss == pytest.approx(F.cross_entropy(y.softmax(-1), labels).item(), rel=1e-4)
    inside = answered(y.softmax(-1), lambda y: F.cross_entropy(y, labels))
    assert (inside.kind, inside.through, inside.probabilities) == (CROSS_ENTROPY, "", True)


def test_a_squared_error_of_a_softmax() -> None:
    labels = torch.randint(0, 4, (64,))
    y = logits(64, 4)
    target = F.one_hot(labels, 4).float()
    got = answered(y, lambda y: F.mse_loss(y.softmax(-1), target))
    assert (got.kind, got.through) == (SQUARED_ERROR, "softmax")
    assert got.loss == pytest.approx(F.mse_loss(y.softmax(-1), target).item(), rel=1e-4)
    best = F.mse_loss(target.mean(0).expand(64, 4), target).item()
    assert got.constant == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("loss", [F.binary_cross_entropy_with_logits, F.mse_loss])
def test_a_sigmoid_before_the_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    target = torch.randint(0, 2, (64, 3)).float()
    y = logits(64, 3)
    got = answered(y, lambda y: loss(y.sigmoid(), target))
    assert got.through == "sigmoid"
    assert got.loss == pytest.approx(loss(y.sigmoid(), target).item(), rel=1e-4)


def test_logits_that_are_divided_before_the_loss() -> None:
    labels, y = torch.randint(0, 10, (64,)), logits(64, 10)
    got = answered(y, lambda y: F.cross_entropy(y / 1000, labels))
    assert (got.kind, got.through) == (CROSS_ENTROPY, "temperature")
    assert got.loss == pytest.approx(math.log(10), rel=1e-4)


def test_outputs_that_are_zero_are_logits_like_any() -> None:
    labels, y = torch.randint(0, 10, (64,)), torch.zeros(64, 10)
    assert answered(y, lambda y: F.cross_entropy(y, labels)).through == ""
    target = labels[:, None].remainder(2).float()
    got = answered(y[:, :1], lambda y: F.binary_cross_entropy_with_logits(y, target))
    assert (got.kind, got.through) == (BINARY, "")


# --- yes and no ----------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("columns", [1, 7])
def test_binary_cross_entropy(columns: int, told: bool) -> None:
    target = (torch.rand(64, columns) < 0.3).float()
    y = logits(64, columns)
    got = answered(y, lambda y: F.binary_cross_entropy_with_logits(y, target), told=told)
    assert (got.kind, got.through) == (BINARY, "")
    expected = F.binary_cross_entropy_with_logits(y, target).item()
    assert got.loss == pytest.approx(expected, rel=1e-4)
    best = mean(binary_entropy(column) for column in target.T.tolist())
    assert got.constant == pytest.approx(best, rel=1e-4)


def test_binary_cross_entropy_without_a_second_axis() -> None:
    target = (torch.rand(64) < 0.3).float()
    got = answered(logits(64), lambda y: F.binary_cross_entropy_with_logits(y, target))
    assert got.kind == BINARY
    assert got.constant == pytest.approx(binary_entropy(target.tolist()), rel=1e-4)


@pytest.mark.parametrize("told", [True, False])
def test_a_weight_of_the_positive_ones(told: bool) -> None:
    target = (torch.rand(256, 1) < 0.1).float()
    y = logits(256, 1)
    weight = torch.tensor(9.0)

    def loss(y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(y, target, pos_weight=weight)

    got = answered(y, loss, told=told)
    assert got.kind == BINARY
    assert got.loss == pytest.approx(loss(y).item(), rel=1e-3)
    assert got.constant == pytest.approx(binary_entropy(target[:, 0].tolist(), 9.0), rel=0.02)


def test_entries_that_are_masked_do_not_count() -> None:
    target = (torch.rand(128, 4) < 0.4).float()
    mask = torch.rand(128, 4) < 0.5
    y = logits(128, 4)

    def loss(y: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(y, target, reduction="none")
        return each[mask].mean()

    got = answered(y, loss)
    assert got.kind == BINARY
    assert got.loss == pytest.approx(loss(y).item(), rel=1e-3)


def test_certain_logits_whose_gradient_is_zero_count() -> None:
    target = (torch.rand(64) < 0.5).float()
    y = torch.where(target > 0, 40.0, -40.0) + torch.randn(64)
    y[0] = -y[0]

    def loss(y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(y, target)

    assert answered(y, loss).loss == pytest.approx(loss(y).item(), rel=1e-3)


def test_binary_cross_entropy_of_probabilities() -> None:
    target = (torch.rand(64, 2) < 0.3).float()
    p = logits(64, 2).sigmoid()
    got = answered(p, lambda p: F.binary_cross_entropy(p, target))
    assert got.kind == BINARY_OF_PROBABILITIES
    assert got.loss == pytest.approx(F.binary_cross_entropy(p, target).item(), rel=1e-4)


# --- squared errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize("reduction", ["mean", "sum", "sample"])
@pytest.mark.parametrize("shape", [(64, 1), (64,), (32, 4), (16, 3, 5)])
def test_squared_error(shape: tuple[int, ...], reduction: str, factor: float) -> None:
    target = 3 + 2 * torch.randn(*shape)
    y = torch.randn(*shape)

    def loss(y: Tensor) -> Tensor:
        squares = (y - target).square()
        whole = {
            "mean": squares.mean(),
            "sum": squares.sum(),
            "sample": squares.flatten(1).sum(1).mean() if len(shape) > 1 else squares.mean(),
        }
        return factor * whole[reduction]

    got = answered(y, loss)
    assert got.kind == SQUARED_ERROR
    assert got.loss == pytest.approx(F.mse_loss(y, target).item(), rel=1e-3)
    columns = target.reshape(shape[0], -1).T.tolist()
    assert got.constant == pytest.approx(mean(variance(c) for c in columns), rel=1e-3)
    assert got.target_rms == pytest.approx(target.square().mean().sqrt().item(), rel=1e-3)
    assert got.target_mean == pytest.approx(target.mean().item(), rel=1e-3)
    assert got.residual == pytest.approx((y - target).square().mean().sqrt().item(), rel=1e-3)


def test_squared_error_under_a_loss_scale() -> None:
    target, y = 50 * torch.randn(64, 1), torch.randn(64, 1)
    got = answered(y, lambda y: F.mse_loss(y, target), scale=2.0**16)
    assert got.kind == SQUARED_ERROR
    assert got.target_rms == pytest.approx(target.square().mean().sqrt().item(), rel=1e-3)


def test_squared_error_of_the_action_that_was_taken() -> None:
    action = torch.randint(0, 4, (64, 1))
    target, y = 7 + torch.randn(64), torch.randn(64, 4)
    got = answered(y, lambda y: F.mse_loss(y.gather(1, action)[:, 0], target))
    assert got.kind == SQUARED_ERROR
    assert got.target_mean == pytest.approx(target.mean().item(), rel=1e-3)
    of_actions = [target[action[:, 0] == a] for a in range(4)]
    squares = sum((t - t.mean()).square().sum().item() for t in of_actions)
    assert got.constant == pytest.approx(squares / 60, rel=1e-3)


def test_squared_error_with_another_factor_is_known_by_what_several_exams_agree_on() -> None:
    target, y = torch.randn(64, 1), torch.randn(64, 1)
    y.requires_grad_()
    value = F.mse_loss(y, target) / 100
    (gradient,) = torch.autograd.grad(value, y)
    row = read_targets(y, gradient).tolist()
    assert read(row, value.item()).kind == ""
    got = read(row, value.item(), factor=0.01)
    assert got.kind == SQUARED_ERROR
    assert got.loss == pytest.approx(F.mse_loss(y, target).item(), rel=1e-3)
    assert read(row, value.item(), factor=0.02).kind == ""


@pytest.mark.parametrize("loss", [F.l1_loss, F.smooth_l1_loss])
def test_an_absolute_error_tells_how_far_off_the_answers_are(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    target, y = 500 * torch.randn(64, 2), torch.randn(64, 2)
    got = answered(y, lambda y: loss(y, target))
    assert (got.kind, got.skill) == (ABSOLUTE_ERROR, None)
    assert got.residual == pytest.approx((y - target).abs().mean().item(), rel=0.01)


# --- what is none of these -----------------------------------------------------------------------


def _policy(y: Tensor) -> Tensor:
    chosen = Categorical(logits=y)
    advantage = torch.randn(len(y))
    return -(chosen.log_prob(chosen.sample()) * advantage).mean()


def _focal(y: Tensor) -> Tensor:
    each = F.cross_entropy(y, torch.arange(len(y)) % y.shape[1], reduction="none")
    return ((1 - (-each).exp()) ** 2 * each).mean()


def _hinge(y: Tensor) -> Tensor:
    return F.multi_margin_loss(y, torch.arange(len(y)) % y.shape[1])


TARGET = torch.randn(64, 5, generator=torch.Generator().manual_seed(3))
NOT_KNOWN: dict[str, Loss] = {
    "Huber": lambda y: F.huber_loss(y, 3 * TARGET),
    "log-cosh": lambda y: (y - 3 * TARGET).cosh().log().mean(),
    "squared error and a penalty of the weights": lambda y: F.mse_loss(y, TARGET) + 0.3,
    "squared error and a penalty of the output": lambda y: F.mse_loss(y, TARGET) + y.abs().mean(),
    "policy gradient": _policy,
    "focal": _focal,
    "hinge": _hinge,
    "critic": lambda y: -y.mean(),
    "logarithm of the squared error": lambda y: F.mse_loss(y, TARGET).log(),
    "root of the squared error": lambda y: F.mse_loss(y, TARGET).sqrt(),
    "cosine": lambda y: 1 - F.cosine_similarity(y, TARGET).mean(),
    "Poisson": lambda y: F.poisson_nll_loss(y, TARGET.square().round()),
    "Gaussian": lambda y: F.gaussian_nll_loss(y, TARGET, 0.5 + TARGET.square()),
}


@pytest.mark.parametrize("name", NOT_KNOWN)
def test_another_loss_is_not_taken_for_one_of_these(name: str) -> None:
    got = answered(logits(64, 5), NOT_KNOWN[name])
    assert got.kind == "", got
    assert got.skill is None


def test_the_gradient_of_a_policy_is_balanced() -> None:
    assert answered(logits(64, 5), _policy).balance < 1e-5
    assert answered(logits(64, 5), lambda y: F.mse_loss(y, TARGET)).balance > 0.5


def test_the_entropy_tells_a_certain_policy_from_an_open_one() -> None:
    assert answered(0.01 * logits(64, 5), _policy).entropy > 0.99
    assert answered(1000 * logits(64, 5), _policy).entropy < 0.05


def test_no_gradient_at_all_is_no_loss() -> None:
    got = answered(logits(64, 5), lambda y: (0 * y).sum() + 1)
    assert got.kind == ""
    assert got.size == 0


def test_magnitudes_of_an_absolute_error_are_even() -> None:
    assert answered(logits(64, 5), lambda y: F.l1_loss(y, 9 * TARGET)).uneven < 1e-5
    assert answered(logits(64, 5), lambda y: F.mse_loss(y, 9 * TARGET)).uneven > 0.2


def test_what_a_prior_pulls_to_zero_is_seen() -> None:
    got = answered(logits(64, 5), lambda y: 0.5 * y.square().sum(-1).mean(), told=False)
    assert got.prior < 1e-5
    assert answered(logits(64, 5), lambda y: F.mse_loss(y, TARGET)).prior > 0.1


def test_the_first_loss_of_a_generator_is_seen() -> None:
    got = answered(logits(64, 1), lambda y: -F.softplus(y).mean(), told=False)
    assert got.minimax < 1e-5
    other = answered(logits(64, 1), lambda y: F.softplus(-y).mean(), told=False)
    assert not other.minimax < 0.1


@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_logits_that_are_too_small_would_be_better_larger(factor: float) -> None:
    labels = torch.randint(0, 5, (256,))
    y = factor * (3 * F.one_hot(labels, 5) + torch.randn(256, 5))
    got = answered(y, lambda y: F.cross_entropy(y, labels))
    assert got.cool == (2.0 if factor == 1 else 256.0)
    cooled = F.cross_entropy(got.cool * y, labels).item()
    assert got.cool_loss == pytest.approx(cooled, rel=1e-4)
    assert cooled < F.cross_entropy(got.cool / 2 * y, labels).item()


# --- several outputs, several calls --------------------------------------------------------------


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(x).relu()
        return self.a(hidden), self.b(hidden)


class OwnLoss(nn.Module):
    """Returns its loss beside its logits, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        y = self.head(x)
        return {"loss": F.cross_entropy(y, labels), "logits": y}


def record_of(model: nn.Module, loss: Callable[[nn.Module], Tensor], backwards: int = 1) -> Answer:
    """Watch one step of a real loop."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, optimizer, strict=True, detectors=[]) as watcher:
        for _ in range(backwards):
            value = loss(model)
            (value / backwards).backward()
        optimizer.step()
        watcher.step(value)
        record = watcher.history.records[0]
    assert record.output
    assert len(record.output) % len(FIELDS) == 0
    return record.answer or Answer()


def test_two_heads_are_read_each_and_the_loss_is_that_of_none() -> None:
    model, x = Heads(), torch.randn(64, 6)
    labels, target = torch.randint(0, 3, (64,)), torch.randn(64, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, optimizer, strict=True, detectors=[]) as watcher:
        a, b = model(x)
        loss = F.cross_entropy(a, labels) + F.mse_loss(b, target)
        loss.backward()
        optimizer.step()
        watcher.step(loss)
        record = watcher.history.records[0]
    first, second = heads(record.output)
    assert (first.kind, second.kind) == (CROSS_ENTROPY, "")
    assert first.loss == pytest.approx(F.cross_entropy(a, labels).item(), rel=1e-4)
    assert record.answer is not None
    assert (record.answer.kind, record.answer.outputs) == ("", 2)


def test_a_head_that_the_loss_does_not_read_is_not_counted() -> None:
    x, labels = torch.randn(64, 6), torch.randint(0, 3, (64,))
    got = record_of(Heads(), lambda model: F.cross_entropy(model(x)[0], labels))
    assert (got.kind, got.outputs) == (CROSS_ENTROPY, 1)


def test_a_loss_that_the_model_computes_itself_is_read() -> None:
    x, labels = torch.randn(64, 6), torch.randint(0, 3, (64,))
    got = record_of(OwnLoss(), lambda model: model(x, labels)["loss"])
    assert got.kind == CROSS_ENTROPY
    assert got.constant == pytest.approx(entropy_of(labels.tolist(), 3), rel=1e-4)


def test_of_several_micro_batches_the_last_one_is_read() -> None:
    x, labels = torch.randn(64, 6), torch.randint(0, 3, (64,))
    model = nn.Linear(6, 3)
    got = record_of(model, lambda model: F.cross_entropy(model(x), labels), backwards=4)
    assert got.kind == CROSS_ENTROPY


def test_an_output_that_is_too_large_is_read_in_part() -> None:
    y = torch.randn(4, 300, 4096)
    labels = torch.randint(0, 4096, (4, 300))
    assert y.numel() > LARGEST
    got = answered(y, lambda y: F.cross_entropy(y.flatten(0, 1), labels.flatten()), told=False)
    assert got.kind == CROSS_ENTROPY
    assert got.loss == pytest.approx(
        F.cross_entropy(y.flatten(0, 1), labels.flatten()).item(), rel=0.05
    )


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), ()])
def test_what_is_no_batch_is_not_read(shape: tuple[int, ...]) -> None:
    y = torch.zeros(shape)
    assert not readable(y, y)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 1e-300, 0.0])
@pytest.mark.parametrize("shape", [(8, 3), (8,), (8, 3, 4)])
def test_numbers_that_are_none_are_no_error(shape: tuple[int, ...], value: float) -> None:
    y, g = torch.randn(shape).double(), torch.randn(shape).double()
    for output, gradient in ((y.clone().index_fill_(0, torch.tensor(2), value), g), (y, g * value)):
        row = read_targets(output, gradient).tolist()
        for told in (None, 0.0, 1.0, math.nan, math.inf, -1.0, 1e-320):
            assert read(row, told).kind in ("", SQUARED_ERROR)
            assert len(heads(row)) == 1
