"""What the page shows, as JSON-ready data; whoever serves the page, this is what it is given.

Names and sentences come from a model or from damaged files. They are made harmless for the eye
here (control and direction characters) and remain text on the page.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gradwatch import __version__
from gradwatch.core.finding import Finding
from gradwatch.core.history import History, Pulse
from gradwatch.core.ledger import ledger
from gradwatch.core.record import Record
from gradwatch.core.report import Report
from gradwatch.sinks._text import clean, code_lines
from gradwatch.viewer.exams import Folder, some_exams
from gradwatch.viewer.norms import NormTable
from gradwatch.viewer.octaves import octave_data
from gradwatch.viewer.order import execution_order, owner
from gradwatch.viewer.packing import label, pack
from gradwatch.viewer.trial_data import fate, trial_data
from gradwatch.viewer.updates import update_data


def page_data(
    report: Report,
    history: History,
    pulses: Iterable[Pulse] | None = None,
    folder: Folder | None = None,
) -> dict[str, Any]:
    """Return all that the page shows; numbers that are not finite may be in it.

    `pulses` are those of every step, and `folder` has all exams, where more of them are known than
    a history keeps.
    """
    exams, made = some_exams(history, folder)
    return {
        "gradwatch": __version__,
        "model": clean(report.model),
        "run": clean(Path(report.run_folder).absolute().parent.name) if report.run_folder else "",
        "step": report.step,
        "verdict": clean(report.verdict),
        "severity": _severity(report),
        "progress": {"text": clean(report.progress.text), "moving": report.progress.moving},
        "findings": [_finding(finding) for finding in report.findings],
        "prescriptions": [
            {
                "title": clean(prescription.title),
                "answers": clean(prescription.answers),
                "remedy": clean(prescription.remedy),
                "code": "\n".join(code_lines(prescription.code)),
                "per_step": prescription.per_step,
                "runnable": prescription.runnable,
                "fate": fate(report.trial, prescription.remedy),
            }
            for prescription in report.prescriptions
        ],
        "trial": trial_data(report.trial),
        "ledgers": ledger_data(history.records),
        "waivers": [
            {"reason": clean(waiver.reason), "parameters": _labels(waiver.parameters)}
            for waiver in report.waivers
        ],
        "pulse": pulse_data(history, pulses),
        "octaves": octave_data(exams, made),
        "updates": update_data(exams),
        "notes": [clean(note) for note in report.notes],
    }


def pulse_data(history: History, pulses: Iterable[Pulse] | None = None) -> dict[str, Any]:
    """Return the gradient norm of every parameter, in execution order, at every step."""
    table = NormTable()
    exams = deque(history.records)
    for pulse in history.pulses if pulses is None else pulses:
        while exams and exams[0].step < pulse.step:
            table.add_exam(exams.popleft())
        examined = exams and exams[0].step == pulse.step
        table.add(pulse, exams.popleft() if examined else None)
    for record in exams:
        table.add_exam(record)
    steps, names, norms, losses = table.merged()
    order = execution_order(list(map(owner, names)), history.latest)
    names = [names[i] for i in order]
    return {
        "steps": steps,
        "merged": table.every,
        "last": history.last_step,
        "parameters": [clean(name) for name in names],
        "layers": [label(owner(name)) for name in names],
        "norms": pack(norms[:, order].T),
        "losses": losses,
        "exams": [record.step for record in history.records],
    }


def _severity(report: Report) -> str:
    if report.severity is not None:
        return str(report.severity)
    return "unknown" if report.record is None else "healthy"


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": clean(finding.name),
        "severity": str(finding.severity),
        "summary": clean(finding.summary),
        "layers": _labels(finding.layers),
        "since": finding.since,
        "until": finding.until,
        "confidence": clean(finding.confidence),
        "causes": [
            {
                "name": clean(cause.name),
                "text": clean(cause.text),
                "layers": _labels(cause.layers),
                "bits": cause.bits,
                "share": cause.share,
            }
            for cause in finding.causes
        ],
        "numbers": {clean(name): value for name, value in finding.numbers.items()},
    }


def ledger_data(records: Iterable[Record]) -> dict[str, Any]:
    """Return the ledger of every exam; what their entries belong to, alike in most, once."""
    layouts: dict[tuple[tuple[str, tuple[str, ...]], ...], int] = {}
    exams = []
    for record in records:
        entries = ledger(record).entries
        if entries:
            layout = tuple((entry.kind, entry.layers) for entry in entries)
            exams.append(
                {
                    "step": record.step,
                    "layout": layouts.setdefault(layout, len(layouts)),
                    "bits": [round(entry.bits, 4) for entry in entries],
                }
            )
    return {
        "layouts": [
            [{"kind": clean(kind), "layers": _labels(layers)} for kind, layers in layout]
            for layout in layouts
        ],
        "exams": exams,
    }


def _labels(names: Iterable[str]) -> list[str]:
    return list(map(label, names))
