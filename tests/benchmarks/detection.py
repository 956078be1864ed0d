"""How well the detectors do on a corpus, and the rules of other tools on the same trainings.

Every case is trained, watched by one schedule for all, in two processes; a sick one a second time
with its cure, which should be left in peace. What is counted stands in `detection_measures`, what
is printed in `detection_tables` and `detection_readme`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from torch import Tensor

from gradwatch.core import catalog
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.record import Record
from gradwatch.core.report import Report, examine
from gradwatch.instrument.schedule import Schedule
from tests.benchmarks.peers import PEERS
from tests.benchmarks.readings import Seen
from tests.benchmarks.workers import WORKERS, choose, work_on
from tests.zoo.case import Case, Trial, train
from tests.zoo.corpus import collect

EVERY_N_STEPS: Final = 20
"""The one schedule for all: the shortest cases make 60 steps and should get some exams."""
SETTLED: Final = 10
"""Peers are asked at the exams after this step: what a net was born with may heal by then."""
SOON: Final = 0.2
"""Share of the steps after the onset within which a warning is in time."""
EXAMS: Final = 3
"""A warning is in time, too, if it comes with so manyth exam: what lasts has to be seen to last."""
LATE: Final = 0.5
"""Share of the steps after the onset within which a critical finding is in time."""


@dataclass(frozen=True)
class Run:
    """What was said of one training."""

    case: Case
    reports: tuple[tuple[int, tuple[Finding, ...]], ...]
    """Step and findings of the report at each exam; the last is the final one."""
    fired: Mapping[tuple[str, str], tuple[bool, ...]] = field(default_factory=dict)
    """By peer and rule: whether it fires at each exam after step `SETTLED`."""
    cured: bool = False
    """Whether it is the repaired twin of a sick case: trained with its cure, and so healthy."""
    steps: int = 0
    """Steps of optimizers that were watched; two optimizers that take turns make two."""
    predicted: tuple[Finding, ...] = ()
    """What the exam of step 0 gives without its update: all that `diagnose` could see."""
    broke: int | None = None
    """First step whose loss or gradients are not finite, as torch itself says; looked for in cases
    that a non-finite finding would be right for."""

    @property
    def sick(self) -> bool:
        """Whether something should be found."""
        return self.case.sick and not self.cured

    @property
    def final(self) -> tuple[Finding, ...]:
        """The findings at the end."""
        return self.reports[-1][1]

    @property
    def found(self) -> Finding | None:
        """The first finding that the label allows, if one is there at the end as a warning or
        worse."""
        return next((f for f in alarms(self.final) if f.name in self.case.right_names), None)

    @property
    def top(self) -> Finding | None:
        """What is read first at the end: the first root, if anything is a warning or worse."""
        roots = (finding for finding in self.final if not finding.because_of)
        return next(roots, None) if alarms(self.final) else None

    @property
    def right_cause(self) -> bool:
        """Whether the main cause of what is read first is one of the label's."""
        return self.top is not None and self.top.cause in self.case.right_causes

    @property
    def right_layer(self) -> bool:
        """Whether the main cause of what was found (or, if it names no layer, the finding) names a
        layer of the label, or something inside one."""
        if self.found is None:
            return False
        main = self.found.causes[0].layers if self.found.causes else ()
        return any(map(self._labelled, main or self.found.layers))

    def _labelled(self, layer: str) -> bool:
        return any(
            layer == label or layer.startswith((f"{label}.", f"{label}:"))
            for label in self.case.layers
        )

    @property
    def _broken(self) -> Finding | None:
        return next((f for f in self.final if f.name == "non-finite"), None)

    @property
    def exact_step(self) -> bool:
        """Whether a non-finite number is reported at the very step in which it came."""
        return self._broken is not None and self._broken.since == self.broke

    @property
    def exact_layer(self) -> bool:
        """Whether the first place that is named for a non-finite number is that of the label."""
        return self._broken is not None and any(map(self._labelled, self._broken.layers[:1]))

    def worst(self, *, ever: bool = False) -> Severity | None:
        """Return the worst severity at the end, or at any exam."""
        reports = self.reports if ever else self.reports[-1:]
        return max((f.severity for _, findings in reports for f in findings), default=None)

    def delay(self, severity: Severity) -> int | None:
        """Return the steps from the onset to the first report with a right finding; None if
        there is no such report."""
        return next(
            (
                step - self.case.onset
                for step, findings in self.reports
                if step >= self.case.onset
                and any(
                    f.name in self.case.right_names and f.severity >= severity for f in findings
                )
            ),
            None,
        )

    def limit(self, severity: Severity) -> float:
        """Return the longest delay that is in time: of a warning `SOON` of the steps after the
        onset or the exam with number `EXAMS`, whichever is later; of a critical one `LATE`."""
        steps = self.steps or self.case.steps
        after = steps - self.case.onset
        if severity == Severity.CRITICAL:
            return LATE * after
        schedule = Schedule(EVERY_N_STEPS)
        exams = [step for step in range(self.case.onset, steps) if schedule(step)][:EXAMS]
        return max([SOON * after, *(step - self.case.onset for step in exams)])

    def in_time(self, severity: Severity) -> bool:
        """Return whether a right finding came within the limit."""
        delay = self.delay(severity)
        return delay is not None and delay <= self.limit(severity)

    def settled(self, severity: Severity) -> tuple[bool, ...]:
        """Return whether something that severe stands in each report after step `SETTLED`: what
        `fired` is for a peer."""
        return tuple(
            any(f.severity >= severity for f in findings)
            for step, findings in self.reports
            if step > SETTLED
        )

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the peers, JSON-ready."""
        case = self.case
        label = {
            "names": [case.finding, *sorted(case.also)],
            "causes": [case.cause, *sorted(case.causes)],
            "layers": list(case.layers),
            "onset": case.onset,
            "born": case.born,
        }
        graded = (Severity.WARNING, Severity.CRITICAL)
        return {
            "name": case.name,
            "family": case.family,
            "half": "held out" if case.held_out else "development",
            "sick": self.sick,
            "cured": self.cured,
            "label": label if self.sick else None,
            "steps": self.steps,
            "final": [finding.to_json() for finding in self.final],
            "predicted": [finding.to_json() for finding in self.predicted],
            "worst_ever": str(worst) if (worst := self.worst(ever=True)) is not None else None,
            "delays": {str(s): self.delay(s) for s in graded} if self.sick else None,
            "limits": {str(s): self.limit(s) for s in graded} if self.sick else None,
            "broke": self.broke,
            "named": self.found is not None if self.sick else None,
            "right_cause": self.right_cause if self.sick else None,
        }


def held(fired: Sequence[bool]) -> bool:
    """Return whether a rule fires in at least half of the exams."""
    return sum(fired) >= len(fired) / 2 > 0


def alarms(findings: Sequence[Finding]) -> list[Finding]:
    """Return what is a warning or worse."""
    return [finding for finding in findings if finding.severity >= Severity.WARNING]


class _Reports:
    """A sink that keeps the findings of every report."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, tuple[Finding, ...]]] = []

    def write(self, report: Report) -> None:
        self.kept.append((report.step, report.findings))

    def close(self) -> None:
        pass


