"""Depth: many layers between the loss and the first one, plain and with skip connections."""

from __future__ import annotations

import torch
from torch import nn

from tests.zoo.case import Case
from tests.zoo.recipes import (
    ADAM,
    convolutional,
    dense,
    digit_images,
    fit,
    he,
    normal,
    residual,
    weight,
)
from tests.zoo.trainings import resnet


def two_layers(*, pre: nn.Module | None = None, last: float | None = None) -> nn.Sequential:
    """A branch with He's weights; those of its last layer are multiplied with `last`."""
    branch = nn.Sequential(pre or nn.Identity(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    for at in (1, 3):
        he(weight(branch, at))
    if last is not None:
        with torch.no_grad():
            weight(branch, 3).mul_(last)
    return branch


def branch(norm: bool = False) -> nn.Sequential:
    """A small branch with the default weights."""
    return nn.Sequential(nn.LayerNorm(32) if norm else nn.Identity(), nn.Linear(32, 32), nn.ReLU())


CASES = (
    Case(
        "depth-plain-default-relu",
        "depth",
        fit(lambda: dense(24)),
        threshold=1.5,
        cure=fit(lambda: residual(24, lambda: branch(norm=True))),
        finding="vanishing-gradient",
        cause="depth",
        # Batch norm cures it within the same steps; He's weights alone make it learn, too, if
        # slowly (0.9 to 1.7 after 400 steps, where it stays at 2.3 as it is).
        causes=frozenset({"init", "normalisation"}),
        source="He et al. 2016, Deep Residual Learning: plain nets get worse with depth",
    ),
    Case(
        "depth-plain-narrow-he",
        "depth",
        fit(lambda: dense(80, width=12, init=he), lr=0.02),
        threshold=1.5,
        cure=fit(lambda: residual(80, lambda: branch(norm=True)), lr=0.02),
        finding="vanishing-gradient",
        cause="depth",
        source="Hanin & Rolnick 2018, How to Start Training: depth over width",
    ),
    Case(
        "depth-plain-conv",
        "depth",
        fit(lambda: convolutional(16), digit_images),
        threshold=1.6,
        steps=120,
        cure=fit(resnet, digit_images),
        finding="vanishing-gradient",
        cause="depth",
        # Batch norm cures it; He's weights alone do not.
        causes=frozenset({"normalisation"}),
        source="He et al. 2016, Deep Residual Learning",
    ),
    Case(
        "depth-plain-batch-norm",
        "depth",
        fit(lambda: dense(60, norm=nn.BatchNorm1d), lr=0.03),
        threshold=1.5,
        cure=fit(lambda: residual(60, lambda: branch(norm=True)), lr=0.03),
        finding="exploding-gradient",
        cause="depth",
        source="Yang et al. 2019, A Mean Field Theory of Batch Normalization",
    ),
    Case(
        "depth-plain-tanh-xavier",
        "depth",
        fit(lambda: dense(100, nn.Tanh, init=nn.init.xavier_normal_), lr=0.05),
        threshold=1.5,
        cure=fit(lambda: residual(100, lambda: branch(norm=True)), lr=0.05),
        finding="vanishing-gradient",
        cause="depth",
        # Orthogonal weights cure it.
        causes=frozenset({"init"}),
        source="Schoenholz et al. 2017, Deep Information Propagation",
    ),
    Case(
        "depth-residual-unscaled-branches",
        "depth",
        fit(lambda: residual(30, two_layers), lr=0.01),
        threshold=1.5,
        cure=fit(lambda: residual(30, lambda: two_layers(last=0.0)), lr=0.01),
        finding="exploding-gradient",
        cause="init",
        # The sum grows in both directions, and the first step is the last finite one; a norm in
        # each branch cures it as well as smaller weights do.
        also=frozenset({"signal-scale", "non-finite"}),
        causes=frozenset({"normalisation"}),
        source="Zhang et al. 2019, Fixup Initialization",
    ),
    Case(
        "depth-plain-large-tanh",
        "depth",
        fit(lambda: dense(30, nn.Tanh, init=normal(0.6))),
        threshold=1.5,
        cure=fit(lambda: dense(30, nn.Tanh, init=nn.init.orthogonal_), lr=0.05),
        finding="exploding-gradient",
        cause="init",
        # Its tanhs are saturated, and after some steps no gradient passes them.
        also=frozenset({"saturated-activation", "vanishing-gradient"}),
        source="Poole et al. 2016, Exponential Expressivity: the chaotic phase",
    ),
    Case("depth-he-relu-12", "depth", fit(lambda: dense(12, width=64, init=he), lr=0.03), 1.5),
    Case(
        "depth-he-relu-24-adam",
        "depth",
        fit(lambda: dense(24, width=64, init=he), lr=1e-3, optimizer=ADAM),
        1.5,
    ),
    Case(
        "depth-orthogonal-tanh-40",
        "depth",
        fit(lambda: dense(40, nn.Tanh, init=nn.init.orthogonal_), lr=0.03),
        1.5,
        steps=120,
        source="Pennington et al. 2017, Resurrecting the Sigmoid",
    ),
    Case(
        "depth-orthogonal-linear-50",
        "depth",
        fit(lambda: dense(50, nn.Identity, init=nn.init.orthogonal_), lr=0.005),
        1.5,
        steps=120,
        source="Saxe et al. 2014, Exact Solutions to Deep Linear Learning",
    ),
    Case(
        "depth-residual-pre-norm-50",
        "depth",
        fit(lambda: residual(50, lambda: branch(norm=True)), lr=0.03),
        1.5,
    ),
    Case(
        "depth-residual-halved-branches",
        "depth",
        fit(lambda: residual(20, lambda: two_layers(last=0.2)), lr=0.01),
        1.5,
        source="De & Smith 2020, Batch Normalization Biases Residual Blocks",
    ),
    Case("depth-resnet-adam", "depth", fit(resnet, digit_images, lr=3e-3, optimizer=ADAM), 1.5, 60),
    Case(
        "depth-conv-batch-norm",
        "depth",
        fit(lambda: convolutional(8, norm=nn.BatchNorm2d), digit_images),
        1.5,
        steps=120,
    ),
)
