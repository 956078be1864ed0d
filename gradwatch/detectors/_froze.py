"""Weights that were trained at first, and later no more."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, takes_turns
from gradwatch.core.record import Record
from gradwatch.detectors import _depth, _outcome

SHARE: Final = 0.3
"""Share of all elements from which on they are no small matter."""
PART: Final = 0.5
"""Part of the run that it must have lasted."""


def froze(name: str, history: History, going: Progress) -> tuple[Finding, ...]:
    """Tell of weights that get no gradient any more, if the training has learnt little: to freeze
    what has learnt enough is no mistake."""
    if not _outcome.learns_little(history, going) or takes_turns(history):
        return ()
    latest = history.records[-1]
    until = (1 - PART) * latest.step
    since = [record for record in history if record.step >= until]
    if not _outcome.lasting(since):
        return ()
    seen = Counter(name for record in history for name in _trained(record))
    trained = {name for name, times in seen.items() if times >= _outcome.LASTING_EXAMS}
    names = trained.difference(*(_trained(record) for record in since))
    lost = [p for p in latest.parameters if p.name in names]
    whole = sum(math.prod(p.shape) for p in latest.parameters)
    share = sum(math.prod(p.shape) for p in lost) / max(1, whole)
    if share < SHARE or len(names) == len(trained):
        return ()
    last = max(record.step for record in history if names & _trained(record))
    layers = _outcome.owners(lost)
    why = "no longer require one" if not any(p.trainable for p in lost) else "are cut off from it"
    return (
        Finding(
            name,
            Severity.WARNING,
            f"no gradient has reached {len(lost)} parameters ({share:.0%} of all) since step "
            f"{last}, and until then it did: those of {_depth.listed(layers)}",
            layers,
            last,
            latest.step,
            (Cause("disconnection", f"They {why} since then.", layers, share=1.0),),
            f"In all exams of the second half; {going.text}.",
            {"parameters": float(len(lost)), "share": share},
        ),
    )


def _trained(record: Record) -> set[str]:
    return {p.name for p in record.parameters if p.reached and p.trainable}
