"""The judgement: what helped more than doing nothing, new weights, and the spread of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random
from statistics import median
from typing import Final

from gradwatch.core.verdict import Outcome, Verdict, Verdicts
from gradwatch.trying.race import Arm, both, key, outcome, worth
from gradwatch.trying.twin import Case, make

SKILL_GAIN: Final = 0.1
"""Part of the way from the best constant answer to the perfect one that a remedy must gain over the
controls: a tenth is far above what seeds differ by where nothing helps. Where no skill is known it
is the part of the control's loss that must be gone."""
RIGHT: Final = 0.5
"""Skill that says by itself that a change of the loss which answers a finding has helped, where the
worth of the controls is not known: their loss is another one."""
SAME: Final = 0.05
"""Difference in skill up to which answers are as good as each other."""
LITTLE: Final = 0.4
"""Skill of an untreated copy from which on nothing is tried unless something is found ..."""
LONG: Final = 80
"""... after so many steps: healthy trainings had 0.44 and more by then."""


def needs_help(untreated: Arm) -> bool:
    """Whether the untreated training is sick: only then is anything recommended."""
    course = untreated.courses[0]
    report = course.report
    if not math.isfinite(course.end) or report is None or report.progress is None:
        return True
    alarmed = any(f.severity > f.severity.NOTE for f in report.findings)
    long = len(course.losses) >= LONG
    little = long and course.skill is not None and course.skill < LITTLE
    return alarmed or little or report.progress.moving is False


def best(arms: Sequence[Arm], finalists: int, usual: float) -> list[Arm]:
    """Return who is measured well: a pair must be better than what it is made of."""
    ranked = sorted(arms, key=lambda arm: (*worth(arm, usual), len(arm.prescriptions)))
    return ranked[:finalists]


def dropped(arms: Sequence[Arm], ahead: Sequence[Arm]) -> Iterator[str]:
    """Yield the candidates that were tried and did not go on, each with its loss."""
    for arm in arms:
        if arm.courses and arm not in ahead:
            course = arm.courses[min(arm.courses)]
            yield f"{arm.name} (loss {course.end:.3g} after {len(course.losses)} steps)"


def at_random(arms: Sequence[Arm], finalists: Sequence[Arm]) -> Arm | None:
    """Draw one of those that dropped out, always the same of the same: what is advised has to be
    worth more than to try whatever comes to mind."""
    names = {one.remedy for arm in finalists for one in arm.prescriptions}
    left = sorted((arm for arm in arms if arm.name not in names), key=lambda arm: arm.name)
    return Random(len(left)).choice(left) if left else None


def verdicts(
    case: Case,
    untreated: Arm,
    reseeded: Arm,
    other: Arm | None,
    treated: Sequence[Arm],
    *,
    dropped: tuple[str, ...],
    not_reached: tuple[str, ...],
    not_applied: tuple[str, ...],
    seconds: float,
) -> Verdicts:
    """Compare the arms, rank what was tried, and say it in a sentence."""
    before = outcome(untreated, case.model)
    control = outcome(reseeded, case.model) if reseeded.courses else None

    def judged(arm: Arm) -> Verdict:
        model = make(case, arm.prescriptions).model
        after = outcome(arm, model)
        helped, reason = _helped(arm, after, before, control)
        match = _steps_to_match(arm, untreated.courses[0].end)
        return Verdict(arm.prescriptions, helped, reason, after, before, match, model)

    found = [judged(arm) for arm in treated]
    found = _ranked(found)
    return Verdicts(
        tuple(found),
        before,
        control,
        None if other is None else judged(other),
        untreated.courses[0].report,
        dropped,
        not_reached,
        not_applied,
        seconds,
        _summary(untreated, found, not_reached),
    )


def _helped(arm: Arm, after: Outcome, before: Outcome, control: Outcome | None) -> tuple[bool, str]:
    """Whether it did, and the sentence with the numbers.

    New weights are a control for luck. Where they repair every training by themselves it was no
    luck: the weights it was born with are at fault, and what does as well is what helps.
    """
    others = [before] if control is None else [before, control]
    if _holds(after, others):
        said = "on batches that were held back, in evaluation mode, its answers are "
        controls = ", ".join(f"{max(-9.99, one.held_skill or 0.0):.0%}" for one in others)
        return True, f"{said}{after.held_skill:.0%} of the way, those of the controls {controls}"
    if arm.answers and (after.skill or 0.0) >= RIGHT and _unknown(others):
        text = f"what was found is gone, and its answers are {after.skill:.0%} of the way from the "
        return True, f"{text}best constant one to the right, {_of(others, after)}"
    better = control is not None and _beats(control, before, SKILL_GAIN)[0]
    beaten, text = _beats(after, before, SKILL_GAIN, comparable=not arm.changes_loss)
    if control is None or not beaten:
        return beaten, f"{text}, {_of(others, after)}"
    if better:
        about = _beats(after, control, -SKILL_GAIN, comparable=not arm.changes_loss)[0]
        unknown = after.skill is None or control.skill is None
        said = f"{text}, {_of(others, after)}: the weights that it was born with are at fault"
        return about or (arm.changes_loss and unknown), said
    return (
        _beats(after, control, SKILL_GAIN, comparable=not arm.changes_loss)[0],
        f"{text}, {_of(others, after)}",
    )


