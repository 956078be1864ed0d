"""Losses that divide their logits by so much that nothing the model says can change them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gradwatch.core.answer import factor_of, heads, rows
from gradwatch.core.history import History
from gradwatch.core.record import Record
from gradwatch.detectors import _outcome

GUESS: Final = 0.01
"""Difference between a loss and the logarithm of the number of candidates, in nats, up to which all
are as likely: no logits reach further than this apart, on average."""
SAYS: Final = 0.05
"""Part of the loss by which it would change, to first order, with outputs that differ by all of
their size: with a temperature of 1 it is a fifth, with 0.1 all of it."""
DIFFER: Final = 0.02
"""Standard deviation of the outputs over the batch, relative to their size, from which on it is
not the outputs that are all alike."""
FAINT: Final = 0.02
"""Factor of a squared error of logits under which they were divided: a divergence at a temperature
T is one with the factor 1 / (2 T^2), and with the customary T^2 before it 1/2; 0.02 is T = 5."""
SAME: Final = 1.3
"""Ratio of the largest such factor to the smallest up to which it is that of a temperature: of
logits that are not small against it, it changes."""
BALANCED: Final = 0.02
"""Sum of a gradient over the classes, relative to it, up to which a softmax follows."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """Such a loss, as it is seen in the latest exams."""

    records: tuple[Record, ...]
    summary: str
    why: str
    numbers: dict[str, float]


def pinned(history: History) -> Pinned | None:
    """Look for a loss that is pinned at that of guessing, and for a divergence of next to nothing;
    none in a loss that is not one of several outputs or logits."""
    return _guessing(history) or _faint(history)


def _guessing(history: History) -> Pinned | None:
    records = _outcome.latest_streak(history, lambda record: _candidates(record) is not None)
    if not _outcome.lasting(records) or 2 * len(records) < len(history):
        return None
    latest = records[-1]
    count, loss = _candidates(latest), latest.loss or 0.0
    return Pinned(
        records,
        f"the loss stays at {loss:.4g}, which is log({count}): all {count} candidates are as "
        "likely, though the outputs differ",
        "The loss divides its similarities by a temperature that is too high, or lacks one below "
        "1: nothing that the model says can change it.",
        {"loss": loss, "candidates": float(count or 0)},
    )


def _candidates(record: Record) -> int | None:
    """Return among how many candidates the loss of an exam guesses, if it does."""
    loss = record.loss
    if loss is None or not loss > 0 or not record.output:
        return None
    outer = [row for row in rows(record.output) if not row["inside"]]
    if not outer or any(row["columns"] < 2 for row in outer):
        return None
    if any(head.kind for head in heads(record.output)):
        return None
    says = sum(math.sqrt(row["square_output"] * row["squares"]) for row in outer)
    differ = min(row["varying"] / math.sqrt(row["square_output"] / row["asked"]) for row in outer)
    if differ < DIFFER or says > SAYS * loss * min(1.0, differ):
        return None
    counts = dict.fromkeys(n for row in outer for n in _counts(int(row["samples"])))
    return next((n for n in counts if n > 2 and abs(loss - math.log(n)) < GUESS + says), None)


def _counts(samples: int) -> Iterator[int]:
    """Yield among how many a sample's partner is looked for: the batch or half of it, with itself
    or without, and both views of all."""
    yield from (samples, samples // 2, samples - 1, 2 * samples - 1, 2 * samples - 2)


def _faint(history: History) -> Pinned | None:
    found: list[tuple[Record, float]] = []
    for record in history:
        if record.loss is None:
            continue
        factor = _factor(record)
        if factor is None:
            return None
        found.append((record, factor))
    factors = [factor for _, factor in found]
    records = tuple(record for record, _ in found)
    if not _outcome.lasting(records) or max(factors) > SAME * min(factors):
        return None
    temperature = math.sqrt(1 / (2 * factors[-1]))
    return Pinned(
        records,
        f"the loss is that of logits that were divided by about {temperature:.2g}, and next to "
        "nothing of it comes back",
        "The gradient of a divergence at a temperature T is T^2 times smaller, and the loss is not "
        f"multiplied by that: T seems to be {temperature:.2g}.",
        {"temperature": temperature, "factor": factors[-1]},
    )


def _factor(record: Record) -> float | None:
    """Return the factor of the squared error that a divergence of small logits is."""
    loss = record.loss
    if loss is None or not loss > 0 or not record.output:
        return None
    (head, *others) = heads(record.output) or (None,)
    if head is None or others or head.kind or head.classes < 3 or not math.isnan(head.turned):
        return None
    factor = factor_of(record.output, loss)
    return factor if head.balance < BALANCED and 0 < factor < FAINT else None
