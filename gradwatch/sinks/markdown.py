"""A report as a little Markdown, to paste into an issue or a chat.

What a model's author names is text there: it makes no markup, no HTML, no link and no mention, and
however much was found, the whole stays under `MAX_BYTES`. Where the run lies is not told: paths
name their owners.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Final

from gradwatch import __version__
from gradwatch.core.finding import Finding
from gradwatch.core.ledger import Ledger
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report
from gradwatch.core.verdict import Outcome, Verdict, Verdicts
from gradwatch.sinks._text import clean, code_lines, name, signed

MAX_BYTES: Final = 8_000
"""Of the whole, in UTF-8: what one reads in an issue, and under the limit of GitHub's (65,536)."""
RESERVED: Final = 400
"""Bytes kept for what was left out, and for the last line."""
MAX_SENTENCE: Final = 320
"""Characters of a sentence: one of nothing but `&` takes five times as many bytes."""
MAX_FINDINGS: Final = 10
MAX_CAUSES: Final = 2
MAX_CODES: Final = 2
"""Prescriptions with their code; others are named."""
MAX_CODE: Final = 1_500
"""Bytes of a code, some 30 lines: a longer one is not to be read in a chat."""
MAX_TITLES: Final = 8
MAX_KINDS: Final = 8
MAX_VERDICTS: Final = 8
"""Remedies that were measured: a trial has 4 finalists unless told otherwise."""
MAX_NOTES: Final = 5
WORD_JOINER: Final = "\u2060"
"""Invisible; between `@` and a name it makes that no mention, and nobody gets a message."""


def to_markdown(report: Report) -> str:
    """Return the report as Markdown of at most `MAX_BYTES`."""
    page = _Page(MAX_BYTES - RESERVED)
    at = f"at step {report.step}" if report.step >= 0 else "before its first step"
    page.add(f"### gradwatch: {_text(name(report.model))} {at}")
    page.add(f"\n**{_text(report.verdict)}**")
    if report.step >= 0:
        page.add(f"\nProgress: {_text(report.progress.text)}.")
    _findings(page, report.findings)
    if report.findings:
        _ledger(page, report.ledger)
    if report.trial is not None:
        _trial(page, report.trial)
    _prescriptions(page, report.prescriptions)
    _notes(page, report.notes)
    run = Path(report.run_folder).absolute().parent.name if report.run_folder else ""
    omitted = f"{', '.join(page.omitted)} (gradwatch report shows them)"
    left = f" Left out here: {omitted}." if page.omitted else ""
    of = f", run {_text(name(run))}" if run else ""
    return f"{page}\n\ngradwatch {__version__}{of}.{left}"


