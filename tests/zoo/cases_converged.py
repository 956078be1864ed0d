"""Converged: gradients are tiny because there is nothing left to learn. All of it is healthy."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case
from tests.zoo.recipes import ADAM, dense, digit_images, digit_vectors, first, fit, he, residual
from tests.zoo.trainings import Batch, resnet


@cache
def line() -> Batch:
    """A linear law without noise."""
    x = torch.linspace(-1, 1, 64)[:, None]
    return x, 2 * x - 0.5


@cache
def exclusive_or() -> Batch:
    """The four cases of an exclusive or."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return 2 * x - 1, (x[:, :1] != x[:, 1:]).float()


@cache
def itself() -> Batch:
    """Digits that are to be given back."""
    inputs, _ = digit_vectors()
    return inputs[:64], inputs[:64]


@cache
def blobs() -> Batch:
    """Two classes that a plane divides, with a wide gap between them."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(128) % 2
    return torch.randn(128, 8, generator=generator) + 6 * labels[:, None] - 3, labels


@cache
def from_teacher() -> Batch:
    """What another network gives."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(256, 8, generator=generator)
    return x, torch.tanh(x @ torch.randn(8, 4, generator=generator) / 3)


class Scalar(nn.Module):
    """One parameter, and a parabola around 3."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.at.expand(len(x), 1)


def batch_norm_off(model: nn.Module, step: int) -> None:
    """Keep the statistics of batch norm as they are, as fine-tuning does."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and step >= 60:
            module.eval()


CASES = (
    Case(
        "converged-line",
        "converged",
        fit(lambda: nn.Sequential(nn.Linear(1, 1)), line, lr=0.5, loss=F.mse_loss),
        1e-8,
        steps=250,
        source="the gradient falls to the rounding of float32",
    ),
    Case(
        "converged-exclusive-or",
        "converged",
        fit(
            lambda: dense(1, nn.Tanh, inputs=2, outputs=1, width=16),
            exclusive_or,
            lr=1.0,
            loss=F.binary_cross_entropy_with_logits,
        ),
        0.02,
        steps=400,
    ),
    Case(
        "converged-separable",
        "converged",
        fit(lambda: nn.Sequential(nn.Linear(8, 2)), blobs, lr=1.0),
        1e-3,
        steps=300,
        source="Soudry et al. 2018, The Implicit Bias of Gradient Descent on Separable Data",
    ),
    Case(
        "converged-memorised-digits",
        "converged",
        fit(lambda: dense(3, init=he), first(digit_vectors, 32), lr=0.2),
        1e-2,
        steps=400,
        source="Zhang et al. 2017, Understanding Deep Learning Requires Rethinking",
    ),
    Case(
        "converged-random-labels",
        "converged",
        fit(
            lambda: dense(2, width=128, init=he),
            lambda: (digit_vectors()[0][:64], digit_vectors()[1][64:128]),
            lr=3e-3,
            optimizer=ADAM,
        ),
        1e-2,
        steps=300,
        source="Zhang et al. 2017, Understanding Deep Learning Requires Rethinking",
    ),
    Case(
        "converged-resnet",
        "converged",
        fit(resnet, first(digit_images, 32), lr=0.1, disturb=batch_norm_off),
        0.05,
        steps=100,
    ),
    Case(
        "converged-residual-adam",
        "converged",
        fit(
            lambda: residual(
                6, lambda: nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU())
            ),
            first(digit_vectors, 64),
            lr=3e-3,
            optimizer=ADAM,
        ),
        1e-2,
        steps=250,
    ),
    Case(
        "converged-autoencoder",
        "converged",
        fit(
            lambda: dense(1, nn.Tanh, outputs=64, width=128),
            itself,
            lr=3e-3,
            optimizer=ADAM,
            loss=F.mse_loss,
        ),
        0.02,
        steps=400,
    ),
    Case(
        "converged-student",
        "converged",
        fit(
            lambda: dense(1, nn.Tanh, inputs=8, outputs=4, width=64),
            from_teacher,
            lr=0.01,
            optimizer=ADAM,
            loss=F.mse_loss,
        ),
        3e-3,
        steps=300,
    ),
    Case(
        "converged-scalar",
        "converged",
        fit(
            Scalar,
            lambda: (torch.zeros(8, 1), torch.full((8, 1), 3.0)),
            lr=0.2,
            loss=F.mse_loss,
        ),
        1e-8,
        steps=150,
    ),
    Case(
        "converged-rate-decayed-to-zero",
        "converged",
        fit(
            lambda: dense(2, init=he),
            first(digit_vectors, 128),
            lr=0.1,
            schedule=lambda step: 0.5 ** (step // 25),
        ),
        0.2,
        steps=300,
        source="a schedule that ends: updates stall, and all has been learnt",
    ),
)
