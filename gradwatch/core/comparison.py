"""Two runs beside each other: what is found in one and not in the other, and where they differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Final

import numpy as np

from gradwatch.core.finding import Finding, Severity
from gradwatch.core.ledger import Entry, ledger
from gradwatch.core.record import Parameter, Record
from gradwatch.core.report import Report
from gradwatch.core.runfolder import Run
from gradwatch.core.runfolder_stream import Stream
from gradwatch.core.stats import Stats

EXAMS: Final = 5
"""Latest exams whose median is compared: one batch tells little."""
SAME: Final = "same"


class NotJudged(Exception):
    """One of the runs has no verdict to compare; the message says which."""


@dataclass(frozen=True, slots=True)
class Change:
    """A finding of either run."""

    before: Finding | None
    """In the first run; None where it was not found."""
    after: Finding | None
    """In the second."""

    @property
    def finding(self) -> Finding:
        """As it is in the second run; as it was in the first where it is gone."""
        found = self.after or self.before
        if found is None:
            raise ValueError("before and after must not both be None")
        return found

    @property
    def name(self) -> str:
        """What the finding is called."""
        return self.finding.name

    @property
    def kind(self) -> str:
        """`new`, `gone`, `worse`, `better` (by its severity) or `same`."""
        if self.before is None or self.after is None:
            return "new" if self.before is None else "gone"
        if self.before.severity == self.after.severity:
            return SAME
        return "worse" if self.after.severity > self.before.severity else "better"


@dataclass(frozen=True, slots=True)
class Pair:
    """One quantity in both runs. None: not measured; NaN: not finite there."""

    before: float | None
    after: float | None

    @property
    def bits(self) -> float | None:
        """log2(after / before); None where one of them is missing, 0 or not finite."""
        if not self.before or not self.after:
            return None
        if not (math.isfinite(self.before) and math.isfinite(self.after)):
            return None
        return math.log2(self.after / self.before)

    @property
    def size(self) -> float:
        """How much they differ, in bits: infinite where one is 0, missing or not finite alone."""
        if (bits := self.bits) is not None:
            return abs(bits)
        same = repr(self.before) == repr(self.after)  # NaN is not equal to itself
        return 0.0 if same else math.inf


@dataclass(frozen=True, slots=True)
class LayerPair:
    """A layer that both runs have."""

    layer: str
    gradient: Pair
    """Root mean square of the gradients of all its parameters."""
    update_ratio: Pair
    """rms of their updates / rms of the parameters."""

    @property
    def size(self) -> float:
        """How much the two runs differ here, in bits."""
        return max(self.gradient.size, self.update_ratio.size)


@dataclass(frozen=True, slots=True)
class EntryPair:
    """A line of the ledger of either run: the same layers, in the same call."""

    layers: tuple[str, ...]
    before: Entry | None
    after: Entry | None

    @property
    def more(self) -> float | None:
        """Bits that the gradient gains here in the second run, beyond what it does in the first;
        None where only one of them has this line."""
        if self.before is None or self.after is None:
            return None
        return self.after.bits - self.before.bits


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the second run differs from the first."""

    before: Report
    after: Report
    changes: tuple[Change, ...] = ()
    """The findings of the second run in their order, then those that are gone."""
    layers: tuple[LayerPair, ...] = ()
    """The layers that both runs have, in execution order."""
    step: int = -1
    """The step as of which they are compared: the latest that was examined in both."""
    ledger: tuple[EntryPair, ...] = ()
    """The ledgers of the latest exams until that step: the lines of the second in their order, then
    those of the first alone."""
    only_before: tuple[str, ...] = ()
    """Layers with parameters that the second run has not."""
    only_after: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """What could not be read, and was skipped."""

    @property
    def new_critical(self) -> tuple[str, ...]:
        """What is critical in the second run and was not in the first."""
        return tuple(c.name for c in self.changes if _critical(c.after) and not _critical(c.before))

    @property
    def gone_critical(self) -> tuple[str, ...]:
        """What was critical in the first run and is not in the second."""
        return tuple(c.name for c in self.changes if _critical(c.before) and not _critical(c.after))

    @property
    def worse(self) -> bool:
        """Whether something is critical in the second run that is not so in the first."""
        return bool(self.new_critical)

    @property
    def headline(self) -> str:
        """The one sentence to read; A is the first run, B the second."""
        new, gone = ", ".join(self.new_critical), ", ".join(self.gone_critical)
        if new:
            also = f" (and no longer critical: {gone})" if gone else ""
            return f"B is worse: critical in B and not in A: {new}{also}"
        if gone:
            return f"B is better: critical in A and not in B: {gone}"
        if not self.changes:
            return "Nothing was found in A or in B"
        if all(change.kind == SAME for change in self.changes):
            return "The same was found in A and in B"
        if any(_critical(finding) for finding in self.after.findings):
            return "What is critical in A is so in B; other findings differ"
        return "Nothing is critical in A or in B; other findings differ"


