"""The ways in which an output is saturated: each look returns what is exact about one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Final

from gradwatch.core.answer import Answer
from gradwatch.core.losses import ABSOLUTE_ERROR, BINARY, SQUARED_ERROR
from gradwatch.core.record import ZERO_GRADIENT, Record
from gradwatch.detectors import _ending

Seen = tuple[Record, Answer]
NEVER_NEGATIVE: Final = {"ReLU", "relu", "ReLU6", "relu6", "Softplus", "softplus", "exp", "square"}
"""Functions that give nothing below 0, and those of `_ending.RANGES` that do not."""
PULLS: Final = 0.95
"""Mean of a gradient over its root mean square from which on it says the same of all."""
BOTTOM: Final = 0.1
"""Largest output over the error up to which the outputs are as small as they can be."""
DEAD: Final = 0.02
"""Part of the gradient's squares that a rectifier passes on under which it is dead, whatever the
targets: that is another finding."""
MEAN: Final = 0.25
"""Mean of the targets over their standard deviation under which some of them are negative: that of
positive ones is 0.5 and more, if their distribution has no long tail."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A saturated output as it is seen in the latest exams."""

    records: tuple[Record, ...]
    summary: str
    layers: tuple[str, ...]
    cause: str
    why: str
    numbers: dict[str, float] = field(default_factory=dict)
    certain: bool = False
    """Whether it cannot come right by itself."""


def streak(seen: Sequence[Seen], bad: Callable[[Seen], bool | None]) -> tuple[Seen, ...]:
    """Return the exams at the end that are bad, oldest first; None is for one that says nothing."""
    found: list[Seen] = []
    for one in reversed(seen):
        verdict = bad(one)
        if verdict is False:
            break
        if verdict:
            found.append(one)
    return tuple(reversed(found))


def left(record: Record, answer: Answer) -> float | None:
    """The part of the loss that stays though every output is moved by the whole range of the
    function that it comes from."""
    last = _ending.bounded(record)
    if last is None or answer.through or answer.outputs > 1 or not answer.residual > 0:
        return None
    low, high = _ending.RANGES[last.layer.kind]
    if not (low - 1e-6 <= answer.low and answer.high <= high + 1e-6):
        return None  # it is scaled after that function
    nearest = max(0.0, 1 - (high - low) / answer.residual)
    return {SQUARED_ERROR: nearest**2, ABSOLUTE_ERROR: nearest}.get(answer.kind)


def out_of_reach(seen: Sequence[Seen], beyond: float) -> Sight | None:
    """The targets are so far outside of the function's range that most of the loss stays."""

    def bad(one: Seen) -> bool | None:
        stays = left(*one)
        return None if stays is None else stays >= beyond

    found = streak(seen, bad)
    if not found:
        return None
    record, answer = found[-1]
    last, stays = _ending.bounded(record), left(record, answer) or 0.0
    assert last is not None
    low, high = _ending.RANGES[last.layer.kind]
    return Sight(
        tuple(record for record, _ in found),
        f"`{last.layer.label}` gives {low:.0f} to {high:.0f}, and the targets are so far outside "
        f"of that that at least {stays:.0%} of the loss stays, whatever it gives",
        (last.layer.name,),
        "activation",
        f"The loss compares `{last.layer.label}` with targets out of its range: without it, or "
        "with targets that are scaled into its range, they can be reached.",
        {"left": stays, "error": answer.residual},
        certain=stays >= 0.5,
    )


def below_zero(seen: Sequence[Seen], beyond: float) -> Sight | None:
    """The targets are negative, or half of them, and the function at the end gives nothing below 0:
    at least the square of their mean stays, and what it blocks of a squared error."""
    squared = [answer for _, answer in seen if answer.kind == SQUARED_ERROR]
    # Whether targets are negative is asked of all exams together: one has few samples.
    mean = fmean(a.target_mean for a in squared) if squared else 0.0
    spread = fmean(a.target_varying for a in squared) if squared else 1.0
    if mean >= MEAN * spread:
        return None
    found = streak(seen, lambda one: _stays(*one) >= beyond / 2)
    stays = median(_stays(*one) for one in found[-3:]) if found else 0.0
    if stays < beyond:
        return None
    record, answer = found[-1]
    last = _ending.ending(record)[-1]
    return Sight(
        tuple(record for record, _ in found),
        f"`{last.layer.label}` gives nothing below 0, and targets are: at least "
        f"{min(1.0, stays):.0%} of a constant answer's loss stays, whatever it gives",
        (last.layer.name,),
        "activation",
        f"The loss compares what `{last.layer.label}` gives with negative targets: without it, or "
        "with targets that are scaled into its range, they can be reached.",
        {"left": stays, "error": answer.residual},
        certain=stays >= 1,
    )


