"""Always clipped: what clipping leaves of the gradient is too little to get anywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Record
from gradwatch.detectors import _outcome, _steps


@dataclass(frozen=True, slots=True)
class AlwaysClipped:
    """Clipping shortens nearly every step so much that the loss cannot fall.

    To be clipped in every step is no fault by itself: many transformers are, and Adam does not mind
    a constant factor. It is one when the steps that were really made promise next to nothing (the
    product of gradient and movement, see `stalled-updates`), and would promise enough without
    clipping.

    With float16 and a `GradScaler`, gradients that are clipped before `scaler.unscale_()` are some
    65536 times larger than the limit is meant for: then clipping leaves a number that nobody would
    write down as a limit, one divided by a power of two.
    """

    name: ClassVar[str] = "always-clipped"

    left: float = 0.1
    """What clipping leaves of the gradient's norm, in the typical step."""
    often: float = 0.9
    """Share of the steps that are clipped by at least half."""
    promise: float = 1e-3
    """Relative fall of the loss that a step must promise on average ..."""
    unclipped: float = 2e-4
    """... and what it would have to promise without clipping, or there is more to blame."""
    plain: float = 0.95
    """Cosine between the first step and the negative gradient: an optimizer that normalises (Adam:
    0.5 to 0.8) does not mind a constant factor. Or else, where the learning rate is known, ..."""
    excess: float = 1.5
    """... the step must be no longer than rate, momentum, decay and the clipped gradient make it,
    by more than this factor: clipping each value turns the gradient, and does not lengthen it."""
    steps: int = 10
    """Optimizer steps before this is judged."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge all steps so far."""
        left = _steps.clipped(history)
        if left is None or left > self.left:
            return ()
        ratios = np.asarray([p.clip_ratio for p in history.pulses if p.clip_ratio > 0])
        walk, going = _steps.walk(history), progress(history)
        if (ratios.size and np.mean(ratios < 0.5) < self.often) or going.moving:
            return ()
        if walk is None or walk.steps < self.steps:
            return ()
        # In large units a loss hardly falls though the weights move as they should.
        still = walk.movement < _outcome.MOVES * walk.steps
        if walk.promise is None:
            slow = going.moving is False
            due = walk.movement / left > _outcome.MOVES * walk.steps
        else:
            slow = 0 < walk.promise < self.promise * walk.steps
            due = walk.promise / left > self.unclipped * walk.steps
        if not slow or not due or not still or not self._proportional(history):
            return ()
        limit = _limit(history)
        unscaled = limit is not None and not _round(limit) and _half(history)
        cause = (
            Cause(
                "precision",
                f"Clipping leaves a norm of {limit:.3g}, which is no limit that anybody sets: "
                "clip_grad_norm_ comes before scaler.unscale_(optimizer).",
                share=1.0,
            )
            if unscaled
            else Cause(
                "optimizer",
                f"Clipping leaves {left:.2g} of the gradient's norm"
                + ("" if limit is None else f", {limit:.2g}")
                + ": the limit is too low, or the loss too large.",
                share=1.0,
            )
        )
        promise = walk.movement if walk.promise is None else walk.promise
        come_to = "moved the weights by" if walk.promise is None else "promised the loss a fall of"
        records = history.records
        certain = going.moving is False and _outcome.lasting(records)
        return (
            Finding(
                self.name,
                Severity.CRITICAL if certain else Severity.WARNING,
                f"clipping leaves {left:.2g} of the gradient in the typical step: all {walk.steps} "
                f"steps together {come_to} {promise:.2%}",
                (),
                records[0].step,
                history.last_step,
                (cause,),
                f"Without clipping it would be {promise / left:.0%}; {going.text}.",
                {"left": left, "promise": promise},
            ),
        )

    def _proportional(self, history: History) -> bool:
        """Whether a shorter gradient makes a shorter step."""
        first = next((c for r in history if (c := _steps.direction(r)) is not None), 0.0)
        if first >= self.plain:
            return True
        if any(group.second_momentum is not None for r in history for group in r.groups):
            return False
        lengths = [(made, most) for made, most in map(_lengths, history) if made and most]
        return bool(lengths) and all(made <= self.excess * most for made, most in lengths)


def _lengths(record: Record) -> tuple[float, float]:
    """Return the length of a step, and the greatest that gradient, rate and momentum allow."""
    made, allowed = 0.0, 0.0
    for parameter, group in _steps.grouped(record):
        gradient, update, rate = parameter.gradient, parameter.update, group.learning_rate
        if gradient is not None and update is not None and rate and record.clip_ratio is not None:
            made += update.rms**2 * gradient.count
            decay = (group.weight_decay or 0.0) * (parameter.weight.norm if parameter.weight else 0)
            pull = record.clip_ratio * gradient.norm + decay
            allowed += (rate * pull / (1 - min(group.momentum or 0.0, 0.999))) ** 2
    return math.sqrt(made), math.sqrt(allowed)


def _limit(history: History) -> float | None:
    """Return the norm to which the gradients are clipped; None if it is not always the same."""
    limits = [
        p.clip_ratio * p.norm for p in history.pulses if 0 < p.clip_ratio < 1 and p.norm < math.inf
    ]
    if not limits or max(limits) > 1.01 * min(limits):
        return None
    return float(np.median(limits))


def _round(limit: float) -> bool:
    """Whether a number has two significant digits."""
    return limit == 0 or abs(float(f"{limit:.1e}") / limit - 1) < 3e-4


def _half(history: History) -> bool:
    return any(call.dtype == "float16" for record in history for call in record.calls)


DETECTORS = (AlwaysClipped(),)
HEALTHY = ("sgd-clipped", "digits-mlp", "transient-large-inputs-clipped", "resnet")
SICK = ("half-clipped-before-unscaling",)
