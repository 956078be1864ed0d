"""Activation functions: those that saturate, those that die, and those that need their own init."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case
from tests.zoo.recipes import (
    ADAM,
    Function,
    Init,
    convolutional,
    dense,
    digit_images,
    fit,
    he,
    inserted,
)
from tests.zoo.trainings import Batch, GatedMLP


@cache
def waves() -> Batch:
    """A signal of one variable with high frequencies, on 256 points from -1 to 1."""
    x = torch.linspace(-1, 1, 256)[:, None]
    return x, torch.sin(20 * x) * torch.cos(7 * x) + 0.5 * torch.sin(43 * x)


def lecun(weight: Tensor) -> None:
    """LeCun's initialisation, for SELU."""
    nn.init.kaiming_normal_(weight, nonlinearity="linear")


def siren(init: Init | None) -> nn.Sequential:
    """A network of sines, each of 30 times what its layer gives."""
    return dense(
        4, lambda: Function(lambda x: torch.sin(30 * x)), inputs=1, outputs=1, width=48, init=init
    )


def siren_init(weight: Tensor) -> None:
    """Sitzmann's initialisation: the phases of all but the first layer have a variance of one."""
    inputs = weight.shape[1]
    bound = 1.0 if inputs == 1 else math.sqrt(6 / inputs) / 30
    nn.init.uniform_(weight, -bound, bound)


def negative_biases(value: float) -> nn.Sequential:
    """A rectifier network whose hidden biases all have one value."""
    model = dense(3)
    for layer in list(model)[:-1]:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, value)
    return model


