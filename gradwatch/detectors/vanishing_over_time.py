"""Vanishing over time: the gradient dies on its way from the last time step back to the first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _memory, _plateau, _time
from gradwatch.detectors._time import Course


@dataclass(frozen=True, slots=True)
class VanishingOverTime:
    """The gradient that a recurrent layer sends back through time dies before it reaches the
    early steps: what stood there cannot be learnt.

    Judged by the gradient at the layer's input, time step by time step (at the state, for a cell
    that is called in a loop). Nothing of it shows in the gradients of the weights, which are sums
    over all steps, and look healthy (Bengio, Simard & Frasconi 1994; Pascanu et al. 2013).

    A task whose answer lies in the latest steps is learnt all the same: so it is silent while the
    training gets anywhere, and judges when the answers stay as good as a constant one. Many nets
    are born so and heal while they learn: critical is only what stayed for long. At the start it
    is a prediction, where the sum over all steps rounds the early ones away.

    The cause is time itself (a cell without an open gate multiplies the gradient at each step), or
    the init where the recurrent weights, or an LSTM's biases, are far from what keeps a state.
    """

    name: ClassVar[str] = "vanishing-over-time"

    decades: float = 2.0
    """Drop of the gradient from the best step to what a quarter of all steps do not reach. It is
    said with a training that gets nowhere only; healthy nets that use their latest steps have any.
    """
    critical_decades: float = 3.5
    """The same, for what may be critical: of 130 trainings, those that got off a plateau late were
    below 3.1 for as long as it lasted; those that never did had 3.5 and more."""
    recovered_decades: float = 1.0
    """The same, below which a drop that lasted has healed; it may take long to learn then."""
    predicted_decades: float = 24 * math.log10(2)
    """The same, before it is known whether it learns: float32 keeps 24 bits, so what those early
    steps add to a weight's gradient is less than the rounding of the late steps' part."""
    young: int = 20
    """Steps after which a prediction has had its time."""
    critical_exams: int = 3
    critical_steps: int = 40
    """Steps that the exams with a critical drop span at least: slow starters got going by then."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams in which a recurrent layer got a gradient."""
        going = progress(history)
        if going.moving or going.diverged:
            return ()
        streak = self._streak(history)
        severity, confidence = self._severity(history, streak, going) if streak else (None, "")
        if severity is None:
            return ()
        record, lost = streak[-1]
        worst = max(lost, key=lambda course: course.drop)
        layers = tuple(dict.fromkeys(name for course in (worst, *lost) for name in course.layers))
        return (
            Finding(
                self.name,
                severity,
                f"of the {worst.steps} of `{layers[0] or '(model)'}` the gradient reaches "
                f"{worst.reach}: a quarter of them gets less than {10**-worst.drop:.1g} of what "
                "the best one gets",
                layers,
                streak[0][0].step,
                record.step,
                tuple(_memory.causes(streak[0][0], worst)),
                confidence,
                {
                    "decades": worst.drop,
                    "steps": float(worst.norms.size),
                    "reach": float(worst.reach),
                },
            ),
        )

    def _streak(self, history: History) -> list[tuple[Record, list[Course]]]:
        """Return the exams at the end that are all bad, with what is lost; oldest first."""
        streak = []
        for record in reversed(history.records):
            courses = list(_time.courses(record))
            lost = [c for c in courses if c.drop >= self.recovered_decades and not c.rising]
            if courses and not lost:
                break
            if lost:
                streak.append((record, lost))
        return streak[::-1]

    def _severity(
        self, history: History, streak: list[tuple[Record, list[Course]]], going: Progress
    ) -> tuple[Severity | None, str]:
        since, latest = streak[0][0].step, streak[-1][0].step
        drops = [(record.step, max(course.drop for course in lost)) for record, lost in streak]
        drop = drops[-1][1]
        if going.moving is None and latest < self.young:
            if drop < self.predicted_decades:
                return None, ""
            return Severity.WARNING, (
                "A prediction: what the early steps add to the weights' gradient is rounded away, "
                "which does no harm if the answer lies in the latest."
            )
        if not _plateau.stuck(going):
            return None, ""
        deep = [step for step, drop in drops if drop >= self.critical_decades]
        lasting = len(deep) >= self.critical_exams and deep[-1] - deep[0] >= self.critical_steps
        if drop < self.decades and not lasting:
            return None, ""
        deep_now = lasting and drop >= self.critical_decades
        if deep_now and going.moving is False:
            layers = {name for course in streak[-1][1] for name in course.layers}
            records = [record for record, _ in streak]
            if _plateau.held_back(history, going, records) and _plateau.moved(history, layers):
                return Severity.CRITICAL, f"It has lasted since step {since}, and {going.text}."
        healing = " and is healing" if lasting and not deep_now else ""
        return Severity.WARNING, f"Seen since step {since}{healing}; {going.text}."


DETECTORS = (VanishingOverTime(),)
HEALTHY = ("gru-adding-problem", "irnn-long-memory", "padding-gathered", "lstm-digit-rows")
SICK = ("lstm-negative-forget-bias",)
