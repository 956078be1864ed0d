"""Is this training getting anywhere? Judged on what its answers are worth, where that can be read
from the gradient at the output; else on the loss; else on the error at the output."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.answer import heads
from gradwatch.core.answers import answers
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
SKILL: Final = 0.05
"""Part of the way from the best constant answer to the perfect one that counts as having learnt."""
LEARNT: Final = 0.2
"""The same for a training whose loss does not fall (any more): it is done, and not stuck."""
SKILLED_EXAMS: Final = 3
"""The latest exams whose median skill counts, and the fewest that are needed."""
OUTLIER: Final = 0.2
"""Skill by which one exam may pull down that of the exams around it."""
YOUNG: Final = 20
"""Steps before which a training that has no skill yet is not judged by that."""
RESTS: Final = 0.05
"""Relative scatter up to which a loss that is below zero stands still. A loss of either sign, such
as a likelihood's or an adversary's, has no size that a change could be compared with."""
MIXED: Final = 0.05
"""Share of rows with the rarer sign from which on a gradient is a policy's, and no classifier's."""
TURNS: Final = 0.2
"""Share of the latest steps that reach the same weights, and others than the other steps do, from
which on several trainings take turns."""
TURN_STEPS: Final = 60
"""Those latest steps."""
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
    skill: float | None = None
    """How far the answers are better than the best constant one (0) on the way to the perfect one
    (1); None when that is not known."""


def progress(history: History) -> Progress:
    """Judge the run as of its latest step."""
    return history.once(_progress)


def _progress(history: History) -> Progress:
    going = _by_the_loss(history)
    if going.moving is False and math.isfinite(going.begin) and not _broken(history):
        if _policy(history):
            why = "it is a policy's, and tells nothing of what the policy is worth"
            going = replace(going, moving=None, diverged=False, text=f"{going.text}; {why}")
        elif takes_turns(history):  # a discriminator that is beaten has a loss that rises
            why = "several trainings take turns, and tell nothing of each other"
            going = replace(going, moving=None, diverged=False, text=f"{going.text}; {why}")
    skills = _skills(history)
    if going.diverged or len(skills) < SKILLED_EXAMS:
        return going
    latest = skills[-1][1]
    going = replace(going, skill=latest)
    if latest >= SKILL:
        better = f"its answers are {latest:.0%} of the way from the best constant one to the right"
        learnt = going.moving or latest >= LEARNT
        return replace(going, moving=learnt or None, text=f"{going.text}; {better}")
    if skills[-1][0] < YOUNG or not going.moving:
        return going
    text = f"{going.text}, which is no better than an answer that is the same for every sample"
    half = skills[len(skills) // 2 :]
    rising = len(half) > SKILLED_EXAMS and latest - half[0][1] > SKILL
    return replace(going, moving=None if rising else False, text=text)


def _broken(history: History) -> bool:
    """Whether the latest loss is no number."""
    losses = history.losses()[1]
    return bool(losses.size) and not math.isfinite(losses[-1])


def _policy(history: History) -> bool:
    """Whether an output is a policy's: its gradient is that of the log-probabilities of the actions
    that were tried, each times what it was worth, of either sign."""
    found = [
        [head for head in heads(record.output) if head.classes > 1 and not head.kind]
        for record in history
        if record.output
    ]
    policies = [any(MIXED <= head.turned <= 1 - MIXED for head in exam) for exam in found]
    return sum(policies) >= 2 and 2 * sum(policies) >= sum(map(bool, found))


def takes_turns(history: History) -> bool:
    """Whether different weights learn in different steps, as in a GAN: of two adversaries, neither
    is meant to win."""
    each = [
        frozenset(p.name for p in record.parameters if p.update is not None and p.update.squares)
        for record in history
    ]
    moved = set(each) - {frozenset()}
    if any(one.isdisjoint(other) for one in moved for other in moved):
        return True
    # Exams at every 20th step may all see the same one of two, and pulses see both.
    pulses = history.pulses[-TURN_STEPS:]
    reached = Counter((p.norms >= 0).tobytes() for p in pulses if p.norms.size)
    usual = [count for count in reached.values() if count >= TURNS * len(pulses)]
    waiting = frozenset().union(*moved) - each[-1] if each else frozenset()
    return len(usual) > 1 and bool(waiting)


def _skills(history: History) -> list[tuple[int, float]]:
    """Return the steps whose skill is known, with the skill then. Loss and constant answer are
    those of the same few batches: what makes one of them hard makes it so for both."""
    known = [(r.step, a) for r, a in answers(history) if a.skill is not None]
    found = []
    for i, (step, _) in enumerate(known):
        around = [answer for _, answer in known[max(0, i + 1 - SKILLED_EXAMS) : i + 1]]
        losses, constants = sum(a.loss for a in around), sum(a.constant for a in around)
        skill = 1 - losses / constants
        typical = float(np.median([1 - a.loss / a.constant for a in around]))
        # One batch of outliers weighs more than all others together.
        found.append((step, typical if skill < typical - OUTLIER else skill))
    return found


def _by_the_loss(history: History) -> Progress:
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
    spread = 1.4826 * float(np.median(np.abs(window - np.median(window))))
    signed = float(finite.min()) < 0 and spread > RESTS * abs(last)
    known = moving or diverged or not signed
    return Progress(moving if known else None, text, begin - last, diverged, begin)


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
