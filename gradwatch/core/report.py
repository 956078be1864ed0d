"""A `Report`: what is known of a run at one step. Data only; the sinks render it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from gradwatch.core.finding import Cause, Detector, Finding, Severity
from gradwatch.core.history import History, Pulse
from gradwatch.core.ledger import Ledger, ledger
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription, Remedy
from gradwatch.core.triage import triage
from gradwatch.core.waivers import Waiver, waivers

if TYPE_CHECKING:
    from gradwatch.core.verdict import Verdicts  # which holds a report

MAX_REFUSED: Final = 3
"""Remedies that are said not to fit this model; of many, the first."""
MAX_VARIANTS: Final = 3
"""Remedies of one kind that are prescribed: the first, and two that may do in its place."""


@dataclass(frozen=True)
class Report:
    """The findings of a run as of its latest step, and what they rest on."""

    model: str
    """Class name of the model."""
    step: int
    """The latest step; -1 before the first."""
    findings: tuple[Finding, ...] = ()
    """Roots, the worst first, each followed by its consequences."""
    prescriptions: tuple[Prescription, ...] = ()
    """Changes to try, in the order of the damage that they answer."""
    record: Record | None = None
    """The latest examined step."""
    pulses: tuple[Pulse, ...] = ()
    """The pulses since the last report that went to the sinks."""
    progress: Progress = field(default_factory=lambda: Progress(None, "nothing was seen yet"))
    notes: tuple[str, ...] = ()
    """What could not be observed or prescribed, and why."""
    run_folder: str | None = None
    waivers: tuple[Waiver, ...] = ()
    """What is zero as it should be, is not counted, and why."""
    trial: Verdicts | None = None
    """What remedies were worth on copies of the model; None where that was not measured."""

    @property
    def severity(self) -> Severity | None:
        """The worst severity; None when there is no finding."""
        return max((finding.severity for finding in self.findings), default=None)

    @property
    def healthy(self) -> bool:
        """Whether nothing worse than a note was found."""
        return self.severity is None or self.severity < Severity.WARNING

    @cached_property
    def ledger(self) -> Ledger:
        """Where the gradient's bits go in the latest examined step."""
        return Ledger() if self.record is None else ledger(self.record)

    @property
    def verdict(self) -> str:
        """The one sentence to read."""
        if self.record is None and self.step < 0:
            return "Nothing was seen yet: no step was made while watching."
        if self.record is None and not self.findings:
            return f"Not judged: no step up to {self.step} was examined."
        if not self.findings:
            return f"Healthy as of step {self.step}: nothing was found."
        # A root may be milder than what follows from it: it is still what is to be repaired.
        return f"{str(self.severity).capitalize()}: {self.findings[0].summary}"

    def finding(self, name: str) -> Finding | None:
        """Return the finding of that name, if there is one."""
        return next((finding for finding in self.findings if finding.name == name), None)

    def __str__(self) -> str:
        # The one place where the waist calls a face: `print(watcher.report())` should show all.
        from gradwatch.sinks.console import to_text

        return to_text(self)


def examine(
    history: History,
    detectors: Iterable[Detector],
    remedies: Iterable[Remedy],
    *,
    model: str = "model",
    pulses: tuple[Pulse, ...] = (),
    notes: Iterable[str] = (),
    run_folder: str | None = None,
) -> Report:
    """Run the detectors over a history and prescribe for what they find."""
    findings = triage(finding for detector in detectors for finding in detector(history))
    record = history.latest
    prescriptions, unanswered = prescribe(findings, remedies, record)
    said = dict.fromkeys([*notes, *(record.notes if record else ()), *unanswered])
    return Report(
        model,
        history.last_step,
        findings,
        prescriptions,
        record,
        pulses,
        progress(history),
        tuple(said),
        run_folder,
        waivers(history),
    )


def prescribe(
    findings: Iterable[Finding], remedies: Iterable[Remedy], record: Record | None
) -> tuple[tuple[Prescription, ...], tuple[str, ...]]:
    """Return the changes that answer what is worse than a note, and notes on what has none."""
    if record is None:
        return (), ()
    found: list[tuple[tuple[int, int, int], Remedy, Prescription]] = []
    notes: list[str] = []
    kinds: Counter[type] = Counter()
    for remedy in remedies:
        kinds[type(remedy)] += 1
        for rank, (finding, cause) in enumerate(_complaints(findings)):
            if (finding.name, cause.name) not in remedy.treats:
                continue
            # The worst complaint first, and the more specific remedy before others.
            key = (rank, len({c for _, c in remedy.treats}), kinds[type(remedy)])
            try:
                found.append((key, remedy, remedy.prescribe(finding, record)))
            except CannotPrescribe as reason:
                notes.append(f"Not prescribed: {remedy.title}, because {reason}.")
    found.sort(key=itemgetter(0))
    chosen = _mixed((remedy, one) for _, remedy, one in found)
    # What does not fit is of interest where little does.
    refused = tuple(dict.fromkeys(notes))[: MAX_REFUSED - len(chosen)] if notes else ()
    return chosen, refused if len(chosen) < MAX_REFUSED else ()


def _mixed(found: Iterable[tuple[Remedy, Prescription]]) -> tuple[Prescription, ...]:
    """Return each change once: first one of every kind, then their variants, `MAX_VARIANTS` in all.

    Another activation, or another normalisation, is a variant of the first one; if that does not
    help, something of another kind may.
    """
    chosen: dict[tuple[str, str], tuple[int, Prescription]] = {}
    before: dict[str, Remedy] = {}
    for remedy, prescription in found:
        key = (prescription.remedy, prescription.code)
        if key in chosen:
            continue
        turn = sum(_alike(remedy, other) for name, other in before.items() if name != remedy.name)
        before[remedy.name] = remedy
        chosen[key] = (turn, prescription)
    turns = sorted(chosen.values(), key=itemgetter(0))
    return tuple(one for turn, one in turns if turn < MAX_VARIANTS)


def _alike(one: Remedy, other: Remedy) -> bool:
    """Whether two remedies are variants: of one class, or for mostly the same complaints."""
    both, either = one.treats & other.treats, one.treats | other.treats
    return type(one) is type(other) or 2 * len(both) > len(either)


def _complaints(findings: Iterable[Finding]) -> Iterator[tuple[Finding, Cause]]:
    """Yield what to answer: a consequence goes when its root does."""
    for finding in findings:
        if finding.severity >= Severity.WARNING and not finding.because_of:
            for cause in finding.causes:
                yield finding, cause
