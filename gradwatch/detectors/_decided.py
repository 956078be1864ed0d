"""Logits that are so large that what is decided by them is decided from the start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from gradwatch.core.answer import Answer, heads
from gradwatch.core.losses import CROSS_ENTROPY, FITS
from gradwatch.core.record import Record
from gradwatch.detectors import _ending
from gradwatch.detectors._saturated import Seen, Sight, streak

BALANCED: Final = 0.02
"""Sum of the gradient over the classes, relative to it, up to which a softmax follows: rounding
makes it 1e-5, and more where next to no gradient is left."""
ONE_HOT: Final = 0.8
"""Mean sum of squares of the probabilities of a policy that has decided."""
HUGE: Final = 100.0
"""Size of logits beside which the answers of a trained net, of 4 to 10, are nothing."""


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
    seen: Sequence[Seen],
    wrong: float,
    rescaled: float,
    large: float,
    factor: Callable[[Record], float | None],
) -> Sight | None:
    """The cross-entropy is many times that of a constant answer, and stays there. Weights that are
    shared with another layer have no name here: then the size of the logits tells."""

    def bad(one: Seen) -> bool:
        answer = one[1]
        still = wrong if one is seen[0] else wrong / 2
        if one is not seen[0] and answer.rms >= HUGE:  # from so high, one step decides anew
            still = 0.5
        return answer.kind == CROSS_ENTROPY and answer.loss >= still * answer.constant > 0

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
    elif last is not None and (
        # At birth, half of what trained nets reach is too sure already.
        answer.rms >= large / 2 if times is None else times > wrong or answer.rms >= HUGE
    ):
        cause, layers = "init", (last.layer.name,)
        much = "too large" if times is None else f"{times:.3g} times larger than 1 / sqrt(fan-in)"
        why = f"The last weights are {much}."
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
