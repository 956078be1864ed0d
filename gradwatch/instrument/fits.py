"""How well a gradient is explained, and by which factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from gradwatch.core.losses import COOLING

ENTRIES: Final = 1 << 17
"""Entries, in evenly spaced rows or columns, on which the losses are tried."""
TRIED: Final = 1 << 14
"""Entries on which other sizes of the logits are tried."""
REPEATED: Final = 3
"""Rows per class from which on a weight of each class explains something."""


def named(
    name: str, error: Tensor, loss: Tensor, constant: Tensor, scale: Tensor
) -> dict[str, Tensor]:
    """Return the four numbers of a loss by their names."""
    values = {"error": error, "loss": loss, "constant": constant, "scale": scale}
    return {f"{name}_{what}": value for what, value in values.items()}


def misfit(expected: Tensor, g: Tensor) -> Tensor:
    """Root mean square of what is left when the gradient is scaled to what is expected, relative
    to the expected: scale-free, 1 for one of the opposite sign, and NaN for none at all."""
    fitted = g * ((expected * g).sum() / g.square().sum()).clamp(min=0)
    return ((fitted - expected).square().sum() / expected.square().sum()).sqrt()


def scale_of(expected: Tensor, g: Tensor) -> Tensor:
    """The factor by which the gradient is larger than expected, by least squares."""
    return (expected * g).sum() / expected.square().sum()


def best(name: str, loss: Callable[[float], Tensor], like: Tensor) -> dict[str, Tensor]:
    """Return the factor with the lowest loss, and that loss."""
    lowest, at = torch.stack([loss(factor) for factor in COOLING]).min(0)
    return {name: like.new_tensor(COOLING)[at], f"{name}_loss": lowest}
