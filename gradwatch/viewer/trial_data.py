"""What the page shows of a trial: what each remedy was worth, beside the controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gradwatch.core.verdict import Outcome, Verdict, Verdicts
from gradwatch.sinks._text import clean, code_lines

MAX_VERDICTS: Final = 12
"""Remedies that are shown with their numbers: a trial has 4 finalists unless told otherwise."""
MAX_NAMES: Final = 40
"""Names in one list."""


def trial_data(trial: Verdicts | None) -> dict[str, Any] | None:
    """Return the trial as JSON-ready data; None without one."""
    if trial is None:
        return None
    controls = [("untreated", trial.untreated), ("new weights", trial.reseeded)]
    if trial.other is not None:
        controls.append((f"at random: {clean(trial.other.name)}", trial.other.treated))
    return {
        "summary": clean(trial.summary),
        "steps": trial.untreated.steps,
        "seconds": trial.seconds,
        "verdicts": [_verdict(verdict) for verdict in trial.verdicts[:MAX_VERDICTS]],
        "controls": [{"name": n, **_outcome(one)} for n, one in controls if one is not None],
        "rest": [
            {"what": f"{len(names)} {what}", "names": some([*map(clean, names)])}
            for what, names in (
                ("measured, and not shown here", _names(trial.verdicts[MAX_VERDICTS:])),
                ("tried for fewer steps, and dropped", trial.dropped),
                ("not reached within the budget", trial.not_reached),
                ("cannot be applied to this model", trial.not_applied),
            )
            if names
        ],
    }


def some(names: Sequence[str]) -> list[str]:
    """Return the first of some names; of many, in place of the rest, how many these are."""
    more = len(names) - MAX_NAMES
    return [*names[:MAX_NAMES], *([f"... and {more} more"] if more > 0 else [])]


def fate(trial: Verdicts | None, remedy: str) -> str:
    """Return what became of a remedy in the trial, in a few words; empty without one."""
    if trial is None:
        return ""
    for verdict in trial.verdicts:
        if verdict.name == remedy:
            return "measured: it helps" if verdict.recommended else "measured: it does not help"
    if any(text.startswith(f"{remedy} (") for text in trial.dropped):
        return "dropped early in the trial"
    if remedy in trial.not_reached:
        return "not reached in the trial"
    return "not measured"


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": clean(verdict.name),
        "title": clean(verdict.title),
        "recommended": verdict.recommended,
        "reason": clean(verdict.reason),
        "code": "\n".join(code_lines(verdict.code)),
        "comparable": not any(one.changes_loss for one in verdict.prescriptions),
        "bits": verdict.bits_recovered,
        "match": verdict.steps_to_match,
        "time": verdict.more_time,
        "weights": verdict.more_parameters,
        "left": [clean(finding.name) for finding in verdict.treated.findings if finding.severity],
        **_outcome(verdict.treated),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "loss": outcome.loss,
        "losses": list(outcome.losses),
        "skill": outcome.skill,
        "skills": [skill for skill in outcome.skills if skill is not None],
    }


def _names(verdicts: Sequence[Verdict]) -> list[str]:
    return [verdict.name for verdict in verdicts]