class _Breakage:
    """Builds a training that notes its first step whose loss or gradients are not finite."""

    def __init__(self, build: Callable[[], Trial]) -> None:
        self.build = build
        self.step: int | None = None

    def __call__(self) -> Trial:
        trial = self.build()

        def step(i: int) -> Tensor:
            loss = trial.step(i)
            if self.step is None:
                gradients = (p.grad for p in trial.model.parameters() if p.grad is not None)
                finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
                if not finite or not math.isfinite(float(loss.detach())):
                    self.step = i
            return loss

        return replace(trial, step=step)


def watch(case: Case, *, cured: bool = False) -> Run:
    """Train a case or its twin, watched, and ask the peers' rules about what was seen."""
    reports = _Reports()
    build = case.cure if cured and case.cure is not None else case.build
    breakage = _Breakage(build) if not cured and "non-finite" in case.right_names else None
    try:
        outcome = train(
            breakage or build, case.steps, watch=True, every_n_steps=EVERY_N_STEPS, sinks=[reports]
        )
        assert outcome.watcher is not None
        history = outcome.watcher.history
        return Run(
            case,
            tuple(reports.kept),
            ask_peers(history),
            cured,
            history.last_step + 1,
            predict(history.records),
            None if breakage is None else breakage.step,
        )
    except Exception as error:
        twin = "the cure of " if cured else ""
        raise RuntimeError(f"{twin}{case.name} cannot be judged: {error!r}") from error