def _holds(after: Outcome, controls: Sequence[Outcome]) -> bool:
    """Whether all seeds are better than all of the controls' on batches that were held back."""
    seeds = [[*one.held_skills] for one in (after, *controls)]
    if any(not each or None in each for each in seeds):
        return False
    known = [[skill for skill in each if skill is not None] for each in seeds]
    bar = max(0.0, *(skill for each in known[1:] for skill in each))
    return min(known[0]) > bar + SKILL_GAIN


def _unknown(controls: Sequence[Outcome]) -> bool:
    """Whether nothing is known of what their answers are worth."""
    return all(control.skill is None for control in controls)


def _beats(
    one: Outcome, other: Outcome, margin: float, *, comparable: bool = True
) -> tuple[bool, str]:
    """Whether the worst seed of one is better than the best of the other by a margin, in skill or
    in a part of the loss, and what was looked at."""
    skills = [*_worth(other)]
    known = [skill for skill in skills if skill is not None]
    broken = sum(not math.isfinite(loss) for loss in other.losses)
    if one.skill is not None and not comparable and 2 * broken > len(skills):
        skills, known = [0.0], [0.0]  # most broke: what one got lucky with cannot be compared
    if one.skill is not None and len(known) == len(skills):
        worst = min(skill for skill in one.skills if skill is not None)
        text = f"its answers are {one.skill:.0%} of the way from the best constant one to the right"
        return worst > max(max(known), 0.0) + margin, text
    if not comparable:
        return False, "its loss is in other units, and what its answers are worth is not known"
    text = f"its loss ends at {one.loss:.4g}"
    bar = min(other.losses)
    if not math.isfinite(bar):
        return all(map(math.isfinite, one.losses)), text
    scale = max((abs(loss) for loss in other.losses if math.isfinite(loss)), default=1.0)
    return max(one.losses) < bar - margin * scale, text


def _worth(outcome: Outcome) -> Iterator[float | None]:
    """Yield the skill per seed: none of a training that broke off, or of one whose loss stays where
    it began; None where it is not known."""
    for skill, loss, fell in zip(outcome.skills, outcome.losses, outcome.fell, strict=True):
        nothing = not math.isfinite(loss) or (skill is None and not fell)
        yield 0.0 if nothing else skill


def _of(controls: Sequence[Outcome], one: Outcome) -> str:
    """What became of the controls, untreated and with new weights, in the terms of one that is
    compared with them."""
    return "those of the controls " + ", ".join(
        f"{control.skill:.0%}"
        if control.skill is not None and one.skill is not None
        else f"a loss of {control.loss:.4g}"
        for control in controls
    )


def _ranked(found: Sequence[Verdict]) -> list[Verdict]:
    """Sort the verdicts: what helped first. Of answers that are as good as the best, within `SAME`,
    the smaller change comes first."""

    def rank(verdict: Verdict) -> tuple[float, float]:
        comparable = not any(one.changes_loss for one in verdict.prescriptions)
        treated, usual = verdict.treated, verdict.untreated.loss
        skill = both(treated.skill, treated.held_skill)
        return key(skill, treated.loss, usual, comparable=comparable)

    helped = [verdict for verdict in found if verdict.recommended]
    best = min((rank(verdict)[0] for verdict in helped or found), default=0.0)

    def order(verdict: Verdict) -> tuple[bool, float, int, float]:
        behind, loss = rank(verdict)
        steps = max(0.0, (behind - best) // SAME)
        return not verdict.recommended, steps, len(verdict.prescriptions), loss

    return sorted(found, key=order)


def _steps_to_match(arm: Arm, usual: float) -> int | None:
    """Return after how many steps the median of the latest losses is what the untreated one's was
    at its end."""
    if arm.changes_loss or not math.isfinite(usual):
        return None
    losses = arm.courses[min(arm.courses)].losses
    width = max(3, len(losses) // 20)
    for i in range(width, len(losses) + 1):
        if median(losses[i - width : i]) <= usual:
            return i
    return None


def _summary(untreated: Arm, found: Sequence[Verdict], not_reached: Sequence[str]) -> str:
    if not needs_help(untreated):
        return "It trains as it is: nothing is recommended."
    helped = [verdict for verdict in found if verdict.recommended]
    if helped:
        return f"{helped[0].title}: {helped[0].reason}."
    left = f" ({len(not_reached)} more were not reached)" if not_reached else ""
    return f"Nothing that was tried helps{left}."
