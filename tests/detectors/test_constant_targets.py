"""One class for all samples is told; what only looks like it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Finding, Severity
from gradwatch.detectors.constant_targets import ConstantTargets


def watched(targets: Iterator[Tensor], loss_fn: Callable[..., Tensor]) -> tuple[Finding, ...]:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.watch(model, optimizer, strict=True, detectors=[], every_n_steps=10) as watcher:
        for target in targets:
            loss = loss_fn(model(torch.randn(32, 8)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    return ConstantTargets()(watcher.history)


def same(batch: int) -> Tensor:
    return torch.full((32,), 2)


def test_one_class_for_all() -> None:
    (found,) = watched(map(same, range(60)), F.cross_entropy)
    assert (found.severity, found.cause, found.numbers["classes"]) == (Severity.CRITICAL, "data", 4)
    (found,) = watched(map(same, range(15)), F.cross_entropy)
    assert found.severity == Severity.WARNING


@pytest.mark.parametrize("rare", [1, 10])
def test_one_other_sample_is_enough(rare: int) -> None:
    def almost(batch: int) -> Tensor:
        target = same(batch)
        target[0] = 1 if batch % rare == 0 else 2
        return target

    assert watched(map(almost, range(60)), F.cross_entropy) == ()


def test_a_discriminator_sees_one_kind_at_a_time() -> None:
    real = (torch.ones(32, 4) for _ in range(60))
    assert watched(real, F.binary_cross_entropy_with_logits) == ()


def test_a_file_that_is_sorted_by_class_changes_in_the_end() -> None:
    assert watched((torch.full((32,), i // 15) for i in range(60)), F.cross_entropy) != ()
    shuffled = (torch.full((32,), i // 15) if i < 30 else torch.arange(32) % 4 for i in range(60))
    assert watched(shuffled, F.cross_entropy) == ()


def column(value: float, other: float | None = None) -> Iterator[Tensor]:
    return (torch.full((32, 4), value if i % 2 or other is None else other) for i in range(60))


def test_one_number_for_all() -> None:
    (found,) = watched(column(2.5), F.mse_loss)
    assert (found.severity, found.cause) == (Severity.CRITICAL, "data")
    assert "all targets are 2.5" in found.summary


@pytest.mark.parametrize(
    "targets",
    [column(0.0), column(1.0), column(-1.0), column(2.5, 3.5)],
    ids=["a residual", "a discriminator's real ones", "its other ones", "one for each batch"],
)
def test_numbers_that_may_well_be_the_same(targets: Iterator[Tensor]) -> None:
    assert watched(targets, F.mse_loss) == ()
