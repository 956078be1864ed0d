"""Oversized updates: the steps throw the weights somewhere else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import numpy as np

from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _jumps, _outcome, _step_size, _steps


@dataclass(frozen=True, slots=True)
class OversizedUpdates:
    """Steps that change the weights by a large part of their size, and a training that they ruin.

    A ratio of a thousandth is usual and a hundredth is seen in most healthy small nets (20 of 25
    measured); the first steps of many are a tenth and more. So the ratio alone is no finding. One
    of these has to go with it:

    - a tenth, in most weights, again and again, while the loss does not fall;
    - a tenth in the very first steps, in a training that never learns anything;
    - a third once, after which the loss was far above its beginning or the answers have become the
      same for every sample, and the training does not find back;
    - weights that have grown by several times since the answers were at their best, and answers
      that have lost most of what they had learnt.

    What a single step threw because its gradient was out of size, for the data's or the loss's
    sake, is a `gradient-spike`.
    """

    name: ClassVar[str] = "oversized-updates"

    ratio: float = 0.1
    """Update-to-weight ratio per step that must not last."""
    share: float = 0.5
    """Share of the weights (as parameters) above it."""
    thrown: float = 0.25
    """The typical ratio that a single step must not have."""
    jump: float = 2.0
    """The highest loss after it, over the first."""
    collapse: float = 0.01
    """How much the answers still differ from sample to sample, as a part of what it was."""
    blown: float = 1e3
    """The same, when it is many times what it was."""
    skill: float = 0.2
    """Part of the way to the right answers that it must once have gone ..."""
    forgotten: float = 0.5
    """... and the part of it that has been lost since ..."""
    growth: float = 2.0
    """... while the typical weight grew by so many times."""
    lasting: int = 20
    """Steps after the first such one before a training that has not diverged counts as ruined."""
    whole: float = 1.0
    """Ratio of a first step from which on it leaves nothing of the weights that it began with."""
    much: float = 0.7
    """Skill from which on such a beginning has done no harm."""
    apart: float = 100.0
    """Times the lowest rate from which on a group's rate is far above the others' ..."""
    about: float = 0.02
    """... and the update-to-weight ratio from which on its weights do not settle."""
    grace: int = 5
    """First steps in which a tenth is not counted."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge all exams, in the light of what became of the training."""
        going = progress(history)
        learns = _outcome.learns(history, going) and not self._began_anew(history, going)
        if learns and not self._forgotten(history.records):
            return ()
        jump = _jumps.first(history)
        outside = jump if jump is not None and jump.source.outside else None
        records = [r for r in history if outside is None or r.step < outside.step]
        thrown = list(self._throws(records, jump))
        if thrown and not learns and (going.diverged or self._ruined(history, thrown[0])):
            return (self._finding(history, thrown, going),)
        if outside is not None or going.diverged:
            return ()
        streak = _outcome.latest_streak(history, self._oversized)
        if going.moving is False and _outcome.lasting(streak):
            return (self._finding(history, [(r, _steps.typical(r)) for r in streak], going),)
        found = (
            self._forgotten(records)
            or self._born_thrown(history, going)
            or self._fast_group(history, going)
        )
        return (self._finding(history, found, going),) if found else ()

    def _began_anew(self, history: History, going: Progress) -> bool:
        """Whether the first step put other weights in place of those that the model was born with,
        and what was learnt since is not much."""
        first = next(iter(history), None)
        if first is None or going.skill is None or going.skill > self.much:
            return False
        whole = _steps.typical(first) > self.whole
        return whole and self._ruined(history, (first, 0.0)) and history.last_step >= _outcome.LONG

    def _born_thrown(self, history: History, going: Progress) -> list[tuple[Record, float]]:
        """Return the first exams, if their steps were too large and nothing was learnt ever."""
        if not _outcome.worthless(going) or history.last_step < _outcome.LONG:
            return []
        early = _outcome.first_streak(history, lambda r: _steps.typical(r) > self.ratio)
        return [(record, _steps.typical(record)) for record in early] if len(early) > 1 else []

    def _fast_group(self, history: History, going: Progress) -> list[tuple[Record, float]]:
        """Return the exams in which a group with a rate far above the others' is still thrown about
        in a training that has learnt little."""
        if not _outcome.learns_little(history, going):
            return []
        found: list[tuple[Record, float]] = []
        for record in reversed(history.records):
            rates = [rate for rate in record.learning_rates if rate > 0]
            ratios = [
                p.update_ratio or 0.0
                for p, group in _steps.grouped(record)
                if rates and (group.learning_rate or 0.0) > self.apart * min(rates)
            ]
            if not ratios or max(ratios) < self.about:
                break
            found.insert(0, (record, max(ratios)))
        return found if _outcome.lasting([record for record, _ in found]) else []

    def _throws(
        self, records: Sequence[Record], jump: _jumps.Jump | None
    ) -> Iterator[tuple[Record, float]]:
        """Yield the exams from which on weights were thrown, with the ratio per step; what was not
        examined shows in how much larger the weights are at the next exam."""
        for i, record in enumerate(records):
            ratio = _steps.typical(record)
            if i + 1 < len(records):
                growth, end = _growth(record, records[i + 1]), records[i + 1].step
                steps = max(1, end - record.step)
                if jump is not None and record.step < jump.step <= end and growth > self.growth:
                    steps = 1  # the step before the jump did it
                ratio = max(ratio, (growth - 1) / steps)
            if ratio > self.thrown:
                yield record, ratio

    def _ruined(self, history: History, thrown: tuple[Record, float]) -> bool:
        """Whether things became far worse after a step than they were at the beginning."""
        steps, losses = history.losses()
        after = losses[(steps > thrown[0].step) & np.isfinite(losses)]
        if after.size and after.max() > self.jump * abs(losses[0]):
            return True
        spreads = [answer.varying for r in history if (answer := r.answer) is not None]
        if len(spreads) < 2 or not spreads[0]:
            return False
        return not self.collapse < spreads[-1] / spreads[0] < self.blown

    def _forgotten(self, records: Sequence[Record]) -> list[tuple[Record, float]]:
        """Return the exams since the best answers, if those were lost to growing weights."""
        skills = [
            (i, skill)
            for i, r in enumerate(records)
            if (answer := r.answer) is not None and (skill := answer.skill) is not None
        ]
        if len(skills) < _outcome.LASTING_EXAMS:
            return []
        best, top = max(skills, key=lambda one: one[1])
        latest = [skill for i, skill in skills[-2:] if i > best]
        since = records[best:]
        if top < self.skill or len(latest) < 2 or max(latest) > (1 - self.forgotten) * top:
            return []
        if _growth(since[0], since[-1]) < self.growth or not _outcome.lasting(since):
            return []
        return [(record, _steps.typical(record)) for record in since]

    def _oversized(self, record: Record) -> bool:
        ratios = _steps.ratios(record)
        large = [ratio for ratio in ratios if ratio > self.ratio]
        return record.step >= self.grace and len(large) >= self.share * len(ratios) > 0

    def _finding(
        self, history: History, found: Sequence[tuple[Record, float]], going: Progress
    ) -> Finding:
        typical = max(ratio for _, ratio in found)
        since, until = found[0][0].step, found[-1][0].step
        lasts = history.last_step - since >= self.lasting
        critical = going.diverged or (going.moving is False and lasts)
        return Finding(
            self.name,
            Severity.CRITICAL if critical else Severity.WARNING,
            f"a step changes the typical weight by {typical:.0%} of its size",
            (),
            since,
            until,
            (_step_size.why(history, found[0][0], typical),),
            f"{'Diverged: ' if going.diverged else ''}{going.text}.",
            {"ratio": typical},
        )


def _growth(earlier: Record, later: Record) -> float:
    """Return by how many times the typical weight is larger; 1 when not known."""
    sizes = {p.name: p.weight.rms for p in _outcome.weights(earlier) if p.weight is not None}
    found = [
        p.weight.rms / sizes[p.name]
        for p in _outcome.weights(later)
        if p.weight is not None and sizes.get(p.name)
    ]
    return median(found) if found and all(map(math.isfinite, found)) else 1.0


DETECTORS = (OversizedUpdates(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "default-relu-mlp-adam")
SICK = ("oversized-steps", "lr-adam-too-high", "momentum-too-high")
