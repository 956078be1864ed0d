"""Steps that lead somewhere, in a run of ten times this length: the rate is too low."""

from __future__ import annotations

import math
from typing import Final

from gradwatch.core.history import History
from gradwatch.detectors import _outcome, _steps

RESPONSE: Final = 0.07
"""Relative fall of the loss per relative movement of the weights; below it, the loss does not
depend on them (measured: 0.14 to 7 in trainings that a higher rate cures, at most 0.05 behind
outputs that are saturated or squashed)."""
TINY: Final = 1e-4
"""Update-to-weight ratio that the typical weight has in no step (a thousandth is usual) ..."""
PROMISE: Final = 1e-3
"""... and the relative fall of the loss that a step promises on average, at most."""
LITTLE: Final = 0.03
"""Sum of the update-to-weight ratios of a whole run that is next to no movement ..."""
FOLLOWS: Final = 1.0
"""... when the loss is known to follow: it falls by this part, per relative movement."""
SHRUNK: Final = 1e-3
"""Part of the first steps' size under which those of half of a run have petered out ..."""
PULLS: Final = 0.1
"""... while the gradient has kept such a part of its norm."""
APART: Final = 1e-2
"""A group's rate is far below the others' when it is less than this part of the highest ..."""
MOST: Final = 0.5
"""... and it matters when the group holds such a part of the weights' elements ..."""
STILL: Final = 1e-4
"""... none of which ever moves by more than this part of its size, per step."""


def everywhere(history: History) -> str:
    """Return what to say if all steps are too small; empty if they are not."""
    walk = _steps.walk(history)
    if walk is None or walk.promise is None or (walk.response or 0.0) < RESPONSE:
        return ""
    tiny = max(map(_steps.typical, history)) < TINY
    if not tiny or not 0 < walk.promise < PROMISE * walk.steps:
        return ""
    rates = history.records[-1].learning_rates
    return (
        f"The learning rate{f' ({max(rates):.2g})' if rates else ''} is too low: the loss follows "
        "the weights, and they move by less than a ten-thousandth of their size in a step."
    )


def hardly(history: History) -> str:
    """Return what to say if the steps of a whole run come to next to nothing, though the loss
    follows them and their rate does not rise; empty if they do not."""
    walk = _steps.walk(history)
    rates = [max(record.learning_rates, default=0.0) for record in history]
    if walk is None or (walk.response or 0.0) < FOLLOWS or rates[-1] > rates[len(rates) // 2]:
        return ""  # a warm-up has its steps before it
    if not 0 < walk.movement < LITTLE:
        return ""
    return (
        f"The learning rate{f' ({max(rates):.2g} at most)' if max(rates) else ''} is too low: the "
        f"loss follows the weights, and in {walk.steps} steps they have moved by at most "
        f"{walk.movement:.1%} of their size."
    )


def petered_out(history: History) -> str:
    """Return what to say if the steps have become next to nothing, and neither the gradients nor
    the learning rate have; empty otherwise."""
    records = history.records
    late = records[len(records) // 2 :]
    begin = max(map(_steps.typical, records[:3]))
    rates = [max(record.learning_rates, default=0.0) for record in records]
    shrunk = max(map(_steps.typical, late)) < min(SHRUNK * begin, TINY)
    pulls = late[-1].gradient_norm > PULLS * records[0].gradient_norm
    if not shrunk or not pulls or not 0 < rates[0] <= 2 * rates[-1]:
        return ""
    return (
        f"The steps have shrunk from {begin:.2g} of the typical weight to "
        f"{_steps.typical(late[-1]):.2g}, though the learning rate and the gradients have not: the "
        "optimizer divides by what it sums up over time, or has a decay of its own."
    )


def part(history: History) -> tuple[str, tuple[str, ...]]:
    """Return what to say of a group whose rate is far below the others', with its layers: as it is
    done with a body that was trained before, and then the training learns."""
    latest = history.records[-1]
    rates = {p.name: group.learning_rate for p, group in _steps.grouped(latest)}
    highest = max((rate for rate in rates.values() if rate), default=0.0)
    slow = {n for n, rate in rates.items() if rate is not None and rate < APART * highest}
    sizes = {p.name: math.prod(p.shape) for p in _outcome.weights(latest)}
    if not slow or sum(sizes[name] for name in slow) < MOST * sum(sizes.values()):
        return "", ()
    moves = [p.update_ratio or 0.0 for r in history for p in r.parameters if p.name in slow]
    if max(moves) > STILL:
        return "", ()
    rate = max(rates[name] or 0.0 for name in slow)
    text = (
        f"The learning rate of their group, {rate:.2g}, is far below that of the others, "
        f"{highest:.2g}: they stay what they were born as."
    )
    return text, _outcome.layers_of(name for name in rates if name in slow)
