"""The flight recorder: writes the pulse of every step, and says when something is odd."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from gradwatch.core.history import Columns, Pulse
from gradwatch.instrument.pulse import Alarm, Ring
from gradwatch.instrument.taps import Taps


class Recorder:
    """Holds the ring, the taps on the forward pass, and the alarm."""

    def __init__(self, guard: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
        self._taps = Taps(guard)
        self._alarm = Alarm()
        self._ring: Ring | None = None
        self._flushed: list[Pulse] = []

    def install(self, modules: Mapping[str, nn.Module]) -> None:
        """Put the taps on these modules."""
        self._taps.install(modules)

    def remove(self) -> None:
        """Take the taps off."""
        self._taps.remove()

    def write(
        self, step: int, names: tuple[str, ...], norms: Tensor, clip_ratio: Tensor | None
    ) -> bool:
        """Write the row of a step. Returns whether a number that is not finite has been seen, in
        this step or, where the device must not be waited for, in one before."""
        columns = Columns(names, tuple(self._taps.names))
        if self._ring is None or self._ring.full or self._ring.columns != columns:
            self._flushed = self.flush()
            self._ring = Ring(columns, norms.device)
        taps = self._taps.take()
        self._alarm.post(
            self._ring.write(step, norms, [taps.get(name) for name in columns.taps], clip_ratio)
        )
        return self._alarm.raised()

    def set_loss(self, loss: Tensor | float) -> None:
        """Give the latest row its loss."""
        if self._ring is not None:
            self._ring.set_loss(loss)

    def flush(self) -> list[Pulse]:
        """Bring over what was written since the last time: one copy."""
        flushed, self._flushed = self._flushed, []
        return flushed + (self._ring.flush() if self._ring is not None else [])
