"""A bonus for the entropy of a policy that is worth more than anything the policy can earn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from gradwatch.core.answer import Answer, heads
from gradwatch.core.history import History
from gradwatch.core.record import Record
from gradwatch.detectors import _outcome

UNIFORM: Final = 0.95
"""Entropy of the policy, of the largest possible, from which on it tries all actions alike."""
OUTWEIGHS: Final = 2.0
"""Bonus for an entropy of one nat over the size of the advantages: the best policy is then as
exp(advantage / bonus), which prefers nothing by more than a factor of two (Ziebart 2010)."""
SAME: Final = 1.1
"""Ratio of the largest to the smallest loss per nat up to which it is a bonus that makes it."""
EARNS: Final = 0.02
"""Size of the advantages over the bonus under which there is nothing to be earned at all: then it
is not the bonus that keeps the policy from it."""
BALANCED: Final = 0.02
"""Sum of a gradient over the classes, relative to it, up to which a softmax follows."""


@dataclass(frozen=True, slots=True)
class Bonus:
    """Such a bonus, as it is seen in the latest exams."""

    records: tuple[Record, ...]
    bonus: float
    """Loss for one nat of entropy."""
    advantage: float
    """Root mean square of the advantages."""
    entropy: float
    """Of the policy, of the largest possible."""


def bonus(history: History) -> Bonus | None:
    """Look for a loss that is minus a number times the entropy of its output's softmax, while that
    stays uniform, though its gradient says that other actions are worth more."""
    _, losses = history.losses()
    if not losses.size or float(losses.max()) >= 0:
        return None
    found: list[tuple[Record, Answer, float]] = []
    for record in history:
        head = next((h for h in heads(record.output) if h.classes > 1), None)
        if record.loss is None or head is None:
            continue
        uniform = head.entropy >= UNIFORM and head.balance < BALANCED and not head.kind
        if not uniform:
            found.clear()
            continue
        found.append((record, head, -record.loss / (head.entropy * math.log(head.classes))))
    records = tuple(record for record, _, _ in found)
    if not _outcome.lasting(records) or 2 * len(records) < len(history):
        return None
    each = [one for _, _, one in found]
    # Close to uniform the gradient of the entropy is nothing, and all of it is the advantages'.
    head = found[-1][1]
    advantage = head.size * math.sqrt(head.classes) * head.samples
    if max(each) > SAME * min(each) or not EARNS * each[-1] < advantage < each[-1] / OUTWEIGHS:
        return None
    return Bonus(records, each[-1], advantage, head.entropy)
