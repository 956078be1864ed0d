"""What the detection benchmark counts: each measure asks one question of some of the runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Severity
from tests.benchmarks.detection import Run, alarms, held
from tests.benchmarks.peers import PEERS

Z: Final = 1.959964
"""Quantile of the normal distribution for a 95 % interval."""
HALVES: Final[dict[str, Callable[[Run], bool]]] = {
    "all": lambda run: True,
    "development": lambda run: not run.case.held_out,
    "held out": lambda run: run.case.held_out,
}
Question = Callable[[Run], bool]


@dataclass(frozen=True)
class Measure:
    """A share of runs."""

    title: str
    of: Question
    """Which runs are counted."""
    hit: Question
    """Which of them are hits."""
    target: str = ""
    """What the share should be."""

    def __call__(self, runs: Iterable[Run]) -> list[bool]:
        """Return for each run that is counted whether it is a hit."""
        return [self.hit(run) for run in runs if self.of(run)]


def said(run: Run) -> bool:
    """Whether a warning or worse stands at the end."""
    return bool(alarms(run.final))


def _sick(run: Run) -> bool:
    return run.sick


def _healthy(run: Run) -> bool:
    return not run.case.sick


def _twin(run: Run) -> bool:
    return run.cured


def _fine(run: Run) -> bool:
    return not run.sick


def _critical(run: Run) -> bool:
    return run.worst(ever=True) == Severity.CRITICAL


def _broken(run: Run) -> bool:
    return run.sick and run.broke is not None


def _born(run: Run) -> bool:
    return run.sick and run.case.born


def _predicted(run: Run) -> bool:
    return bool(alarms(run.predicted))


SICK: Final = (
    Measure("named right", _sick, lambda run: run.found is not None, "98%"),
    Measure("anything said", _sick, said, "98%"),
    Measure("right cause on top", _sick, lambda run: run.right_cause, "95%"),
    Measure(
        "right layer, where one was named right",
        lambda run: run.sick and run.found is not None and bool(run.case.layers),
        lambda run: run.right_layer,
    ),
    Measure("warning in time", _sick, lambda run: run.in_time(Severity.WARNING)),
    Measure("critical in time", _sick, lambda run: run.in_time(Severity.CRITICAL)),
    Measure("non-finite: exact step", _broken, lambda run: run.exact_step, "100%"),
    Measure(
        "non-finite: exact layer",
        lambda run: _broken(run) and run.case.finding == "non-finite" and bool(run.case.layers),
        lambda run: run.exact_layer,
        "100%",
    ),
    Measure("of those born so: warned of at step 0", _born, _predicted),
)
"""Of the sick trainings. Without a target: the more the better."""
FALSE: Final = tuple(
    Measure(f"{who}: {title}", of, hit, target)
    for who, of in (
        ("healthy or repaired", _fine),
        ("healthy", _healthy),
        ("repaired", _twin),
    )
    for title, hit, target in (
        ("critical, ever", _critical, "0%"),
        ("critical, at the end", lambda run: run.worst() == Severity.CRITICAL, "0%"),
        ("warning or worse, at the end", said, "5%"),
        ("warning or worse, ever", lambda run: (run.worst(ever=True) or 0) >= 1, ""),
        ("warning at step 0", _predicted, ""),
    )
)
"""False alarms: of the healthy trainings, and of the sick ones once they are cured."""
TOOLS: Final = ("gradwatch, critical", "gradwatch, warning", *PEERS)


def fired(tool: str, run: Run) -> list[tuple[bool, ...]]:
    """Return for each rule of a tool whether it fires at each exam after step `SETTLED`."""
    if tool in PEERS:
        return [rule for (peer, _), rule in run.fired.items() if peer == tool]
    return [run.settled(Severity.CRITICAL if "critical" in tool else Severity.WARNING)]


def speaks(tool: str, run: Run) -> bool:
    """Whether one rule of a tool fires in at least half of the exams after step `SETTLED`."""
    return any(map(held, fired(tool, run)))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share; (0, 1) when nothing was counted."""
    if not 0 <= hits <= count:
        raise ValueError(f"hits must be from 0 to count = {count}, got {hits}")
    if not count:
        return 0.0, 1.0
    share, z = hits / count, Z * Z / count
    middle = (share + z / 2) / (1 + z)
    half = math.sqrt(share * (1 - share) * z + z * z / 4) / (1 + z)
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(hits: Iterable[bool]) -> str:
    """Return hits, count, share and interval as text."""
    hits = list(hits)
    if not hits:
        return "-"
    low, high = wilson(sum(hits), len(hits))
    return f"{sum(hits)}/{len(hits)} {sum(hits) / len(hits):.0%} [{low:.0%}-{high:.0%}]"
