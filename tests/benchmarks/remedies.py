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
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch
from rich.console import Console
from torch import nn

import gradwatch
from gradwatch.checking.batch import StepFailed
from gradwatch.core import catalog
from gradwatch.core.remedy import CannotApply, Prescription
from gradwatch.core.verdict import Outcome, Verdicts
from gradwatch.remedies._modules import StandardisedTargets
from gradwatch.trying.candidates import candidates
from gradwatch.trying.optimizers import factory_of
from gradwatch.trying.twin import Case as Treatment
from gradwatch.trying.twin import make, step
from tests.benchmarks.detection import corpus
from tests.benchmarks.workers import WORKERS, choose, work_on
from tests.zoo.case import Case

BATCHES: Final = 16
"""Batches that a trial is given."""
BUDGET: Final = 120.0
"""Seconds of a trial: on this benchmark's small nets the steps decide, and not the machine."""
MAX_STEPS: Final = 200
MIN_STEPS: Final = 40
SEEDS: Final = (11, 12, 13)
"""Fresh ones: a trial uses others."""
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
    # In units of the targets' deviation the loss is what the score of such a case is.
    if trial.score is None or isinstance(twin.loss_fn, StandardisedTargets):
        return median(losses[-max(5, len(losses) // 10) :])
    _stand_in(trial.model, twin.model)
    with torch.no_grad():
        score = trial.score()
    return score if math.isfinite(score) else math.inf


def _stand_in(model: nn.Module, treated: nn.Module) -> None:
    """Have the treated copy answer for the model that a score was made for."""
    model.forward = treated.forward
    model.train = treated.train  # type: ignore[method-assign]


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
    """Compare who was better in the trial, treated or not, with who is better in full trainings;
    where the seeds of these overlap nothing can be told."""
    agreed = told = 0
    for verdict in verdicts:
        predicted = _gain(verdict.treated, verdict.untreated)
        scores = [finish(case, verdict.prescriptions, seed) for seed in SEEDS]
        better = max(scores) < min(untreated)
        if predicted is None or not (better or min(scores) > max(untreated)):
            continue
        told += 1
        agreed += (predicted > 0) == better
    return agreed, told


def _gain(treated: Outcome, untreated: Outcome) -> float | None:
    if treated.skill is not None and untreated.skill is not None:
        return treated.skill - untreated.skill
    if not math.isfinite(untreated.loss):
        return 1.0 if math.isfinite(treated.loss) else None
    return untreated.loss - treated.loss


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _work(module: str | None, name: str) -> Row | None:
    try:
        return measure(corpus(module)[name])
    except Exception as error:
        raise RuntimeError(f"{name} cannot be measured: {error!r}") from error


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
