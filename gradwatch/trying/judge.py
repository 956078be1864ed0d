"""The judgement: what helped more than doing nothing, new weights, and the spread of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random
from statistics import median
from typing import Final

from gradwatch.core.verdict import Outcome, Verdict, Verdicts
from gradwatch.trying.race import Arm, key, outcome, worth
from gradwatch.trying.twin import Case, make

SKILL_GAIN: Final = 0.1
"""Part of the way from the best constant answer to the perfect one that a remedy must gain over the
controls: a tenth is far above what seeds differ by where nothing helps."""
LOSS_GAIN: Final = 0.1
"""The same where skill is not known: part of the untreated copy's loss that must be gone."""


def needs_help(untreated: Arm) -> bool:
    """Whether the untreated training is sick: only then is anything recommended."""
    course = untreated.courses[0]
    report = course.report
    if not math.isfinite(course.end) or report is None or report.progress is None:
        return True
    alarmed = any(f.severity > f.severity.NOTE for f in report.findings)
    return alarmed or report.progress.moving is False


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
        match = _steps_to_match(arm, before)
        return Verdict(arm.prescriptions, helped, reason, after, before, match, model)

    found = [judged(arm) for arm in treated]
    found.sort(key=lambda verdict: (not verdict.recommended, *_rank(verdict)))
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
    """Whether it did, and the sentence with the numbers."""
    others = [before] if control is None else [before, control]
    # A control whose numbers broke off has no answers, and so no skill.
    skills = [other.skill if math.isfinite(other.loss) else 0.0 for other in others]
    if after.skill is not None and all(skill is not None for skill in skills):
        worst = min(skill for skill in after.skills if skill is not None)
        bar = max((s for other in others for s in other.skills if s is not None), default=0.0)
        text = (
            f"its answers are {after.skill:.0%} of the way from the best constant one to the "
            f"right, those of the controls {', '.join(f'{skill:.0%}' for skill in skills)}"
        )
        return worst > max(bar, 0.0) + SKILL_GAIN, text
    if arm.changes_loss:
        return False, "its loss is in other units, and what its answers are worth is not known"
    text = (
        f"its loss ends at {after.loss:.4g}, that of the controls at "
        f"{', '.join(f'{other.loss:.4g}' for other in others)}"
    )
    bar = min(min(other.losses) for other in others)
    if not math.isfinite(bar):
        return all(map(math.isfinite, after.losses)), text
    scale = max(abs(other.loss) for other in others if math.isfinite(other.loss))
    return max(after.losses) < bar - LOSS_GAIN * scale, text


def _rank(verdict: Verdict) -> tuple[float, int, float]:
    comparable = not any(one.changes_loss for one in verdict.prescriptions)
    treated, usual = verdict.treated, verdict.untreated.loss
    gone, loss = key(treated.skill, treated.loss, usual, comparable=comparable)
    return gone, len(verdict.prescriptions), loss


def _steps_to_match(arm: Arm, before: Outcome) -> int | None:
    """Return after how many steps the median of the latest losses is the untreated one's."""
    if arm.changes_loss or not math.isfinite(before.loss):
        return None
    losses = arm.courses[min(arm.courses)].losses
    width = max(3, len(losses) // 20)
    for i in range(width, len(losses) + 1):
        if median(losses[i - width : i]) <= before.loss:
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
