"""Every test starts from the same seeds, on one thread, whatever ran before it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

# Small models are faster so, and sums are added in one order on every machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Seed all generators."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
