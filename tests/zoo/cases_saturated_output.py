"""Outputs that are squashed: by the wrong function before the loss, twice, or by a temperature."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case
from tests.zoo.recipes import (
    ADAM,
    Function,
    dense,
    digit_vectors,
    error_rate,
    fit,
    he,
    inserted,
    scaled,
    tabular,
    weight,
)
from tests.zoo.trainings import Batch


def ending(function: nn.Module, *, inputs: int = 64, outputs: int = 10) -> nn.Sequential:
    """A network with one more function at its end."""
    model = dense(2, init=he, inputs=inputs, outputs=outputs)
    return inserted(model, len(model), function)


class Cosine(nn.Module):
    """Logits that are the cosines between features and classes, times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.body = dense(1, outputs=32, init=he)
        self.classes = nn.Parameter(torch.randn(10, 32))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        features = F.normalize(self.body(x), dim=-1)
        return self.factor * features @ F.normalize(self.classes, dim=-1).T


def far_off(bias: float) -> nn.Sequential:
    """A network whose sigmoid outputs start near zero, or, with a bias of zero, in the middle."""
    model = ending(nn.Sigmoid())
    nn.init.constant_(weight(model, -2, "bias"), bias)
    return model


@cache
def is_odd() -> Batch:
    """Digits, and whether each is odd."""
    inputs, labels = digit_vectors()
    return inputs, (labels % 2).float()[:, None]


@cache
def one_hot() -> Batch:
    """Digits, and their classes as ten numbers."""
    inputs, labels = digit_vectors()
    return inputs, F.one_hot(labels, 10).float()


def wrong_class(output: Tensor, target: Tensor) -> Tensor:
    """The error rate where classes are given as ten numbers."""
    return error_rate(output, target.argmax(-1))


SQUASHED = "squashed-logits"

