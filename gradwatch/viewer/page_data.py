"""What the page shows, as JSON-ready data; whoever serves the page, this is what it is given.

Names and sentences come from a model or from damaged files. They are made harmless for the eye
here (control and direction characters) and remain text on the page.
"""

from __future__ import annotations

import base64
import gzip
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradwatch import __version__
from gradwatch.core.finding import Finding
from gradwatch.core.history import History, Pulse
from gradwatch.core.ledger import ledger
from gradwatch.core.record import Record
from gradwatch.core.report import Report
from gradwatch.sinks._text import clean, code_lines
from gradwatch.viewer.norms import NormTable

_DROPPED_BITS: Final = 11
"""Of the 23 bits of a float32's fraction: what remains is exact to 1 part in 8,192."""


def page_data(
    report: Report, history: History, pulses: Iterable[Pulse] | None = None
) -> dict[str, Any]:
    """Return all that the page shows; numbers that are not finite may be in it.

    `pulses` are those of every step, where more of them are known than a history keeps.
    """
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
            }
            for prescription in report.prescriptions
        ],
        "ledgers": ledger_data(history.records),
        "waivers": [
            {"reason": clean(waiver.reason), "parameters": _labels(waiver.parameters)}
            for waiver in report.waivers
        ],
        "pulse": pulse_data(history, pulses),
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
    order = _execution_order(names, history.latest)
    names = [names[i] for i in order]
    return {
        "steps": steps,
        "merged": table.every,
        "last": history.last_step,
        "parameters": [clean(name) for name in names],
        "layers": [clean(_owner(name)) or "(model)" for name in names],
        "norms": pack(norms[:, order].T),
        "losses": losses,
        "exams": [record.step for record in history.records],
    }


def pack(values: NDArray[np.float32]) -> str:
    """Return the numbers, to 3 digits, as base64 of gzip of little-endian float32, all first bytes
    before all second ones: alike bytes side by side take the least room."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    half, mask = (
        np.uint32(1 << (_DROPPED_BITS - 1)),
        np.uint32(0xFFFFFFFF << _DROPPED_BITS & 0xFFFFFFFF),
    )
    rounded = ((bits + half) & mask).view("<f4")
    # Zeros, infinities and NaNs stay what they are, and nothing finite becomes infinite.
    rounded = np.where(np.isfinite(values) & np.isfinite(rounded), rounded, values)
    planes = rounded.astype("<f4").reshape(-1, 1).view(np.uint8).T
    return base64.b64encode(gzip.compress(planes.tobytes(), 4, mtime=0)).decode("ascii")


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
    return [clean(name) or "(model)" for name in names]


def _execution_order(names: Sequence[str], record: Record | None) -> list[int]:
    """Return the order in which the layers of these parameters are called."""
    called: dict[str, int] = {}
    for position, call in enumerate(record.calls if record else ()):
        called.setdefault(call.layer.name, position)

    def place(i: int) -> int:
        owner = _owner(names[i])
        while owner and owner not in called:  # its parameter is used by a module further out
            owner = _owner(owner)
        return called.get(owner, -1)

    return sorted(range(len(names)), key=place)


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
