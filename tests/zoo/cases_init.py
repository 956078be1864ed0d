"""Initialisation: weights that are all the same, too small, too large or never negative."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tests.zoo.case import Case
from tests.zoo.recipes import (
    ADAM,
    Init,
    convolutional,
    dense,
    digit_images,
    fit,
    he,
    normal,
    residual,
    weight,
)


def some_layers(depth: int, at: tuple[int, ...], init: Init) -> nn.Sequential:
    """A network with He's weights, but for some layers."""
    model = dense(depth, init=he)
    for i in at:
        init(weight(model, i))
    return model


def constant(value: float) -> Callable[[Tensor], Tensor]:
    """All weights the same."""
    return lambda weight: nn.init.constant_(weight, value)


def zero_head() -> nn.Sequential:
    """The head starts at zero: its inputs have no gradient in the first step, and only then."""
    model = dense(3, init=he)
    nn.init.zeros_(weight(model, -1))
    return model


def zero_branch() -> nn.Sequential:
    """A residual branch that starts as nothing."""
    branch = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    nn.init.zeros_(weight(branch, 3))
    return branch


CASES = (
    Case(
        "init-zeros",
        "init",
        fit(lambda: dense(3, init=nn.init.zeros_)),
        threshold=1.5,
        cure=fit(lambda: dense(3, init=he)),
        finding="vanishing-gradient",
        cause="init",
        # All of it at once: every unit gives 0, gets 0, and is like every other.
        also=frozenset({"dead-units", "zero-gradient", "symmetric-units"}),
        source="forum: all weights and biases set to zero",
    ),
    Case(
        "init-constant-relu",
        "init",
        fit(lambda: dense(2, init=constant(0.05))),
        threshold=1.4,
        cure=fit(lambda: dense(2, init=he)),
        finding="symmetric-units",
        cause="init",
        source="Goodfellow et al. 2016, Deep Learning, 8.4: breaking symmetry",
    ),
    Case(
        "init-constant-tanh",
        "init",
        fit(lambda: dense(2, nn.Tanh, init=constant(0.1)), lr=0.01, optimizer=ADAM),
        threshold=1.2,
        cure=fit(lambda: dense(2, nn.Tanh, init=nn.init.xavier_normal_), lr=0.01, optimizer=ADAM),
        finding="symmetric-units",
        cause="init",
        source="forum: nn.init.constant_ for all layers",
    ),
    Case(
        "init-constant-two-layers",
        "init",
        fit(lambda: some_layers(3, (2, 4), constant(0.1)), lr=0.03),
        threshold=1.0,
        cure=fit(lambda: dense(3, init=he), lr=0.1),
        finding="symmetric-units",
        cause="init",
        layers=("2",),
        source="Goodfellow et al. 2016, Deep Learning, 8.4: breaking symmetry",
    ),
    Case(
        "init-too-small-tanh",
        "init",
        fit(lambda: dense(6, nn.Tanh, init=normal(0.01))),
        threshold=1.5,
        cure=fit(lambda: dense(6, nn.Tanh, init=nn.init.xavier_normal_)),
        finding="vanishing-gradient",
        cause="init",
        # The signal fades as the gradient does, by the same weights.
        also=frozenset({"signal-scale"}),
        source="Glorot & Bengio 2010; CS231n: small random numbers",
    ),
    Case(
        "init-too-small-conv",
        "init",
        fit(lambda: convolutional(5, init=normal(0.01)), digit_images),
        threshold=1.6,
        steps=150,
        cure=fit(lambda: convolutional(5, width=16, init=he), digit_images, lr=0.1),
        finding="vanishing-gradient",
        cause="init",
        # The signal fades as the gradient does, by the same weights.
        also=frozenset({"signal-scale"}),
        source="He et al. 2015, Delving Deep: std 0.01 stalls a 30-layer model",
    ),
    Case(
        "init-two-tiny-layers",
        "init",
        fit(lambda: some_layers(4, (4, 6), normal(1e-4))),
        threshold=1.5,
        cure=fit(lambda: dense(4, init=he)),
        finding="vanishing-gradient",
        cause="init",
        # The signal fades as the gradient does, by the same weights.
        also=frozenset({"signal-scale"}),
        layers=("4", "6"),
        source="forum: custom layers whose weights were multiplied with 1e-4",
    ),
    Case(
        "init-too-large-relu",
        "init",
        fit(lambda: dense(6, width=64, init=normal(1.0)), lr=0.01),
        threshold=1.5,
        cure=fit(lambda: dense(6, width=64, init=he), lr=0.05),
        finding="exploding-gradient",
        cause="init",
        # The signal grows as the gradient does; after two steps it has overflowed.
        also=frozenset({"signal-scale", "non-finite"}),
        source="forum: torch.randn for weights",
    ),
    Case(
        "init-too-large-tanh",
        "init",
        fit(lambda: dense(6, nn.Tanh, width=64, init=normal(1.0))),
        threshold=1.5,
        cure=fit(lambda: dense(6, nn.Tanh, width=64, init=nn.init.xavier_normal_)),
        finding="saturated-activation",
        cause="init",
        # The weights before the tanhs multiply the gradient by 100.
        also=frozenset({"exploding-gradient"}),
        source="Glorot & Bengio 2010; CS231n: neurons saturate at -1 and 1",
    ),
    Case(
        "init-uniform-zero-one",
        "init",
        fit(lambda: dense(4, width=64, init=nn.init.uniform_), lr=0.01),
        threshold=1.5,
        cure=fit(lambda: dense(4, width=64, init=he), lr=0.05),
        finding="exploding-gradient",
        cause="init",
        # The signal grows as the gradient does, and the first step leaves every rectifier dead.
        also=frozenset({"signal-scale", "dead-units"}),
        source="forum: nn.Parameter(torch.rand(...)) and nn.init.uniform_ with its defaults",
    ),
    Case(
        "init-uniform-zero-one-sigmoid",
        "init",
        fit(lambda: dense(2, nn.Sigmoid, width=64, init=nn.init.uniform_), lr=0.5),
        threshold=1.5,
        cure=fit(lambda: dense(2, nn.Sigmoid, width=64, init=nn.init.xavier_normal_), lr=0.5),
        finding="saturated-activation",
        cause="init",
        source="forum: torch.rand for the weights of a sigmoid network",
    ),
    Case("init-zero-head", "init", fit(zero_head), 1.5),
    Case(
        "init-zero-branches",
        "init",
        fit(lambda: residual(8, zero_branch)),
        1.5,
        source="Goyal et al. 2017, Accurate, Large Minibatch SGD: zero gamma",
    ),
    Case(
        "init-xavier-tanh", "init", fit(lambda: dense(4, nn.Tanh, init=nn.init.xavier_normal_)), 1.5
    ),
    Case("init-orthogonal-relu", "init", fit(lambda: dense(4, init=nn.init.orthogonal_)), 1.5),
    Case(
        "init-sparse",
        "init",
        fit(lambda: dense(2, nn.Tanh, init=lambda w: nn.init.sparse_(w, 0.7, std=0.5))),
        1.5,
        source="Martens 2010, Deep Learning via Hessian-free Optimization",
    ),
    Case("init-small-shallow", "init", fit(lambda: dense(1, init=normal(0.01)), lr=0.3), 1.5),
    Case(
        "init-one-tiny-layer",
        "init",
        fit(lambda: some_layers(4, (4,), normal(1e-5))),
        1.5,
        source="its own gradient is as large as ever: it grows, and those before it follow",
    ),
    Case(
        "init-xavier-conv",
        "init",
        fit(
            lambda: convolutional(3, width=16, init=nn.init.xavier_uniform_),
            digit_images,
            lr=0.05,
            momentum=0.9,
        ),
        1.6,
        steps=150,
    ),
)
