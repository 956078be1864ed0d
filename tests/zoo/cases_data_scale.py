"""Scale of the data: inputs and targets in units that the weights and the loss are not made for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case
from tests.zoo.recipes import (
    ADAM,
    Function,
    dense,
    digit_vectors,
    fit,
    he,
    inserted,
    scaled,
    tabular,
)

PRICE = 2e5
"""What a house costs."""


def regression() -> nn.Sequential:
    """A network for the tabular data."""
    return dense(2, inputs=8, outputs=1)


def relative(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The squared error in units of the targets' variance, for targets of a given scale."""
    return lambda output, target: F.mse_loss(output / scale, target / scale)


def mixed_units() -> Tensor:
    """Factors of which one is that of a population, and one that of a share."""
    return torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1e4])


CASES = (
    Case(
        "scale-inputs-thousands-tanh",
        "data-scale",
        fit(lambda: dense(3, nn.Tanh), scaled(digit_vectors, inputs=2000.0)),
        threshold=1.3,
        cure=fit(lambda: dense(3, nn.Tanh), digit_vectors, lr=0.2),
        finding="saturated-activation",
        cause="data-scale",
        # The same inputs, seen before and behind the tanh.
        also=frozenset({"signal-scale", "vanishing-gradient"}),
        layers=("1",),
        source="LeCun et al. 1998, Efficient BackProp: normalise the inputs",
    ),
    Case(
        "scale-inputs-255",
        "data-scale",
        fit(lambda: dense(3, init=he), scaled(digit_vectors, inputs=255.0), lr=0.05),
        threshold=1.5,
        cure=fit(lambda: dense(3, init=he), digit_vectors, lr=0.05),
        finding="signal-scale",
        cause="data-scale",
        # Inputs that large make each step too large: it diverges.
        also=frozenset({"oversized-updates", "exploding-gradient", "non-finite"}),
        source="forum: pixels from 0 to 255",
    ),
    Case(
        "scale-inputs-tiny",
        "data-scale",
        fit(lambda: dense(2, nn.Tanh), scaled(digit_vectors, inputs=1e-5)),
        threshold=1.5,
        cure=fit(lambda: dense(2, nn.Tanh), digit_vectors, lr=0.1),
        finding="signal-scale",
        cause="data-scale",
        source="forum: inputs in physical units, as metres of nanometres",
    ),
    Case(
        "scale-inputs-offset",
        "data-scale",
        fit(lambda: dense(2, nn.Tanh), scaled(digit_vectors, offset=500.0)),
        threshold=1.5,
        cure=fit(lambda: dense(2, nn.Tanh), digit_vectors, lr=0.1),
        finding="saturated-activation",
        cause="data-scale",
        # The same inputs, seen before and behind the tanh.
        also=frozenset({"signal-scale", "vanishing-gradient"}),
        layers=("1",),
        source="forum: years and timestamps as inputs",
    ),
    Case(
        "scale-one-feature",
        "data-scale",
        fit(regression, lambda: scaled(tabular, inputs=mixed_units())(), lr=0.05, loss=F.mse_loss),
        threshold=0.7,
        cure=fit(regression, tabular, lr=0.05, loss=F.mse_loss),
        finding="signal-scale",
        cause="data-scale",
        # The one feature makes each step too large: it diverges.
        also=frozenset({"oversized-updates", "exploding-gradient", "non-finite"}),
        source="forum: California housing, the population beside the number of rooms",
    ),
    Case(
        "scale-targets-prices-sgd",
        "data-scale",
        fit(
            regression,
            scaled(tabular, targets=PRICE),
            lr=0.01,
            loss=F.mse_loss,
            score=relative(PRICE),
        ),
        threshold=0.7,
        steps=150,
        cure=fit(regression, tabular, lr=0.1, loss=F.mse_loss, score=relative(1.0)),
        finding="exploding-gradient",
        cause="data-scale",
        # Targets that large make each step too large: it diverges.
        also=frozenset({"unscaled-targets", "oversized-updates", "non-finite"}),
        source="forum: house prices as targets, the loss is nan",
    ),
    Case(
        "scale-targets-prices-adam",
        "data-scale",
        fit(
            regression,
            scaled(tabular, targets=PRICE),
            lr=1e-3,
            optimizer=ADAM,
            loss=F.mse_loss,
            score=relative(PRICE),
        ),
        threshold=0.7,
        steps=200,
        cure=fit(
            regression, tabular, lr=5e-3, optimizer=ADAM, loss=F.mse_loss, score=relative(1.0)
        ),
        finding="unscaled-targets",
        cause="data-scale",
        source="forum: house prices as targets, the prediction stays near zero",
    ),
    Case(
        "scale-targets-tiny",
        "data-scale",
        fit(
            lambda: dense(2, inputs=8, outputs=1, init=he),
            scaled(tabular, targets=1e-4),
            lr=0.1,
            loss=F.mse_loss,
            score=relative(1e-4),
        ),
        threshold=0.7,
        steps=150,
        cure=fit(
            lambda: dense(2, inputs=8, outputs=1, init=he),
            tabular,
            lr=0.1,
            loss=F.mse_loss,
            score=relative(1.0),
        ),
        finding="unscaled-targets",
        cause="data-scale",
        source="forum: the loss is tiny from early on, and all predictions are the same",
    ),
    Case(
        "scale-pixels-zero-one",
        "data-scale",
        fit(
            lambda: dense(2, init=he),
            scaled(digit_vectors, inputs=0.3, offset=0.3),
            lr=0.2,
        ),
        1.5,
    ),
    Case(
        "scale-inputs-hundreds-batch-norm",
        "data-scale",
        fit(
            lambda: inserted(dense(2, init=he), 0, nn.BatchNorm1d(64)),
            scaled(digit_vectors, inputs=300.0, offset=1000.0),
        ),
        1.5,
    ),
    Case(
        "scale-inputs-thousands-layer-norm",
        "data-scale",
        fit(
            lambda: inserted(dense(2, init=he), 0, nn.LayerNorm(64)),
            scaled(digit_vectors, inputs=5000.0),
        ),
        1.5,
    ),
    Case(
        "scale-inputs-tens-adam",
        "data-scale",
        fit(lambda: dense(2), scaled(digit_vectors, inputs=20.0), lr=2e-3, optimizer=ADAM),
        1.5,
        steps=150,
        source="pixels that are never divided by 255 often do no harm with Adam",
    ),
    Case(
        "scale-inputs-logarithm",
        "data-scale",
        fit(
            lambda: inserted(dense(2, init=he), 0, Function(lambda x: x.sign() * x.abs().log1p())),
            scaled(digit_vectors, inputs=1000.0),
            lr=0.01,
        ),
        1.5,
    ),
    Case(
        "scale-targets-tens",
        "data-scale",
        fit(
            regression,
            scaled(tabular, targets=30.0),
            lr=0.02,
            optimizer=ADAM,
            loss=F.mse_loss,
            score=relative(30.0),
        ),
        0.7,
        steps=150,
        source="targets of tens: the loss is in the hundreds, and falls",
    ),
    Case(
        "scale-targets-huber",
        "data-scale",
        fit(
            regression,
            scaled(tabular, targets=10.0),
            lr=0.1,
            loss=F.huber_loss,
            score=relative(10.0),
        ),
        0.7,
        steps=200,
    ),
)
