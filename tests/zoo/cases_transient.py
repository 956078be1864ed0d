"""Transient: drops and spikes that heal by themselves, and some that do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case
from tests.zoo.recipes import (
    ADAM,
    dense,
    digit_vectors,
    error_rate,
    fit,
    he,
    normal,
    tabular,
    weight,
)
from tests.zoo.trainings import Batch

AT = 40
"""Step at which something happens."""


def once(factor: float, at: int = AT, steps: int = 1) -> Callable[[int], float]:
    """A factor for some steps."""
    return lambda step: factor if at <= step < at + steps else 1.0


def outlier(size: float) -> Callable[[Tensor, Tensor, int], Batch]:
    """A single target of another size, in one step."""

    def alter(inputs: Tensor, targets: Tensor, step: int) -> Batch:
        if step == AT:
            targets = targets.clone()
            targets[0] = size
        return inputs, targets

    return alter


def bright(size: float) -> Callable[[Tensor, Tensor, int], Batch]:
    """A batch whose inputs are too large by a factor, in one step."""
    return lambda inputs, targets, step: (inputs * (size if step == AT else 1.0), targets)


def one_sample(inputs: Tensor, targets: Tensor, step: int) -> Batch:
    """Only one sample, again and again, for 20 steps: soon its gradient is nearly zero."""
    if not 60 <= step < 80:
        return inputs, targets
    return inputs[:1].expand(64, -1), targets[:1].expand(64)


@cache
def parity() -> Batch:
    """The product of three signs among eight: a plateau, and then a fall."""
    generator = torch.Generator().manual_seed(11)
    x = torch.randint(0, 2, (256, 8), generator=generator).float() * 2 - 1
    return x, (x[:, 0] * x[:, 1] * x[:, 2] > 0).long()


def reset_head(model: nn.Module, step: int) -> None:
    """Draw the head anew, as for another task."""
    if step == AT:
        assert isinstance(model, nn.Sequential)
        he(weight(model, -1))


def silence(model: nn.Module, step: int) -> None:
    """Close a layer nearly altogether, in one step."""
    if step == AT:
        assert isinstance(model, nn.Sequential)
        with torch.no_grad():
            weight(model, 2).mul_(1e-4)


def small() -> nn.Sequential:
    """A network that starts on a plateau, and leaves it."""
    return dense(3, nn.Tanh, init=normal(0.06))


def classifier() -> nn.Sequential:
    """A classifier of digits."""
    return dense(3, init=he)


CASES = (
    Case(
        "transient-loss-spike-kills",
        "transient",
        fit(classifier, lr=0.2, weight=once(300.0)),
        threshold=1.5,
        steps=120,
        cure=fit(classifier, lr=0.2, weight=once(300.0), clip=1.0),
        finding="gradient-spike",
        cause="loss",
        # The step of the spike is too large, the loss diverges and the rectifiers die; a tenth of
        # the learning rate cures it, too.
        also=frozenset({"oversized-updates", "exploding-gradient", "dead-units"}),
        causes=frozenset({"learning-rate"}),
        onset=AT,
        source="Pascanu et al. 2013: clip the norm of the gradient",
    ),
    Case(
        "transient-outlier-target",
        "transient",
        fit(
            lambda: dense(2, inputs=8, outputs=1, init=he),
            tabular,
            lr=0.05,
            loss=F.mse_loss,
            alter=outlier(1e5),
        ),
        threshold=0.7,
        steps=120,
        cure=fit(
            lambda: dense(2, inputs=8, outputs=1, init=he),
            tabular,
            lr=0.05,
            loss=F.mse_loss,
            alter=outlier(3.0),
        ),
        finding="gradient-spike",
        cause="data-scale",
        # The step of the outlier is too large, and the loss diverges; it is one datum.
        also=frozenset({"oversized-updates", "exploding-gradient", "non-finite"}),
        causes=frozenset({"data"}),
        onset=AT,
        source="forum: one wrong entry in a table, and the loss is nan",
    ),
    Case(
        "transient-outlier-input",
        "transient",
        fit(classifier, lr=0.05, alter=bright(5000.0)),
        threshold=1.5,
        steps=120,
        cure=fit(classifier, lr=0.05, alter=bright(5000.0), clip=1.0),
        finding="gradient-spike",
        cause="data-scale",
        # The step of the outlier is too large, the loss diverges and the rectifiers die; it is one
        # batch of data, and out of scale.
        also=frozenset({"signal-scale", "oversized-updates", "exploding-gradient", "dead-units"}),
        causes=frozenset({"data"}),
        onset=AT,
        source="forum: one batch that was not normalised",
    ),
    Case(
        "transient-rate-spike",
        "transient",
        fit(classifier, lr=0.1, schedule=once(500.0)),
        threshold=1.5,
        steps=120,
        cure=fit(classifier, lr=0.1, schedule=once(2.0)),
        finding="oversized-updates",
        cause="learning-rate",
        # The step is too large, the loss diverges and the rectifiers die.
        also=frozenset({"exploding-gradient", "gradient-spike", "dead-units"}),
        onset=AT,
        source="forum: a restart of the schedule with the wrong units",
    ),
    Case(
        "transient-loss-spike-heals",
        "transient",
        fit(classifier, lr=3e-3, optimizer=ADAM, weight=once(1000.0)),
        1.5,
        steps=150,
        source="Adam divides by the size of what it gets",
    ),
    Case(
        "transient-spike-clipped",
        "transient",
        fit(classifier, lr=0.1, weight=once(100.0, steps=3), clip=1.0),
        1.5,
    ),
    Case(
        "transient-rate-restarts",
        "transient",
        fit(
            classifier,
            lr=0.15,
            schedule=lambda step: 0.5 * (1 + math.cos(math.pi * (step % 40) / 40)),
        ),
        1.5,
        steps=120,
        source="Loshchilov & Hutter 2017, SGDR",
    ),
    Case(
        "transient-loss-off",
        "transient",
        fit(classifier, weight=once(1e-6, at=30, steps=20)),
        1.5,
        steps=120,
        source="a term of the loss that is annealed, or a curriculum with a pause",
    ),
    Case("transient-one-sample", "transient", fit(classifier, alter=one_sample), 1.5, steps=220),
    Case(
        "transient-plateau",
        "transient",
        fit(small, lr=0.3),
        1.5,
        steps=300,
        source="Saxe et al. 2014: plateaus, and rapid falls",
    ),
    Case(
        "transient-product-of-signs",
        "transient",
        fit(lambda: dense(1, inputs=8, outputs=2, width=64, init=normal(0.1)), parity, lr=0.3),
        0.4,
        steps=300,
        source="Barak et al. 2022, Hidden Progress in Deep Learning",
    ),
    Case("transient-new-head", "transient", fit(classifier, disturb=reset_head), 1.5, steps=150),
    Case(
        "transient-closed-layer",
        "transient",
        fit(classifier, disturb=silence),
        1.5,
        steps=250,
        source="one weak layer gets the gradients that it needs, and grows",
    ),
    Case(
        "transient-wrong-labels",
        "transient",
        fit(
            classifier,
            alter=lambda x, y, step: (x, y.roll(1)) if AT <= step < AT + 5 else (x, y),
            score=error_rate,
        ),
        0.4,
        steps=120,
    ),
    Case(
        "transient-large-inputs-clipped",
        "transient",
        fit(classifier, digit_vectors, lr=0.05, alter=bright(20.0), clip=2.0),
        1.5,
        steps=120,
    ),
)
