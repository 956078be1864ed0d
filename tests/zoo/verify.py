"""`python -m tests.zoo verify`: proves every label of the corpus by training, cures included."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.zoo.case import Case, train
from tests.zoo.corpus import collect

WORKERS = 2
MARGIN = 0.15
"""A label that holds by less than this share of the threshold is said to be close."""


@dataclass(frozen=True)
class Verdict:
    """A case, and its scores by seed: as it is, and of a sick one with its cure."""

    case: Case
    scores: tuple[float, ...]
    cured: tuple[float, ...] = ()
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the label is true for every seed."""
        return self._holds(0.0)

    @property
    def close(self) -> bool:
        """Whether the label is true by a hair only."""
        return self.holds and not self._holds(MARGIN)

    def _holds(self, margin: float) -> bool:
        below = self.cured if self.case.sick else self.scores
        above = self.scores if self.case.sick else ()
        threshold = self.case.threshold
        return all(score < threshold * (1 - margin) for score in below) and all(
            score >= threshold * (1 + margin) for score in above
        )

    def __str__(self) -> str:
        return ("close" if self.close else "ok") if self.holds else "FAIL"


def score(name: str, seed: int, cured: bool) -> tuple[float, float]:
    """Train a case, or its cure, and return its score and the seconds that it took."""
    case = _corpus()[name]
    build = case.cure if cured and case.cure is not None else case.build
    start = time.perf_counter()
    try:
        outcome = train(build, case.steps, seed=seed)
    except Exception as error:
        raise RuntimeError(f"{name} with seed {seed} cannot be trained: {error!r}") from error
    return outcome.score, time.perf_counter() - start


def verify(cases: Mapping[str, Case], seeds: Sequence[int]) -> list[Verdict]:
    """Train all cases, and the cures of the sick ones, with each seed in two processes."""
    jobs = [
        (name, seed, cured)
        for name, case in cases.items()
        for seed in seeds
        for cured in ((False, True) if case.sick else (False,))
    ]
    # One thread each: the trainings are so small that a second one only waits for the first.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context, initializer=_start) as pool:
        futures = {pool.submit(score, *job): job for job in jobs}
        finished = track(as_completed(futures), "training", total=len(jobs), transient=True)
        results = {futures[future]: future.result() for future in finished}
    return [
        Verdict(
            case,
            tuple(results[name, seed, False][0] for seed in seeds),
            tuple(results[name, seed, True][0] for seed in seeds) if case.sick else (),
            sum(seconds for (of, _, _), (_, seconds) in results.items() if of == name),
        )
        for name, case in cases.items()
    ]


def table(verdicts: Iterable[Verdict]) -> Table:
    """Return the table of all cases."""
    result = Table("case", "family", "label", "threshold", "scores", "cured", "s", "verdict")
    for verdict in verdicts:
        case = verdict.case
        result.add_row(
            case.name,
            case.family,
            f"{case.finding} ({case.cause})" if case.sick else "healthy",
            f"{case.threshold:.4g}",
            _numbers(verdict.scores),
            _numbers(verdict.cured),
            f"{verdict.seconds:.1f}",
            str(verdict),
            style=None if verdict.holds else "red",
        )
    return result


def main(names: Sequence[str] | None, seeds: Sequence[int]) -> int:
    """Verify the corpus, or some of it, and print the table; 1 if a label fails."""
    cases = collect()
    if unknown := set(names or ()) - cases.keys():
        raise SystemExit(f"no case is named {', '.join(sorted(unknown))}")
    start = time.perf_counter()
    verdicts = verify({name: cases[name] for name in names or cases}, seeds)
    width = None if Console().is_terminal else 200  # as wide as it is in a log
    console = Console(width=width)
    console.print(table(verdicts))
    failed = [verdict.case.name for verdict in verdicts if not verdict.holds]
    close = [verdict.case.name for verdict in verdicts if verdict.close]
    sick = sum(verdict.case.sick for verdict in verdicts)
    console.print(
        f"{sick} sick, {len(verdicts) - sick} healthy; {len(failed)} labels fail, {len(close)} hold"
        f" by less than {MARGIN:.0%}; {time.perf_counter() - start:.0f} s with {WORKERS} processes"
    )
    for title, some in (("fails", failed), ("close", close)):
        if some:
            console.print(f"{title}: {', '.join(some)}")
    return 1 if failed else 0


def _start() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a sick training may well cause some


@cache
def _corpus() -> dict[str, Case]:
    return collect()


def _numbers(scores: Iterable[float]) -> str:
    return "  ".join("inf" if math.isinf(score) else f"{score:.3g}" for score in scores)
