"""What all samples of a batch are compared with, where their gradient is as if it were the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gradwatch.core.answer import rows
from gradwatch.core.losses import CLEARLY, EVEN, FITS, SCALES

AFFINE: Final = 1e-4
"""What of the gradient's squares a line leaves over: float32 leaves 1e-13, bfloat16 1e-5."""
ALIKE: Final = 1e-4
"""Spread of the outputs relative to their size under which their gradients are rounding."""
ROUNDING: Final = 1e-9
"""What rounding may leave of the squares, at least."""
SORTED: Final = 1e-3
"""By how much a gradient falls in all, relative to its range, that still only ever rises."""
ONE_WAY: Final = 0.95
"""Mean over root mean square of a gradient that says the same of almost all samples."""
USUAL: Final = 1e-3
"""Relative difference up to which a factor is that of a usual reduction."""


@dataclass(frozen=True, slots=True)
class Target:
    """The common target of one exam."""

    shape: str = ""
    """How the gradient rises with the output: `affine`, as that of a squared error; `rising`
    otherwise; empty where it says nothing, because all outputs are alike."""
    value: float = math.nan
    """Where the gradient is 0."""
    excess: float = math.nan
    """What the loss has, as a mean, beyond the squared error of the outputs."""
    loss: float = math.nan
    """That loss, as a mean."""
    size: float = math.nan
    """Root mean square of the outputs."""
    samples: int = 0


def shared_target(numbers: Sequence[float], loss: float | None) -> Target | None:
    """Read it from what the device sent; None where samples have targets of their own, where it is
    the loss of an adversary, or where several outputs are read."""
    found = rows(numbers)
    if len(found) != 1:
        return None
    got = found[0]
    count = got["asked"]
    several = got["columns"] != 1 and not math.isfinite(got["backwards"])  # not one of each row
    if several or got["outputs"] != 1 or not count > 2 or not got["squares"] > 0:
        return None
    size = math.sqrt(got["square_output"] / count)
    samples = int(got["samples"])
    if got["var_output"] <= count * (ALIKE * size) ** 2 or not got["var_gradient"] > 0:
        return Target(size=size, samples=samples)
    slope = got["covariance"] / got["var_output"]
    left = 1 - got["covariance"] * slope / got["var_gradient"]
    if slope <= 0:
        return None
    centre = got["total"] / count
    value = centre - got["tilt"] / count / slope
    if left <= AFFINE:
        # An adversary's gradient is almost a line where its logits are small.
        other = min(got["bce_error"], got["prob_error"], got["minimax"], key=_or_one)
        if other < FITS and other**2 < CLEARLY * max(left, ROUNDING):
            return None
        own = size**2 - 2 * value * centre + value**2
        factor = _factor(slope * count / 2, count)
        if loss is None or not got["alone"] or factor is None:
            return Target("affine", value, size=size, samples=samples)
        return Target("affine", value, loss / factor - own, loss / factor, size, samples)
    one_way = abs(got["tilt"]) >= ONE_WAY * math.sqrt(got["squares"] * count)
    if not got["backwards"] < SORTED:
        return None
    if one_way or not got["uneven"] > EVEN:
        return Target(size=size, samples=samples)
    return Target("rising", value, size=size, samples=samples)


def _or_one(error: float) -> float:
    return error if math.isfinite(error) else 1.0


def _factor(found: float, count: float) -> float | None:
    """Return the factor of the mean squared error that a usual reduction gives."""
    for usual in (1.0, count, count * count):
        for factor in (usual, usual / 2):
            if abs(found / factor - 1) < USUAL:
                return factor
    for scale in SCALES:
        for factor in (1.0, 0.5):
            if abs(found / factor / scale - 1) < USUAL:
                return factor
    return None
