"""Which loss is the gradient at an output that of? Each usual one predicts it from the output and
the targets, and the signs of the gradient tell those."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from gradwatch.core.answer import COOLING, FITS

ENTRIES: Final = 1 << 17
"""Entries, in evenly spaced rows or columns, on which the losses are tried."""
TRIED: Final = 1 << 14
"""Entries on which other sizes of the logits are tried."""
CERTAIN: Final = 15.0
"""A logit from which on the gradient of a float32 sigmoid can be exactly 0: such an entry counts,
though its gradient is that of one that the loss leaves out."""
HEAVIEST: Final = 1e4
"""Largest weight of the positive targets that is looked for."""
VARIES: Final = 0.1
"""Relative spread of what is expected from which on a weight explains something."""
REPEATED: Final = 3
"""Rows per class from which on a weight of each class explains something."""


def of_classes(y: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Try the losses over classes, which are along the last axis: a row is one decision."""
    y, g = y.reshape(-1, y.shape[-1]), g.reshape(-1, g.shape[-1])
    step = max(1, y.numel() // ENTRIES)
    y, g = y[::step].double(), g[::step].double()
    counted = (g != 0).any(-1, keepdim=True).double()  # rows that the loss ignores have none
    rows = counted.sum()
    # Of a row that is right beyond rounding, the gradient at its class is 0 and not negative.
    lowest, label = g.min(-1, keepdim=True)
    label = torch.where(lowest < 0, label, y.argmax(-1, keepdim=True))
    target = torch.zeros_like(y).scatter_(-1, label, 1.0) * counted
    logs = y.log_softmax(-1)
    p = logs.exp()
    expected = (p - target) * counted
    weights, error = _class_weights(expected, g, label, target.sum(0))
    weight = weights.sum()
    shares = (target * weights[:, None]).sum(0) / weight
    constant = _entropy(shares, rows)
    soft = (p - g * rows * step) * counted  # the targets, if it is a plain mean
    smooth = _smoothed(soft, counted)
    soft_loss = -(logs * soft).sum() / rows
    soft_constant = _entropy((soft.sum(0) / rows).clamp(min=0), rows)
    smoothed = (error >= FITS) & (smooth < FITS)
    entropy = -(p * logs * counted).sum() / rows / math.log(y.shape[-1])
    found = {
        "ce_error": torch.where(smoothed, smooth, error),
        "ce_loss": torch.where(smoothed, soft_loss, -(logs * target).sum(-1) @ weights / weight),
        "ce_constant": torch.where(smoothed, soft_constant, constant),
        "ce_scale": torch.where(smoothed, torch.ones_like(weight), weight * step),
        "soft_loss": soft_loss,
        "soft_constant": soft_constant,
        "balance": (g.sum(-1).square().sum() / g.square().sum()).sqrt(),
        "entropy": entropy,
        "classes": y.new_tensor(float(y.shape[-1])),
        "part_of_rows": y.new_tensor(1 / step),
    }
    found |= _cooled(y, label, counted)
    plain = _entropy(target.sum(0) / rows, rows)
    normal = (y.exp().sum(-1) - 1).abs().max()  # a log-likelihood is normalised
    error = torch.where(normal < 1e-2, misfit(-target, g), torch.nan)
    found |= _named(
        "nll", error, -(y * target).sum() / rows, plain, _scale(-target, g) * rows * step
    )
    flat = (1 / y.shape[-1] - target) * counted
    found |= _named(
        "flat",
        misfit(flat, g),
        y.new_tensor(math.log(y.shape[-1])),
        plain,
        _scale(flat, g) * rows * step,
    )
    # What the loss says of the probabilities, through the softmax that stands before it.
    label = (g / p).argmin(-1, keepdim=True)
    target = torch.zeros_like(y).scatter_(-1, label, 1.0) * counted
    twice, brier = p.softmax(-1) - target, 2 * (p - target) / y.shape[-1]
    of_twice = -(p.log_softmax(-1) * target).sum() / rows
    of_brier = ((p - target) * counted).square().sum() / rows / y.shape[-1]
    share = target.sum(0) / rows
    even = (share * (1 - share)).mean()
    for name, slope, loss, best in (
        ("twice", twice, of_twice, plain),
        ("brier", brier, of_brier, even),
    ):
        expected = p * (slope - (p * slope).sum(-1, keepdim=True)) * counted
        found |= _named(name, misfit(expected, g), loss, best, _scale(expected, g) * rows * step)
    return found


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
    yes, no = _scale(expected * positive, g), _scale(expected * negative, g)
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
    scale = torch.where(weighted, no, _scale(expected, g))
    return _named(
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


def _class_weights(
    expected: Tensor, g: Tensor, label: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the factor of each row, and the error that is left: one factor for all, or, where
    that does not fit and there are enough rows, one for each class."""
    common = _scale(expected, g)
    alike = misfit(expected, g)
    products, squares = (expected * g).sum(-1), expected.square().sum(-1)
    zeros = torch.zeros_like(counts)
    top = zeros.scatter_add(0, label[:, 0], products)
    per_class = top / zeros.scatter_add(0, label[:, 0], squares).clamp(min=1e-300)
    factors = per_class[label[:, 0]]
    apart = ((g - factors[:, None] * expected).square().sum() / g.square().sum()).sqrt()
    enough = counts.sum() >= REPEATED * (counts > 0).sum()
    same_sign = (factors > 0) | (squares == 0)
    weighted = (alike >= FITS) & (apart < FITS) & enough & same_sign.all()
    here = (squares > 0).double()
    return torch.where(weighted, factors, common) * here, torch.where(weighted, apart, alike)


def _smoothed(soft: Tensor, counted: Tensor) -> Tensor:
    """By how much the targets are not those of label smoothing: one value for the class of each
    row, and another for all other classes."""
    rows, classes = counted.sum(), soft.shape[-1]
    label = soft.argmax(-1, keepdim=True)
    mark = torch.zeros_like(soft).scatter_(-1, label, 1.0) * counted
    high = (soft * mark).sum() / rows
    low = (soft * (counted - mark)).sum() / rows / (classes - 1)
    left = (soft - (high * mark + low * (counted - mark))).square().sum() / soft.numel()
    return torch.where((low > 0) & (high > low), left.sqrt() / low, torch.nan)


def _cooled(y: Tensor, label: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Try the logits at other sizes."""
    step = max(1, y.numel() // TRIED)
    y, label, counted = y[::step], label[::step], counted[::step, 0]

    def loss(factor: float) -> Tensor:
        each = F.cross_entropy(factor * y, label[:, 0], reduction="none")
        return (each * counted).sum() / counted.sum()

    return _best("cool", loss, y)


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

    return _best("bcool", loss, y)


def _best(name: str, loss: Callable[[float], Tensor], like: Tensor) -> dict[str, Tensor]:
    lowest, at = torch.stack([loss(factor) for factor in COOLING]).min(0)
    return {name: like.new_tensor(COOLING)[at], f"{name}_loss": lowest}


def _named(
    name: str, error: Tensor, loss: Tensor, constant: Tensor, scale: Tensor
) -> dict[str, Tensor]:
    values = {"error": error, "loss": loss, "constant": constant, "scale": scale}
    return {f"{name}_{what}": value for what, value in values.items()}


def misfit(expected: Tensor, g: Tensor) -> Tensor:
    """Root mean square of what is left when the gradient is scaled to what is expected, relative
    to the expected: scale-free, and NaN for no gradient at all."""
    fitted = g * ((expected * g).sum() / g.square().sum())
    return ((fitted - expected).square().sum() / expected.square().sum()).sqrt()


def _scale(expected: Tensor, g: Tensor) -> Tensor:
    """The factor by which the gradient is larger than expected, by least squares."""
    return (expected * g).sum() / expected.square().sum()


def _entropy(shares: Tensor, rows: Tensor) -> Tensor:
    """The loss of the best constant answer: the entropy of the classes, with the correction of
    Miller (1955) for a batch that is small, and never more than that of equal shares."""
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum()
    entropy = entropy + ((shares > 0).sum() - 1) / (2 * rows)
    return entropy.clamp(max=math.log(shares.numel()))
