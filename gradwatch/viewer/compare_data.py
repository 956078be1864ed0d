"""What the page shows of two runs side by side: what `gradwatch diff` computes, and the losses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from gradwatch.core.comparison import Comparison, EntryPair, Pair, side_by_side
from gradwatch.core.report import Report
from gradwatch.core.runfolder import Run
from gradwatch.core.runfolder_stream import Stream
from gradwatch.sinks._text import clean
from gradwatch.viewer.trial_data import some

MAX_LAYERS: Final = 400
"""Layers, and lines of the ledgers, that are shown: those that differ most."""
MAX_FINDINGS: Final = 60
MAX_POINTS: Final = 1_000
"""Points of a loss curve, about one for each pixel; of more steps, each point is the largest loss
of several."""


def compare_data(before: Run, after: Run, name: str = "") -> dict[str, Any]:
    """Return how the second run, B, differs from the first, A, JSON-ready but for numbers that are
    not finite. `name` is what B is called, its folder's name if empty."""
    found = side_by_side(before, after)
    layers = _largest(found.layers, [layer.size for layer in found.layers])
    entries = _largest(found.ledger, [_more(entry) for entry in found.ledger])
    only = (found.only_before, found.only_after)
    return {
        "headline": clean(found.headline),
        "runs": [
            _run(found.before, before, ""),
            _run(found.after, after, clean(name)),
        ],
        "findings": [
            {
                "name": clean(change.name),
                "summary": clean(change.finding.summary),
                "kind": change.kind,
                "severity": [
                    None if one is None else str(one.severity)
                    for one in (change.before, change.after)
                ],
            }
            for change in found.changes[:MAX_FINDINGS]
        ],
        "found": len(found.changes),
        "step": found.step,
        "layers": [
            [clean(layer.layer) or "(model)", *_pair(layer.gradient), *_pair(layer.update_ratio)]
            for layer in layers
        ],
        "moreLayers": len(found.layers) - len(layers),
        "ledger": [_entry(entry) for entry in entries],
        "moreLedger": len(found.ledger) - len(entries),
        "only": [some([clean(name) or "(model)" for name in names]) for names in only],
        "loss": loss_data(before, after),
        "problems": list(_problems(found, before, after)),
    }


def loss_data(*runs: Run) -> dict[str, Any]:
    """Return the losses of some runs over one axis of steps; None where none was told."""
    curves = [np.asarray(sorted(_losses(run)), np.float64).reshape(-1, 2) for run in runs]
    last = max((int(curve[-1, 0]) for curve in curves if len(curve)), default=0)
    merged = last // MAX_POINTS + 1
    places = [(curve[:, 0] // merged).astype(np.intp) for curve in curves]
    used = np.unique(np.concatenate(places))
    losses = []
    for curve, place in zip(curves, places, strict=True):
        largest = np.full(len(used), -np.inf)
        known = np.zeros(len(used), bool)
        at = np.searchsorted(used, place)
        with np.errstate(invalid="ignore"):
            np.maximum.at(largest, at, curve[:, 1])  # NaN before all
        known[at] = True
        losses.append(
            [_short(value) if told else None for value, told in zip(largest, known, strict=True)]
        )
    return {"steps": [int(place) * merged for place in used], "merged": merged, "losses": losses}


def _losses(run: Run) -> Iterator[tuple[int, float]]:
    """Yield the losses that were told, each step's once: exams know some that pulses do not."""
    told = {record.step: record.loss for record in run.history.records if record.loss is not None}
    for pulse in Stream(run.path).pulses():
        if pulse.loss_known:
            told.pop(pulse.step, None)
            yield pulse.step, pulse.loss
    yield from told.items()


def _run(report: Report, run: Run, name: str) -> dict[str, Any]:
    severity, verdict = report.severity, clean(report.verdict)
    if not run.findings_by_step:
        severity, verdict = None, "Not judged: it ended before its first report."
    healthy = "healthy" if run.findings_by_step else "unknown"
    return {
        "name": name or clean(Path(run.path).absolute().parent.name),
        "model": clean(report.model),
        "step": report.step,
        "severity": healthy if severity is None else str(severity),
        "verdict": verdict,
        "progress": clean(report.progress.text),
    }


def _largest(found: Sequence[Any], sizes: Sequence[float]) -> list[Any]:
    """Return as many as are shown, those that differ most, in their order."""
    chosen = sorted(range(len(found)), key=lambda i: -sizes[i])[:MAX_LAYERS]
    return [found[i] for i in sorted(chosen)]


def _more(entry: EntryPair) -> float:
    return math.inf if entry.more is None else abs(entry.more)


def _entry(entry: EntryPair) -> list[Any]:
    sides = (entry.before, entry.after)
    kinds = dict.fromkeys(clean(side.kind) for side in sides if side is not None)
    label = entry.layers[0] if len(entry.layers) == 1 else f"{entry.layers[0]} … {entry.layers[-1]}"
    bits = (None if side is None else round(side.bits, 3) for side in sides)
    return [clean(label) or "(model)", " → ".join(kinds), *bits]


def _pair(pair: Pair) -> list[float | None]:
    return [None if v is None else _short(v) for v in (pair.before, pair.after, pair.bits)]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _problems(found: Comparison, *runs: Run) -> Iterable[str]:
    """Yield what could not be read, by the letter of its run: a path names its owner."""
    for problem in found.problems:
        for letter, run in zip("AB", runs, strict=True):
            place = f"{run.path}: "
            if problem.startswith(place):
                yield clean(f"{letter}: {problem.removeprefix(place)}")
                break
