"""Is this training getting anywhere? Judged on the loss where it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.history import History

MIN_LOSSES: Final = 8
"""Fewer losses than this say nothing about a trend."""
RELATIVE: Final = 0.01
"""A fall under 1 % of the loss between the halves of the window is no progress worth the name."""
NOISE: Final = 2.0
"""A fall must exceed this many standard errors of the two medians' difference."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of the loss."""

    moving: bool | None
    """True while the loss falls; None when that is not known."""
    text: str
    """What it was judged on, with numbers."""
    fall: float = 0.0
    """The loss at the beginning of the run minus the latest, both as medians."""
    diverged: bool = False
    """The loss is not finite, or far above where it began."""
    begin: float = 0.0
    """The loss at the beginning of the run."""


def progress(history: History) -> Progress:
    """Judge the latest two thirds of the run: its first steps often fix only the output's bias."""
    steps, losses = history.losses()
    if losses.size == 0:
        return Progress(None, "the loss is not known: call watcher.step(loss) or give loss_fn=")
    if not math.isfinite(losses[-1]):
        return Progress(False, f"the loss is {losses[-1]} at step {steps[-1]}", diverged=True)
    finite = losses[np.isfinite(losses)]
    if finite.size < MIN_LOSSES:
        return Progress(None, f"only {finite.size} losses are known so far")
    window = finite[finite.size // 3 :]
    early, late = window[: window.size // 2], window[window.size // 2 :]
    # The first loss is that of the untrained model: the one that a training has to leave behind.
    begin, first, last = float(finite[0]), float(np.median(early)), float(np.median(late))
    noise = NOISE * math.hypot(_standard_error(early), _standard_error(late))
    falls = first - last > max(RELATIVE * abs(first), noise)
    below = begin - last > max(RELATIVE * abs(begin), noise)
    # A training that is done moves no more; what counts is that it has learnt.
    learnt = begin > 0 and last < 0.5 * begin
    moving = learnt or (falls and below)
    diverged = last > 2 * abs(begin) and float(late.min()) > abs(begin)
    if moving or diverged:
        text = f"the loss went from {begin:.4g} to {last:.4g} in {steps[-1] - steps[0] + 1} steps"
    elif falls:
        text = f"the loss falls, but at {last:.4g} it is not below its beginning, {begin:.4g}"
    elif last > begin + max(RELATIVE * abs(begin), noise):
        text = f"the loss is at {last:.4g}, above its beginning, {begin:.4g}"
    else:
        text = f"the loss stays at {last:.4g} (it began at {begin:.4g})"
    return Progress(moving, text, begin - last, diverged, begin)


def _standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of a median, from the median absolute deviation (normal noise assumed)."""
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return 1.2533 * spread / math.sqrt(values.size)
