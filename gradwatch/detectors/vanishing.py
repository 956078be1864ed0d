"""Vanishing gradient: the backward signal dies on its way to the first layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _depth, _outcome
from gradwatch.detectors._depth import Blame, Streak, Trend


@dataclass(frozen=True, slots=True)
class VanishingGradient:
    """The gradient at the layers' outputs shrinks, layer after layer, from the loss to the input.

    It is judged by the fitted drop of that gradient over depth, in decades, with a second witness
    (the gradient scale of Philipp et al. 2017, or the signal itself fading on its way forward).
    Half of the networks that are born with a drop heal within some 150 steps: so at the start it
    is a prediction and a warning. It becomes critical only when the drop lasts *and* the training
    gets nowhere, and a note when the loss falls in spite of it.

    The cause comes from the ledger: what the saturating activations take (a sigmoid at most passes
    1/4 of the gradient, 2 bits), and what weights take that are too small for their fan-in.
    """

    name: ClassVar[str] = "vanishing-gradient"

    warn_decades: float = 1.5
    """Healthy networks: at most 0.5; vanishing ones: at least 2.4 (22 held-out networks)."""
    critical_decades: float = 3.0
    monotony: float = 0.6
    """Kendall's tau of gradient against depth, so that side branches do not look like a trend."""
    critical_exams: int = 3
    stuck_steps: int = 10
    """Steps after which it is critical if the first layers' updates round to nothing."""
    flat_steps: int = 50
    """Steps after which it is critical if the loss is flat though the first layers do move."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exam, in the light of those before it."""
        trends = [(record, _depth.trend(record)) for record in history]
        judged = [(record, found, self._bad(found)) for record, found in trends if found]
        streak = _depth.streak(history, judged)
        if streak is None:
            return ()
        going = progress(history)
        record, trend = streak.records[-1], streak.trend
        causes = _depth.shares(_causes(record, _depth.blame(record)), -1)
        severity, confidence = self._severity(streak, going)
        first, last = trend.layers[0], trend.layers[-1]
        # The sum over the ledger is what the report shows; the verdict rests on the fitted drop.
        bits = -_depth.blame(record).total or trend.drop * math.log2(10)
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
                {
                    "decades": trend.drop,
                    "monotony": trend.monotony,
                    "ledger_bits": _depth.blame(record).total,
                },
            ),
        )

    def _bad(self, trend: Trend) -> bool:
        steep = trend.drop >= self.warn_decades and trend.monotony >= self.monotony
        return steep and trend.witnessed

    def _severity(self, streak: Streak, going: Progress) -> tuple[Severity, str]:
        if going.moving:
            return Severity.NOTE, f"It learns in spite of it: {going.text}."
        lasting = len(streak.records) >= self.critical_exams and streak.steps >= self.stuck_steps
        if lasting and streak.trend.drop >= self.critical_decades:
            lost = _updates_lost(streak.records[-1], streak.trend)
            if lost is not None:
                how = f"they change by {lost:.1g} of their size" if lost else "they do not change"
                return Severity.CRITICAL, (
                    f"It has lasted since step {streak.since}, and the first layers are stuck: "
                    f"{how} in a step."
                )
            if going.moving is False and streak.steps >= self.flat_steps:
                return Severity.CRITICAL, (
                    f"It has lasted since step {streak.since}, and {going.text}."
                )
        if streak.until == 0:
            return Severity.WARNING, (
                "A prediction at initialisation: about half of such networks heal by themselves "
                "within 150 steps."
            )
        return Severity.WARNING, f"Seen since step {streak.since}; {going.text}."


_CULPRIT: Final = {
    "activation": "activations that flatten out",
    "init": "the size of the weights",
    "depth": "blocks that only lose as a whole",
}


def _causes(record: Record, found: Blame) -> Iterator[Cause]:
    bounded, weighted = _depth.bits(found.bounded), _depth.bits(found.weighted)
    rectifiers = _depth.bits(found.rectifiers)
    steep = all(entry.kind in _depth.STEEP for entry in found.bounded)
    if found.bounded and steep and weighted > 0.25 * abs(bounded):
        yield Cause(
            "init",
            f"{_depth.kinds(found.bounded, 'lose')} {-bounded:.1f} bits because the weights before "
            f"them are so large that they saturate (the weights add {weighted:.1f} bits).",
            _depth.names(found.weighted),
            bounded,
        )
    elif found.bounded:
        yield Cause(
            "activation",
            f"{_depth.kinds(found.bounded, 'lose')} {-bounded:.1f} bits, "
            f"{-bounded / len(found.bounded):.2f} each"
            + ("." if steep else " (a sigmoid loses 2 at best, its slope is at most 1/4)."),
            _depth.names(found.bounded),
            bounded,
        )
    shrinking = [entry for entry in found.weighted if entry.bits < 0]
    if shrinking and weighted + rectifiers < 0:
        gain = math.sqrt(2) if found.rectifiers else 1.0
        factor = _depth.init_factor(record, shrinking, gain)
        text = f"{_depth.kinds(found.weighted, 'lose')} {-weighted:.1f} bits"
        if found.rectifiers:
            text += f", {_depth.kinds(found.rectifiers, 'lose')} {-rectifiers:.1f}"
        if factor is not None and factor < 1:
            rule = "He's" if found.rectifiers else "the signal-preserving"
            text += f": their weights are {1 / factor:.3g} times smaller than {rule} size"
        yield Cause("init", text + ".", _depth.names(shrinking), weighted + rectifiers)
    if found.rest and (rest := _depth.bits(found.rest)) < 0:
        yield Cause(
            "depth",
            f"{_depth.listed(_depth.names(found.rest))} lose {-rest:.1f} bits, which cannot be "
            "split further.",
            _depth.names(found.rest),
            rest,
        )


def _updates_lost(record: Record, trend: Trend) -> float | None:
    """Return the largest relative update in the first third of the layers, if all round to
    nothing; None when some move or none was measured."""
    early = _early(trend)
    ratios = [
        parameter.update_ratio
        for parameter in record.parameters
        if parameter.name.rpartition(".")[0] in early and len(parameter.shape) > 1
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
