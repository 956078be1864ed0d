"""The pulse: a few numbers of every step in a ring on the device, brought over when it matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from gradwatch.core.history import Columns, Pulse
from gradwatch.instrument.kernel import flat

ROWS: Final = 64
"""Steps that the ring holds before it has to be copied."""


@torch.no_grad()
def gradient_norms(gradients: Sequence[Tensor | None]) -> Tensor:
    """Return the float32 norm of each gradient, -1 for one that is None; on the first's device."""
    norms: list[Tensor | None] = [None] * len(gradients)
    plain: dict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = {}
    for i, gradient in enumerate(gradients):
        if gradient is None or gradient.is_meta:
            continue
        if (
            gradient.layout is torch.strided
            and not gradient.is_complex()
            and (not hasattr(gradient, "to_local"))
        ):
            plain.setdefault((gradient.device, gradient.dtype), []).append((i, gradient))
        else:
            norms[i] = torch.linalg.vector_norm(flat(gradient)[0])
    for (_, dtype), places in plain.items():
        wide = torch.promote_types(dtype, torch.float32)  # float16 ends at 65504
        found = torch._foreach_norm([gradient for _, gradient in places], 2, wide)
        for (i, _), norm in zip(places, found, strict=True):
            norms[i] = norm
    device = next((norm.device for norm in norms if norm is not None), torch.device("cpu"))
    missing = torch.tensor(-1.0, device=device)
    if not norms:
        return missing.new_zeros(0)
    return torch.stack(
        [missing if n is None else n.to(device, torch.float32, non_blocking=True) for n in norms]
    )


class Ring:
    """One row a step: loss, clip ratio, gradient norms, taps."""

    def __init__(self, columns: Columns, device: torch.device) -> None:
        self.columns = columns
        width = 2 + len(columns.parameters) + len(columns.taps)
        self._rows = torch.full((ROWS, width), math.nan, dtype=torch.float32, device=device)
        self._steps: list[int] = []
        self._known: list[bool] = []

    @property
    def full(self) -> bool:
        """Whether it must be flushed before the next row."""
        return len(self._steps) == ROWS

    @torch.no_grad()
    def write(
        self, step: int, norms: Tensor, taps: Sequence[Tensor | None], clip_ratio: Tensor | None
    ) -> Tensor:
        """Add a row. Returns a flag on the device: whether anything in it is not finite."""
        row = self._rows[len(self._steps)]
        end = 2 + len(self.columns.parameters)
        row[0] = math.nan
        row[1] = math.nan if clip_ratio is None else clip_ratio
        row[2:end] = norms
        if self.columns.taps:
            zero = row.new_zeros(())
            row[end:] = torch.stack([zero if tap is None else tap.to(row.device) for tap in taps])
        self._steps.append(step)
        self._known.append(False)
        return ~row[2:end].isfinite().all()

    def set_loss(self, loss: Tensor | float) -> None:
        """Give the latest row its loss; only the first float counts for a tensor of several."""
        if self._steps:
            if isinstance(loss, Tensor):
                loss = loss.detach().reshape(-1)[0]
            self._rows[len(self._steps) - 1, 0] = loss
            self._known[-1] = True

    def flush(self) -> list[Pulse]:
        """Bring the rows to the host, in one copy, and empty the ring."""
        if not self._steps:
            return []
        rows = self._rows[: len(self._steps)].cpu().numpy().copy()
        end = 2 + len(self.columns.parameters)
        pulses = [
            Pulse(step, self.columns, row[2:end], row[end:], float(row[0]), known, float(row[1]))
            for step, known, row in zip(self._steps, self._known, rows, strict=True)
        ]
        self._steps.clear()
        self._known.clear()
        return pulses


class Alarm:
    """A flag that is read a step after it was raised, so that nobody waits for the device."""

    def __init__(self) -> None:
        self._flag: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def post(self, flag: Tensor) -> None:
        """Send a flag on its way to the host."""
        if flag.device.type == "cuda":
            self._flag = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._flag.copy_(flag, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._flag = flag

    def raised(self) -> bool:
        """Return whether a flag has arrived that was set; one that has not arrived can wait."""
        if self._flag is None or (self._copied is not None and not self._copied.query()):
            return False
        flag, self._flag, self._copied = self._flag, None, None
        return bool(flag)
