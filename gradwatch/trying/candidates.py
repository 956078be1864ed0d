"""What to try: what answers the findings first, then whatever else can be applied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding, Severity
from gradwatch.core.remedy import CannotPrescribe, Prescription, Remedy
from gradwatch.core.report import Report
from gradwatch.trying.race import Arm

UNKNOWN: Final = Finding("learns-nothing", Severity.WARNING, "the training gets nowhere")
"""What a remedy is asked about when nothing was found."""
MAX_PAIRS: Final = 6


@dataclass(frozen=True)
class Candidates:
    """What can be tried on this model, the most likely first."""

    prescriptions: tuple[Prescription, ...]
    refused: tuple[str, ...]
    """Remedies that cannot be applied to it, each with its reason."""


def candidates(report: Report | None, remedies: Iterable[Remedy]) -> Candidates:
    """Ask every remedy what it would do with this model."""
    if report is None or report.record is None:
        return Candidates((), ())
    remedies = tuple(remedies)
    wanted = {remedy.name for remedy in remedies}
    answering = [one for one in report.prescriptions if one.remedy in wanted]
    found = [one for one in answering if one.runnable]
    named = {one.remedy for one in answering}
    refused = []
    finding = next((f for f in report.findings if not f.because_of), UNKNOWN)
    for remedy in remedies:
        if remedy.name in named:
            continue
        try:
            one = remedy.prescribe(finding, report.record)
        except CannotPrescribe as reason:
            refused.append(f"{remedy.title}: {reason}")
            continue
        if one.runnable:
            found.append(one)
        else:
            refused.append(f"{remedy.title}: it has to be done by hand")
    distinct = {(one.remedy, one.code): one for one in reversed(found)}
    return Candidates(tuple(distinct.values())[::-1], tuple(refused))


def pairs(arms: Sequence[Arm]) -> Iterator[tuple[Prescription, ...]]:
    """Yield the best candidates together with each other: changes of the model before those of the
    optimizer, and never two of one kind."""
    count = 0
    for i, first in enumerate(arms):
        for second in arms[:i]:
            both = (*second.prescriptions, *first.prescriptions)
            if len({one.remedy.partition("-")[0] for one in both}) < len(both):
                continue
            yield tuple(sorted(both, key=lambda one: (one.of_optimizer, one.per_step)))
            count += 1
            if count == MAX_PAIRS:
                return
