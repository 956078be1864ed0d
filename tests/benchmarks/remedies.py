"""How good trials are: what they advise, carried out and trained to the end with fresh seeds.

A trial sees a model, a loss function, an optimizer and some batches; so only trainings of that form
take part: those of the corpus whose step is `loss_fn(model(inputs), targets)`, backward and the
optimizer's step. For each sick one, the verdict that is ranked first is applied to a model with new
weights and trained on fresh batches, for the case's own steps: unstuck means that the median of the
seeds gets below the case's own threshold. Where it does not, every single remedy is trained in the
same way, so that "nothing can repair it" is measured, too.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from torch import nn

import gradwatch
from gradwatch.checking.batch import StepFailed
from gradwatch.core import catalog
from gradwatch.core.remedy import CannotApply, Prescription
from gradwatch.core.verdict import Outcome, Verdict, Verdicts
from gradwatch.remedies._modules import StandardisedTargets
from gradwatch.trying.candidates import candidates
from gradwatch.trying.optimizers import factory_of
from gradwatch.trying.twin import Case as Treatment
from gradwatch.trying.twin import Twin, make, step
from tests.benchmarks.detection import corpus
from tests.benchmarks.workers import WORKERS, choose, work_on
from tests.zoo.case import Case, Trial

BATCHES: Final = 16
"""Batches that a trial is given."""
BUDGET: Final = 120.0
"""Seconds of a trial: on this benchmark's small nets the steps decide, and not the machine."""
MAX_STEPS: Final = 200
MIN_STEPS: Final = 40
SEEDS: Final = (11, 12, 13)
"""Fresh ones: a trial uses others."""
SAME: Final = 0.98
"""Scores that differ by less than a fiftieth say nothing of who is better."""
FIRST: Final = 3
"""Prescriptions among which the right kind of advice has to be."""


@dataclass(frozen=True)
class Row:
    """What came of one case."""

    name: str
    sick: bool
    summary: str
    seconds: float
    advised: str = ""
    """Name of the verdict that is ranked first; empty when nothing is recommended."""
    unstuck: bool = False
    """Whether that, trained to the end with fresh seeds, gets below the threshold."""
    repaired_by: str = ""
    """Some remedy that does, the one that is advised first; empty when none does."""
    signs: tuple[int, int] = (0, 0)
    """Verdicts whose prediction the full training confirms in sign, and how many could be told."""
    right_advice: bool = False
    """Whether one of the first prescriptions answers a cause of the label."""
    held_out: bool = False

    @property
    def repairable(self) -> bool:
        """Whether any remedy of the catalogue gets it unstuck."""
        return bool(self.repaired_by)


def measure(case: Case) -> Row | None:
    """Try remedies on a case and train what is advised to the end; None if it is of another form
    than a trial can take."""
    _seed(0)
    trial = case.build()
    if trial.sample is None or trial.loss_fn is None or len(trial.optimizers) != 1:
        return None
    batches = [trial.sample() for _ in range(BATCHES)]
    verdicts = gradwatch.trial(
        trial.model,
        trial.loss_fn,
        batches,
        optimizer=trial.optimizers[0],
        steps=min(MAX_STEPS, max(MIN_STEPS, case.steps)),
        budget=BUDGET,
    )
    name = verdicts.recommended[0].name if verdicts.recommended else ""
    if not case.sick:
        return Row(case.name, False, verdicts.summary, verdicts.seconds, name)
    first = verdicts.recommended[0].prescriptions if verdicts.recommended else ()
    untreated = [finish(case, (), seed) for seed in SEEDS]
    unstuck = bool(first) and _reaches(case, first)
    report = verdicts.report
    prescribed = report.prescriptions[:FIRST] if report is not None else ()
    return Row(
        case.name,
        True,
        verdicts.summary,
        verdicts.seconds,
        name,
        unstuck,
        name if unstuck else _some_remedy(case, verdicts),
        _signs(case, verdicts, untreated),
        any(one.answers.endswith(tuple(f": {c}" for c in case.right_causes)) for one in prescribed),
        case.held_out,
    )


