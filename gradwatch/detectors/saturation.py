"""Saturated activation: a bounded function is driven to where its slope is nearly zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.ledger import Entry
from gradwatch.core.progress import progress
from gradwatch.core.record import Call, Record
from gradwatch.core.stats import Stats
from gradwatch.detectors import _depth, _outcome

SLOPES: Final[dict[str, Callable[[Stats], float]]] = {
    "Tanh": lambda y: 1 - y.squares / y.finite,
    "Sigmoid": lambda y: 4 * (y.mean - y.squares / y.finite),
}
"""The mean slope as a share of the largest, from the outputs alone: tanh' = 1 - y^2 and
sigmoid' = y (1 - y), so that the mean is known exactly."""


@dataclass(frozen=True, slots=True)
class SaturatedActivation:
    """A tanh or sigmoid in the trunk passes on less than a tenth of what it could.

    Judged by its mean slope and not by its values: 0.9 is no saturation, and a sigmoid around 0.5
    loses its two bits without being saturated. Not looked at are gates (their output multiplies
    something), the last activation (the answer may well be certain), and functions without bounds.
    A saturated net that learns is left in peace.

    The cause is the size of what comes in: weights that are too large, or inputs that were not
    scaled (Glorot & Bengio 2010).
    """

    name: ClassVar[str] = "saturated-activation"

    slope: float = 0.1
    """Mean slope over the largest possible; for a standard normal input a tanh has 0.6."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams."""
        streak = _outcome.latest_streak(history, lambda record: bool(self._saturated(record)))
        if not streak:
            return ()
        severity, confidence = _outcome.verdict(streak, progress(history))
        if severity == Severity.NOTE:
            return ()
        found = self._saturated(streak[-1])
        layers = tuple(call.layer.name for call, _ in found)
        worst = min(slope for _, slope in found)
        return (
            Finding(
                self.name,
                severity,
                f"saturated: {_depth.listed(layers)} ({len(found)} in all) pass on {worst:.1%} "
                f"to {max(slope for _, slope in found):.1%} of the gradient that they could",
                layers,
                streak[0].step,
                streak[-1].step,
                (self._cause(streak[0]),),
                confidence,
                {"slope": worst, "layers": float(len(found))},
            ),
        )

    def _saturated(self, record: Record) -> list[tuple[Call, float]]:
        candidates = [
            (i, call)
            for i, call in enumerate(record.calls)
            if call.layer.kind in SLOPES and call.output is not None and call.output.finite
        ]
        found = []
        for i, call in candidates:
            slope = SLOPES[call.layer.kind](call.output)  # type: ignore[arg-type]
            if slope < self.slope and not _last(record, i) and not _gate(record, i):
                found.append((call, slope))
        return found

    def _cause(self, record: Record) -> Cause:
        """Name the cause from the exam in which it began."""
        found = self._saturated(record)
        first = record.calls.index(found[0][0])
        feeding = next((c for c in reversed(record.calls[:first]) if c.layer.weighted), None)
        inputs = feeding is not None and all(
            not c.layer.weighted for c in record.calls[: record.calls.index(feeding)]
        )
        received = feeding.output.rms if feeding is not None and feeding.output else None
        size = f": it gets values of size {received:.3g}" if received is not None else ""
        if inputs and received is not None and not _too_large(record, feeding):
            return Cause(
                "data-scale",
                f"`{found[0][0].layer.label}` is the first{size}, though the weights before it are "
                "of ordinary size: the inputs are too large.",
                (found[0][0].layer.name,),
                share=1.0,
            )
        layers = () if feeding is None else (feeding.layer.name,)
        return Cause(
            "init",
            f"The weights before `{found[0][0].layer.label}` are too large{size}.",
            layers,
            share=1.0,
        )


def _too_large(record: Record, call: Call | None) -> bool:
    entries = [] if call is None else [Entry((call.layer.name,), call.layer.kind, 0.0, call)]
    factor = _depth.init_factor(record, entries, 1.0)
    return factor is not None and factor > 3


def _last(record: Record, position: int) -> bool:
    """Whether no weights come after it: then its output is the answer."""
    return not any(call.layer.weighted for call in record.calls[position + 1 :])


def _gate(record: Record, position: int) -> bool:
    """Whether its output is what something is multiplied with: the next operation beside it, or
    beside the container that ends with it, is a product."""
    parent = record.calls[position].parent
    while True:
        beside = (call for call in record.calls[position + 1 :] if call.parent == parent)
        follower = next(beside, None)
        if follower is not None:
            return follower.layer.functional and follower.layer.kind == "mul"
        if parent is None:
            return False
        position, parent = parent, record.calls[parent].parent


DETECTORS = (SaturatedActivation(),)
HEALTHY = ("digits-mlp", "tanh-mlp", "gated-mlp", "pre-norm-transformer")
SICK = ("large-tanh-mlp", "unscaled-inputs")
