"""What the cases of the corpus are put together from: one training loop, data, and plain networks.

Each data set is drawn once, with a seed of its own: the seed of a case decides only the weights and
the batches, so that its label is about the training and not about luck with the data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import trainings
from tests.zoo.case import Trial
from tests.zoo.trainings import Batch

Build = Callable[[], Trial]
Init = Callable[[Tensor], object]

SGD = torch.optim.SGD
ADAM = torch.optim.Adam


def constant(step: int) -> float:
    """Change nothing: a factor of one at every step."""
    return 1.0


def as_it_is(inputs: Tensor, targets: Tensor, step: int) -> Batch:
    """Leave a batch as it was drawn."""
    return inputs, targets


def undisturbed(model: nn.Module, step: int) -> None:
    """Do nothing to a model."""


def fit(
    model: Callable[[], nn.Module],
    data: Callable[[], Batch] | None = None,
    *,
    lr: float = 0.1,
    optimizer: Callable[..., torch.optim.Optimizer] = SGD,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    batch: int = 64,
    schedule: Callable[[int], float] = constant,
    weight: Callable[[int], float] = constant,
    alter: Callable[[Tensor, Tensor, int], Batch] = as_it_is,
    disturb: Callable[[nn.Module, int], None] = undisturbed,
    clip: float | None = None,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
    **options: Any,
) -> Build:
    """Return a supervised training.

    In each step, `schedule` multiplies the learning rate, `weight` the loss, `alter` changes the
    batch, and `disturb` may do something to the model before. `score` judges the outputs for the
    whole data set at the end. `options` go to the optimizer.
    """

    own = (schedule is constant, weight is constant, alter is as_it_is, disturb is undisturbed)
    plain = clip is None and all(own)

    def build() -> Trial:
        inputs, targets = (data or digit_vectors)()
        network = model()

        def sample() -> Batch:
            picked = (
                torch.randint(0, len(inputs), (batch,))
                if batch < len(inputs)
                else torch.arange(len(inputs))
            )
            return inputs[picked], targets[picked]

        updates = optimizer(network.parameters(), lr=lr, **options)

        def step(i: int) -> Tensor:
            disturb(network, i)
            x, y = alter(*sample(), i)
            for group in updates.param_groups:
                group["lr"] = lr * schedule(i)
            updates.zero_grad()
            value = loss(network(x), y) * weight(i)
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            updates.step()
            return value

        return Trial(
            network,
            [updates],
            step,
            score=None if score is None else lambda: float(score(network(inputs), targets)),
            sample=sample if plain else None,
            loss_fn=loss if plain else None,
        )

    return build


def error_rate(output: Tensor, target: Tensor) -> Tensor:
    """Share of samples whose largest output is not that of their class."""
    return (output.argmax(-1) != target).float().mean()


@cache
def digit_vectors() -> Batch:
    """Handwritten digits as vectors of 64 standardised pixels."""
    return trainings.digit_vectors()


@cache
def digit_images() -> Batch:
    """Handwritten digits as 8x8 images of one channel."""
    return trainings.digit_images()


@cache
def tabular() -> Batch:
    """A regression: 512 samples of 8 standardised features, and one target of variance one."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(512, 8, generator=generator)
    y = x[:, :1] + 0.5 * x[:, 1:2] * x[:, 2:3] + 0.5 * torch.sin(2 * x[:, 3:4])
    return x, (y - y.mean()) / y.std()


def scaled(
    data: Callable[[], Batch],
    *,
    inputs: float | Tensor = 1.0,
    offset: float = 0.0,
    targets: float = 1.0,
) -> Callable[[], Batch]:
    """Return the same data in other units."""

    def load() -> Batch:
        x, y = data()
        return x * inputs + offset, y if targets == 1 else y * targets  # classes stay integers

    return load


def first(data: Callable[[], Batch], samples: int) -> Callable[[], Batch]:
    """Return only the first samples of a data set."""
    return lambda: (data()[0][:samples], data()[1][:samples])


def dense(
    depth: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    inputs: int = 64,
    outputs: int = 10,
    width: int = 32,
    norm: Callable[[int], nn.Module] | None = None,
    init: Init | None = None,
) -> nn.Sequential:
    """A plain multi-layer perceptron; `init` is for its weights and makes its biases zero."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Linear(width if i else inputs, width))
        if norm is not None:
            layers.append(norm(width))
        layers.append(activation())
    return initialised(nn.Sequential(*layers, nn.Linear(width, outputs)), init)


def convolutional(
    depth: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    width: int = 8,
    norm: Callable[[int], nn.Module] | None = None,
    init: Init | None = None,
) -> nn.Sequential:
    """A plain convolutional network for 8x8 images, with global average pooling at its end."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Conv2d(width if i else 1, width, 3, 2 if i in (1, 3) else 1, 1))
        if norm is not None:
            layers.append(norm(width))
        layers.append(activation())
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return initialised(nn.Sequential(*layers, *head), init)


def initialised(model: nn.Sequential, init: Init | None) -> nn.Sequential:
    """Return the model with its weights drawn anew and its biases zero."""
    for layer in model:
        if init is not None and isinstance(layer, nn.Linear | nn.Conv2d):
            init(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def weight(model: nn.Sequential, at: int, name: str = "weight") -> Tensor:
    """Return the weight, or the bias, of the layer at a position."""
    return model[at].get_parameter(name)


class Residual(nn.Module):
    """Adds its input to the output of a branch, and may normalise the sum (post-norm)."""

    def __init__(self, branch: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.after = nn.Identity() if after is None else after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.branch(x))  # type: ignore[no-any-return]


def residual(
    depth: int,
    branch: Callable[[], nn.Module],
    *,
    width: int = 32,
    after: Callable[[], nn.Module] = nn.Identity,
    head: Callable[[], nn.Module] = nn.Identity,
) -> nn.Sequential:
    """A residual network on vectors of 64; `head` is what comes before its last layer."""
    return nn.Sequential(
        nn.Linear(64, width),
        *[Residual(branch(), after()) for _ in range(depth)],
        head(),
        nn.Linear(width, 10),
    )


def inserted(model: nn.Sequential, position: int, module: nn.Module) -> nn.Sequential:
    """Return a model with one more module at a position."""
    return trainings.with_module(model, position, module)


class Function(nn.Module):
    """A module that applies a function without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


he = trainings.he
normal = trainings.normal
