"""How numbers and names stand in the page's data."""

from __future__ import annotations

import base64
import gzip
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.sinks._text import clean

DROPPED_BITS: Final = 11
"""Of the 23 bits of a float32's fraction: what remains is exact to 1 part in 8,192."""


def pack(values: NDArray[np.float32], dropped: int = DROPPED_BITS) -> str:
    """Return the numbers, to 3 digits, as base64 of gzip of little-endian float32, all first bytes
    before all second ones: alike bytes side by side take the least room."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    half = np.uint32(1 << (dropped - 1))
    mask = np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    rounded = ((bits + half) & mask).view("<f4")
    # Zeros, infinities and NaNs stay what they are, and nothing finite becomes infinite.
    rounded = np.where(np.isfinite(values) & np.isfinite(rounded), rounded, values)
    planes = rounded.astype("<f4").reshape(-1, 1).view(np.uint8).T
    return base64.b64encode(gzip.compress(planes.tobytes(), 4, mtime=0)).decode("ascii")


def label(layer: str) -> str:
    """Return the name of a layer as it is shown."""
    return clean(layer) or "(model)"