def finish(case: Case, prescriptions: Sequence[Prescription], seed: int) -> float:
    """Train a case with new weights, treated, on fresh batches to its end; returns its score,
    infinite where it breaks or the change does not fit."""
    _seed(seed)
    trial = case.build()
    assert trial.sample is not None
    batches = [trial.sample() for _ in range(BATCHES)]
    treatment = Treatment(
        trial.model, trial.loss_fn, batches, factory_of(trial.optimizers[0], trial.model)
    )
    losses: list[float] = []
    try:
        twin = make(treatment, prescriptions, seed=seed)
        for _ in range(case.steps):
            losses.append(float(step(twin, trial.sample(), read=False)[0]))
            if not math.isfinite(losses[-1]):
                return math.inf
    except (CannotApply, StepFailed):
        return math.inf
    if trial.score is None and not isinstance(twin.loss_fn, StandardisedTargets):
        return median(losses[-max(5, len(losses) // 10) :])
    _stand_in(trial.model, twin)
    if trial.score is None:
        with torch.no_grad():
            return median(_loss(trial) for _ in range(5))
    with torch.no_grad():
        score = trial.score()
    return score if math.isfinite(score) else math.inf


def _stand_in(model: nn.Module, twin: Twin) -> None:
    """Have the treated copy answer for the model that a score was made for, in the units of the
    targets: by a call of its own, so that its hooks run and it knows itself."""
    treated, loss_fn = twin.model, twin.loss_fn

    def forward(*inputs: Any, **named: Any) -> Any:
        output = treated(*inputs, **named)
        return output * loss_fn.std + loss_fn.mean if scaled else output

    scaled = isinstance(loss_fn, StandardisedTargets)
    model.forward = forward
    model.train = treated.train  # type: ignore[method-assign]


def _loss(trial: Trial) -> float:
    """The loss on a fresh batch, in its own units."""
    assert trial.sample is not None and trial.loss_fn is not None
    inputs, targets = trial.sample()
    return float(trial.loss_fn(trial.model(inputs), targets))


def _reaches(case: Case, prescriptions: Sequence[Prescription]) -> bool:
    return median(finish(case, prescriptions, seed) for seed in SEEDS) < case.threshold


def _some_remedy(case: Case, verdicts: Verdicts) -> str:
    """Return the first of what was measured, and then of all single remedies, that repairs it."""
    options = [verdict.prescriptions for verdict in verdicts]
    known = {verdict.name for verdict in verdicts}
    found = candidates(verdicts.report, catalog.remedies()).prescriptions
    options += [(one,) for one in found if one.remedy not in known]
    for prescriptions in options:
        if finish(case, prescriptions, SEEDS[0]) < case.threshold and _reaches(case, prescriptions):
            return " + ".join(one.remedy for one in prescriptions)
    return ""


def _signs(case: Case, verdicts: Verdicts, untreated: Sequence[float]) -> tuple[int, int]:
    """Compare who was better in the trial, treated or the controls, with who is better in full
    trainings; where the seeds of either overlap nothing was said, or can be told."""
    agreed = told = 0
    for verdict in verdicts:
        predicted = _prediction(verdict, verdicts.reseeded)
        if not predicted:
            continue
        scores = [finish(case, verdict.prescriptions, seed) for seed in SEEDS]
        better = max(scores) < SAME * min(untreated)
        if better or SAME * min(scores) > max(untreated):
            told += 1
            agreed += (predicted > 0) == better
    return agreed, told


def _prediction(verdict: Verdict, reseeded: Outcome | None) -> int:
    """1 if all seeds were better than those of both controls, -1 if worse, 0 if they overlap."""
    treated = _worth(verdict.treated, skill=True)
    controls = [verdict.untreated, *([] if reseeded is None else [reseeded])]
    others = [_worth(one, skill=True) for one in controls]
    if None in (treated, *others):
        if any(one.changes_loss for one in verdict.prescriptions):
            return 0
        treated = _worth(verdict.treated, skill=False)
        others = [_worth(one, skill=False) for one in controls]
    assert treated is not None
    known = [worth for other in others if other is not None for worth in other]
    return (min(treated) > max(known)) - (max(treated) < min(known))


def _worth(outcome: Outcome, *, skill: bool) -> list[float] | None:
    """What each seed is worth, in skill or in minus its loss; None where that is not known."""
    if not skill:
        return [-loss for loss in outcome.losses]
    known = [one for one in outcome.skills if one is not None]
    return known if len(known) == len(outcome.skills) else None


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _work(module: str | None, name: str) -> Row | None:
    try:
        return measure(corpus(module)[name])
    except Exception as error:
        if module is None:
            raise RuntimeError(f"{name} cannot be measured: {error!r}") from error
        print(f"{name} cannot be measured, and is left out: {error!r}", file=sys.stderr, flush=True)
        return None


def run_all(cases: Mapping[str, Case], module: str | None = None) -> list[Row]:
    """Measure all cases of the right form, several at a time."""
    results = work_on(_work, [(module, name) for name in cases], "trying")
    rows = [row for row in results.values() if row is not None]
    return sorted(rows, key=lambda row: row.name)


def main(
    names: Sequence[str] | None = None,
    *,
    quick: bool = False,
    unseen: str | None = None,
    to_json: Path | None = None,
) -> None:
    """Measure the corpus, some of it or another one, and print the table."""
    from tests.benchmarks.remedies_table import render

    chosen = choose(corpus(unseen), names, quick=quick)
    start = time.perf_counter()
    rows = run_all(chosen, unseen)
    if to_json is not None:
        to_json.write_text(json.dumps([asdict(row) for row in rows], indent=1), "utf-8")
    console = Console(width=None if Console().is_terminal else 150)
    for part in render(rows, len(chosen), named=unseen is None):
        console.print(part)
    console.print(f"{time.perf_counter() - start:.0f} s with {WORKERS} processes")
