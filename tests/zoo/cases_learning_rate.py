"""Learning rates: too high, too low, on schedules that are right and on those that are not."""

from __future__ import annotations

import math

from torch import nn
from torch.nn import functional as F

from tests.zoo.case import Case
from tests.zoo.recipes import (
    ADAM,
    SGD,
    dense,
    digit_vectors,
    first,
    fit,
    he,
    residual,
    tabular,
)


def post_norm(depth: int) -> nn.Sequential:
    """A residual network that normalises after the sum."""
    return residual(
        depth,
        lambda: nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)),
        after=lambda: nn.LayerNorm(32),
    )


def regression() -> nn.Sequential:
    """A network for the tabular data."""
    return dense(2, nn.Tanh, inputs=8, outputs=1)


CASES = (
    Case(
        "lr-sgd-diverges",
        "learning-rate",
        fit(regression, tabular, lr=5.0, loss=F.mse_loss),
        threshold=0.7,
        cure=fit(regression, tabular, lr=0.1, loss=F.mse_loss),
        finding="oversized-updates",
        cause="learning-rate",
        # A divergence is all of this, in this order.
        also=frozenset({"exploding-gradient", "gradient-spike", "non-finite"}),
        source="LeCun et al. 1998, Efficient BackProp: at most 2 over the curvature",
    ),
    Case(
        "lr-sgd-linear-explodes",
        "learning-rate",
        fit(lambda: dense(2, nn.Identity, inputs=8, outputs=1), tabular, lr=2.0, loss=F.mse_loss),
        threshold=0.8,
        cure=fit(
            lambda: dense(2, nn.Identity, inputs=8, outputs=1), tabular, lr=0.05, loss=F.mse_loss
        ),
        finding="exploding-gradient",
        cause="learning-rate",
        # A divergence is all of this, in this order.
        also=frozenset({"oversized-updates", "gradient-spike", "non-finite"}),
        source="forum: linear regression whose loss becomes inf and then nan",
    ),
    Case(
        "lr-sgd-kills-rectifiers",
        "learning-rate",
        fit(lambda: dense(4, init=he), lr=8.0),
        threshold=1.5,
        cure=fit(lambda: dense(4, init=he), lr=0.05),
        finding="dead-units",
        cause="learning-rate",
        # The steps that kill them throw the loss to 1e22 first.
        also=frozenset({"oversized-updates", "exploding-gradient", "gradient-spike", "non-finite"}),
        source="CS231n: too high a learning rate may kill 40 % of a network",
    ),
    Case(
        "lr-adam-too-high",
        "learning-rate",
        fit(lambda: dense(3), lr=1.0, optimizer=ADAM),
        threshold=1.5,
        cure=fit(lambda: dense(3), lr=3e-3, optimizer=ADAM),
        finding="oversized-updates",
        cause="learning-rate",
        # The first step multiplies the gradient by 30,000; by step 20 the rectifiers are dead.
        also=frozenset({"exploding-gradient", "gradient-spike", "dead-units"}),
        source="forum: Adam with the learning rate of SGD",
    ),
    Case(
        "lr-momentum-too-high",
        "learning-rate",
        fit(lambda: dense(3, nn.Tanh, init=nn.init.xavier_normal_), lr=1.5, momentum=0.95),
        threshold=1.5,
        cure=fit(lambda: dense(3, nn.Tanh, init=nn.init.xavier_normal_), lr=0.01, momentum=0.95),
        finding="oversized-updates",
        cause="learning-rate",
        # By step 20 the tanhs are saturated: no gradient passes them.
        also=frozenset({"saturated-activation", "vanishing-gradient"}),
        source="Sutskever et al. 2013: momentum multiplies the learning rate",
    ),
    Case(
        "lr-sgd-too-low",
        "learning-rate",
        fit(lambda: dense(2, init=he), lr=1e-6),
        threshold=1.5,
        cure=fit(lambda: dense(2, init=he), lr=0.1),
        finding="stalled-updates",
        cause="learning-rate",
        source="forum: the loss does not change at all",
    ),
    Case(
        "lr-adam-too-low",
        "learning-rate",
        fit(lambda: dense(2, init=he), lr=1e-7, optimizer=ADAM),
        threshold=1.5,
        cure=fit(lambda: dense(2, init=he), lr=3e-3, optimizer=ADAM),
        finding="stalled-updates",
        cause="learning-rate",
        source="forum: the loss does not change at all",
    ),
    Case(
        "lr-decays-per-batch",
        "learning-rate",
        fit(lambda: dense(3, init=he), lr=0.03, schedule=lambda step: 0.1 ** (step // 3)),
        threshold=1.3,
        steps=150,
        cure=fit(lambda: dense(3, init=he), lr=0.03, schedule=lambda step: 0.1 ** (step // 100)),
        finding="stalled-updates",
        cause="learning-rate",
        onset=9,
        source="forum: scheduler.step() of an epoch's schedule called for each batch",
    ),
    Case(
        "lr-warm-up-too-long",
        "learning-rate",
        fit(
            lambda: dense(3, init=he),
            lr=3e-3,
            optimizer=ADAM,
            schedule=lambda step: min(1.0, step / 100_000),
        ),
        threshold=1.5,
        cure=fit(
            lambda: dense(3, init=he),
            lr=3e-3,
            optimizer=ADAM,
            schedule=lambda step: min(1.0, step / 20),
        ),
        finding="stalled-updates",
        cause="learning-rate",
        source="forum: warm-up counted in epochs and given in steps",
    ),
    Case(
        "lr-grows-without-end",
        "learning-rate",
        fit(lambda: dense(3, init=he), lr=0.01, schedule=lambda step: 1.1**step),
        threshold=1.5,
        steps=120,
        cure=fit(lambda: dense(3, init=he), lr=0.01, schedule=lambda step: min(1.1**step, 10.0)),
        finding="oversized-updates",
        cause="learning-rate",
        # It diverges by step 60, and kills its rectifiers.
        also=frozenset({"exploding-gradient", "gradient-spike", "dead-units"}),
        onset=50,
        source="Smith 2017, Cyclical Learning Rates: a range test that is never stopped",
    ),
    Case(
        "lr-no-warm-up-post-norm",
        "learning-rate",
        fit(lambda: post_norm(12), lr=0.03, optimizer=ADAM),
        threshold=1.5,
        cure=fit(
            lambda: post_norm(12),
            lr=3e-3,
            optimizer=ADAM,
            schedule=lambda step: min(1.0, step / 40),
        ),
        finding="oversized-updates",
        cause="learning-rate",
        # Norms before the branches cure it at the same rate; as it is, the first steps make the
        # gradient vanish.
        also=frozenset({"vanishing-gradient"}),
        causes=frozenset({"normalisation"}),
        source="Liu et al. 2020, Understanding the Difficulty of Training Transformers",
    ),
    Case(
        "lr-warm-up",
        "learning-rate",
        fit(lambda: dense(3, init=he), lr=0.2, schedule=lambda step: min(1.0, step / 30)),
        1.5,
        source="Goyal et al. 2017, Accurate, Large Minibatch SGD",
    ),
    Case(
        "lr-cosine-to-zero",
        "learning-rate",
        fit(
            lambda: dense(3, init=he),
            lr=0.1,
            schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / 100)),
        ),
        1.5,
        source="Loshchilov & Hutter 2017, SGDR: the rate is near zero at the end",
    ),
    Case(
        "lr-one-cycle",
        "learning-rate",
        fit(
            lambda: dense(3, init=he),
            lr=0.3,
            schedule=lambda step: 1 - abs(step - 50) / 51,
        ),
        1.5,
        source="Smith & Topin 2018, Super-Convergence",
    ),
    Case(
        "lr-high-and-clipped",
        "learning-rate",
        fit(lambda: dense(3, nn.Tanh, init=nn.init.xavier_normal_), lr=0.5, clip=1.0),
        1.5,
        source="Pascanu et al. 2013, On the Difficulty of Training Recurrent Networks",
    ),
    Case(
        "lr-high-but-bounded",
        "learning-rate",
        fit(lambda: dense(2, nn.Tanh, inputs=8, outputs=1), tabular, lr=0.4, loss=F.mse_loss),
        0.7,
        source="the loss jumps up and down, and stays low",
    ),
    Case(
        "lr-catapult",
        "learning-rate",
        fit(
            lambda: dense(2, nn.Tanh),
            first(digit_vectors, 64),
            lr=1.0,
        ),
        0.3,
        steps=150,
        source="Lewkowycz et al. 2020, The Catapult Mechanism: the loss doubles on the way",
    ),
    Case("lr-adam", "learning-rate", fit(lambda: dense(3), lr=3e-3, optimizer=ADAM), 1.5),
    Case(
        "lr-momentum",
        "learning-rate",
        fit(lambda: dense(3, init=he), lr=0.01, optimizer=SGD, momentum=0.9, nesterov=True),
        1.5,
    ),
    Case(
        "lr-small-but-enough",
        "learning-rate",
        fit(lambda: dense(1, width=128), lr=3e-4, optimizer=ADAM),
        1.2,
        steps=250,
    ),
)
