"""Ascending loss: the steps go up the gradient, or the loss has the wrong sign."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.losses import CLEARLY, FIELDS, FITS, MATCHES
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _outcome, _steps

MINUS: Final = (
    ("against", "ce_error", "cross-entropy"),
    ("bagainst", "bce_error", "binary cross-entropy"),
)
"""Losses whose gradient tells its sign: the fields of `core.answer` for minus and plus."""
LATE: Final = 3
"""A loss is compared between the thirds of the run."""


@dataclass(frozen=True, slots=True)
class AscendingLoss:
    """The loss is driven up, or down to minus infinity: there is a wrong sign somewhere.

    A step that goes up the gradient (`maximize=True`, `+=` in a loop of one's own) has a negative
    cosine with the negative gradient: -1 for plain descent, -0.3 or less for Adam. Momentum makes
    that happen now and then in a healthy training, but never in every step from the first on.

    Where the steps go down, the gradient may be that of the negated loss: that of cross-entropy or
    of the squared error can be recognised exactly. For any other loss it takes a run to minus
    infinity, faster and faster, with answers that grow and grow: a likelihood of continuous values
    may be negative, but it comes to rest.
    """

    name: ClassVar[str] = "ascending-loss"

    cosine: float = -0.1
    """Cosine between the whole step and the negative gradient, in each exam."""
    exams: int = 2
    """Exams that must show it, all of them."""
    steps: int = 40
    """Losses that must be known to judge where a loss runs to."""
    times: float = 10.0
    """How many times its beginning the loss has to be below zero, and the answers have to grow."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge all exams: a sign does not change during a run."""
        going = progress(history)
        found = self._upwards(history) or self._negated(history) or self._endless(history)
        if found is None or (going.skill is not None and going.skill > 0.5):
            return ()
        cause, records, summary = found
        return (self._finding(cause, records, summary, going),)

    def _upwards(self, history: History) -> tuple[Cause, tuple[Record, ...], str] | None:
        up: list[tuple[Record, float]] = []
        for record in history:
            cosine = _steps.direction(record)
            if cosine is not None and cosine >= self.cosine:
                return None
            if cosine is not None:
                up.append((record, cosine))
        if len(up) < self.exams:
            return None
        flagged = any(group.maximize for record in history for group in record.groups)
        mean = float(np.mean([cosine for _, cosine in up]))
        text = "The optimizer's steps go up the gradient" + (
            ": it was made with maximize=True." if flagged else ": its learning rate has a minus."
        )
        return (
            Cause("optimizer", text, share=1.0),
            tuple(r for r, _ in up),
            f"each step goes up the gradient: its cosine with the descent is {mean:.2f}",
        )

    def _negated(self, history: History) -> tuple[Cause, tuple[Record, ...], str] | None:
        known = [(r, kind) for r in history if (kind := _negated(r)) is not None]
        contrary = sum(record.answer is not None and bool(record.answer.kind) for record in history)
        early = known and known[0][0] in history.records[: self.exams]
        if not early or len(known) < self.exams or contrary >= len(known):
            return None
        kind = known[0][1]
        return (
            Cause("loss", f"The gradient is that of minus the {kind}: drop the minus.", share=1.0),
            tuple(r for r, _ in known),
            f"what is minimised is minus the {kind}",
        )

    def _endless(self, history: History) -> tuple[Cause, tuple[Record, ...], str] | None:
        _, told = history.losses()
        losses = told[np.isfinite(told)]
        sizes = [
            (record, max(abs(answer.low), abs(answer.high)))
            for record in history
            if (answer := record.answer) is not None
        ]
        if losses.size < self.steps or len(sizes) < 2 * LATE:
            return None
        thirds = np.array_split(losses, LATE)
        parts = [float(np.median(part)) for part in thirds]
        faster = parts[1] - parts[2] > parts[0] - parts[1] > 0
        far = parts[2] < -self.times * float(np.median(np.abs(thirds[0])))
        first, middle, last = (sizes[i][1] for i in (0, len(sizes) // 2, -1))
        grows = last > self.times * first and last > 1.2 * middle
        if not (faster and far and grows):
            return None
        return (
            Cause(
                "loss",
                "The loss has no lower bound, and what makes it fall is that the answers grow: it "
                "has the wrong sign, or lacks a term that holds them.",
                share=1.0,
            ),
            tuple(record for record, _ in sizes),
            f"the loss runs to minus infinity: {losses[0]:.3g} at first, {parts[2]:.3g} now",
        )

    def _finding(
        self, cause: Cause, records: tuple[Record, ...], summary: str, going: Progress
    ) -> Finding:
        certain = _outcome.lasting(records)
        return Finding(
            self.name,
            Severity.CRITICAL if certain else Severity.WARNING,
            summary,
            (),
            records[0].step,
            records[-1].step,
            (cause,),
            f"Seen in {len(records)} exams since step {records[0].step}; {going.text}.",
            {"exams": float(len(records))},
        )


def _negated(record: Record) -> str | None:
    """Return the loss that the gradient at the output is the negative of; None if there is none."""
    got = dict(zip(FIELDS, record.output, strict=False))  # of the first output
    for field, usual, kind in MINUS:
        error, otherwise = got.get(field, math.nan), got.get(usual, math.nan)
        # Of answers that are all alike, the gradient fits either sign.
        if error < FITS and not otherwise < CLEARLY * error:
            return kind
    count, squares = got.get("asked", math.nan), got.get("squares", math.nan)
    if record.loss is not None and record.loss < 0 < squares * count and got["alone"]:
        factor = count * squares / (-4 * record.loss)
        if any(abs(factor / usual - 1) < MATCHES for usual in _reductions(count, got["samples"])):
            return "squared error"
    return None


def _reductions(count: float, samples: float) -> Iterator[float]:
    """Yield by what the mean of the squares is multiplied: a mean, a sum, a sum over a sample."""
    for factor in (1.0, count, count / samples):
        yield from (factor, factor / 2)


DETECTORS = (AscendingLoss(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "reinforce-bandit")
SICK = ("maximised",)
