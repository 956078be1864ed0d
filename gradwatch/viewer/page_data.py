"""What the page shows, as JSON-ready data; whoever serves the page, this is what it is given.

Names and sentences come from a model or from damaged files. They are made harmless for the eye
here (control and direction characters) and remain text on the page.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradwatch import __version__
from gradwatch.core.finding import Finding
from gradwatch.core.history import History
from gradwatch.core.record import Record
from gradwatch.core.report import Report
from gradwatch.sinks._text import clean, code_lines

MAX_NUMBERS: Final = 2_000_000
"""Gradient norms in one page, some 2.5 bytes each: of more, neighbouring steps are merged."""
NOT_REACHED: Final = -1.0
NOT_MEASURED: Final = -2.0
_DROPPED_BITS: Final = 11
"""Of the 23 bits of a float32's fraction: what remains is exact to 1 part in 8,192."""


def page_data(report: Report, history: History) -> dict[str, Any]:
    """Return all that the page shows; numbers that are not finite may be in it."""
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
        "ledger": _ledger(report),
        "waivers": [
            {"reason": clean(waiver.reason), "parameters": _labels(waiver.parameters)}
            for waiver in report.waivers
        ],
        "pulse": pulse_data(history),
        "notes": [clean(note) for note in report.notes],
    }


def pulse_data(history: History) -> dict[str, Any]:
    """Return the gradient norm of every parameter, in execution order, at every step."""
    steps, names, norms = _norms(history)
    order = _execution_order(names, history.latest)
    norms = norms[:, order]
    known = dict(zip(*(array.tolist() for array in history.losses()), strict=True))
    losses = np.asarray([known.get(step, -np.inf) for step in steps])
    is_known = np.asarray([step in known for step in steps], bool)
    merged = max(1, -(-norms.size // MAX_NUMBERS))
    if merged > 1:  # the largest of the merged steps is shown, or NaN: no spike gets lost
        starts = np.arange(0, len(steps), merged)
        norms = np.maximum.reduceat(norms, starts)
        losses, is_known = (np.maximum.reduceat(a, starts) for a in (losses, is_known))
        steps = steps[::merged]
    names = [names[i] for i in order]
    return {
        "steps": steps,
        "merged": merged,
        "last": history.last_step,
        "parameters": [clean(name) for name in names],
        "layers": [clean(_owner(name)) or "(model)" for name in names],
        "norms": pack(norms.T),
        "losses": [
            loss if known else None for loss, known in zip(losses.tolist(), is_known, strict=True)
        ],
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
    return base64.b64encode(gzip.compress(planes.tobytes(), 9, mtime=0)).decode("ascii")


def _severity(report: Report) -> str:
    if report.severity is not None:
        return str(report.severity)
    return "unknown" if report.step < 0 else "healthy"


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


def _ledger(report: Report) -> dict[str, Any]:
    ledger = report.ledger
    return {
        "step": None if report.record is None else report.record.step,
        "total": ledger.total,
        "kinds": [
            {"kind": clean(kind.kind), "bits": kind.bits, "layers": _labels(kind.layers)}
            for kind in ledger.by_kind()
        ],
        "entries": [
            {"kind": clean(entry.kind), "bits": entry.bits, "layers": _labels(entry.layers)}
            for entry in ledger.entries
        ],
    }


def _labels(names: Iterable[str]) -> list[str]:
    return [clean(name) or "(model)" for name in names]


def _norms(history: History) -> tuple[list[int], list[str], NDArray[np.float32]]:
    """Return the steps, the parameters' names, and their norms by step and parameter."""
    pulses, records = history.pulses, history.records
    columns = {id(pulse.columns): pulse.columns.parameters for pulse in pulses}
    examined = ((parameter.name for parameter in record.parameters) for record in records)
    names = dict.fromkeys(name for group in (*columns.values(), *examined) for name in group)
    steps = sorted({pulse.step for pulse in pulses} | {record.step for record in records})
    row = {step: i for i, step in enumerate(steps)}
    column = {name: i for i, name in enumerate(names)}
    places = {key: [column[name] for name in group] for key, group in columns.items()}
    norms = np.full((len(steps), len(names)), NOT_MEASURED, np.float32)
    for pulse in pulses:
        norms[row[pulse.step], places[id(pulse.columns)]] = pulse.norms
    for record in records:
        _examined(record, norms[row[record.step]], column)
    return steps, list(names), norms


def _examined(record: Record, norms: NDArray[np.float32], column: dict[str, int]) -> None:
    """Fill in what a pulse lacks: norms out of the range of float32's squares."""
    for parameter in record.parameters:
        i = column[parameter.name]
        if norms[i] not in (0.0, np.inf, NOT_MEASURED):
            continue
        if parameter.gradient is None:
            if norms[i] == NOT_MEASURED and parameter.trainable and not parameter.reached:
                norms[i] = NOT_REACHED
        elif not parameter.gradient.nonfinite:
            norms[i] = min(parameter.gradient.norm, float(np.finfo(np.float32).max))
        elif norms[i] == NOT_MEASURED:
            norms[i] = np.nan if parameter.gradient.nans else np.inf


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
