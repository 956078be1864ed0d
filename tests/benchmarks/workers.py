"""What the benchmarks of a corpus share: which cases, and several processes for them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Final, TypeVar

import torch
from rich.progress import Progress

from tests.zoo.case import Case

Job = TypeVar("Job", bound=tuple[Any, ...])
WORKERS: Final = 2
QUICK: Final = 8
"""`--quick` takes every so manyth case."""


def choose(
    cases: Mapping[str, Case], names: Sequence[str] | None, *, quick: bool
) -> dict[str, Case]:
    """Return the cases that were asked for; an unknown name ends the program."""
    if unknown := set(names or ()) - cases.keys():
        raise SystemExit(f"no case is named {', '.join(sorted(unknown))}")
    return {name: cases[name] for name in list(names or cases)[:: QUICK if quick else 1]}


def work_on(work: Callable[..., Any], jobs: Sequence[Job], doing: str) -> dict[Job, Any]:
    """Call `work` with each job's arguments, in processes of their own; return the results."""
    # One thread each: the trainings are so small that a second one only waits for the first.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(WORKERS, context, initializer=_start)
    with pool, Progress(transient=True) as progress:
        futures = {pool.submit(work, *job): job for job in jobs}
        finished = progress.track(as_completed(futures), len(jobs), description=doing)
        try:
            return {futures[future]: future.result() for future in finished}
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else all others are trained before it is said
            raise


def _start() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a sick training may well cause some
    logging.getLogger("gradwatch").setLevel(logging.ERROR)