def compare(before: Run, after: Run) -> Comparison:
    """Compare two recorded runs, each as of its latest report; layers as of the latest step that
    was examined in both. Raises `NotJudged` where one of them ended before its first report."""
    for run in (before, after):
        if not run.findings_by_step:
            raise NotJudged(f"the run in {run.path} ended before its first report: not judged")
    return side_by_side(before, after)


def side_by_side(before: Run, after: Run) -> Comparison:
    """Compare as `compare` does, also a run that was never judged: nothing was found in it."""
    streams = Stream(before.path), Stream(after.path)
    step = min(max(stream.steps, default=-1) for stream in streams)
    records = [_latest(stream, step) for stream in streams]
    first, second = ([_by_layer(record) for record in found] for found in records)
    old, new = dict.fromkeys(_layers(first)), dict.fromkeys(_layers(second))
    return Comparison(
        before.report(),
        after.report(),
        tuple(_changes(before.findings, after.findings)),
        tuple(
            LayerPair(
                layer,
                Pair(_typical(first, layer, _gradient), _typical(second, layer, _gradient)),
                Pair(_typical(first, layer, _ratio), _typical(second, layer, _ratio)),
            )
            for layer in new
            if layer in old
        ),
        step,
        tuple(_entries(*(found[-1] if found else None for found in records))),
        tuple(layer for layer in old if layer not in new),
        tuple(layer for layer in new if layer not in old),
        tuple(
            dict.fromkeys(
                f"{run.path}: {problem}"
                for run, stream in zip((before, after), streams, strict=True)
                for problem in (*run.problems, *stream.problems)
            )
        ),
    )


def _critical(finding: Finding | None) -> bool:
    return finding is not None and finding.severity == Severity.CRITICAL


def _changes(before: Iterable[Finding], after: Iterable[Finding]) -> Iterable[Change]:
    known, now = _worst(before), _worst(after)
    yield from (Change(known.get(name), finding) for name, finding in now.items())
    yield from (Change(finding, None) for name, finding in known.items() if name not in now)


def _worst(findings: Iterable[Finding]) -> dict[str, Finding]:
    """Return the worst finding of each name, in the order of the names."""
    found: dict[str, Finding] = {}
    for finding in findings:
        if finding.name not in found or finding.severity > found[finding.name].severity:
            found[finding.name] = finding
    return found


# --- layers ----------------------------------------------------------------------------------

Exams = Sequence[dict[str, list[Parameter]]]
"""The parameters of each exam by the name of their layer, in execution order."""


def _latest(stream: Stream, until: int) -> list[Record]:
    """Return the latest exams up to a step."""
    steps = [step for step in stream.steps if step <= until][-EXAMS:]
    return list(stream.records(steps))


def _entries(before: Record | None, after: Record | None) -> Iterable[EntryPair]:
    """Yield the lines of both ledgers."""
    known, now = (_by_place(record) for record in (before, after))
    for place, entry in now.items():
        yield EntryPair(place[0], known.get(place), entry)
    yield from (EntryPair(key[0], entry, None) for key, entry in known.items() if key not in now)


def _by_place(record: Record | None) -> dict[tuple[tuple[str, ...], int], Entry]:
    """Return the lines of a ledger by their layers, and how often these came before."""
    times: Counter[tuple[str, ...]] = Counter()
    found: dict[tuple[tuple[str, ...], int], Entry] = {}
    for entry in ledger(record).entries if record is not None else ():
        found[entry.layers, times[entry.layers]] = entry
        times[entry.layers] += 1
    return found


def _by_layer(record: Record) -> dict[str, list[Parameter]]:
    called: dict[str, int] = {}
    for position, call in enumerate(record.calls):
        called.setdefault(call.layer.name, position)
    found: dict[str, list[Parameter]] = {}
    for parameter in record.parameters:
        found.setdefault(_owner(parameter.name), []).append(parameter)

    def place(layer: str) -> int:
        while layer and layer not in called:  # its parameters are used by a module further out
            layer = _owner(layer)
        return called.get(layer, -1)

    return {layer: found[layer] for layer in sorted(found, key=place)}


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _layers(exams: Exams) -> list[str]:
    return list(exams[-1]) if exams else []


def _typical(
    exams: Exams, layer: str, measure: Callable[[Sequence[Parameter]], float | None]
) -> float | None:
    """Return the median over the exams; NaN where the latest is not finite."""
    found = [measure(exam[layer]) for exam in exams if layer in exam]
    known = [value for value in found if value is not None]
    if not known or math.isnan(known[-1]):
        return known[-1] if known else None
    return float(np.nanmedian(known))


def _gradient(parameters: Iterable[Parameter]) -> float | None:
    return _rms([p.gradient for p in parameters])


def _ratio(parameters: Sequence[Parameter]) -> float | None:
    moved = [p for p in parameters if p.update is not None]
    update, sample = _rms([p.update for p in moved]), _rms([p.sample for p in moved])
    return None if update is None or not sample else update / sample


def _rms(found: Iterable[Stats | None]) -> float | None:
    known = [stats for stats in found if stats is not None]
    if not known:
        return None
    whole = reduce(add, known)
    return math.nan if whole.nonfinite else whole.rms
