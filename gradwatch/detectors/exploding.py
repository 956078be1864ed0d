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
from gradwatch.detectors import _depth, _inputs, _norms, _outcome, _slopes
from gradwatch.detectors._depth import Streak, Trend
from gradwatch.detectors._inquest import Inquest
from gradwatch.detectors.exploding_over_time import ExplodingOverTime

MANY_CALLS: Final = 3
"""Calls of one layer in a forward pass from which on they are a loop."""
EARLY_PULSES: Final = 5
"""The median norm of so many first steps is what growth in time is measured against."""
UNBOUNDED: Final = ("pow", "square", "exp", "expm1", "sinh", "cosh")
"""Functions whose slope grows with what comes in."""
LOSS_GROWTH: Final = 10.0
"""Growth in time counts only if the loss, too, rose to so many times its beginning."""


@dataclass(frozen=True, slots=True)
class ExplodingGradient:
    """The gradient grows, layer after layer, from the loss to the input; or step after step.

    Over depth it is the mirror image of vanishing, with a threshold twice as high: healthy
    pre-norm transformers have larger gradients in early layers. Where norms undo the size of the
    weights the gradient alone tells little, and the gradient scale (Philipp et al. 2017) is judged:
    a deep net with batch norms explodes however its weights are drawn (Yang et al. 2019). What was
    born so and never learns stays so, whatever the first steps have made of the weights.

    Over time, a norm a thousand times that of the first steps counts only when the loss has left
    its beginning upwards too: then the steps are too large.

    The cause comes from the ledger: weights that are too large for their fan-in, functions that
    grow without bound, the number of layers, branches without a norm; the learning rate if it came
    during training, unless the inputs or targets are in units of their own.
    """

    name: ClassVar[str] = "exploding-gradient"

    decades: float = 3.0
    """Growth over depth, from the last layer to the first: of the gradient, or of its scale."""
    monotony: float = 0.6
    growth: float = 1000.0
    """Growth of the total gradient norm over the first steps'."""
    flat: float = 0.1
    """Mean slope under which a bounded activation counts as saturated."""
    critical_exams: int = 3
    critical_steps: int = 10

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exam that has finite gradients, in the light of what came after it."""
        trends = [(record, _depth.trend(record)) for record in history]
        judged = [(record, found, self._bad(found)) for record, found in trends if found]
        going = progress(history)
        streak = self._born(history, judged, going) or _depth.streak(judged)
        loop = streak is not None and _recurrent(streak.records[0])
        if loop and ExplodingOverTime()(history):
            return ()  # the same weights again and again: that is a matter of time
        if streak is not None and not self._shaken(history, streak, going):
            return (self._over_depth(history, streak, going),)
        return tuple(self._over_time(history, going))

    def _bad(self, trend: Trend) -> bool:
        steep = trend.drop <= -self.decades and trend.monotony <= -self.monotony
        if steep and trend.witnessed:
            return True
        scale, monotony = trend.scale_drop, trend.scale_monotony
        if scale is None or monotony is None:
            return False
        return scale <= -self.decades and monotony <= -self.monotony

    def _born(
        self, history: History, judged: list[tuple[Record, Trend, bool]], going: Progress
    ) -> Streak | None:
        """The exams at the beginning, if they were bad and nothing was learnt since."""
        if not judged or not judged[0][2] or _outcome.learns(history, going):
            return None
        good = next((i for i, (_, _, bad) in enumerate(judged) if not bad), len(judged))
        return Streak(tuple(record for record, _, _ in judged[:good]), judged[0][1])

    def _shaken(self, history: History, streak: Streak, going: Progress) -> bool:
        """Whether it is the chaos of activations that were born saturated, and nothing worse."""
        steep = streak.trend.drop <= -self.decades and streak.trend.monotony <= -self.monotony
        born = streak.since == history.records[0].step
        flat = born and bool(_slopes.flat(streak.records[0], self.flat))
        return flat and not (steep and going.diverged)

    def _over_depth(self, history: History, streak: Streak, going: Progress) -> Finding:
        born = history.records[0]
        blamed = born if streak.since == born.step else streak.records[-1]
        trend = _depth.trend(blamed) or streak.trend
        causes = Inquest(blamed, born, 1).causes()
        blown = _not_finite_after(history, streak)
        severity, confidence = self._severity(history, streak, going, blown=blown)
        scale = trend.scale_drop if trend.scale_drop is not None else trend.drop
        grows = max(-trend.drop, -scale)
        what = "gradient" if -trend.drop >= -scale else "gradient scale (signal times gradient)"
        return Finding(
            self.name,
            severity,
            f"the {what} grows by {grows:.1f} decades ({grows * math.log2(10):.0f} bits) from "
            f"`{trend.layers[-1] or '(model)'}` back to `{trend.layers[0] or '(model)'}`",
            causes[0].layers if causes else trend.layers,
            streak.since,
            history.last_step if streak.since == born.step else streak.until,
            causes,
            confidence,
            {"decades": trend.drop, "monotony": trend.monotony, "scale_decades": scale},
        )

    def _severity(
        self, history: History, streak: Streak, going: Progress, *, blown: bool
    ) -> tuple[Severity, str]:
        if blown:
            return Severity.CRITICAL, "The numbers are no longer finite."
        if going.diverged:
            return Severity.CRITICAL, f"Diverged: {going.text}."
        if _outcome.learns(history, going):
            return Severity.NOTE, f"It learns in spite of it: {going.text}."
        exams = [record for record in history if record.step >= streak.since]
        steps = exams[-1].step - streak.since
        lasting = len(exams) >= self.critical_exams and steps >= self.critical_steps
        if lasting and going.moving is False:
            return Severity.CRITICAL, f"It has lasted since step {streak.since}, and {going.text}."
        if history.records[-1].step == 0:
            return Severity.WARNING, "A prediction at initialisation."
        return Severity.WARNING, f"Seen since step {streak.since}; {going.text}."

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
            causes=(_why_over_time(history, since, begin, peak),),
            confidence=f"Progress: {going.text}.",
            numbers={"growth": top / early, "peak_loss": peak},
        )


def _why_over_time(history: History, since: int, begin: float, peak: float) -> Cause:
    born = history.records[0]
    rose = f"the loss rose from {begin:.3g} to {peak:.3g}"
    outlier = _inputs.outlier(history, since)
    if outlier is not None:
        text = f"At step {outlier.step} the inputs were {outlier.times:.3g} times their usual size"
        return Cause("data-scale", f"{text}; {rose}.", outlier.layers, share=1.0)
    off = _inputs.off_scale(born)
    if off is not None and off.large:
        return Cause("data-scale", f"{off.text[:-1]}; {rose}.", off.layers, share=1.0)
    targets = _inputs.targets_off(born)
    if targets is not None:
        text = f"The targets differ by {targets:.3g}, and should by about 1; {rose}."
        return Cause("data-scale", text, share=1.0)
    if strange := [c.layer.name for c in born.calls if c.layer.kind in UNBOUNDED]:
        names = tuple(dict.fromkeys(strange))
        text = f"{_depth.listed(names)} grow faster than what they are given; {rose}."
        return Cause("activation", text, names, share=1.0)
    if unfit := _norms.unfit(_norms.norms(born)):
        return Cause("normalisation", f"{unfit[:-1]}; {rose}.", share=1.0)
    text = f"It was not born so: the steps are too large, {rose}."
    return Cause("learning-rate", text, share=1.0)


def _recurrent(record: Record) -> bool:
    """Whether most calls of layers with weights are repeated ones, as in a loop over time."""
    weighted = [call for call in record.calls if call.layer.weighted]
    return sum(call.index >= MANY_CALLS for call in weighted) > len(weighted) / 2


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
