"""Numerics: expressions that are right on paper and not finite in float32, and their safe forms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case
from tests.zoo.expressions import (
    angle,
    attend,
    causal,
    corrupted,
    gaussian,
    length,
    log_error,
    log_of_softmax,
    log_softmax,
    log_sum_exp,
    masked_mean,
    safe_root,
    stable_log_sum_exp,
    standardise,
    to_partner,
)
from tests.zoo.recipes import (
    ADAM,
    Build,
    Function,
    dense,
    fit,
    he,
    inserted,
    tabular,
)


def classifier(at: int, function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Sequential]:
    """A classifier of digits with a function between its layers."""
    return lambda: inserted(dense(2, init=he), at, Function(function))


def regression(loss: Callable[[Tensor, Tensor], Tensor]) -> Build:
    """A regression of the tabular data, with a mean and a deviation as outputs."""
    return fit(
        lambda: dense(2, inputs=8, outputs=2, init=he),
        tabular,
        lr=0.01,
        optimizer=ADAM,
        loss=loss,
        score=lambda output, target: F.mse_loss(output[:, :1], target),
    )


def sick(
    name: str,
    build: Build,
    cure: Build,
    source: str,
    *,
    threshold: float = 1.5,
    layers: tuple[str, ...] = (),
    onset: int = 0,
    causes: frozenset[str] = frozenset(),
) -> Case:
    """A case whose loss is not finite."""
    return Case(
        f"numerics-{name}",
        "numerics",
        build,
        threshold,
        cure=cure,
        finding="non-finite",
        cause="numerics",
        layers=layers,
        causes=causes,
        onset=onset,
        source=source,
    )


CASES = (
    sick(
        "log-of-softmax",
        fit(lambda: dense(2, init=he), loss=log_of_softmax),
        fit(lambda: dense(2, init=he), loss=log_softmax),
        "forum: torch.log(torch.softmax(...)) gives 0 * -inf",
        threshold=0.5,
    ),
    sick(
        "log-sum-exp",
        fit(lambda: dense(2, init=he), loss=log_sum_exp),
        fit(lambda: dense(2, init=he), loss=stable_log_sum_exp),
        "forum: exp overflows above 88 in float32",
    ),
    sick(
        "division-by-deviation",
        fit(classifier(0, standardise(0.0))),
        fit(classifier(0, standardise(0.1))),
        "forum: a feature that is constant in a batch has a deviation of zero",
        layers=("0",),
    ),
    sick(
        "root-of-zero",
        fit(classifier(2, to_partner(0.0)), batch=63),
        fit(classifier(2, to_partner(1e-4)), batch=63),
        "forum: the gradient of torch.sqrt at zero is inf, and inf * 0 is nan",
        layers=("2",),
    ),
    sick(
        "angle-to-itself",
        fit(classifier(2, angle(0.0)), lr=0.3),
        fit(classifier(2, angle(1e-4)), lr=0.3),
        "pytorch/pytorch issue 8069: the gradient of acos at 1",
        layers=("2",),
    ),
    sick(
        "where-around-root",
        fit(classifier(1, lambda x: torch.where(x > 0, x.sqrt(), 0.0 * x))),
        fit(classifier(1, safe_root)),
        "pytorch/pytorch issue 68425: the branch that torch.where does not take",
        layers=("1",),
    ),
    sick(
        "mask-by-product",
        fit(
            lambda: dense(2, inputs=8, outputs=1, init=he),
            tabular,
            loss=masked_mean,
            score=log_error,
        ),
        fit(
            lambda: dense(2, inputs=8, outputs=1, init=he),
            tabular,
            loss=log_error,
            score=log_error,
        ),
        "forum: a loss times its mask, with inf where the mask is zero",
        threshold=1.5,
    ),
    sick(
        "mask-of-everything",
        fit(classifier(3, attend(-torch.inf))),
        fit(classifier(3, attend(-1e4))),
        "pytorch/pytorch issue 41508: softmax of a row that is masked altogether",
        layers=("3",),
    ),
    sick(
        "log-of-negative",
        regression(gaussian(lambda x: x)),
        regression(gaussian(lambda x: F.softplus(x) + 0.1)),
        "forum: a deviation that the network gives as it likes, and its logarithm",
        threshold=0.7,
    ),
    sick(
        "nan-in-data",
        fit(lambda: dense(2, init=he), alter=corrupted(40, repair=False)),
        fit(lambda: dense(2, init=he), alter=corrupted(40, repair=True)),
        "forum: one missing value in a table",
        onset=40,
        # To leave the sample out is the cure here.
        causes=frozenset({"data"}),
    ),
    Case(
        "numerics-log-softmax",
        "numerics",
        fit(lambda: dense(2, init=he), loss=log_softmax),
        0.5,
    ),
    Case("numerics-causal-mask", "numerics", fit(classifier(2, causal), lr=0.05), 1.5),
    Case(
        "numerics-safe-where",
        "numerics",
        fit(classifier(3, safe_root), lr=0.05),
        1.5,
        source="the branch that is not taken gets an input that is safe",
    ),
    Case(
        "numerics-clamped-log",
        "numerics",
        fit(
            lambda: dense(2, init=he),
            lr=0.05,
            loss=lambda output, target: F.nll_loss(output.softmax(-1).clamp(1e-6).log(), target),
        ),
        1.5,
    ),
    Case(
        "numerics-selected-targets",
        "numerics",
        fit(
            lambda: dense(2, inputs=8, outputs=1, init=he),
            lambda: (tabular()[0], tabular()[1].masked_fill(tabular()[1] < -1, torch.nan)),
            loss=lambda output, target: F.mse_loss(
                output[target.isfinite()], target[target.isfinite()]
            ),
        ),
        0.7,
        source="missing targets are nan, and never used",
    ),
    Case(
        "numerics-masked-classes",
        "numerics",
        fit(
            lambda: dense(2, outputs=12, init=he),
            loss=lambda output, target: F.cross_entropy(
                output.masked_fill(torch.arange(12) > 9, -torch.inf), target
            ),
        ),
        1.5,
        source="classes that can not be chosen have logits of -inf",
    ),
    Case(
        "numerics-nan-behind-rectifier",
        "numerics",
        fit(classifier(2, length)),
        1.5,
        source="the backward pass of a rectifier gives 0 where it was closed, whatever comes in",
    ),
    Case(
        "numerics-bounded-variance",
        "numerics",
        fit(
            lambda: dense(2, inputs=8, outputs=2, init=he),
            tabular,
            lr=5e-3,
            optimizer=ADAM,
            loss=lambda output, target: F.gaussian_nll_loss(
                output[:, :1], target, F.softplus(output[:, 1:]), eps=1e-3
            ),
            score=lambda output, target: F.mse_loss(output[:, :1], target),
        ),
        0.7,
        steps=150,
    ),
)