CASES = (
    Case(
        "output-softmax-twice",
        "saturated-output",
        fit(lambda: ending(nn.Softmax(-1)), lr=0.05, momentum=0.5),
        threshold=1.0,
        cure=fit(lambda: dense(2, init=he), lr=0.05, momentum=0.5),
        finding=SQUASHED,
        cause="loss",
        # The activation at the end is what is too much: a rectifier, or none, cures it.
        causes=frozenset({"activation"}),
        at_init=True,
        layers=("5",),
        source="forum: softmax before nn.CrossEntropyLoss",
    ),
    Case(
        "output-softmax-twice-deep",
        "saturated-output",
        fit(lambda: inserted(dense(4), 9, nn.Softmax(-1)), score=error_rate),
        threshold=0.5,
        steps=200,
        cure=fit(lambda: dense(4, init=he), score=error_rate),
        finding=SQUASHED,
        cause="loss",
        # He's weights alone cure it, too: the gradient that the softmax leaves is lost in the
        # default ones.
        also=frozenset({"vanishing-gradient"}),
        causes=frozenset({"init"}),
        at_init=True,
        layers=("9",),
        source="forum: softmax before nn.CrossEntropyLoss",
    ),
    Case(
        "output-sigmoid-twice",
        "saturated-output",
        fit(
            lambda: ending(nn.Sigmoid(), outputs=1),
            is_odd,
            loss=F.binary_cross_entropy_with_logits,
        ),
        threshold=0.4,
        cure=fit(
            lambda: dense(2, init=he, outputs=1),
            is_odd,
            loss=F.binary_cross_entropy_with_logits,
        ),
        finding=SQUASHED,
        cause="loss",
        at_init=True,
        layers=("5",),
        source="forum: sigmoid before nn.BCEWithLogitsLoss",
    ),
    Case(
        "output-cosine-unscaled",
        "saturated-output",
        fit(lambda: Cosine(1.0), lr=0.01, optimizer=ADAM),
        threshold=0.8,
        cure=fit(lambda: Cosine(16.0), lr=0.01, optimizer=ADAM),
        finding=SQUASHED,
        cause="loss",
        at_init=True,
        source="Wang et al. 2017, NormFace: cosines as logits do not converge",
    ),
    Case(
        "output-temperature-too-high",
        "saturated-output",
        fit(lambda: ending(Function(lambda x: x / 1000)), lr=0.1),
        threshold=1.5,
        cure=fit(lambda: dense(2, init=he), lr=0.1),
        finding=SQUASHED,
        cause="loss",
        at_init=True,
        layers=("5",),
        source="Agarwala et al. 2020, Temperature Check",
    ),
    Case(
        "output-temperature-too-low",
        "saturated-output",
        fit(lambda: ending(Function(lambda x: x * 100)), lr=0.05, score=error_rate),
        threshold=0.5,
        cure=fit(lambda: dense(2, init=he), lr=0.05, score=error_rate),
        finding="saturated-output",
        cause="loss",
        # Logits that large make each step too large: it diverges, and kills its rectifiers; a tenth
        # of the learning rate cures it, too.
        also=frozenset({"signal-scale", "oversized-updates", "exploding-gradient", "dead-units"}),
        causes=frozenset({"learning-rate"}),
        at_init=True,
        layers=("5",),
        source="Agarwala et al. 2020, Temperature Check",
    ),
    Case(
        "output-sigmoid-mse-far-off",
        "saturated-output",
        fit(lambda: far_off(-12.0), one_hot, lr=0.5, loss=F.mse_loss, score=wrong_class),
        threshold=0.5,
        cure=fit(
            lambda: dense(2, init=he),
            one_hot,
            lr=0.5,
            loss=F.binary_cross_entropy_with_logits,
            score=wrong_class,
        ),
        finding="saturated-output",
        cause="loss",
        # What saturates is the activation at the end, by its bias: one of 0 cures it, too.
        also=frozenset({"saturated-activation"}),
        causes=frozenset({"init"}),
        at_init=True,
        layers=("5",),
        source="Nielsen 2015, Neural Networks and Deep Learning, 3: the learning slowdown",
    ),
    Case(
        "output-tanh-out-of-range",
        "saturated-output",
        fit(
            lambda: ending(nn.Tanh(), inputs=8, outputs=1),
            scaled(tabular, targets=10.0),
            lr=0.01,
            loss=lambda output, target: F.mse_loss(output, target) / 100,
        ),
        threshold=0.7,
        steps=200,
        cure=fit(
            lambda: dense(2, inputs=8, outputs=1, init=he),
            scaled(tabular, targets=10.0),
            lr=1.0,
            loss=lambda output, target: F.mse_loss(output, target) / 100,
        ),
        finding="saturated-output",
        cause="loss",
        # What saturates is the activation at the end, for the targets are out of its range: to
        # leave it out or to scale them cures it.
        also=frozenset({"saturated-activation", "unscaled-targets"}),
        causes=frozenset({"activation", "data-scale"}),
        layers=("5",),
        source="forum: tanh as the last layer of a regression",
    ),
    Case(
        "output-relu-at-end",
        "saturated-output",
        fit(
            lambda: ending(nn.ReLU(), inputs=8, outputs=1),
            tabular,
            lr=0.1,
            loss=lambda output, target: F.mse_loss(output, target - 2),
        ),
        threshold=0.7,
        cure=fit(
            lambda: dense(2, inputs=8, outputs=1, init=he),
            tabular,
            lr=0.1,
            loss=lambda output, target: F.mse_loss(output, target - 2),
        ),
        finding="dead-units",
        cause="activation",
        # Nothing passes the dead unit; it dies in the first step.
        also=frozenset({"zero-gradient"}),
        at_init=False,
        layers=("5",),
        source="forum: a rectifier as the last layer of a regression",
    ),
    Case(
        "output-log-softmax-twice",
        "saturated-output",
        fit(lambda: ending(nn.LogSoftmax(-1))),
        1.0,
        source="log-softmax of log-softmax changes nothing",
    ),
    Case(
        "output-nll",
        "saturated-output",
        fit(lambda: ending(nn.LogSoftmax(-1)), loss=F.nll_loss),
        1.0,
    ),
    Case(
        "output-sigmoid-bce",
        "saturated-output",
        fit(lambda: ending(nn.Sigmoid(), outputs=1), is_odd, lr=0.3, loss=F.binary_cross_entropy),
        0.4,
    ),
    Case(
        "output-sigmoid-mse",
        "saturated-output",
        fit(
            lambda: far_off(0.0),
            one_hot,
            lr=0.01,
            optimizer=ADAM,
            loss=F.mse_loss,
            score=wrong_class,
        ),
        0.4,
        steps=200,
    ),
    Case(
        "output-cosine-scaled",
        "saturated-output",
        fit(lambda: Cosine(10.0), lr=0.01, optimizer=ADAM),
        0.8,
        source="Wang et al. 2018, CosFace",
    ),
    Case(
        "output-label-smoothing",
        "saturated-output",
        fit(
            lambda: dense(2, init=he),
            loss=lambda output, target: F.cross_entropy(output, target, label_smoothing=0.1),
            score=error_rate,
        ),
        0.3,
        source="Szegedy et al. 2016: the loss can not fall below 0.5",
    ),
    Case(
        "output-tanh-in-range",
        "saturated-output",
        fit(
            lambda: ending(nn.Tanh(), inputs=8, outputs=1),
            scaled(tabular, targets=0.3),
            lr=0.02,
            optimizer=ADAM,
            loss=F.mse_loss,
        ),
        0.05,
    ),
    Case(
        "output-confident",
        "saturated-output",
        fit(lambda: dense(2, init=he), lr=0.01, optimizer=ADAM, score=error_rate),
        0.15,
        steps=250,
        source="logits of a trained classifier are large, and right",
    ),
)