class _Page:
    """Takes parts while they fit."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._parts: list[str] = []
        self.omitted: list[str] = []

    def add(self, part: str) -> bool:
        size = len(part.encode()) + 1
        if size > self._room:
            return False
        self._room -= size
        self._parts.append(part)
        return True

    def add_all(self, head: Sequence[str], rows: Iterator[str]) -> int:
        """Add the head with the first row, and as many others as fit; return how many did."""
        count = 0
        for row in rows:
            if not self.add(row if count else "\n".join([*head, row])):
                break
            count += 1
        return count

    def omit(self, count: int, what: str) -> None:
        if count > 0:
            self.omitted.append(f"{count} {what}")

    def __str__(self) -> str:
        return "\n".join(self._parts)


def _findings(page: _Page, findings: Sequence[Finding]) -> None:
    head = ["", "| severity | finding | since step | what and why |", "|---|---|---|---|"]
    shown = page.add_all(head, map(_finding, findings[:MAX_FINDINGS]))
    page.omit(len(findings) - shown, "findings")


def _finding(finding: Finding) -> str:
    follows = f" (from {_text(name(finding.because_of))})" if finding.because_of else ""
    sentences = [_text(finding.summary)]
    for cause in finding.causes[:MAX_CAUSES]:
        share = "" if cause.share is None else f" {cause.share:.0%}"
        sentences.append(f"*{_text(name(cause.name))}*{share}: {_text(cause.text)}")
    cells = (
        str(finding.severity),
        f"{_text(name(finding.name))}{follows}",
        str(finding.since),
        "<br>".join(sentences),
    )
    return f"| {' | '.join(cells)} |"


def _ledger(page: _Page, ledger: Ledger) -> None:
    if not ledger.entries:
        return
    total = f"{signed(ledger.total)} bits from the output to the first layer"
    head = [
        f"\nWhere the gradient's bits go: {total} (-1 bit: it halves)\n",
        "| layers | bits | each |",
        "|---|--:|--:|",
    ]
    kinds = sorted(ledger.by_kind(), key=lambda kind: -abs(kind.bits))
    rows = (
        f"| {_text(name(kind.kind))} x {len(kind.layers)} | {signed(kind.bits)} | "
        f"{signed(kind.each, 2)} |"
        for kind in kinds[:MAX_KINDS]
    )
    page.omit(len(kinds) - page.add_all(head, rows), "kinds of layers")


def _trial(page: _Page, trial: Verdicts) -> None:
    head = [
        f"\nTried on copies: **{_text(trial.summary)}**\n",
        "| tried | skill | loss | bits | as untreated after | cost |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    controls = [("untreated", trial.untreated), ("new weights", trial.reseeded)]
    if trial.other is not None:
        controls.append((f"at random: {trial.other.name}", trial.other.treated))
    rows = [
        f"| *{_text(name(label))}* | {_measured(one)} | | | |"
        for label, one in controls
        if one is not None and one.steps
    ]
    rows += map(_tried, trial.verdicts[:MAX_VERDICTS])
    if rows:
        shown = page.add_all(head, iter(rows))
        page.omit(len(rows) - shown + max(0, len(trial.verdicts) - MAX_VERDICTS), "trials")
    else:
        page.add(head[0])


def _tried(verdict: Verdict) -> str:
    matches = "never" if verdict.steps_to_match is None else f"{verdict.steps_to_match} steps"
    bits = verdict.bits_recovered
    cells = (
        f"{'**helps** ' if verdict.recommended else ''}{_text(name(verdict.name))}",
        _measured(verdict.treated),
        "" if bits is None else signed(bits),
        matches,
        f"{verdict.more_time:+.0%} time, {verdict.more_parameters:+.0%} weights",
    )
    return f"| {' | '.join(cells)} |"


def _measured(outcome: Outcome) -> str:
    """Return the cells of skill and loss, with half of what the seeds differ by."""
    skill = "" if outcome.skill is None else f"{outcome.skill:.0%}"
    spread = f" ± {outcome.spread / 2:.1g}" if outcome.spread < math.inf else ""
    return f"{skill} | {outcome.loss:.4g}{spread}"


def _prescriptions(page: _Page, prescriptions: Sequence[Prescription]) -> None:
    shown = coded = 0
    for number, prescription in enumerate(prescriptions[:MAX_TITLES], start=1):
        head = "" if shown else "\n**What to try, one at a time**\n"
        per_step = " (between backward and the optimizer's step)" if prescription.per_step else ""
        title = f"{head}\n{number}. {_text(prescription.title)}{per_step}"
        code = _fenced(prescription.code)
        short = number <= MAX_CODES and len(code.encode()) <= MAX_CODE
        if short and page.add(f"{title}\n\n{code}"):
            coded += 1
        elif not page.add(title):
            break
        shown += 1
    page.omit(len(prescriptions) - shown, "prescriptions")
    if shown > coded:
        page.omitted.append(f"the code of {shown - coded} of these")


def _notes(page: _Page, notes: Sequence[str]) -> None:
    # What does not fit this model is of interest to its author only.
    said = [note for note in notes if not note.startswith("Not prescribed: ")]
    rows = (f"- {_text(note)}" for note in said[:MAX_NOTES])
    page.omit(len(said) - page.add_all(["\n**Not covered**\n"], rows), "notes")


def _fenced(code: str) -> str:
    """Return code between fences that nothing in it can close."""
    text = "\n".join(code_lines(code))
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
    return f"{fence}python\n{text}\n{fence}"


def _text(text: str) -> str:
    """Return text as Markdown that shows just that text, on one line."""
    # Detectors put names between backticks, and a name can hold one: no pair can be trusted.
    plain = clean(text, MAX_SENTENCE).replace("`", "'")
    shown = re.sub(r"([\\*_\[\]|~$])|^([#+=-])|(?<=^\d)([.)])", r"\\\g<0>", plain)
    shown = escape(shown, quote=False)
    shown = re.sub(r":(?=//)|(?<=www)\.", lambda mark: f"\\{mark[0]}", shown)
    return re.sub(r"@(?=\w)", f"@{WORD_JOINER}", shown)
