"""Vanishing gradient: the backward signal dies on its way to the first layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, Final

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress, takes_turns
from gradwatch.core.record import Record
from gradwatch.detectors import _depth, _outcome
from gradwatch.detectors._depth import Streak, Trend
from gradwatch.detectors._inquest import Inquest


@dataclass(frozen=True, slots=True)
class VanishingGradient:
    """The gradient at the layers' outputs shrinks, layer after layer, from the loss to the input.

    It is judged by the fitted drop of that gradient over depth, in decades, with a second witness
    (the gradient scale of Philipp et al. 2017, or the signal itself fading on its way forward).
    Half of the networks that are born with a drop heal within some 150 steps: so at the start it
    is a prediction and a warning, and not even that where the first layers are seen to move fast
    (Adam's steps do not shrink with the gradient) or where a single layer with small weights is
    to blame, whose own gradient is as large as ever. It becomes critical only when the drop lasts,
    the weights have had their chance *and* the training gets nowhere, and a note when it learns.

    The cause comes from the ledger: what bounded activations take (a sigmoid at most passes 1/4 of
    the gradient, 2 bits), what weights take that are too small for their fan-in, what norms take
    that have too few values, and what only the number of layers explains.
    """

    name: ClassVar[str] = "vanishing-gradient"

    warn_decades: float = 1.5
    """Healthy networks: at most 0.5; vanishing ones: at least 2.4 (22 held-out networks)."""
    born_decades: float = 2.0
    """The same in the first 20 steps: a healthy GELU net was born with 1.5 and lost it by then."""
    critical_decades: float = 3.0
    monotony: float = 0.6
    """Kendall's tau of gradient against depth, so that side branches do not look like a trend."""
    critical_exams: int = 3
    stuck_steps: int = 10
    """Steps after which it is critical if the first layers' updates round to nothing."""
    flat_steps: int = 40
    """Steps after which it is critical if the loss is flat though the first layers do move."""
    chance: float = 2.0
    """Sum of the update ratios in which weights that are too small would have grown."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exam, in the light of those before it."""
        trends = [(record, _depth.trend(record)) for record in history]
        judged = [(r, found, self._bad(found, r.step)) for r, found in trends if found]
        streak = _depth.streak(judged)
        if streak is None:
            return ()
        going = progress(history)
        record, trend = streak.records[-1], streak.trend
        inquest = Inquest(record, history.records[0], -1)
        causes = inquest.causes()
        severity, confidence = self._severity(history, streak, going, inquest, causes)
        first, last = trend.layers[0], trend.layers[-1]
        # The sum over the ledger is what the report shows; the verdict rests on the fitted drop.
        total = inquest.total
        bits = -total if total < 0 else trend.drop * math.log2(10)
        summary = (
            f"the gradient loses {bits:.0f} bits ({bits / math.log2(10):.1f} decades) on its way "
            f"from `{last or '(model)'}` back to `{first or '(model)'}`"
        )
        if causes:
            summary += f"; {_share(causes[0])} is taken by {_CULPRIT[causes[0].name]}"
        return (
            Finding(
                self.name,
                severity,
                summary,
                _early(trend),
                streak.since,
                streak.until,
                causes,
                confidence,
                {"decades": trend.drop, "monotony": trend.monotony, "ledger_bits": total},
            ),
        )

    def _bad(self, trend: Trend, step: int) -> bool:
        decades = self.born_decades if step < _outcome.YOUNG else self.warn_decades
        return trend.drop >= decades and trend.monotony >= self.monotony and trend.witnessed

    def _severity(
        self,
        history: History,
        streak: Streak,
        going: Progress,
        inquest: Inquest,
        causes: tuple[Cause, ...],
    ) -> tuple[Severity, str]:
        if _outcome.learns(history, going):
            return Severity.NOTE, f"It learns in spite of it: {going.text}."
        if going.moving is None and takes_turns(history):
            steep = streak.trend.drop >= self.critical_decades
            return Severity.WARNING if steep else Severity.NOTE, f"{going.text}."
        by_size = bool(causes) and causes[0].name in inquest.by_size
        grown = self._grown(streak)
        lasting = len(streak.records) >= self.critical_exams and streak.steps >= self.stuck_steps
        if lasting and streak.trend.drop >= self.critical_decades:
            lost = _updates_lost(streak.records[-1], streak.trend)
            if lost is not None:
                how = f"they change by {lost:.1g} of their size" if lost else "they do not change"
                return Severity.CRITICAL, (
                    f"It has lasted since step {streak.since}, and the first layers are stuck: "
                    f"{how} in a step."
                )
            waits = by_size and grown is not None and grown < self.chance
            if going.moving is False and streak.steps >= self.flat_steps and not waits:
                return Severity.CRITICAL, (
                    f"It has lasted since step {streak.since}, and {going.text}."
                )
        if by_size and history.last_step < _outcome.YOUNG:
            moving = _outcome.move(streak.records[-1], _early(streak.trend))
            if moving is not None and moving >= _outcome.MOVES:
                return Severity.NOTE, (
                    f"The first layers change by {moving:.1%} of their size in a step: it will "
                    "probably heal."
                )
            if len(causes[0].layers) == 1:
                return Severity.NOTE, (
                    "It is one layer, whose own gradient is as large as ever: it will grow."
                )
        seen = history.last_step - streak.since
        if inquest.later and not lasting and seen < self.flat_steps:
            return Severity.NOTE, f"It came at step {streak.since}, and may go as it came."
        if streak.until == 0:
            return Severity.WARNING, (
                "A prediction at initialisation: about half of such networks heal by themselves "
                "within 150 steps."
            )
        return Severity.WARNING, f"Seen since step {streak.since}; {going.text}."

    def _grown(self, streak: Streak) -> float | None:
        """How far the first layers have moved, in their own size: the sum of the ratios."""
        known = [(r.step, _outcome.move(r, _early(streak.trend))) for r in streak.records]
        ratios = [ratio for _, ratio in known if ratio is not None]
        return median(ratios) * streak.steps if ratios else None


_CULPRIT: Final = {
    "activation": "activations that flatten out",
    "init": "the size of the weights",
    "depth": "the number of layers",
    "normalisation": "the normalisation",
    "data-scale": "activations that the inputs saturate",
    "learning-rate": "what the steps have made of the weights",
}


def _updates_lost(record: Record, trend: Trend) -> float | None:
    """Return the largest relative update in the first third of the layers, if all round to
    nothing; None when some move or none was measured."""
    early = _early(trend)
    ratios = [
        parameter.update_ratio
        for parameter in record.parameters
        if _outcome.owner(parameter) in early and len(parameter.shape) > 1
    ]
    known = [ratio for ratio in ratios if ratio is not None]
    return max(known) if known and max(known) < _outcome.LOST else None


def _early(trend: Trend) -> tuple[str, ...]:
    """The layers that get the least: the first third."""
    return trend.layers[: max(1, len(trend.layers) // 3)]


def _share(cause: Cause) -> str:
    share = cause.share or 0.0
    return "all of it" if share > 0.995 else f"{share:.0%} of it"


DETECTORS = (VanishingGradient(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "he-relu-mlp")
SICK = (
    "sigmoid-mlp",
    "small-tanh-mlp",
    "large-tanh-mlp",
    "default-relu-mlp",
    "functional-sigmoid-mlp",
)
