"""Number formats: what is too small for them is zero, what is too large is infinite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import backbone, digit_batches, vectors

HALF, BRAIN = torch.float16, torch.bfloat16


class Cast(nn.Module):
    """A model in another format, whose output is float32 again."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model.to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.to(self.dtype)).float()  # type: ignore[no-any-return]


def autocast(
    dtype: torch.dtype = HALF,
    *,
    weight: float = 1.0,
    scale: float | None = None,
    by_hand: float = 1.0,
    clip: float | None = None,
    unscaled: bool = True,
    rate: float = 1e-2,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    **options: Any,
) -> Trial:
    """Set up mixed precision: with a GradScaler that begins at `scale`, or a fixed scale.

    The loss is multiplied with `weight`; what is judged is the loss without it.
    """
    model = backbone()
    chosen = optimizer(model.parameters(), lr=rate, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale is not None else None
    sample = digit_batches()
    inputs, targets = vectors()

    def step(_: int) -> Tensor:
        x, labels = sample()
        with torch.autocast("cpu", dtype):
            output = model(x)
        loss = weight * F.cross_entropy(output.float(), labels)
        chosen.zero_grad()
        if scaler is None:
            (by_hand * loss).backward()
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad /= by_hand
            chosen.step()
            return loss
        scaler.scale(loss).backward()
        if clip is not None:
            if unscaled:
                scaler.unscale_(chosen)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(chosen)
        scaler.update()
        return loss

    def score() -> float:
        return F.cross_entropy(model(inputs), targets).item()

    return Trial(model, [chosen], step, scaler, score)


def wholly(
    dtype: torch.dtype,
    model: Callable[[], nn.Module] = backbone,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    *,
    gain: float = 1.0,
    contrast: float = 1.0,
    rate: float = 1e-2,
    **options: Any,
) -> Trial:
    """Set up a training whose weights, gradients and optimizer are all in one format."""
    cast = Cast(model(), dtype)
    chosen = optimizer(cast.parameters(), lr=rate, **options)
    sample = digit_batches()

    def step(_: int) -> Tensor:
        inputs, labels = sample()
        loss = F.cross_entropy(cast(contrast * inputs), labels)
        chosen.zero_grad()
        loss.backward()
        chosen.step()
        return loss

    return Trial(cast, [chosen], step)


class RMS(nn.Module):
    """A root-mean-square norm, of which the squares can be taken in float32."""

    def __init__(self, *, in_float: bool) -> None:
        super().__init__()
        self.in_float = in_float

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if self.in_float else x
        return (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


def normed(*, in_float: bool) -> nn.Sequential:
    return nn.Sequential(RMS(in_float=in_float), *backbone())


SGD = torch.optim.SGD


def wide() -> nn.Module:
    return backbone(256)


def slowly(dtype: torch.dtype) -> Trial:
    """Set up steps that are smaller than the last bit of most weights in bfloat16."""
    return wholly(dtype, wide, rate=1e-4)


def contrasty(*, in_float: bool) -> Trial:
    """Set up inputs whose squares are beyond what float16 holds."""
    return wholly(HALF, lambda: normed(in_float=in_float), SGD, contrast=400, rate=0.1)


sick = partial(Case, family="precision", cause="precision", threshold=0.6, steps=150)
healthy = partial(Case, family="precision", threshold=0.5, steps=150)

CASES = (
    sick(
        "half-gradients-flushed",
        build=lambda: autocast(weight=1e-6, eps=1e-14),
        cure=lambda: autocast(weight=1e-6, eps=1e-14, scale=2.0**16),
        finding="flushed-gradients",
        # What is flushed is exactly 0.
        also=frozenset({"zero-gradient"}),
        at_init=True,
        source="Micikevicius et al. 2018: Mixed Precision Training, section 3.2",
    ),
    sick(
        "half-loss-scale-too-large",
        build=lambda: autocast(by_hand=2.0**24),
        cure=lambda: autocast(scale=2.0**24),
        finding="non-finite",
        at_init=True,
        source="Micikevicius et al. 2018: skip the step and lower the scale",
    ),
    sick(
        "half-clipped-before-unscaling",
        build=lambda: autocast(scale=2.0**16, clip=1.0, unscaled=False, optimizer=SGD, rate=0.1),
        cure=lambda: autocast(scale=2.0**16, clip=1.0, optimizer=SGD, rate=0.1),
        finding="always-clipped",
        # It is the clipping, too: to the 65,536th part of what was meant; and the weights stand
        # still.
        also=frozenset({"stalled-updates"}),
        causes=frozenset({"optimizer"}),
        source="PyTorch's AMP examples: unscale_ before clip_grad_norm_",
    ),
    sick(
        "half-adam-epsilon-is-zero",
        build=lambda: wholly(HALF),
        cure=lambda: wholly(HALF, eps=1e-4),
        finding="non-finite",
        # The epsilon is the optimizer's, and a larger one is the cure here.
        causes=frozenset({"optimizer"}),
        source="discuss.pytorch.org/t/adam-half-precision-nans/1765",
    ),
    sick(
        "half-norm-overflows",
        build=lambda: contrasty(in_float=False),
        cure=lambda: contrasty(in_float=True),
        finding="signal-scale",
        # Inputs of an ordinary size cure it, too.
        causes=frozenset({"data-scale"}),
        at_init=True,
        layers=("model.0",),
        source="transformers: LlamaRMSNorm takes its squares in float32",
    ),
    sick(
        "bfloat16-updates-lost",
        build=lambda: slowly(BRAIN),
        cure=lambda: slowly(torch.float32),
        steps=300,
        finding="lost-updates",
        source="Zamirai et al. 2020: Revisiting BFloat16 Training",
    ),
    healthy("half-autocast", build=autocast),
    healthy("half-autocast-scaled", build=lambda: autocast(scale=2.0**16)),
    healthy("half-scale-found-by-skipping", build=lambda: autocast(scale=2.0**24)),
    healthy("half-wholly", build=lambda: wholly(HALF, optimizer=SGD, rate=0.1)),
    healthy("bfloat16-autocast", build=lambda: autocast(BRAIN)),
    healthy("bfloat16-wholly", build=lambda: wholly(BRAIN, rate=3e-3)),
    healthy("double", build=lambda: wholly(torch.float64)),
)
