"""The race: all candidates start, the worse half drops out, and few are measured well.

Every arm (the untreated copy, the controls, each candidate) trains from the same state on the same
recorded batches in the same order. Nothing is kept between the rounds but numbers: a copy lives for
one training only, so that a trial needs the memory of one more model and not of all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from torch import nn

from gradwatch.checking.batch import StepFailed
from gradwatch.core.remedy import CannotApply, Prescription
from gradwatch.core.verdict import Outcome
from gradwatch.trying.twin import Case, Course, make, train

ROUNDS: Final = (1 / 8, 1 / 2)
"""Parts of the steps for which the candidates of the first rounds are trained, with one seed."""
KEPT: Final = (2, 1)
"""Candidates that go on after these rounds, in relation to the finalists."""


@dataclass(eq=False)
class Arm:
    """One way to go on, and how it went so far."""

    prescriptions: tuple[Prescription, ...] = ()
    reseed: bool = False
    courses: dict[int, Course] = field(default_factory=dict)
    """By seed, of the last round."""
    failed: str = ""
    """Why it could not be applied, or broke off."""

    @property
    def name(self) -> str:
        """What it is called in a list."""
        names = " + ".join(one.remedy for one in self.prescriptions)
        return names or ("new weights" if self.reseed else "untreated")

    @property
    def changes_loss(self) -> bool:
        """Whether its loss is in other units."""
        return any(one.changes_loss for one in self.prescriptions)

    @property
    def to_the_point(self) -> bool:
        """Whether it answers what was found, and its cause."""
        return bool(self.prescriptions) and all(": " in one.answers for one in self.prescriptions)

    @property
    def answers(self) -> bool:
        """Whether it changes the loss as an answer to what was found, and to its cause."""
        return any(one.changes_loss and ": " in one.answers for one in self.prescriptions)


class Budget:
    """Counts seconds and says when they are over; calls `on_step` for a progress bar."""

    def __init__(self, seconds: float, on_step: Callable[[str], None] | None) -> None:
        self._end = time.perf_counter() + seconds
        self._on_step = on_step
        self.doing = ""

    @property
    def left(self) -> float:
        """Seconds that remain."""
        return self._end - time.perf_counter()

    def endless(self) -> Budget:
        """Return one that never ends: without the untreated copy nothing can be said at all."""
        return Budget(math.inf, self._on_step)

    def part(self, share: float) -> Budget:
        """Return one that ends when this share of what remains is spent, or this one ends."""
        return Part(self, share)

    def stop(self) -> None:
        """End it here."""
        self._end = -math.inf

    def tick(self) -> None:
        """Count a step; raises `OutOfTime`."""
        if self._on_step is not None:
            self._on_step(self.doing)
        if self.left < 0:
            raise OutOfTime


class Part(Budget):
    """A part of a budget: the first rounds may not eat up the time for the last one."""

    def __init__(self, whole: Budget, share: float) -> None:
        super().__init__(max(0.0, share * whole.left), whole._on_step)
        self._whole = whole

    def stop(self) -> None:
        """End the whole of it."""
        super().stop()
        self._whole.stop()


class OutOfTime(Exception):
    """The budget is spent."""


def run(
    case: Case, arm: Arm, steps: int, budget: Budget, *, seed: int = 0, watch: bool = False
) -> bool:
    """Train an arm with one seed and note how it went; returns whether it could be done."""
    budget.doing = arm.name
    try:
        twin = make(case, arm.prescriptions, reseed=arm.reseed, seed=seed)
        arm.courses[seed] = train(
            twin,
            case.batches,
            steps,
            held=case.held,
            seed=seed,
            watch=watch,
            on_step=budget.tick,
        )
    except CannotApply as reason:
        arm.failed = str(reason)
    except StepFailed as reason:  # what was changed does not fit: a shape, a type
        arm.failed = f"{arm.name} made the step fail: {reason}"
    else:
        return True
    return False


def worth(arm: Arm, usual: float) -> tuple[float, float]:
    """A key for sorting: the better answers first, then the smaller loss; `usual` is the loss of
    the untreated copy."""
    course = arm.courses.get(0)
    if course is None or not math.isfinite(course.end):
        return (math.inf, math.inf)
    skill = both(course.skill, course.held_skill)
    return key(skill, course.end, usual, comparable=not arm.changes_loss)


def both(skill: float | None, held: float | None) -> float | None:
    """What answers are worth on batches that were trained on, and on others: the mean. Few batches
    are soon learnt by heart, and too few to learn from what holds for all."""
    if skill is None or held is None:
        return skill
    return (skill + min(1.0, max(0.0, held))) / 2


def key(
    skill: float | None, loss: float, usual: float, *, comparable: bool = True
) -> tuple[float, float]:
    """The key of answers of a known skill, or of a loss: then what is gone of the usual one, which
    is about what a constant answer gets, stands for it."""
    if skill is None:
        known = comparable and math.isfinite(usual) and usual > 0
        skill = 1 - loss / usual if known else 0.0
    return (-skill, loss if comparable else math.inf)


def halve(
    case: Case, arms: Sequence[Arm], steps: int, budget: Budget, finalists: int, usual: float
) -> tuple[list[Arm], list[Arm]]:
    """Run the first rounds. Returns who goes on, the best first, and who was not reached."""
    running = list(arms)
    for part, times in zip(ROUNDS, KEPT, strict=True):
        if part != ROUNDS[-1] and len(running) <= times * finalists:
            continue  # nobody would drop out
        done: list[Arm] = []
        try:
            for arm in running:
                if run(case, arm, max(20, int(part * steps)), budget):
                    done.append(arm)
        except (OutOfTime, KeyboardInterrupt) as stop:
            missing = [a for a in running if a not in done and not a.failed]
            if isinstance(stop, KeyboardInterrupt):
                budget.stop()
            return sorted(done, key=lambda arm: worth(arm, usual)), missing
        ranked = sorted(done, key=lambda arm: worth(arm, usual))
        running = ranked[: times * finalists]
        if part != ROUNDS[-1]:  # few steps are too few for some: what answers a finding stays
            rest = ranked[times * finalists :]
            running += [arm for arm in rest if arm.to_the_point][:finalists]
    return running, []


def outcome(arm: Arm, model: nn.Module) -> Outcome:
    """Sum up the last round of an arm; `model` is one as it has it."""
    courses = [arm.courses[seed] for seed in sorted(arm.courses)]
    first = courses[0]
    return Outcome(
        tuple(course.end for course in courses),
        tuple(course.skill for course in courses),
        len(first.losses),
        first.report.findings if first.report is not None else (),
        first.bits,
        min(course.seconds for course in courses),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        tuple(course.end < c0 - 0.05 * abs(c0) for course in courses for c0 in course.losses[:1]),
        tuple(course.held_skill for course in courses),
    )
