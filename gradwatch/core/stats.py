"""A statistic is a row that merges.

One pass over a tensor gives a SUM part (count, zeros, NaNs, infinities, sum, sum of squares,
and how many magnitudes fell in each octave) and a MAX part (the largest magnitude). Micro-batches,
repeated calls of a shared module, steps and ranks merge by the same `+`: it is associative and
commutative, and `Stats.empty()` is its zero. Whatever is a ratio is computed at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

OCTAVE_LOW: Final = -80
"""Exponent of the first octave: it also holds everything smaller (2^-80 is 8e-25)."""
OCTAVES: Final = 96
"""Number of octaves; the last, [2^15, 2^16), also holds everything larger."""
SUMS: Final = 6
"""count, zeros, NaNs, infinities, sum, sum of squares: the fields that stand before the octaves."""
WIDTH: Final = SUMS + OCTAVES + 1
"""Length of a packed row: the sums, the octaves, and the peak as its last entry."""


@dataclass(frozen=True, slots=True, eq=False)
class Stats:
    """The merged statistics of one or several tensors.

    `total`, `squares`, `peak` and `octaves` are over the finite elements only; how many were not
    finite is counted apart, so that one NaN does not blind the rest. A complex element counts
    as two real ones.
    """

    count: int
    zeros: int
    nans: int
    infs: int
    total: float
    squares: float
    octaves: NDArray[np.int64]
    """Elements with magnitude in [2^k, 2^(k+1)), k from `OCTAVE_LOW`; zeros are not in here."""
    peak: float
    """Largest finite magnitude."""

    @staticmethod
    def empty() -> Stats:
        """Return the statistics of no element: the zero of `+`."""
        return Stats(0, 0, 0, 0, 0.0, 0.0, np.zeros(OCTAVES, np.int64), 0.0)

    @staticmethod
    def unpack(row: NDArray[np.float64]) -> Stats:
        """Read a row of `WIDTH` numbers as the kernel packs it."""
        count, zeros, nans, infs = (int(value) for value in row[:4])
        octaves = row[SUMS:-1].astype(np.int64)
        return Stats(
            count, zeros, nans, infs, float(row[4]), float(row[5]), octaves, float(row[-1])
        )

    def pack(self) -> NDArray[np.float64]:
        """Return the row that `unpack` reads."""
        head = [self.count, self.zeros, self.nans, self.infs, self.total, self.squares]
        return np.concatenate([np.asarray(head, np.float64), self.octaves, [self.peak]])

    def __add__(self, other: Stats) -> Stats:
        return Stats(
            self.count + other.count,
            self.zeros + other.zeros,
            self.nans + other.nans,
            self.infs + other.infs,
            self.total + other.total,
            self.squares + other.squares,
            self.octaves + other.octaves,
            max(self.peak, other.peak),
        )

    @property
    def nonfinite(self) -> int:
        """How many elements are NaN or infinite."""
        return self.nans + self.infs

    @property
    def finite(self) -> int:
        """How many elements are finite."""
        return self.count - self.nonfinite

    @property
    def norm(self) -> float:
        """The Euclidean norm of the finite elements."""
        return math.sqrt(self.squares)

    @property
    def rms(self) -> float:
        """The root mean square of the finite elements; 0 when there are none."""
        return math.sqrt(self.squares / self.finite) if self.finite else 0.0

    @property
    def mean(self) -> float:
        """The mean of the finite elements; 0 when there are none."""
        return self.total / self.finite if self.finite else 0.0

    @property
    def std(self) -> float:
        """The (population) standard deviation of the finite elements; 0 when there are none."""
        if not self.finite:
            return 0.0
        return math.sqrt(max(0.0, self.squares / self.finite - self.mean**2))

    def quantile(self, q: float) -> float:
        """Return the magnitude under which a share `q` of the finite elements lies.

        Exact to within its octave (a factor of two); never above `peak`.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be in [0, 1], got {q}")
        wanted = q * self.finite
        if not self.finite or wanted <= self.zeros:
            return 0.0
        reached = self.zeros + np.cumsum(self.octaves)
        octave = min(int(np.searchsorted(reached, wanted)), OCTAVES - 1)
        return min(math.ldexp(math.sqrt(2), OCTAVE_LOW + octave), self.peak)

    def share_below(self, exponent: int) -> float:
        """Return the share of nonzero finite elements with a magnitude under 2^exponent.

        With `exponent=-24` this is what fp16 flushes to zero (its smallest subnormal is 2^-24).
        """
        nonzero = self.finite - self.zeros
        return float(self.octaves[: max(0, exponent - OCTAVE_LOW)].sum()) / max(1, nonzero)


@dataclass(frozen=True, slots=True, eq=False)
class Active:
    """How often each unit (channel) of an activation was not zero: the ragged part of a row."""

    samples: int
    """How many values of each unit were seen."""
    units: NDArray[np.int64]
    """For each unit, in how many of them it was active."""

    def __add__(self, other: Active) -> Active:
        if self.units.shape != other.units.shape:
            raise ValueError(
                f"other must count {self.units.size} units as this one does, "
                f"it counts {other.units.size}"
            )
        return Active(self.samples + other.samples, self.units + other.units)

    @property
    def dead(self) -> int:
        """How many units were never active."""
        return int((self.units == 0).sum()) if self.samples else 0
