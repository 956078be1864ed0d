"""The gradients are right, and what is done with them is not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import backbone, digit_batches

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def of(kind: type[torch.optim.Optimizer], rate: float, **options: Any) -> Optimizer:
    return lambda parameters: kind(parameters, lr=rate, **options)  # type: ignore[call-arg]


SGD = of(torch.optim.SGD, 0.1)
ADAM = of(torch.optim.Adam, 1e-2)


def digits(
    optimizer: Optimizer = SGD,
    *,
    held: Callable[[nn.Module], Iterable[nn.Parameter]] = lambda model: model.parameters(),
    order: str = "zero backward step",
    clip: float | None = None,
    every: int = 1,
) -> Trial:
    """Set up a classification of digits; `order` is what is done with each loss, and `every` how
    many batches make a step."""
    model = backbone()
    chosen = optimizer(held(model))
    sample = digit_batches(64 // every)

    def step(i: int) -> Tensor:
        inputs, targets = sample()
        loss = F.cross_entropy(model(inputs), targets)
        for action in order.split():
            if action == "zero":
                chosen.zero_grad()
            elif action == "backward":
                (loss / every).backward()
                for _ in range(every - 1):
                    inputs, targets = sample()
                    part = F.cross_entropy(model(inputs), targets)
                    (part / every).backward()
            else:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                chosen.step()
        return loss

    return Trial(model, [chosen], step)


ALL = ("0", "2", "4")
sick = partial(Case, family="optimizer", threshold=0.6, steps=150, cure=digits, cause="optimizer")
healthy = partial(Case, family="optimizer", threshold=0.5, steps=150)

CASES = (
    sick(
        "adam-epsilon-too-large",
        build=lambda: digits(of(torch.optim.Adam, 1e-2, eps=100.0)),
        cure=lambda: digits(ADAM),
        finding="epsilon-dominates",
        # The weights move by 5e-06 of their size in a step.
        also=frozenset({"stalled-updates"}),
        layers=ALL,
        source="torch.optim.Adam: eps is added to a root of tiny squares",
    ),
    sick(
        "weight-decay-coupled-too-large",
        build=lambda: digits(of(torch.optim.SGD, 0.1, weight_decay=1.0)),
        finding="weight-decay-dominates",
        layers=ALL,
    ),
    sick(
        "weight-decay-decoupled-too-large",
        build=lambda: digits(of(torch.optim.AdamW, 1e-2, weight_decay=20.0)),
        cure=lambda: digits(of(torch.optim.AdamW, 1e-2, weight_decay=0.1)),
        finding="weight-decay-dominates",
        layers=ALL,
        source="Loshchilov & Hutter 2019: decay is multiplied with the learning rate",
    ),
    sick(
        "weight-decay-in-adam",
        build=lambda: digits(of(torch.optim.Adam, 1e-2, weight_decay=0.3)),
        cure=lambda: digits(of(torch.optim.AdamW, 1e-2, weight_decay=0.3)),
        finding="weight-decay-dominates",
        layers=ALL,
        source="Loshchilov & Hutter 2019: L2 and weight decay differ in Adam",
    ),
    sick(
        "zero-grad-forgotten",
        build=lambda: digits(order="backward step"),
        finding="accumulating-gradients",
        layers=ALL,
        source="Karpathy 2018: forgot to zero_grad() before backward()",
    ),
    sick(
        "zero-grad-forgotten-adam",
        build=lambda: digits(ADAM, order="backward step"),
        cure=lambda: digits(ADAM),
        finding="accumulating-gradients",
        layers=ALL,
    ),
    sick(
        "momentum-too-high",
        build=lambda: digits(of(torch.optim.SGD, 0.1, momentum=0.999)),
        cure=lambda: digits(of(torch.optim.SGD, 0.1, momentum=0.9)),
        finding="oversized-updates",
        layers=ALL,
    ),
    sick(
        "zero-grad-after-backward",
        build=lambda: digits(order="backward zero step"),
        finding="stalled-updates",
        layers=ALL,
    ),
    sick(
        "step-before-backward",
        build=lambda: digits(order="zero step backward"),
        finding="stalled-updates",
        layers=ALL,
    ),
    sick(
        "optimizer-of-a-copy",
        build=lambda: digits(held=lambda model: copy.deepcopy(model).parameters()),
        finding="forgotten-parameters",
        # What no optimizer holds is cut off from the training: one fault with two names.
        causes=frozenset({"disconnection"}),
        layers=ALL,
    ),
    sick(
        "optimizer-holds-biases-only",
        build=lambda: digits(held=lambda model: [p for p in model.parameters() if p.dim() < 2]),
        finding="forgotten-parameters",
        # What no optimizer holds is cut off from the training: one fault with two names.
        causes=frozenset({"disconnection"}),
        layers=ALL,
    ),
    sick(
        "clipped-to-nothing",
        build=lambda: digits(clip=1e-3),
        cure=lambda: digits(clip=1.0),
        finding="always-clipped",
        # The weights move by 2e-05 of their size in a step.
        also=frozenset({"stalled-updates"}),
        layers=ALL,
    ),
    sick(
        "adam-without-second-moment",
        build=lambda: digits(of(torch.optim.Adam, 1e-2, betas=(0.9, 0.0))),
        cure=lambda: digits(ADAM),
        finding="oversized-updates",
        # A divergence is all of this, in this order.
        also=frozenset({"exploding-gradient", "gradient-spike", "non-finite"}),
        layers=ALL,
        source="Reddi, Kale & Kumar 2018: beta2 too small",
    ),
    sick(
        "loss-maximised",
        build=lambda: digits(of(torch.optim.SGD, 0.1, maximize=True)),
        finding="ascending-loss",
        layers=ALL,
    ),
    healthy("sgd-momentum", build=lambda: digits(of(torch.optim.SGD, 0.1, momentum=0.9))),
    healthy(
        "sgd-nesterov",
        build=lambda: digits(of(torch.optim.SGD, 0.05, momentum=0.9, nesterov=True)),
    ),
    healthy("adamw-decay", build=lambda: digits(of(torch.optim.AdamW, 1e-2, weight_decay=0.1))),
    healthy("rmsprop", build=lambda: digits(of(torch.optim.RMSprop, 3e-3))),
    healthy("adagrad", build=lambda: digits(of(torch.optim.Adagrad, 0.03))),
    healthy("sgd-clipped", build=lambda: digits(clip=1.0)),
    healthy("gradients-accumulated-on-purpose", build=lambda: digits(every=4)),
    healthy(
        "adam-large-first-beta",
        build=lambda: digits(of(torch.optim.Adam, 1e-2, betas=(0.99, 0.999))),
    ),
)
