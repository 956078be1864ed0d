"""Losses over classes: which of them explains the gradient. Each predicts it from the output and
the targets, and the signs of the gradient tell those."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from gradwatch.core.losses import FITS
from gradwatch.instrument.fits import ENTRIES, REPEATED, TRIED, best, misfit, named, scale_of


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
    found |= _cooled(y, label, counted) | _contrary(y, g, logs, counted)
    plain = _entropy(target.sum(0) / rows, rows)
    normal = (y.exp().sum(-1) - 1).abs().max()  # a log-likelihood is normalised
    error = torch.where(normal < 1e-2, misfit(-target, g), torch.nan)
    found |= named(
        "nll", error, -(y * target).sum() / rows, plain, scale_of(-target, g) * rows * step
    )
    flat = (1 / y.shape[-1] - target) * counted
    found |= named(
        "flat",
        misfit(flat, g),
        y.new_tensor(math.log(y.shape[-1])),
        plain,
        scale_of(flat, g) * rows * step,
    )
    # What the loss says of the probabilities, through the softmax that stands before it.
    label = (g / p).argmin(-1, keepdim=True)
    target = torch.zeros_like(y).scatter_(-1, label, 1.0) * counted
    twice, brier = p.softmax(-1) - target, 2 * (p - target) / y.shape[-1]
    of_twice = -(p.log_softmax(-1) * target).sum() / rows
    of_brier = ((p - target) * counted).square().sum() / rows / y.shape[-1]
    share = target.sum(0) / rows
    even = (share * (1 - share)).mean()
    for name, slope, loss, lowest in (
        ("twice", twice, of_twice, plain),
        ("brier", brier, of_brier, even),
    ):
        expected = p * (slope - (p * slope).sum(-1, keepdim=True)) * counted
        found |= named(name, misfit(expected, g), loss, lowest, scale_of(expected, g) * rows * step)
    return found


def _class_weights(
    expected: Tensor, g: Tensor, label: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the factor of each row, and the error that is left: one factor for all, or, where
    that does not fit and there are enough rows, one for each class."""
    common = scale_of(expected, g)
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


def _contrary(y: Tensor, g: Tensor, logs: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Try the losses with a minus before them, and that of a policy, whose rows have a factor of
    either sign each."""
    p, rows = logs.exp(), counted.sum()
    mark = torch.zeros_like(y).scatter_(-1, g.argmax(-1, keepdim=True), 1.0) * counted
    largest = g.abs().argmax(-1, keepdim=True)  # 1 - p of a class is all other p together
    expected = (p - torch.zeros_like(y).scatter_(-1, largest, 1.0)) * counted
    factors = (expected * g).sum(-1, keepdim=True)
    factors = factors / expected.square().sum(-1, keepdim=True).clamp(min=1e-300)
    left = (g - factors * expected).square().sum() / g.square().sum()
    normal = (y.exp().sum(-1) - 1).abs().max() < 1e-2
    loss = -(logs * mark).sum() / rows
    return {
        "against_error": misfit(mark - p * counted, g),
        "against_loss": loss,
        "nagainst_error": torch.where(normal, misfit(mark, g), torch.nan),
        "nagainst_loss": loss,
        "turned_error": left.sqrt(),
        "turned": (factors < 0).double().sum() / rows,
    }


def _cooled(y: Tensor, label: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Try the logits at other sizes."""
    step = max(1, y.numel() // TRIED)
    y, label, counted = y[::step], label[::step], counted[::step, 0]

    def loss(factor: float) -> Tensor:
        each = F.cross_entropy(factor * y, label[:, 0], reduction="none")
        return (each * counted).sum() / counted.sum()

    return best("cool", loss, y)


def _entropy(shares: Tensor, rows: Tensor) -> Tensor:
    """The loss of the best constant answer: the entropy of the classes, with the correction of
    Miller (1955) for a batch that is small, and never more than that of equal shares."""
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum()
    entropy = entropy + ((shares > 0).sum() - 1) / (2 * rows)
    return entropy.clamp(max=math.log(shares.numel()))
