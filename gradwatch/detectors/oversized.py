"""Oversized updates: every step throws the weights somewhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _outcome


@dataclass(frozen=True, slots=True)
class OversizedUpdates:
    """Most weights change by more than a tenth of their size in a step, again and again, and the
    loss does not fall.

    A ratio of a thousandth is usual and a hundredth is seen in most healthy small nets (20 of 25
    measured), so that it takes a tenth, and most of the weights. The first steps do not count:
    weights that begin at zero change by more than their size.
    """

    name: ClassVar[str] = "oversized-updates"

    ratio: float = 0.1
    """Update-to-weight ratio per step."""
    share: float = 0.5
    """Share of the weights (as parameters) above it."""
    thrown: float = 0.3
    """In a training whose loss is far above its beginning: the typical ratio, in any step."""
    grace: int = 5
    """First steps that are not judged."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams; where the loss has left its beginning upwards, all of them."""
        going = progress(history)
        if going.diverged:  # the first steps may have thrown the weights where none is large
            thrown = [r for r in history if _typical(r) > self.thrown]
            return (self._finding(thrown[:1], thrown[-1:], going),) if thrown else ()
        streak = _outcome.latest_streak(history, self._oversized)
        if going.moving is not False or not _outcome.lasting(streak):
            return ()
        return (self._finding(streak, streak[-1:], going),)

    def _finding(
        self, records: Sequence[Record], last: Sequence[Record], going: Progress
    ) -> Finding:
        typical = max(_typical(record) for record in records)
        severity, confidence = _outcome.verdict(tuple(records), going)
        if going.diverged:
            severity, confidence = Severity.CRITICAL, f"Diverged: {going.text}."
        cause = Cause(
            "learning-rate",
            f"A step changes the typical weight by {typical:.0%} of its size: the learning rate is "
            f"some {2 ** round(math.log2(max(2.0, typical / 0.01)))} times too high.",
            _outcome.owners(_outcome.weights(records[-1])),
            share=1.0,
        )
        return Finding(
            self.name,
            severity,
            f"a step changes the typical weight by {typical:.0%} of its size",
            (),
            records[0].step,
            last[-1].step,
            (cause,),
            confidence,
            {"ratio": typical},
        )

    def _oversized(self, record: Record) -> bool:
        ratios = _ratios(record)
        large = [ratio for ratio in ratios if ratio > self.ratio]
        return (
            record.step >= self.grace and bool(ratios) and (len(large) >= self.share * len(ratios))
        )


def _typical(record: Record) -> float:
    return median(_ratios(record) or [0.0])


def _ratios(record: Record) -> list[float]:
    ratios = [parameter.update_ratio for parameter in _outcome.weights(record)]
    return [ratio for ratio in ratios if ratio is not None and math.isfinite(ratio)]


DETECTORS = (OversizedUpdates(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "default-relu-mlp-adam")
SICK = ("oversized-steps",)
