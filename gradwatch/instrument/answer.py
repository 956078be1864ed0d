"""Reads the targets from the gradient at the output: see `gradwatch.core.answer`."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from gradwatch.core.answer import FIELDS

LARGEST: Final = 1 << 22
"""Elements; a larger output is not looked at: its copies in float64 would cost memory."""
COLUMNS: Final = 1 << 16
"""Entries per sample up to which each gets a mean of its own."""


def readable(output: Tensor, gradient: Tensor) -> bool:
    """Whether an output and the gradient at it can be read as answers of a batch."""
    return (
        output.layout is torch.strided
        and not output.is_complex()
        and not hasattr(output, "to_local")
        and output.shape == gradient.shape
        and output.ndim > 0
        and output.shape[0] > 1
        and output.numel() <= LARGEST
        and output.numel() // output.shape[0] <= COLUMNS
    )


@torch.no_grad()
def read_targets(output: Tensor, gradient: Tensor) -> Tensor:
    """Return the numbers of `FIELDS` as a float64 tensor on the output's device.

    The first axis is the batch; classes are along the second one (`(batch, classes, ...)`), or
    along the last (`(batch, time, classes)`), whichever fits better.
    """
    y, g = output.detach().double(), gradient.detach().double()
    samples = y.shape[0]
    flat, slope = y.reshape(samples, -1), g.reshape(samples, -1)
    columns = flat.shape[1]
    centred, tilted = flat - flat.mean(0), slope - slope.mean(0)
    nan = y.new_full((), torch.nan)
    sums = (y.sum(-1) - 1).square().mean().sqrt() if y.ndim > 1 else nan
    found = [
        *(y.new_tensor(float(number)) for number in (True, samples, columns)),
        *(y.min(), y.max(), sums, centred.square().mean().sqrt()),
        *_classes(y, g),
        *_binary(flat, slope),
        *_of_probabilities(flat, slope),
        *(slope.square().sum(), centred.square().sum()),
        *((centred * tilted).sum(), tilted.square().sum()),
    ]
    row = torch.stack(found)
    assert row.numel() == len(FIELDS)
    return row


def _classes(y: Tensor, g: Tensor) -> list[Tensor]:
    """Cross-entropy (with the soft pair), then negative log-likelihood."""
    if y.ndim < 2 or y.shape[1] < 2:
        return [y.new_full((), torch.nan)] * 10
    axes = [1] if y.ndim == 2 else [1, y.ndim - 1]
    ways = [_along(y.movedim(axis, -1), g.movedim(axis, -1)) for axis in axes if y.shape[axis] > 1]
    found = ways[0]
    for other in ways[1:]:  # the axis whose softmax explains the gradient
        better = other[0].nan_to_num(torch.inf) < found[0].nan_to_num(torch.inf)
        nll = other[6].nan_to_num(torch.inf) < found[6].nan_to_num(torch.inf)
        found = [
            torch.where(better if i < 6 else nll, new, old)
            for i, (new, old) in enumerate(zip(other, found, strict=True))
        ]
    return found


def _along(y: Tensor, g: Tensor) -> list[Tensor]:
    y, g = y.reshape(-1, y.shape[-1]), g.reshape(-1, g.shape[-1])
    counted = (g != 0).any(-1, keepdim=True).double()  # rows that the loss ignores have none
    rows = counted.sum()
    label = g.argmin(-1, keepdim=True)
    target = torch.zeros_like(y).scatter_(-1, label, 1.0) * counted
    constant = _entropy(target.sum(0) / rows, rows)
    logs = y.log_softmax(-1)
    expected = (logs.exp() - target) * counted
    soft = (logs.exp() - g * rows) * counted  # the targets, if it is a plain mean
    found = [
        _misfit(expected, g),
        -(logs * target).sum() / rows,
        constant,
        _scale(expected, g) * rows,
        -(logs * soft).sum() / rows,
        _entropy((soft.sum(0) / rows).clamp(min=0), rows),
    ]
    normal = (y.exp().sum(-1) - 1).abs().max()  # a log-likelihood is normalised
    error = _misfit(-target, g)
    found += [
        torch.where(normal < 1e-2, error, torch.nan),
        -(y * target).sum() / rows,
        constant,
        _scale(-target, g) * rows,
    ]
    return found


def _binary(y: Tensor, g: Tensor) -> list[Tensor]:
    target = (g < 0).double()
    expected = y.sigmoid() - target
    loss = F.binary_cross_entropy_with_logits(y, target)
    return [
        _misfit(expected, g),
        loss,
        _binary_entropy(target.mean(0), len(target)),
        _scale(expected, g) * y.numel(),
    ]


def _of_probabilities(p: Tensor, g: Tensor) -> list[Tensor]:
    inside = (p.min() >= 0) & (p.max() <= 1)
    safe = p.clamp(1e-12, 1 - 1e-12)
    target = (g < 0).double()
    # In terms of the logit, which does not blow up: d loss / d logit = p - target.
    expected, slope = safe - target, g * safe * (1 - safe)
    error = _misfit(expected, slope)
    loss = -(target * safe.log() + (1 - target) * (1 - safe).log()).mean()
    return [
        torch.where(inside, error, torch.nan),
        loss,
        _binary_entropy(target.mean(0), len(target)),
        _scale(expected, slope) * p.numel(),
    ]


def _scale(expected: Tensor, g: Tensor) -> Tensor:
    """The factor by which the gradient is larger than expected, by least squares."""
    return (expected * g).sum() / expected.square().sum()


def _misfit(expected: Tensor, g: Tensor) -> Tensor:
    """Root mean square of what is left when the gradient is scaled to what is expected, relative
    to the expected: scale-free, and NaN for no gradient at all."""
    fitted = g * ((expected * g).sum() / g.square().sum())
    return ((fitted - expected).square().sum() / expected.square().sum()).sqrt()


def _entropy(shares: Tensor, rows: Tensor) -> Tensor:
    """The loss of the best constant answer: the entropy of the classes, with the correction of
    Miller (1955) for a batch that is small, and never more than that of equal shares."""
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum()
    entropy = entropy + ((shares > 0).sum() - 1) / (2 * rows)
    return entropy.clamp(max=math.log(shares.numel()))


def _binary_entropy(shares: Tensor, rows: int) -> Tensor:
    """The same for each column by itself."""
    entropy = F.binary_cross_entropy(shares, shares, reduction="none")
    mixed = ((shares > 0) & (shares < 1)).double()
    return (entropy + mixed / (2 * rows)).clamp(max=math.log(2)).mean()
