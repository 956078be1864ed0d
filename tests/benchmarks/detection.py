"""How well the detectors do on the corpus, and the rules of other tools on the same trainings.

Every case is trained once, watched by one schedule for all, in two processes; the tables are made
by `detection_tables`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import torch
from rich.console import Console
from rich.progress import track

from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.report import Report
from tests.benchmarks.peers import PEERS
from tests.benchmarks.readings import Seen
from tests.zoo.case import Case, train
from tests.zoo.corpus import collect

WORKERS: Final = 2
EVERY_N_STEPS: Final = 20
"""The one schedule for all: the shortest cases make 60 steps and should get some exams."""
SETTLED: Final = 10
"""Peers are asked at the exams after this step: what a net was born with may heal by then."""
QUICK: Final = 8
"""`--quick` takes every so manyth case."""


@dataclass(frozen=True)
class Run:
    """What was said of one training."""

    case: Case
    reports: tuple[tuple[int, tuple[Finding, ...]], ...]
    """Step and findings of the report at each exam; the last is the final one."""
    fired: Mapping[tuple[str, str], tuple[bool, ...]] = field(default_factory=dict)
    """By peer and rule: whether it fires at each exam after step `SETTLED`."""

    @property
    def final(self) -> tuple[Finding, ...]:
        """The findings at the end."""
        return self.reports[-1][1]

    @property
    def found(self) -> Finding | None:
        """The finding that the label asks for, if it is there at the end as a warning or worse."""
        return next((f for f in _alarms(self.final) if f.name == self.case.finding), None)

    @property
    def right_cause(self) -> bool:
        """Whether the main cause of what was found is the label's."""
        return self.found is not None and self.found.cause == self.case.cause

    @property
    def right_layer(self) -> bool:
        """Whether the main cause of what was found (or, if it names no layer, the finding) names a
        layer of the label, or something inside one."""
        if self.found is None:
            return False
        main = self.found.causes[0].layers if self.found.causes else ()
        return any(
            name == label or name.startswith((f"{label}.", f"{label}:"))
            for name in main or self.found.layers
            for label in self.case.layers
        )

    def worst(self, *, ever: bool = False) -> Severity | None:
        """Return the worst severity at the end, or at any exam."""
        reports = self.reports if ever else self.reports[-1:]
        return max((f.severity for _, findings in reports for f in findings), default=None)

    def delay(self, severity: Severity) -> int | None:
        """Return the steps from the onset to the first report with the right finding; None if
        there is no such report."""
        return next(
            (
                step - self.case.onset
                for step, findings in self.reports
                if step >= self.case.onset
                and any(f.name == self.case.finding and f.severity >= severity for f in findings)
            ),
            None,
        )

    def settled(self, severity: Severity) -> tuple[bool, ...]:
        """Return whether something that severe stands in each report after step `SETTLED`: what
        `fired` is for a peer."""
        return tuple(
            any(f.severity >= severity for f in findings)
            for step, findings in self.reports
            if step > SETTLED
        )


def held(fired: Sequence[bool]) -> bool:
    """Return whether a rule fires in at least half of the exams."""
    return sum(fired) >= len(fired) / 2 > 0


def _alarms(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity >= Severity.WARNING]


class _Reports:
    """A sink that keeps the findings of every report."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, tuple[Finding, ...]]] = []

    def write(self, report: Report) -> None:
        self.kept.append((report.step, report.findings))

    def close(self) -> None:
        pass


def watch(case: Case) -> Run:
    """Train a case, watched, and ask the peers' rules about what was seen."""
    reports = _Reports()
    try:
        outcome = train(
            case.build, case.steps, watch=True, every_n_steps=EVERY_N_STEPS, sinks=[reports]
        )
        assert outcome.watcher is not None
        return Run(case, tuple(reports.kept), ask_peers(outcome.watcher.history))
    except Exception as error:
        raise RuntimeError(f"{case.name} cannot be judged: {error!r}") from error


def ask_peers(history: History) -> dict[tuple[str, str], tuple[bool, ...]]:
    """Return whether each rule of each peer fires, at each exam after step `SETTLED`."""
    steps, losses = history.losses()
    records = history.records
    seen = [
        Seen(records[: i + 1], losses[steps <= record.step].tolist())
        for i, record in enumerate(records)
        if record.step > SETTLED
    ]
    return {
        (peer, name): tuple(bool(rule(one)) for one in seen)
        for peer, rules in PEERS.items()
        for name, rule in rules.items()
    }


def _start() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a sick training may well cause some
    logging.getLogger("gradwatch").setLevel(logging.ERROR)


@cache
def _corpus() -> dict[str, Case]:
    return collect()


def _work(name: str) -> tuple[object, ...]:
    """What `watch` found, without the case: recipes do not travel between processes."""
    run = watch(_corpus()[name])
    return run.reports, run.fired


def run_all(cases: Mapping[str, Case]) -> list[Run]:
    """Watch all cases in two processes."""
    # One thread each: the trainings are so small that a second one only waits for the first.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context, initializer=_start) as pool:
        futures = {pool.submit(_work, name): name for name in cases}
        finished = track(as_completed(futures), "training", total=len(cases), transient=True)
        results = {futures[future]: future.result() for future in finished}
    return [Run(case, *results[name]) for name, case in cases.items()]  # type: ignore[arg-type]


def main(names: Sequence[str] | None = None, *, quick: bool = False) -> None:
    """Judge the corpus, or some of it, and print the tables."""
    from tests.benchmarks.detection_tables import render

    cases = collect()
    if unknown := set(names or ()) - cases.keys():
        raise SystemExit(f"no case is named {', '.join(sorted(unknown))}")
    chosen = list(names or cases)[:: QUICK if quick else 1]
    start = time.perf_counter()
    runs = run_all({name: cases[name] for name in chosen})
    console = Console(width=None if Console().is_terminal else 150)  # as wide as it is in a log
    for part in render(runs):
        console.print(part)
    console.print(f"{time.perf_counter() - start:.0f} s with {WORKERS} processes")
