"""Whether a training that gets nowhere is stuck, and not only slow: for what is no proof by itself.

A gradient that dies over time is found in many healthy nets, too: those that do not need it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.history import History
from gradwatch.core.progress import MIN_LOSSES, SKILL, SKILLED_EXAMS, YOUNG, Progress
from gradwatch.core.record import Record

SURE: Final = 3.0
"""Standard deviations of Mann and Whitney's rank statistic from which on a loss falls."""
MOVED: Final = 0.3
"""A part of its size by which no weight of a layer has moved, its steps added up, proves only that
the steps are small: recurrent nets that got off a plateau late had moved by 0.2 by then."""


def stuck(going: Progress) -> bool:
    """Whether a training gets nowhere, or may begin to and is no better than a constant yet."""
    unskilled = going.skill is not None and going.skill < SKILL
    return going.moving is False or (going.moving is None and unskilled)


def held_back(history: History, going: Progress, streak: Sequence[Record]) -> bool:
    """Whether a training that is stuck is surely no slow starter: its answers were no better than
    a constant in the exams of a streak, where that is known, and its loss does not fall. Where no
    loss is told, the answers have to be known, and as good as constant."""
    answers = [record.answer for record in streak if record.step >= YOUNG]
    skills = [a.skill for a in answers if a is not None and a.skill is not None]
    if not stuck(going) or (skills and (np.median(skills) >= SKILL or max(skills) >= 2 * SKILL)):
        return False
    losses = history.losses()[1]
    if not losses.size:
        return bool(skills) and max(skills[-SKILLED_EXAMS:]) < SKILL / 2
    return not _falling(losses)


def moved(history: History, layers: Iterable[str]) -> bool:
    """Whether a weight in the layers (in the model, for loops over plain parameters) has moved by
    a part of its size that counts, all steps added up; or it is not known."""
    inside = tuple(f"{layer}." for layer in layers)
    sums: dict[str, float] = {}
    for record, after in itertools.pairwise(history.records):
        for parameter in record.parameters:
            if parameter.update_ratio is not None and len(parameter.shape) > 1:
                way = parameter.update_ratio * (after.step - record.step)
                sums[parameter.name] = sums.get(parameter.name, 0.0) + way
    own = [way for name, way in sums.items() if name.startswith(inside)]
    return max(own or sums.values(), default=MOVED) >= MOVED


def _falling(losses: NDArray[np.float64]) -> bool:
    """Whether the loss falls, however slowly: by ranks, for it may have outliers."""
    window = losses[max(YOUNG, losses.size // 3) :]
    early, late = window[: window.size // 2], window[window.size // 2 :]
    if early.size < MIN_LOSSES:
        return False
    higher = float(np.sign(early[:, None] - late).mean())
    noise = math.sqrt((early.size + late.size + 1) / (3 * early.size * late.size))
    return higher > SURE * noise
