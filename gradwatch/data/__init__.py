"""A real data set small enough to ship, so that every example trains without a download.

See README.md beside this file for where it comes from and its licence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

INK: Final = 16
"""The largest pixel value in the file: pixels count the inked dots of a 4x4 block."""


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return 1,797 handwritten digits: images [1797, 8, 8] from 0 to 1, and labels 0 to 9."""
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        return file["images"].astype(np.float32) / INK, file["labels"].astype(np.int64)
