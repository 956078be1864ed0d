"""The tables of the detection benchmark: shares of cases, each with its 95 % binomial interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Final

from rich.console import RenderableType
from rich.table import Table

from gradwatch.core.finding import Severity
from tests.benchmarks.detection import EVERY_N_STEPS, SETTLED, Run, held
from tests.benchmarks.peers import PEERS

Z: Final = 1.959964
"""Quantile of the normal distribution for a 95 % interval."""
HALVES: Final[dict[str, Callable[[Run], bool]]] = {
    "all": lambda run: True,
    "development": lambda run: not run.case.held_out,
    "held out": lambda run: run.case.held_out,
}


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


def render(runs: Sequence[Run]) -> Iterator[RenderableType]:
    """Yield the tables of all runs, then what to work on: by name in the development half only."""
    sick, healthy = [r for r in runs if r.case.sick], [r for r in runs if not r.case.sick]
    yield (
        f"{len(sick)} sick and {len(healthy)} healthy trainings, seed 0, examined at steps 0, 1, 2,"
        f" 5, 10 and every {EVERY_N_STEPS}. Intervals: Wilson, 95 %. Detected: the labelled finding"
        " stands in the final report as a warning or worse."
    )
    if sick:
        yield _recall(sick)
        yield _delay(sick)
    if healthy:
        yield _false_alarms(healthy)
    yield _peers(sick, healthy)
    yield _rules(sick, healthy)
    yield from _to_do([run for run in runs if not run.case.held_out])


def _recall(sick: Sequence[Run]) -> Table:
    table = Table(
        *("class", "detected", "as a root", "something said", "right cause", "right layer"),
        *("development", "held out"),
        title="Recall by class (cause and layer: of the detected, where the case names one;"
        " the last two columns: detected)",
    )
    table.columns[0].no_wrap = True
    classes = Counter(run.case.finding for run in sick)
    rows = [("all", list(sick))]
    rows += [
        (name, [r for r in sick if r.case.finding == name]) for name, _ in classes.most_common()
    ]
    for name, some in rows:
        found = [run for run in some if run.found is not None]
        table.add_row(
            name,
            rate(run.found is not None for run in some),
            rate(run.found is not None and not run.found.because_of for run in some),
            rate((run.worst() or Severity.NOTE) >= Severity.WARNING for run in some),
            rate(run.right_cause for run in found),
            rate(run.right_layer for run in found if run.case.layers),
            *(
                rate(run.found is not None for run in some if HALVES[half](run))
                for half in ("development", "held out")
            ),
            end_section=name == "all",
        )
    return table


def _delay(sick: Sequence[Run]) -> Table:
    table = Table(
        *("half", "first", "ever said", "median", "90th percentile", "longest"),
        title="Delay: steps of the optimizer from onset to the first report of the right finding",
    )
    for half, test in HALVES.items():
        for severity in (Severity.WARNING, Severity.CRITICAL):
            delays = [run.delay(severity) for run in sick if test(run)]
            known = sorted(delay for delay in delays if delay is not None)
            numbers = (
                (f"{median(known):g}", str(known[math.ceil(0.9 * len(known)) - 1]), str(known[-1]))
                if known
                else ("-", "-", "-")
            )
            table.add_row(half, str(severity), rate(d is not None for d in delays), *numbers)
    return table


def _false_alarms(healthy: Sequence[Run]) -> Table:
    table = Table("", *HALVES, title="False alarms on healthy trainings")
    rows: dict[str, Callable[[Run], bool]] = {
        "critical, ever": lambda run: run.worst(ever=True) == Severity.CRITICAL,
        "critical, at the end": lambda run: run.worst() == Severity.CRITICAL,
        "warning or worse, ever": lambda run: (run.worst(ever=True) or 0) >= Severity.WARNING,
        "warning or worse, at the end": lambda run: (run.worst() or 0) >= Severity.WARNING,
        "no more than a note, at the end": lambda run: run.worst() == Severity.NOTE,
    }
    for name, test in rows.items():
        table.add_row(
            name, *(rate(test(r) for r in healthy if half(r)) for half in HALVES.values())
        )
    names = Counter(
        (finding.name, finding.severity)
        for run in healthy
        for finding in run.final
        if finding.severity >= Severity.WARNING
    )
    for (name, severity), count in names.most_common():
        table.add_row(f"  {severity}: {name}", str(count))
    return table


def _peers(sick: Sequence[Run], healthy: Sequence[Run]) -> Table:
    table = Table(
        *("tool", "sick: detected", "healthy: false alarm"),
        *("development: sick", "healthy", "held out: sick", "healthy", "ever: sick", "healthy"),
        title=f"Says anything at all: one rule in at least half of the exams after step {SETTLED}"
        " (last two columns: any rule in any of them)",
    )
    for tool in ("gradwatch, critical", "gradwatch, warning", *PEERS):
        fired = partial(_fired, tool)
        table.add_row(
            tool,
            *(
                rate(any(map(held, fired(run))) for run in some if half(run))
                for half in HALVES.values()
                for some in (sick, healthy)
            ),
            *(rate(any(map(any, fired(run))) for run in some) for some in (sick, healthy)),
            end_section=tool == "gradwatch, warning",
        )
    return table


def _fired(tool: str, run: Run) -> list[tuple[bool, ...]]:
    if tool in PEERS:
        return [fired for (peer, _), fired in run.fired.items() if peer == tool]
    return [run.settled(Severity.CRITICAL if "critical" in tool else Severity.WARNING)]


def _rules(sick: Sequence[Run], healthy: Sequence[Run]) -> Table:
    table = Table("tool", "rule", "sick: fires", "healthy: fires", title="The same, rule by rule")
    for peer, rules in PEERS.items():
        for name in rules:
            table.add_row(
                peer,
                name,
                *(rate(held(run.fired[peer, name]) for run in some) for some in (sick, healthy)),
                end_section=name == list(rules)[-1],
            )
    return table


def _to_do(development: Sequence[Run]) -> Iterator[Table]:
    missed = Table("case", "label", "said", title="Missed, development half")
    false = Table("case", "said", title="Warned of at the end though healthy, development half")
    for run in development:
        said = ", ".join(f"{f.severity} {f.name} ({f.cause or 'no cause'})" for f in run.final)
        if run.case.sick and run.found is None:
            missed.add_row(run.case.name, f"{run.case.finding} ({run.case.cause})", said or "-")
        elif not run.case.sick and (run.worst() or 0) >= Severity.WARNING:
            false.add_row(run.case.name, said)
    yield from (table for table in (missed, false) if table.row_count)