def predict(records: Sequence[Record]) -> tuple[Finding, ...]:
    """Return what the exam of step 0 alone gives, without what an optimizer has to do with it."""
    if not records or records[0].step != 0:
        return ()
    first = records[0]
    parameters = (
        replace(p, held=None, group=None, update=None, sample=None, descent=None)
        for p in first.parameters
    )
    bare = replace(first, parameters=tuple(parameters), groups=(), clip_ratio=None)
    return examine(History.of([bare]), catalog.detectors(), ()).findings


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


def load(module: str) -> dict[str, Case]:
    """Return the `CASES` of a module by their names; it is given by its path or dotted name."""
    path = Path(module)
    if path.suffix == ".py":
        spec = spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.exists():
            raise FileNotFoundError(f"no module is at {module}")
        loaded = module_from_spec(spec)
        spec.loader.exec_module(loaded)
    else:
        loaded = import_module(module)
    cases: tuple[Case, ...] = tuple(loaded.CASES)
    found = {case.name: case for case in cases}
    if len(found) < len(cases):
        raise ValueError(f"two cases of {module} have one name: names have to be unique")
    return found


@cache
def corpus(module: str | None) -> dict[str, Case]:
    """Return the cases of the corpus, or of another module, by name."""
    return collect() if module is None else load(module)


def _work(module: str | None, name: str, cured: bool) -> tuple[object, ...]:
    """What `watch` found, without the case: recipes do not travel between processes."""
    run = watch(corpus(module)[name], cured=cured)
    return run.reports, run.fired, run.cured, run.steps, run.predicted, run.broke


def run_all(cases: Mapping[str, Case], module: str | None = None) -> list[Run]:
    """Watch all cases, of the corpus or of another module, and the twins of the sick ones."""
    jobs = [
        (module, name, cured)
        for name, case in cases.items()
        for cured in ((False, True) if case.sick else (False,))
    ]
    results = work_on(_work, jobs, "training")
    return [Run(cases[job[1]], *results[job]) for job in jobs]


def main(
    names: Sequence[str] | None = None,
    *,
    quick: bool = False,
    unseen: str | None = None,
    to_json: Path | None = None,
    readme: Path | None = None,
) -> None:
    """Judge the corpus, some of it or another one, and print the tables; write what is asked."""
    from tests.benchmarks import detection_readme, detection_tables

    start = time.perf_counter()
    runs = run_all(choose(corpus(unseen), names, quick=quick), unseen)
    if to_json is not None:
        to_json.write_text(json.dumps([run.to_json() for run in runs], indent=1), "utf-8")
    if readme is not None:
        detection_readme.write(readme, runs)
    console = Console(width=None if Console().is_terminal else 150)  # as wide as it is in a log
    # Another corpus has no halves, and none of it is for developing on.
    for part in detection_tables.render(runs, halves=unseen is None):
        console.print(part)
    console.print(f"{time.perf_counter() - start:.0f} s with {WORKERS} processes")
