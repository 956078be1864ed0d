"""When to examine: a function of the step alone, so that every rank agrees without asking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EARLY: Final = (0, 1, 2, 5, 10, 20)
"""What a model was born with shows in its first steps, and many faults heal or show within 20."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Examines early steps, then every `every_n_steps`."""

    every_n_steps: int = 50

    def __post_init__(self) -> None:
        if not isinstance(self.every_n_steps, int) or isinstance(self.every_n_steps, bool):
            raise TypeError(f"every_n_steps must be an int, got {self.every_n_steps!r}")
        if self.every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {self.every_n_steps}")

    def __call__(self, step: int) -> bool:
        """Return whether the step with this number (from 0) is examined."""
        return step in EARLY or step % self.every_n_steps == 0
