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
MIN_EXAMS: Final = 5
"""Without losses: the exams that are needed to see whether the error at the output moves."""
FALL: Final = 0.2
"""A relative fall of the output's gradient that counts as learning."""
FLAT: Final = 0.1
"""A change up to which it counts as flat; in between it is not known."""
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
        return _without_loss(history)
    if not math.isfinite(losses[-1]):
        return Progress(False, f"the loss is {losses[-1]} at step {steps[-1]}", diverged=True)
    finite = losses[np.isfinite(losses)]
    if finite.size < MIN_LOSSES:
        return Progress(None, f"a loss is known of {finite.size} steps only: too few to tell")
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


def _without_loss(history: History) -> Progress:
    """Judge by the gradient at the model's output: for the usual losses it is the error itself."""
    hint = "the loss is not known: call watcher.step(loss) or give loss_fn="
    found = [
        (record.step, outermost[-1].grad_output.rms)
        for record in history
        if (outermost := [c for c in record.calls if c.parent is None and c.grad_output])
        and outermost[-1].grad_output is not None
        and outermost[-1].grad_output.rms > 0
    ]
    if len(found) < MIN_EXAMS:
        return Progress(None, hint)
    begin = float(np.median([size for _, size in found[:2]]))
    last = float(np.median([size for _, size in found[-2:]]))
    change = last / begin - 1
    text = (
        f"the error at the output went from {begin:.3g} to {last:.3g} ({change:+.0%}) in "
        f"{found[-1][0]} steps ({hint})"
    )
    if change < -FALL:
        return Progress(True, text)
    return Progress(False if abs(change) < FLAT else None, text)


def _standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of a median, from the median absolute deviation (normal noise assumed)."""
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return 1.2533 * spread / math.sqrt(values.size)
