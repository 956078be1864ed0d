"""Exploding gradient: the backward signal blows up, over depth or over time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _depth
from gradwatch.detectors._depth import Streak, Trend

EARLY_PULSES: Final = 5
"""The median norm of so many first steps is what growth in time is measured against."""
LOSS_GROWTH: Final = 10.0
"""Growth in time counts only if the loss, too, rose to so many times its beginning."""


@dataclass(frozen=True, slots=True)
class ExplodingGradient:
    """The gradient grows, layer after layer, from the loss to the input; or step after step.

    Over depth it is the mirror image of vanishing, with a threshold twice as high: healthy
    pre-norm transformers have larger gradients in early layers. Over time, a norm a thousand times
    that of the first steps counts only when the loss has left its beginning upwards too: then the
    steps are too large.

    The cause comes from the ledger: weights that are too large for their fan-in if it was born so,
    the learning rate if it came during training.
    """

    name: ClassVar[str] = "exploding-gradient"

    decades: float = 3.0
    """Growth over depth, from the last layer to the first."""
    monotony: float = 0.6
    growth: float = 1000.0
    """Growth of the total gradient norm over the first steps'."""
    critical_exams: int = 3
    critical_steps: int = 10

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exam that has finite gradients, in the light of what came after it."""
        trends = [(record, _depth.trend(record)) for record in history]
        judged = [(record, found, self._bad(found)) for record, found in trends if found]
        streak = _depth.streak(history, judged)
        going = progress(history)
        if streak is not None:
            return (self._over_depth(streak, going, blown=_not_finite_after(history, streak)),)
        return tuple(self._over_time(history, going))

    def _bad(self, trend: Trend) -> bool:
        steep = trend.drop <= -self.decades and trend.monotony <= -self.monotony
        return steep and trend.witnessed

    def _over_depth(self, streak: Streak, going: Progress, *, blown: bool) -> Finding:
        record, trend = streak.records[-1], streak.trend
        causes = _depth.shares(_causes(record, born=streak.since == 0), 1)
        lasting = len(streak.records) >= self.critical_exams and streak.steps >= self.critical_steps
        if blown or going.diverged:
            severity = Severity.CRITICAL
            confidence = (
                "The numbers are no longer finite." if blown else f"Diverged: {going.text}."
            )
        elif going.moving:
            severity, confidence = Severity.NOTE, f"It learns in spite of it: {going.text}."
        elif lasting and going.moving is False:
            severity = Severity.CRITICAL
            confidence = f"It has lasted since step {streak.since}, and {going.text}."
        else:
            severity = Severity.WARNING
            confidence = (
                "A prediction at initialisation."
                if streak.until == 0
                else f"Seen since step {streak.since}; {going.text}."
            )
        return Finding(
            self.name,
            severity,
            f"the gradient grows by {-trend.drop:.1f} decades "
            f"({-trend.drop * math.log2(10):.0f} bits) from `{trend.layers[-1] or '(model)'}` "
            f"back to `{trend.layers[0] or '(model)'}`",
            causes[0].layers if causes else trend.layers,
            streak.since,
            streak.until,
            causes,
            confidence,
            {"decades": trend.drop, "monotony": trend.monotony},
        )

    def _over_time(self, history: History, going: Progress) -> Iterator[Finding]:
        norms = [(pulse.step, pulse.norm) for pulse in history.pulses]
        early = float(np.median([norm for _, norm in norms[:EARLY_PULSES]])) if norms else 0.0
        # A loss that stays far above its beginning needs less of a gradient to be believed: the
        # steps that threw it there may have left units that pass on no gradient at all.
        growth = LOSS_GROWTH if going.fall < -LOSS_GROWTH * abs(going.begin) else self.growth
        above = [(step, norm) for step, norm in norms if norm >= growth * early]
        steps, losses = history.losses()
        if not 0 < early < math.inf or not above or not losses.size:
            return
        since, top = above[0][0], max(norm for _, norm in above)
        begin, peak = abs(float(losses[0])), float(np.fmax.reduce(losses[steps >= since]))
        if peak < LOSS_GROWTH * begin:
            return
        recovered = bool(going.moving) and not going.diverged
        severity = Severity.CRITICAL if top >= self.growth * early else Severity.WARNING
        yield Finding(
            self.name,
            Severity.NOTE if recovered else severity,
            f"the gradient norm grew from {early:.3g} to {top:.3g} since step {since}",
            since=since,
            until=above[-1][0],
            causes=(
                Cause(
                    "learning-rate",
                    f"It was not born so: the steps are too large, the loss rose from {begin:.3g} "
                    f"to {peak:.3g}.",
                    share=1.0,
                ),
            ),
            confidence=f"Progress: {going.text}.",
            numbers={"growth": top / early, "peak_loss": peak},
        )


def _causes(record: Record, *, born: bool) -> Iterator[Cause]:
    found = _depth.blame(record)
    growing = [entry for entry in found.weighted if entry.bits > 0]
    weighted = _depth.bits(found.weighted)
    if growing and weighted > 0:
        gain = math.sqrt(2) if found.rectifiers else 1.0
        factor = _depth.init_factor(record, growing, gain)
        text = f"{_depth.kinds(found.weighted, 'add')} {weighted:.1f} bits"
        if factor is not None and factor > 1:
            text += f": their weights are {factor:.3g} times larger than what keeps the signal"
        if not born:
            text += "; they were not born so: the steps are too large"
        name = "init" if born else "learning-rate"
        yield Cause(name, text + ".", _depth.names(growing), weighted)
    rest = [e for e in (*found.rest, *found.rectifiers, *found.bounded) if e.bits > 0]
    if rest:
        yield Cause(
            "depth",
            f"{_depth.listed(_depth.names(rest))} add {_depth.bits(rest):.1f} bits.",
            _depth.names(rest),
            _depth.bits(rest),
        )


def _not_finite_after(history: History, streak: Streak) -> bool:
    return any(
        parameter.gradient is not None and parameter.gradient.nonfinite
        for record in history
        if record.step > streak.until
        for parameter in record.parameters
    ) or any(pulse.step > streak.until and math.isnan(pulse.norm) for pulse in history.pulses)


DETECTORS = (ExplodingGradient(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "he-relu-mlp")
SICK = ("large-relu-mlp", "high-learning-rate")
