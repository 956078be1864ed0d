"""What most cases of the corpus are made of: batches, one ordinary step, and scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Trial
from tests.zoo.trainings import Batch, digit_vectors

Sample = Callable[[], Batch]
Loss = Callable[[Tensor, Tensor], Tensor]


def supervised(
    model: nn.Module,
    sample: Sample,
    optimizer: torch.optim.Optimizer,
    loss_fn: Loss = F.cross_entropy,
    *,
    score: Callable[[], float] | None = None,
) -> Trial:
    """Set up the ordinary loop: one batch, one loss, one backward, one step of the optimizer."""

    def step(_: int) -> Tensor:
        inputs, targets = sample()
        loss = loss_fn(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return Trial(model, [optimizer], step, score=score, sample=sample, loss_fn=loss_fn)


def adam(model: nn.Module, rate: float = 1e-2) -> torch.optim.Optimizer:
    """Adam over all parameters that are to be trained."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)


def sgd(model: nn.Module, rate: float = 0.1, momentum: float = 0.0) -> torch.optim.Optimizer:
    """Stochastic gradient descent over all parameters that are to be trained."""
    held = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(held, lr=rate, momentum=momentum)


def drawn(data: Batch, size: int = 64) -> Sample:
    """Draw batches out of a data set; they depend on the global seed."""

    def sample() -> Batch:
        picked = torch.randint(0, len(data[0]), (size,))
        return data[0][picked], data[1][picked]

    return sample


def digit_batches(size: int = 64) -> Sample:
    """Draw batches of handwritten digits as vectors of 64 standardised pixels."""
    return drawn(vectors(), size)


@cache
def vectors() -> Batch:
    """Read the digits once: cases are built by the hundred."""
    return digit_vectors()


def error_rate(model: nn.Module, data: Batch | None = None) -> Callable[[], float]:
    """Score by the share of samples (of all digits by default) that are classified wrongly."""
    inputs, targets = vectors() if data is None else data

    def score() -> float:
        was_training = model.training
        model.eval()
        wrong = (model(inputs).argmax(-1) != targets).float().mean().item()
        model.train(was_training)
        return wrong  # type: ignore[no-any-return]

    return score


def backbone(width: int = 32, outputs: int = 10) -> nn.Sequential:
    """A multi-layer perceptron of two hidden layers on digits."""
    return nn.Sequential(
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )
