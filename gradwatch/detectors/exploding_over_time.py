"""Exploding over time: the gradient grows on its way from the last time step back to the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _plateau, _time
from gradwatch.detectors._time import Course


@dataclass(frozen=True, slots=True)
class ExplodingOverTime:
    """The gradient that a recurrent layer sends back through time grows step by step, so that the
    first steps' part of it drowns all the others'.

    The mirror image of vanishing over time, and with the same evidence: the gradient at the layer's
    input (at the state, for a cell in a loop) by time step. Weights from state to state that are
    too large make the state chaotic: the least change at the beginning changes everything after it
    (Pascanu, Mikolov & Bengio 2013). Clipping keeps such a training from diverging, and does not
    make it learn.

    Silent while the training gets anywhere: a net that has learnt to look at the beginning has
    its largest gradient there, and some are born chaotic and calm down.
    """

    name: ClassVar[str] = "exploding-gradient"

    decades: float = 3.0
    """Growth from the last time step back to the first. Nets that had learnt to look at the first
    step, and looked at no other, had up to 2.7."""
    young: int = 20
    """Steps before which a training that gets nowhere yet is only warned of."""
    critical_exams: int = 3
    critical_steps: int = 40
    """Steps that these exams span at least: some calm down within 40."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams in which a recurrent layer got a gradient."""
        going = progress(history)
        if going.moving and not going.diverged:
            return ()
        streak: list[tuple[Record, Course]] = []
        for record in reversed(history.records):
            courses = list(_time.courses(record))
            worst = max(courses, key=lambda course: course.growth, default=None)
            if worst is None:  # no gradient, or one that is not finite any more
                continue
            if worst.growth < self.decades or not worst.rising:
                break
            streak.append((record, worst))
        if not streak:
            return ()
        (record, worst), (first, _) = streak[0], streak[-1]
        records = [record for record, _ in streak[::-1]]
        severity, confidence = self._severity(history, going, records)
        if severity is None:
            return ()
        born = self._born(history)
        text = (
            f"`{worst.layers[0] or '(model)'}` ({worst.kind}) {worst.pace}: its weights from state "
            "to state are too large"
            + ("." if born else "; it was not born so: the steps are too large.")
        )
        return (
            Finding(
                self.name,
                severity,
                f"the gradient grows by {worst.growth:.1f} decades on its way back through "
                f"{worst.steps} of `{worst.layers[0] or '(model)'}`",
                worst.layers,
                first.step,
                record.step,
                (Cause("init" if born else "learning-rate", text, worst.layers, share=1.0),),
                confidence,
                {"decades": worst.growth, "steps": float(worst.norms.size)},
            ),
        )

    def _born(self, history: History) -> bool:
        first = next((c for r in history if (c := list(_time.courses(r)))), [])
        return any(course.growth >= self.decades for course in first)

    def _severity(
        self, history: History, going: Progress, streak: Sequence[Record]
    ) -> tuple[Severity | None, str]:
        since, until = streak[0].step, streak[-1].step
        if going.diverged:
            return Severity.CRITICAL, f"Diverged: {going.text}."
        if _not_finite_after(history, until):
            return Severity.CRITICAL, "The numbers are no longer finite."
        if until >= self.young and not _plateau.stuck(going):
            return None, ""
        lasting = len(streak) >= self.critical_exams and until - since >= self.critical_steps
        if lasting and _plateau.held_back(history, going, streak):
            return Severity.CRITICAL, f"It has lasted since step {since}, and {going.text}."
        if until == 0:
            return Severity.WARNING, "A prediction at initialisation."
        return Severity.WARNING, f"Seen since step {since}; {going.text}."


def _not_finite_after(history: History, step: int) -> bool:
    return any(pulse.step > step and math.isnan(pulse.norm) for pulse in history.pulses)


DETECTORS = (ExplodingOverTime(),)
HEALTHY = ("gru-adding-problem", "irnn-long-memory", "padding-gathered", "lstm-digit-rows")
SICK = ("rnn-chaotic",)
