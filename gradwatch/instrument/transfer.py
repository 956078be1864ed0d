"""One copy to the host: numbers are left on their devices under a ticket, and fetched together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Transfer:
    """Collects flat or 0-dim float64 tensors during a step and brings all of them at once."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, tensor: Tensor) -> int:
        """Leave a tensor here; returns the ticket to find it again after `fetch`."""
        self._parts.append(tensor.reshape(-1))
        return len(self._parts) - 1

    def fetch(self) -> list[NDArray[np.float64]]:
        """Return everything, by ticket: one copy for each device."""
        result: list[NDArray[np.float64]] = [np.empty(0)] * len(self._parts)
        devices = dict.fromkeys(part.device for part in self._parts)
        for device in devices:
            tickets = [i for i, part in enumerate(self._parts) if part.device == device]
            sizes = [self._parts[i].numel() for i in tickets]
            packed = torch.cat([self._parts[i] for i in tickets]).cpu().numpy()
            pieces = np.split(packed, np.cumsum(sizes)[:-1])
            for ticket, piece in zip(tickets, pieces, strict=True):
                result[ticket] = piece
        self._parts.clear()
        return result
