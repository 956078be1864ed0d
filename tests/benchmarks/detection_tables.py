"""The tables of the detection benchmark: shares of runs, each with its 95 % binomial interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from rich.console import RenderableType
from rich.table import Table

from gradwatch.core.finding import Severity
from tests.benchmarks.detection import EVERY_N_STEPS, EXAMS, LATE, SETTLED, SOON, Run, alarms, held
from tests.benchmarks.detection_measures import (
    FALSE,
    HALVES,
    SICK,
    TOOLS,
    Measure,
    fired,
    rate,
    speaks,
)
from tests.benchmarks.peers import PEERS

BY_CLASS: Final = SICK[:4]
"""The measures that are shown class by class."""


def render(runs: Sequence[Run], *, halves: bool = True) -> Iterator[RenderableType]:
    """Yield the tables of all runs, then what to work on: by name in the development half only,
    and not at all where there are no halves."""
    sick = [run for run in runs if run.sick]
    healthy = sum(not run.case.sick for run in runs)
    yield (
        f"{len(sick)} sick trainings, {healthy} healthy ones and {sum(run.cured for run in runs)} "
        "that were repaired (a sick one with its cure), seed 0, examined at steps 0, 1, 2, 5, 10 "
        f"and every {EVERY_N_STEPS}. Intervals: Wilson, 95 %. Named right: a finding that the "
        "label allows stands in the final report as a warning or worse. In time: a warning within "
        f"{SOON:.0%} of the steps after the onset, or {EXAMS} exams if that is later; a critical "
        f"one within {LATE:.0%}."
    )
    columns = list(HALVES) if halves else ["all"]
    if sick:
        yield _shares("Sick trainings", SICK, runs, columns)
        yield _by_class(sick)
        yield _delay(sick, columns)
    if len(sick) < len(runs):
        yield _shares("False alarms", FALSE, runs, columns)
        yield _false(runs)
    yield _peers(runs, columns)
    yield _rules(runs)
    if halves:
        yield from _to_do([run for run in runs if not run.case.held_out])


def _shares(
    title: str, measures: Sequence[Measure], runs: Sequence[Run], columns: Sequence[str]
) -> Table:
    table = Table("", *columns, "target", title=title)
    for measure in measures:
        shares = (rate(measure(filter(HALVES[column], runs))) for column in columns)
        table.add_row(measure.title, *shares, measure.target)
    return table


def _by_class(sick: Sequence[Run]) -> Table:
    table = Table("class", *(measure.title for measure in BY_CLASS), title="By class")
    table.columns[0].no_wrap = True
    for name, _ in Counter(run.case.finding for run in sick).most_common():
        some = [run for run in sick if run.case.finding == name]
        table.add_row(name, *(rate(measure(some)) for measure in BY_CLASS))
    return table


def _delay(sick: Sequence[Run], columns: Sequence[str]) -> Table:
    table = Table(
        *("half", "first", "ever said", "in time", "median", "90th percentile", "longest"),
        title="Delay: steps of the optimizer from onset to the first report of a right finding",
    )
    for half in columns:
        for severity in (Severity.WARNING, Severity.CRITICAL):
            some = [run for run in sick if HALVES[half](run)]
            known = sorted(d for run in some if (d := run.delay(severity)) is not None)
            numbers = (
                (f"{median(known):g}", str(known[math.ceil(0.9 * len(known)) - 1]), str(known[-1]))
                if known
                else ("-", "-", "-")
            )
            table.add_row(
                half,
                str(severity),
                rate(run.delay(severity) is not None for run in some),
                rate(run.in_time(severity) for run in some),
                *numbers,
            )
    return table


def _false(runs: Sequence[Run]) -> Table:
    table = Table("severity", "finding", "healthy", "repaired", title="What stands falsely")
    said = {
        cured: Counter(
            (finding.severity, finding.name)
            for run in runs
            if not run.sick and run.cured is cured
            for finding in alarms(run.final)
        )
        for cured in (False, True)
    }
    for key, _ in (said[False] + said[True]).most_common():
        severity, name = key
        table.add_row(str(severity), name, str(said[False][key]), str(said[True][key]))
    return table


def _peers(runs: Sequence[Run], columns: Sequence[str]) -> Table:
    columns = [column for column in columns if column != "development"]  # else it is too wide
    table = Table(
        "tool",
        *(f"{column}: {who}" for column in (*columns, "ever") for who in ("sick", "not")),
        title=f"Says anything at all: one rule in at least half of the exams after step {SETTLED}"
        " (ever: any rule in any of them); sick, and not: healthy or repaired",
    )
    table.columns[0].no_wrap = True
    sides = [[run for run in runs if run.sick is sick] for sick in (True, False)]
    for tool in TOOLS:
        table.add_row(
            tool,
            *(
                rate(speaks(tool, run) for run in filter(HALVES[column], side))
                for column in columns
                for side in sides
            ),
            *(rate(any(map(any, fired(tool, run))) for run in side) for side in sides),
            end_section=tool == "gradwatch, warning",
        )
    return table


def _rules(runs: Sequence[Run]) -> Table:
    table = Table(
        *("tool", "rule", "sick: fires", "healthy or repaired: fires"),
        title="The same, rule by rule",
    )
    for peer, rules in PEERS.items():
        for name in rules:
            table.add_row(
                peer,
                name,
                *(
                    rate(held(run.fired[peer, name]) for run in runs if run.sick is sick)
                    for sick in (True, False)
                ),
                end_section=name == list(rules)[-1],
            )
    return table


def _to_do(development: Sequence[Run]) -> Iterator[Table]:
    missed = Table("case", "label", "said", title="Not named right, development half")
    wrong = Table("case", "causes", "on top", title="Named right, but another cause on top")
    false = Table("case", "", "said", title="Warned of at the end though healthy or repaired")
    for run in development:
        said = ", ".join(f"{f.severity} {f.name} ({f.cause or 'no cause'})" for f in run.final)
        if not run.sick and alarms(run.final):
            false.add_row(run.case.name, "repaired" if run.cured else "healthy", said)
        elif run.sick and run.found is None:
            missed.add_row(run.case.name, f"{run.case.finding} ({run.case.cause})", said or "-")
        elif run.sick and not run.right_cause and run.top is not None:
            causes = ", ".join(sorted(run.case.right_causes))
            wrong.add_row(run.case.name, causes, f"{run.top.name} ({run.top.cause or 'no cause'})")
    yield from (table for table in (missed, wrong, false) if table.row_count)
