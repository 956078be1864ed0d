"""Losses of yes and no: which of them explains the gradient."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from gradwatch.core.losses import FITS
from gradwatch.instrument.fits import ENTRIES, TRIED, best, misfit, named, scale_of

CERTAIN: Final = 15.0
"""A logit from which on the gradient of a float32 sigmoid can be exactly 0: such an entry counts,
though its gradient is that of one that the loss leaves out."""
HEAVIEST: Final = 1e4
"""Largest weight of the positive targets that is looked for."""
VARIES: Final = 0.1
"""Relative spread of what is expected from which on a weight explains something."""


def of_yes_or_no(y: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Try the losses of which each entry is a decision of its own; one column for each question."""
    step = max(1, y.numel() // ENTRIES)
    y, g = y[:, ::step].double(), g[:, ::step].double()
    target = torch.where(g == 0, y > 0, g < 0).double()
    s = y.sigmoid()
    asked = ((g != 0) | (y.abs() > CERTAIN)).double()
    each = F.binary_cross_entropy_with_logits(y, target, reduction="none")
    found = _decided("bce", s - target, g, target, asked, each, weights=True)
    even = torch.full_like(y, math.log(2))
    found |= _decided("bflat", 0.5 - target, g, target, asked, even)
    through = s * (1 - s)
    each = F.binary_cross_entropy_with_logits(s, target, reduction="none")
    found |= _decided("btwice", (s.sigmoid() - target) * through, g, target, asked, each)
    squares = _decided("bsquare", (s - target) * through, g, target, asked, (s - target).square())
    share = (target * asked).sum(0) / asked.sum(0).clamp(min=1)
    squares["bsquare_constant"] = (share * (1 - share)).mean()
    found |= squares
    # In terms of the logit, which does not blow up: d loss / d logit = p - target.
    inside = (y.min() >= 0) & (y.max() <= 1)
    p = y.clamp(1e-12, 1 - 1e-12)
    # Not the function of torch: on a GPU it stops the process where a probability is none.
    each = -torch.special.xlogy(target, p) - torch.special.xlogy(1 - target, 1 - p)
    asked, target = (g != 0).double(), (g < 0).double()
    slope = g * p * (1 - p)
    probable = _decided("prob", p - target, slope, target, asked, each, weights=True)
    probable["prob_error"] = torch.where(inside, probable["prob_error"], torch.nan)
    generator = -s * asked
    found["minimax"] = torch.where((generator * g).sum() > 0, misfit(generator, g), torch.nan)
    # With a minus before it, the signs of the gradient tell the opposite.
    contrary = (g > 0).double()
    against = misfit((contrary - p) * asked, slope)
    each = -torch.special.xlogy(contrary, p) - torch.special.xlogy(1 - contrary, 1 - p)
    found["pagainst_error"] = torch.where(inside, against, torch.nan)
    found["pagainst_loss"] = (each * asked).sum() / asked.sum()
    found["bagainst_error"] = misfit((contrary - s) * asked, g)
    each = F.binary_cross_entropy_with_logits(y, contrary, reduction="none")
    found["bagainst_loss"] = (each * asked).sum() / asked.sum()
    found |= probable | _cooled_decisions(y, target, asked)
    for name in ("bce", "btwice", "bsquare", "bflat", "prob"):
        found[f"{name}_scale"] = found[f"{name}_scale"] * step
    return found | {"part": y.new_tensor(1 / step)}


def _decided(
    name: str,
    expected: Tensor,
    g: Tensor,
    target: Tensor,
    asked: Tensor,
    each: Tensor,
    *,
    weights: bool = False,
) -> dict[str, Tensor]:
    """`weights` tries a factor of the positive targets, too."""
    expected = expected * asked
    alike = misfit(expected, g)
    positive, negative = target * asked, (1 - target) * asked
    yes, no = scale_of(expected * positive, g), scale_of(expected * negative, g)
    factors = torch.where(target > 0, yes, no)
    apart = ((g - factors * expected).square().sum() / g.square().sum()).sqrt()
    ratio = yes / no
    weighted = (alike >= FITS) & (apart < FITS) & (ratio > 1 / HEAVIEST) & (ratio < HEAVIEST)
    # Of outputs that are all alike, any two numbers are explained by two factors.
    weighted = weighted & (_variation(expected, positive) + _variation(expected, negative) > VARIES)
    weighted = weighted & weights
    ratio = torch.where(weighted, ratio, torch.ones_like(ratio))
    factors = torch.where(target > 0, ratio, torch.ones_like(ratio)) * asked
    count = asked.sum()
    per_column = asked.sum(0).clamp(min=1)
    positive, negative = (factors * target).sum(0), (factors * (1 - target)).sum(0)
    share = positive / (positive + negative).clamp(min=1e-300)
    entropy = -torch.special.xlogy(share, share) - torch.special.xlogy(1 - share, 1 - share)
    constant = (positive + negative) * entropy
    mixed = ((share > 0) & (share < 1)).double()
    constant = torch.minimum(
        constant + mixed / 2 * (positive + negative) / per_column,
        (positive + negative) * math.log(2),
    )
    scale = torch.where(weighted, no, scale_of(expected, g))
    return named(
        name,
        torch.where(weighted, apart, alike),
        (each * factors).sum() / count,
        constant.sum() / count,
        scale * count,
    )


def _variation(expected: Tensor, mark: Tensor) -> Tensor:
    """Standard deviation over mean of the marked entries; 0 where there are none."""
    count = mark.sum().clamp(min=1)
    mean = (expected * mark).sum() / count
    spread = ((expected - mean).square() * mark).sum() / count
    return (spread.sqrt() / mean.abs()).nan_to_num(0.0)


def _cooled_decisions(y: Tensor, target: Tensor, asked: Tensor) -> dict[str, Tensor]:
    """The same about the mean of each column, with the logit of its share of positive targets:
    the logits may all lie on one side of 0."""
    step = max(1, y.numel() // TRIED)
    y, target, asked = y[:, ::step], target[:, ::step], asked[:, ::step]
    count = asked.sum(0).clamp(min=1)
    prior = ((target * asked).sum(0) + 0.5) / (count + 1)
    centred = y - (y * asked).sum(0) / count

    def loss(factor: float) -> Tensor:
        logits = factor * centred + prior.logit()
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (each * asked).sum() / asked.sum()

    return best("bcool", loss, y)
