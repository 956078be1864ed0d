"""The ways in which an output is saturated: each look returns what is exact about one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gradwatch.core.answer import (
    ABSOLUTE_ERROR,
    CROSS_ENTROPY,
    FITS,
    SQUARED_ERROR,
    Answer,
    heads,
)
from gradwatch.core.record import Record
from gradwatch.detectors import _ending

Seen = tuple[Record, Answer]

BALANCED: Final = 0.02
"""Sum of the gradient over the classes, relative to it, up to which a softmax follows: rounding
makes it 1e-5, and more where next to no gradient is left."""
ONE_HOT: Final = 0.8
"""Mean sum of squares of the probabilities of a policy that has decided."""


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
    found = streak(seen, lambda one: (left(*one) or 0.0) >= beyond)
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
        "loss",
        f"The loss compares `{last.layer.label}` with targets out of its range: without it, or "
        "with targets that are scaled into its range, they can be reached.",
        {"left": stays, "error": answer.residual},
        certain=stays >= 0.5,
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


def lost_at_end(record: Record, answer: Answer) -> float | None:
    """Bits that the function at the end takes beyond those at its steepest."""
    last = _ending.bounded(record) if answer.outputs == 1 else None
    if last is None or (last.layer.kind.lower() == "softmax" and answer.classes < 2):
        return None  # of one unit: its answer is always 1
    return _ending.lost_bits(last, answer)


def decided_policy(seen: Sequence[Seen], share: float, large: float) -> Sight | None:
    """Logits were born so large that a policy tries one action only."""
    rows = [(record, heads(record.output)) for record, _ in seen]
    if not rows:
        return None
    first = rows[0][0]
    for i, head in enumerate(rows[0][1]):
        call = _ending.source(first, head)
        before = _ending.last_weighted(first) if head.probabilities or call is None else call
        if head.kind or call is None or before is None or before.output is None:
            continue
        if head.classes < 2 or not (head.balance <= BALANCED or head.probabilities):
            continue
        size = before.output.rms
        after = [(r, h[i]) for r, h in rows if len(h) > i]
        if size < large or not all(one.size == 0 or _decided(r, one, share) for r, one in after):
            continue
        return Sight(
            tuple(record for record, _ in after),
            f"the policy was born decided by logits of size {size:.0f}, and never tries another "
            "action",
            (before.layer.name,),
            "init",
            "The last weights are so large that the softmax is saturated from the start: small "
            "ones (a gain of 0.01) make it try all actions alike.",
            {"logits": size},
            certain=True,
        )
    return None


def _decided(record: Record, head: Answer, share: float) -> bool:
    if not head.probabilities:
        return head.entropy <= share
    call = _ending.source(record, head)
    return (
        call is not None
        and call.output is not None
        and call.output.squares * head.classes >= ONE_HOT * call.output.count
    )


def confident(
    seen: Sequence[Seen], wrong: float, rescaled: float, factor: Callable[[Record], float | None]
) -> Sight | None:
    """The cross-entropy is many times that of a constant answer, and stays there."""

    def bad(one: Seen) -> bool:
        answer = one[1]
        return answer.kind == CROSS_ENTROPY and answer.loss >= wrong * answer.constant > 0

    found = streak(seen, bad)
    if not found or found[0][0] is not seen[0][0]:
        return None
    first, answer = found[0]
    bits, where = _ending.rescaled_bits(first)
    last = _ending.last_weighted(first)
    times = None if last is None else factor(first)
    if bits >= rescaled:
        cause, layers = "loss", where
        why = f"The logits are made {2.0**bits:.3g} times larger in `{where[-1]}`."
    elif last is not None and times is not None and times > wrong:
        cause, layers = "init", (last.layer.name,)
        why = f"The last weights are {times:.3g} times larger than what keeps the signal's size."
    else:
        return None
    return Sight(
        tuple(record for record, _ in found),
        f"logits of size {answer.rms:.3g} are certain of wrong classes: the loss was born at "
        f"{answer.loss / answer.constant:.0f} times that of a constant answer",
        layers,
        cause,
        why,
        {"logits": answer.rms, "times": answer.loss / answer.constant},
    )


def sure_discriminator(seen: Sequence[Seen], sure: float, moved: float) -> Sight | None:
    """A generator minimises log(1 - D), and D is sure of all that it makes."""

    def bad(one: Seen) -> bool | None:
        record, answer = one
        rising = answer.minimax < FITS
        if (last := _ending.bounded(record)) is not None and last.layer.kind.lower() == "sigmoid":
            # Of log(1 - D) nothing but a gradient of one size is left where D is near 0.
            rising = answer.pull < 0 and answer.uneven < 0.1
            certain = answer.high <= 1 / (1 + math.exp(-sure))
        else:
            certain = answer.high <= sure
        if not rising:
            return None
        ratios = [p.update_ratio for p in record.parameters if p.gradient and p.update_ratio]
        return certain and max(ratios, default=0.0) < moved

    found = streak(seen, bad)
    if not found:
        return None
    record, answer = found[-1]
    last = _ending.last_weighted(record)
    return Sight(
        tuple(record for record, _ in found),
        f"the loss is log(1 - D), and D is sure: its largest answer is {answer.high:.3g}, and next "
        "to nothing of the gradient comes through",
        () if last is None else (last.layer.name,),
        "loss",
        "The generator's loss is flat where the discriminator is sure; -log D is steep there "
        "(Goodfellow et al. 2014, section 3).",
        {"largest": answer.high},
    )
