"""Reads the targets from the gradient at the output: see `gradwatch.core.answer`."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from gradwatch.core.losses import FIELDS
from gradwatch.instrument.decisions import of_yes_or_no
from gradwatch.instrument.fits import misfit
from gradwatch.instrument.hypotheses import of_classes

LARGEST: Final = 1 << 21
"""Elements that are looked at: the copies in float64 cost memory."""
COLUMNS: Final = 1 << 16
"""Entries per sample up to which each gets a mean of its own."""
SMALL: Final = 1e-6
"""Relative size up to which what is left of a difference is rounding."""


def readable(output: Tensor, gradient: Tensor) -> bool:
    """Whether an output and the gradient at it can be read as answers of a batch."""
    return (
        output.layout is torch.strided
        and output.is_floating_point()
        and not hasattr(output, "to_local")
        and output.shape == gradient.shape
        and output.ndim > 0
        and output.shape[0] > 1
        and output.numel() > 0
        and _thinned(output).numel() <= LARGEST
        and _samples(_thinned(output)).shape[1] <= COLUMNS
    )


@torch.no_grad()
def read_targets(output: Tensor, gradient: Tensor, whole: Tensor | None = None) -> Tensor:
    """Return the numbers of `FIELDS` as a float64 tensor on the output's device.

    The first axis is the batch; classes are along the second one (`(batch, classes, ...)`), or
    along the last (`(batch, time, classes)`), whichever fits better. `whole` is the gradient with
    that of what the call itself did with its output: what a model that computes its own loss has.
    """
    y, g = _thinned(output.detach()), _thinned(gradient.detach())
    nan, one = (torch.full((), value, device=y.device).double() for value in (torch.nan, 1.0))
    inside = 0 * one
    if whole is not None:
        within = _thinned(whole.detach())
        inside = (g.abs().max() <= SMALL * within.abs().max()).double()
        g = torch.where(inside > 0, within, g)
    flat, slope = _samples(y), _samples(g)
    found = {"alone": one, "call": 0 * one, "outputs": one, "inside": inside}
    if y.ndim > 1:
        found |= _classes(y, g)
        found["row_sums"] = (y.double().sum(-1) - 1).square().mean().sqrt()
    found |= of_yes_or_no(flat, slope)
    part = torch.minimum(found["part"], found.get("part_of_rows", one))
    found["part"] = part * (y.numel() / output.numel())
    found |= _moments(flat.double(), slope.double())
    return torch.stack([found.get(name, nan).double() for name in FIELDS])


def _thinned(tensor: Tensor) -> Tensor:
    """Leave out evenly spaced positions of an output that is too large: times of a sequence whose
    last axis holds the classes, or pixels."""
    if tensor.numel() <= LARGEST or tensor.ndim < 3:
        return tensor
    excess = -(-tensor.numel() // LARGEST)
    if tensor.ndim == 3:
        return tensor[:, ::excess]
    return tensor[(slice(None), slice(None), slice(None, None, excess))]


def _samples(tensor: Tensor) -> Tensor:
    """One row for each sample; of sequences with very many entries, for each time."""
    rows = tensor.reshape(tensor.shape[0], -1)
    if rows.shape[1] > COLUMNS and tensor.ndim == 3:
        return tensor.reshape(-1, tensor.shape[-1])
    return rows


def _classes(y: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Try the axes that can be that of the classes: the gradient of a softmax is balanced along
    its own; a log-likelihood is normalised along its own."""
    axes = [1] if y.ndim == 2 else [1, y.ndim - 1]
    ways = [of_classes(y.movedim(a, -1), g.movedim(a, -1)) for a in axes if y.shape[a] > 1]
    if not ways:
        return {}
    found = ways[0]
    for other in ways[1:]:
        balanced = other["balance"].nan_to_num(torch.inf) < found["balance"].nan_to_num(torch.inf)
        nll = other["nll_error"].nan_to_num(torch.inf) < found["nll_error"].nan_to_num(torch.inf)
        found = {
            name: torch.where(nll if name.startswith("nll") else balanced, other[name], value)
            for name, value in found.items()
        }
    return found


def _moments(y: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Sum over the entries that the loss reads: those whose gradient is not zero, if there are."""
    varying = (y - y.mean(0)).square().mean().sqrt()
    ends = {"low": y.min(), "high": y.max(), "varying": varying}
    backwards = _backwards(*((y[:, 0], g[:, 0]) if y.shape[1] == 1 else _picked(y, g)))
    asked = (g != 0).double()
    asked = torch.where(asked.any(), asked, torch.ones_like(asked))
    each = asked.sum(0)
    count = each.sum()
    y = y * asked
    centred = (y - y.sum(0) / each.clamp(min=1)) * asked
    tilted = (g - g.sum(0) / each.clamp(min=1)) * asked
    sizes = g.abs()
    mean = sizes.sum() / count
    spread = ((sizes - mean).square() * asked).sum() / count
    size = {"samples": y.new_tensor(float(len(y))), "columns": y.new_tensor(float(y.shape[1]))}
    return {
        **size,
        **ends,
        "prior": torch.where((y * g).sum() > 0, misfit(y, g), torch.nan),
        "asked": count,
        "asked_columns": (each > 0).sum(),
        "squares": g.square().sum(),
        "square_output": y.square().sum(),
        "product": (y * g).sum(),
        "total": y.sum(),
        "tilt": g.sum(),
        "var_output": centred.square().sum(),
        "covariance": (centred * tilted).sum(),
        "var_gradient": tilted.square().sum(),
        "uneven": spread.sqrt() / mean,
        "backwards": backwards,
    }


def _picked(y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return the one entry of each row that the loss reads, as where it gathers them, and its
    gradient; that is NaN where it reads several."""
    read = g != 0
    output, slope = (y * read).sum(1), g.sum(1)
    first = read.any(1).double().argmax()
    output = torch.where(read.any(1), output, output[first])
    slope = torch.where(read.any(1), slope, slope[first])
    return output, torch.where((read.sum(1) <= 1).all(), slope, torch.nan)


def _backwards(y: Tensor, g: Tensor) -> Tensor:
    """By how much the gradient falls, in all, where the output rises, relative to its range: 0 for
    a gradient that depends on the output alone, as if all samples had one and the same target."""
    slope = g[y.argsort()].diff()
    return -slope.clamp(max=0).sum() / (g.max() - g.min())