CASES = (
    Case(
        "activation-deep-sigmoid",
        "activation",
        fit(lambda: dense(8, nn.Sigmoid)),
        threshold=1.5,
        cure=fit(lambda: dense(8, init=he), lr=0.05),
        finding="vanishing-gradient",
        cause="activation",
        source="Glorot & Bengio 2010, Understanding the Difficulty of Training",
    ),
    Case(
        "activation-sigmoid-conv",
        "activation",
        fit(lambda: convolutional(6, nn.Sigmoid), digit_images),
        threshold=1.6,
        steps=150,
        cure=fit(lambda: convolutional(6, width=16, init=he), digit_images, lr=0.1),
        finding="vanishing-gradient",
        cause="activation",
        source="LeCun et al. 1998, Efficient BackProp",
    ),
    Case(
        "activation-hard-sigmoid",
        "activation",
        fit(lambda: dense(6, nn.Hardsigmoid), lr=0.03, momentum=0.9),
        threshold=1.5,
        cure=fit(lambda: dense(6, nn.Hardswish, init=he), lr=0.03, momentum=0.9),
        finding="vanishing-gradient",
        cause="activation",
        source="Courbariaux et al. 2015, BinaryConnect: hard sigmoid",
    ),
    Case(
        "activation-softmax-inside",
        "activation",
        fit(lambda: dense(3, lambda: nn.Softmax(-1)), lr=0.3),
        threshold=1.5,
        cure=fit(lambda: dense(3), lr=0.3),
        finding="vanishing-gradient",
        cause="activation",
        layers=("1", "3", "5"),
        source="forum: softmax used as the activation of hidden layers",
    ),
    Case(
        "activation-one-sigmoid-stack",
        "activation",
        fit(
            lambda: nn.Sequential(
                *list(dense(2))[:-1],
                *list(dense(5, nn.Sigmoid, inputs=32))[:-1],
                *dense(2, inputs=32),
            )
        ),
        threshold=1.5,
        cure=fit(lambda: dense(9, init=he), lr=0.05),
        finding="vanishing-gradient",
        cause="activation",
        layers=("5", "7", "9", "11", "13"),
        source="Glorot & Bengio 2010, Understanding the Difficulty of Training",
    ),
    Case(
        "activation-square",
        "activation",
        fit(lambda: dense(6, lambda: Function(torch.square), width=64, init=he), lr=0.01),
        threshold=1.5,
        cure=fit(lambda: dense(6, width=64, init=he), lr=0.03),
        finding="exploding-gradient",
        cause="activation",
        # The first batch overflows already, in the forward pass: a square of squares grows in both.
        also=frozenset({"non-finite", "signal-scale"}),
        source="Gilad-Bachrach et al. 2016, CryptoNets: squares instead of rectifiers",
    ),
    Case(
        "activation-siren-large-weights",
        "activation",
        fit(
            lambda: siren(nn.init.xavier_uniform_),
            waves,
            batch=256,
            lr=1e-3,
            optimizer=ADAM,
            loss=F.mse_loss,
        ),
        threshold=0.1,
        steps=150,
        cure=fit(
            lambda: siren(siren_init), waves, batch=256, lr=1e-3, optimizer=ADAM, loss=F.mse_loss
        ),
        finding="exploding-gradient",
        cause="init",
        source="Sitzmann et al. 2020, Implicit Representations with Periodic Activations",
    ),
    Case(
        "activation-selu-default-init",
        "activation",
        fit(lambda: dense(20, nn.SELU), lr=0.02),
        threshold=1.5,
        cure=fit(lambda: dense(20, nn.SELU, init=lecun), lr=0.02),
        finding="vanishing-gradient",
        cause="init",
        # With skip connections and norms the same weights learn.
        causes=frozenset({"depth"}),
        source="Klambauer et al. 2017, Self-Normalizing Neural Networks",
    ),
    Case(
        "activation-gelu-default-init",
        "activation",
        fit(lambda: dense(12, nn.GELU)),
        threshold=1.5,
        cure=fit(lambda: dense(12, nn.GELU, init=he), lr=0.05),
        finding="vanishing-gradient",
        cause="init",
        # With skip connections and norms the same weights learn.
        causes=frozenset({"depth"}),
        source="pytorch/pytorch issue 15314: the default init of nn.Linear and nn.Conv2d",
    ),
    Case(
        "activation-born-dead",
        "activation",
        fit(lambda: negative_biases(-10.0)),
        threshold=1.5,
        cure=fit(lambda: negative_biases(0.1)),
        finding="dead-units",
        cause="init",
        # No gradient passes a unit that is dead.
        also=frozenset({"zero-gradient", "vanishing-gradient"}),
        source="Lu et al. 2019, Dying ReLU and Initialization",
    ),
    Case(
        "activation-dead-last-hidden",
        "activation",
        fit(
            lambda: inserted(dense(3, init=he), 5, Function(lambda x: -x.abs() - 0.1)),
        ),
        threshold=1.5,
        cure=fit(lambda: dense(3, init=he)),
        finding="dead-units",
        cause="activation",
        # Nothing passes the dead layer, forward or backward.
        also=frozenset({"zero-gradient", "vanishing-gradient"}),
        layers=("6",),
        source="forum: a rectifier after something that is never positive",
    ),
    Case("activation-one-sigmoid", "activation", fit(lambda: dense(1, nn.Sigmoid), lr=1.0), 1.5),
    Case(
        "activation-sigmoid-adam",
        "activation",
        fit(lambda: dense(2, nn.Sigmoid, width=64), lr=0.02, optimizer=ADAM),
        1.5,
    ),
    Case(
        "activation-tanh-xavier",
        "activation",
        fit(lambda: dense(5, nn.Tanh, init=nn.init.xavier_uniform_)),
        1.5,
    ),
    Case("activation-leaky", "activation", fit(lambda: dense(3, nn.LeakyReLU), lr=0.2), 1.5),
    Case("activation-selu-lecun", "activation", fit(lambda: dense(12, nn.SELU, init=lecun)), 1.5),
    Case("activation-gelu", "activation", fit(lambda: dense(3, nn.GELU), lr=0.2), 1.5),
    Case(
        "activation-siren",
        "activation",
        fit(lambda: siren(siren_init), waves, batch=64, lr=5e-4, optimizer=ADAM, loss=F.mse_loss),
        0.1,
        steps=200,
        source="Sitzmann et al. 2020, Implicit Representations with Periodic Activations",
    ),
    Case("activation-gates", "activation", fit(GatedMLP, lr=3e-3, optimizer=ADAM), 1.5),
    Case(
        "activation-relu6-conv",
        "activation",
        fit(lambda: convolutional(3, nn.ReLU6, width=16, init=he), digit_images, lr=0.2),
        1.5,
        steps=150,
    ),
)
