"""The statistics kernel: one tensor becomes one row of numbers that stays on its device.

Sums are in float64, because the values that vanishing and exploding are made of (1e-30, 1e30)
have squares that float32 does not hold, and a float32 norm drifts by a percent at 40 M elements.
Octaves are read from the exponent bits: no logarithm, exact.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
from torch import Tensor

from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, SUMS, WIDTH

CHUNK: Final = 1 << 18
"""Elements looked at together: they stay in the cache for the passes after the first."""

_BITS: Final = {
    torch.float32: (torch.int32, 23, 8, 127),
    torch.float64: (torch.int64, 52, 11, 1023),
}
"""For each type: the integer to view it as, mantissa bits, exponent bits, exponent bias."""


@torch.no_grad()
def measure(tensor: Tensor) -> Tensor:
    """Return the packed row of a tensor of any shape, layout and floating or complex type.

    The row has `WIDTH` float64 numbers, as `Stats.unpack` reads it, on the tensor's device; nothing
    is copied to the host. A DTensor is measured by its local shard. Raises `TypeError` for a tensor
    that has no floating-point numbers, or none at all (meta).
    """
    values, absent = flat(tensor)
    row = torch.zeros(WIDTH, dtype=torch.float64, device=values.device)
    for chunk in values.split(CHUNK):
        if chunk.numel():
            _add(row, chunk)
    row[0] += absent
    row[1] += absent
    return row


@torch.no_grad()
def squares(tensor: Tensor) -> Tensor:
    """Return the float64 sum of squares as a 0-dim tensor; not finite if any element is not."""
    values, _ = flat(tensor)
    total = torch.zeros((), dtype=torch.float64, device=values.device)
    for chunk in values.split(CHUNK):
        wide = chunk.double()
        total += wide.dot(wide)
    return total


@torch.no_grad()
def common(tensor: Tensor) -> Tensor | None:
    """Return the squares of what all slices along the first axis share: their mean's squares times
    their number, as a 0-dim float64 tensor. None for less than two slices, or no plain tensor."""
    tensor = tensor.detach()
    plain = tensor.layout is torch.strided and not hasattr(tensor, "to_local")
    if not plain or tensor.is_complex() or tensor.ndim < 2 or tensor.shape[0] < 2:
        return None
    if not tensor.numel() or tensor.device.type == "mps":
        return None
    return tensor.sum(0, dtype=torch.float64).square().sum() / tensor.shape[0]


@torch.no_grad()
def count_active(tensor: Tensor, channel: int) -> Tensor:
    """Return how often each unit along dimension `channel` is not zero, with the number of values
    of one unit as last entry: float64, length `tensor.shape[channel] + 1`."""
    others = [axis for axis in range(tensor.ndim) if axis != channel % tensor.ndim]
    active = (tensor.detach() != 0).sum(others) if others else tensor.detach() != 0
    samples = tensor.numel() // max(1, tensor.shape[channel])
    return torch.cat([active.double(), active.new_full((1,), samples, dtype=torch.float64)])


def observable(tensor: Tensor) -> bool:
    """Whether `measure` can look at this tensor."""
    return (
        (tensor.is_floating_point() or tensor.is_complex())
        and not tensor.is_meta
        and not tensor.is_nested
    )


def flat(tensor: Tensor) -> tuple[Tensor, int]:
    """Return its values as a flat float32 or float64 tensor, and how many zeros are not stored."""
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    if not observable(tensor):
        raise TypeError(
            f"tensor must hold floating-point numbers to be measured, got {tensor.dtype} "
            f"on {tensor.device}"
        )
    size = tensor.numel()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.values()
    absent = size - tensor.numel()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
        absent *= 2
    if tensor.dtype not in _BITS:
        tensor = tensor.float()
    if tensor.device.type == "mps":  # it has no float64: correct there, though not fast
        tensor = tensor.cpu()
    return _dense(tensor.resolve_neg()), absent


def _dense(tensor: Tensor) -> Tensor:
    """View the tensor flat in the order of its storage; copy only if its memory has gaps."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    axes = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    ordered = tensor.permute(axes)
    return ordered.view(-1) if ordered.is_contiguous() else tensor.reshape(-1)


def _add(row: Tensor, chunk: Tensor) -> None:
    counts = _counts(chunk)
    folded = counts @ _fold(chunk.dtype, chunk.device)
    wide = chunk.double()
    # Rare values cost passes of their own. On the CPU it is free to ask whether there are any;
    # elsewhere the answer would have to be waited for.
    ask = _may_ask(chunk.device)
    if not ask or folded[OCTAVES]:
        nans = (chunk != chunk).sum()
        wide = wide.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        row[2] += nans
        row[3] += folded[OCTAVES] - nans
    if not ask or counts[0]:
        zeros = chunk.numel() - chunk.count_nonzero()
        row[1] += zeros
        row[SUMS] -= zeros  # a zero has the exponent bits of a subnormal number
    row[0] += chunk.numel()
    row[4] += wide.sum()
    row[5] += wide.dot(wide)
    row[SUMS:-1] += folded[:OCTAVES]
    low, high = wide.aminmax()
    row[-1] = torch.maximum(row[-1], torch.maximum(-low, high))


def _counts(chunk: Tensor) -> Tensor:
    """Count the elements per biased exponent."""
    integer, mantissa, width, _ = _BITS[chunk.dtype]
    bins = 1 << width
    exponents = chunk.view(integer) >> mantissa
    if _may_ask(chunk.device):
        # Narrowing to 8 bits drops the sign that the shift dragged along.
        exponents = exponents.to(torch.uint8) if width == 8 else exponents & (bins - 1)
        return torch.bincount(exponents, minlength=bins).double()
    # bincount would wait for the device to learn its largest value; integer sums are exact in any
    # order, so that this is deterministic too.
    places = (exponents & (bins - 1)).long()
    counts = torch.zeros(bins, dtype=torch.int64, device=chunk.device)
    return counts.scatter_add_(0, places, torch.ones_like(places)).double()


def _may_ask(device: torch.device) -> bool:
    """Whether reading a number from a tensor waits for nothing."""
    return device.type == "cpu"


@cache
def _fold(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix that sums counts per exponent into octaves, non-finite ones apart at the end."""
    _, _, width, bias = _BITS[dtype]
    fold = torch.zeros(1 << width, OCTAVES + 1, dtype=torch.float64)
    for exponent in range((1 << width) - 1):
        octave = min(max(exponent - bias - OCTAVE_LOW, 0), OCTAVES - 1)
        fold[exponent, octave] = 1
    fold[-1, OCTAVES] = 1
    return fold.to(device)
