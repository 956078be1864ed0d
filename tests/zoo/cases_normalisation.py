"""Normalisation: left out, of the wrong kind or place, or with statistics that are off."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tests.zoo.case import Case
from tests.zoo.recipes import (
    ADAM,
    Function,
    convolutional,
    dense,
    digit_images,
    fit,
    he,
    inserted,
    normal,
    residual,
    weight,
)


def zero_gamma(norm: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """A norm that gives nothing at first."""

    def make(width: int) -> nn.Module:
        module = norm(width)
        nn.init.zeros_(module.get_parameter("weight"))
        return module

    return make


def two_layers(*, norm: nn.Module | None = None, gamma: nn.Module | None = None) -> nn.Sequential:
    """A branch with He's weights; with norms in front and at its end."""
    branch = nn.Sequential(
        norm or nn.Identity(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        gamma or nn.Identity(),
    )
    for at in (1, 3):
        he(weight(branch, at))
    return branch


def evaluating(model: nn.Module, step: int) -> None:
    """Put the model in evaluation mode: `train()` is forgotten after a validation."""
    model.eval()


def per_channel(width: int) -> nn.GroupNorm:
    """A group norm with one channel in each group."""
    return nn.GroupNorm(width, width)


class TransposedNorm(nn.Module):
    """Layer norm over a last dimension of one: each number is normalised by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x[..., None])[..., 0]  # type: ignore[no-any-return]


CASES = (
    Case(
        "norm-none-small-weights",
        "normalisation",
        fit(lambda: dense(10, init=normal(0.08))),
        threshold=1.5,
        cure=fit(lambda: dense(10, init=normal(0.08), norm=nn.BatchNorm1d)),
        finding="vanishing-gradient",
        cause="init",
        # The cure here is a norm; He's weights are another; the signal fades, too.
        also=frozenset({"signal-scale"}),
        causes=frozenset({"normalisation"}),
        source="Ioffe & Szegedy 2015, Batch Normalization",
    ),
    Case(
        "norm-none-residual",
        "normalisation",
        fit(lambda: residual(16, two_layers), lr=0.03),
        threshold=1.5,
        cure=fit(lambda: residual(16, lambda: two_layers(norm=nn.LayerNorm(32))), lr=0.03),
        finding="exploding-gradient",
        cause="normalisation",
        # The same fault as in depth-residual-unscaled-branches: smaller weights at the end of each
        # branch cure it, too.
        also=frozenset({"signal-scale", "non-finite"}),
        causes=frozenset({"init"}),
        source="Hanin & Rolnick 2018, How to Start Training: residual nets",
    ),
    Case(
        "norm-one-channel-per-group",
        "normalisation",
        fit(lambda: dense(3, norm=per_channel)),
        threshold=1.5,
        cure=fit(lambda: dense(3, norm=lambda width: nn.GroupNorm(4, width))),
        finding="vanishing-gradient",
        cause="normalisation",
        layers=("1", "4", "7"),
        source="by definition: one value in a group has no spread, and gives only the bias",
    ),
    Case(
        "norm-over-one-feature",
        "normalisation",
        fit(lambda: inserted(dense(3, init=he), 4, TransposedNorm())),
        threshold=1.5,
        cure=fit(lambda: inserted(dense(3, init=he), 4, nn.LayerNorm(32))),
        finding="vanishing-gradient",
        cause="normalisation",
        # It gives its bias, 0, and the rectifier behind it is dead.
        also=frozenset({"zero-gradient", "dead-units"}),
        layers=("4.norm",),
        source="forum: nn.LayerNorm over the wrong dimension",
    ),
    Case(
        "norm-zero-gamma-plain",
        "normalisation",
        fit(lambda: dense(4, norm=zero_gamma(nn.BatchNorm1d))),
        threshold=1.5,
        cure=fit(lambda: dense(4, norm=nn.BatchNorm1d)),
        finding="vanishing-gradient",
        cause="init",
        # All of it at once: every unit gives 0, gets 0, and is like every other.
        also=frozenset({"dead-units", "zero-gradient", "symmetric-units"}),
        layers=("1", "4", "7", "10"),
        source="Goyal et al. 2017: zero gamma is for residual branches",
    ),
    Case(
        "norm-train-forgotten",
        "normalisation",
        fit(lambda: dense(10, norm=nn.BatchNorm1d), disturb=evaluating),
        threshold=1.5,
        cure=fit(lambda: dense(10, norm=nn.BatchNorm1d)),
        finding="vanishing-gradient",
        cause="normalisation",
        # What is left is a plain net of the default weights: He's weights cure it, and so do skip
        # connections.
        causes=frozenset({"depth", "init"}),
        source="forum: model.eval() and never model.train() again",
    ),
    Case(
        "norm-batch-of-two",
        "normalisation",
        fit(lambda: dense(8, norm=nn.BatchNorm1d, init=he), batch=2, lr=0.01),
        threshold=1.6,
        steps=500,
        cure=fit(lambda: dense(8, norm=nn.LayerNorm, init=he), batch=2, lr=0.01),
        finding="exploding-gradient",
        cause="normalisation",
        # Two samples are always normalised to -1 and 1: the gradient through that is nearly 0, and
        # jumps when the two are nearly equal.
        also=frozenset({"vanishing-gradient", "gradient-spike"}),
        source="Wu & He 2018, Group Normalization: small batches",
    ),
    Case(
        "norm-post-deep-no-warm-up",
        "normalisation",
        fit(
            lambda: residual(24, two_layers, after=lambda: nn.LayerNorm(32)),
            lr=0.01,
            optimizer=ADAM,
        ),
        threshold=1.5,
        cure=fit(
            lambda: residual(
                24, lambda: two_layers(norm=nn.LayerNorm(32)), head=lambda: nn.LayerNorm(32)
            ),
            lr=0.01,
            optimizer=ADAM,
        ),
        finding="vanishing-gradient",
        cause="normalisation",
        # A tenth of the learning rate cures it, too: at step 0 nothing vanishes, the first steps do
        # it.
        also=frozenset({"oversized-updates"}),
        causes=frozenset({"learning-rate"}),
        at_init=False,
        source="Xiong et al. 2020, On Layer Normalization in the Transformer Architecture",
    ),
    Case("norm-batch-mlp", "normalisation", fit(lambda: dense(6, norm=nn.BatchNorm1d)), 1.5),
    Case(
        "norm-batch-of-eight",
        "normalisation",
        fit(lambda: dense(2, norm=nn.BatchNorm1d), batch=8, lr=0.03),
        1.5,
        steps=200,
    ),
    Case("norm-layer-mlp", "normalisation", fit(lambda: dense(6, norm=nn.LayerNorm)), 1.5),
    Case(
        "norm-layer-sigmoid",
        "normalisation",
        fit(lambda: dense(2, nn.Sigmoid, norm=nn.LayerNorm), lr=0.02, optimizer=ADAM),
        1.5,
    ),
    Case("norm-rms-mlp", "normalisation", fit(lambda: dense(4, norm=nn.RMSNorm)), 1.5),
    Case(
        "norm-group-conv",
        "normalisation",
        fit(
            lambda: convolutional(5, width=16, norm=lambda width: nn.GroupNorm(4, width)),
            digit_images,
        ),
        1.5,
        steps=120,
    ),
    Case(
        "norm-pre-layer-residual",
        "normalisation",
        fit(lambda: residual(12, lambda: two_layers(norm=nn.LayerNorm(32))), lr=0.02),
        1.5,
    ),
    Case(
        "norm-pre-rms-residual",
        "normalisation",
        fit(
            lambda: residual(
                12, lambda: two_layers(norm=nn.RMSNorm(32)), head=lambda: nn.RMSNorm(32)
            ),
            lr=3e-3,
            optimizer=ADAM,
        ),
        1.5,
    ),
    Case(
        "norm-post-shallow",
        "normalisation",
        fit(
            lambda: residual(4, two_layers, after=lambda: nn.LayerNorm(32)),
            lr=3e-3,
            optimizer=ADAM,
            schedule=lambda step: min(1.0, step / 20),
        ),
        1.5,
        source="Vaswani et al. 2017, Attention Is All You Need",
    ),
    Case(
        "norm-zero-gamma-residual",
        "normalisation",
        fit(
            lambda: residual(10, lambda: two_layers(gamma=zero_gamma(nn.BatchNorm1d)(32))), lr=0.05
        ),
        1.5,
        source="Goyal et al. 2017, Accurate, Large Minibatch SGD",
    ),
    Case(
        "norm-input-only",
        "normalisation",
        fit(
            lambda: inserted(
                dense(2, init=he), 0, Function(lambda x: x / x.norm(dim=-1, keepdim=True) * 8)
            )
        ),
        1.5,
    ),
)