def _stays(record: Record, answer: Answer) -> float:
    """The part of a constant answer's loss that stays because targets are negative."""
    ends = _ending.ending(record)
    if not ends or answer.through or answer.outputs > 1:
        return 0.0
    last = ends[-1]
    bounded = _ending.RANGES.get(last.layer.kind, (-1.0, 1.0))[0] >= 0
    if not (bounded or last.layer.kind in NEVER_NEGATIVE) or answer.low < 0:
        return 0.0
    if answer.kind == ABSOLUTE_ERROR and last.layer.kind.lower() not in ("relu", "relu6"):
        # All outputs are at the bottom, all shall be smaller, and they are far from that.
        return float(answer.pull > PULLS and answer.high < BOTTOM * answer.residual)
    if answer.kind != SQUARED_ERROR or not answer.constant > 0:
        return 0.0
    out = max(0.0, -answer.target_mean) ** 2
    if last.layer.kind.lower() in ("relu", "relu6"):
        passed = 4.0**last.gain if last.gain is not None else None
        if last.reason == ZERO_GRADIENT or (passed is not None and passed < DEAD):
            return 0.0
        out = max(out, (1 - passed) * answer.loss if passed is not None else 0.0)
    return out / answer.constant


def never_no(seen: Sequence[Seen], _: float) -> Sight | None:
    """The logits of a binary cross-entropy come from a rectifier: no sample can be denied."""

    def bad(one: Seen) -> bool:
        record, answer = one
        ends = _ending.ending(record)
        rectified = bool(ends) and ends[-1].layer.kind.lower() in ("relu", "relu6")
        logits = answer.kind == BINARY and not answer.through
        return rectified and logits and answer.outputs == 1 and answer.low >= 0

    found = streak(seen, bad)
    if not found:
        return None
    record, answer = found[-1]
    last = _ending.ending(record)[-1]
    return Sight(
        tuple(record for record, _ in found),
        f"`{last.layer.label}` gives nothing below 0, and a binary cross-entropy takes that for "
        "50 % or more: no sample can be answered with less",
        (last.layer.name,),
        "loss",
        f"The logits of a binary cross-entropy have either sign: without `{last.layer.label}` they "
        "can have it.",
        {"low": answer.low},
    )


def flat_end(seen: Sequence[Seen], bits: float) -> Sight | None:
    """The function at the end passes next to nothing of the gradient of a squared error; or of
    another loss, if it was born that way."""

    def bad(one: Seen) -> bool | None:
        answer = one[1]
        if answer.kind not in ("", SQUARED_ERROR, ABSOLUTE_ERROR):
            return None  # a logarithm makes up for it, or it is no probability at all
        lost = lost_at_end(*one)
        return lost is not None and lost >= bits and (answer.skill or 0.0) <= 0.05

    found = streak(seen, bad)
    if not found:
        return None
    record, answer = found[-1]
    last, lost = _ending.bounded(record), lost_at_end(record, answer) or 0.0
    assert last is not None
    known = answer.kind == SQUARED_ERROR
    if not known and found[0][0] is not seen[0][0]:
        return None
    how = f"{lost:.0f} bits" if math.isfinite(lost) else "all"
    return Sight(
        tuple(record for record, _ in found),
        f"`{last.layer.label}` is saturated at the output: it takes {how} of the gradient beyond "
        "what it takes at its steepest, and the answers are no better than a constant one",
        (last.layer.name,),
        "loss" if known else "init",
        f"A squared error has no gradient where `{last.layer.label}` is flat; a cross-entropy of "
        "its inputs has."
        if known
        else f"What `{last.layer.label}` was given is so large that it was born saturated.",
        {"bits": min(lost, 1e3)},
    )


def flat_outside(seen: Sequence[Seen], large: float, share: float) -> Sight | None:
    """The same for a sigmoid or softmax that stands between the model and its squared error."""

    def bad(one: Seen) -> bool:
        answer = one[1]
        flat = answer.rms >= large if answer.through == "sigmoid" else answer.entropy <= share
        known = answer.kind == SQUARED_ERROR and answer.through in ("sigmoid", "softmax")
        return known and flat and (answer.skill or 0.0) <= 0.05

    found = streak(seen, bad)
    if not found:
        return None
    answer = found[-1][1]
    return Sight(
        tuple(record for record, _ in found),
        f"a {answer.through} after the model is saturated by outputs of size {answer.rms:.3g}, and "
        "the answers are no better than a constant one",
        (),
        "loss",
        f"A squared error has no gradient where a {answer.through} is flat; a cross-entropy of its "
        "inputs has.",
        {"logits": answer.rms},
    )


def lost_at_end(record: Record, answer: Answer) -> float | None:
    """Bits that the function at the end takes beyond those at its steepest."""
    last = _ending.bounded(record) if answer.outputs == 1 else None
    if last is None or (last.layer.kind.lower() == "softmax" and answer.classes < 2):
        return None  # of one unit: its answer is always 1
    return _ending.lost_bits(last, answer)
