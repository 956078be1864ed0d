"""`trial()`: remedies are tried on copies of the model and measured, before any is advised."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

import torch
from torch import nn

from gradwatch.checking.batch import LossFn, StepFailed, WrongType, WrongValue, check_arguments
from gradwatch.checking.patient import patient, unwrapped
from gradwatch.core import catalog
from gradwatch.core.remedy import Remedy
from gradwatch.core.verdict import Verdicts
from gradwatch.trying import judge
from gradwatch.trying.candidates import candidates, pairs
from gradwatch.trying.optimizers import OptimizerFactory, factory_of
from gradwatch.trying.race import Arm, Budget, OutOfTime, halve, run
from gradwatch.trying.twin import Case

SEEDS: Final = (0, 1, 2)
"""The candidates of the last round, and the controls, are trained with each of them."""
MAX_BATCHES: Final = 32
"""Batches that are recorded when more are given."""
MIN_STEPS: Final = 40


def trial(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Iterable[Any],
    *,
    optimizer: torch.optim.Optimizer | OptimizerFactory | None = None,
    steps: int = 200,
    budget: float = 60.0,
    remedies: Iterable[Remedy] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Verdicts:
    """Try remedies on copies of a model, and say which of them get its training unstuck.

    An untreated copy is trained and examined; remedies that answer what is found, then all
    others that can be applied, are tried beside it: from the same weights, on the same batches
    in the same order. The controls, with several seeds each, are the untreated copy, one with
    new random weights, and one with a remedy drawn at random from those that dropped out. The
    better half goes on in each round, in pairs too, and the last few are measured with several
    seeds. The model, its gradients, the optimizer and all random generators are left as they
    were.

    Args:
        loss_fn: as for `gradwatch.diagnose`.
        batches: a list of batches or a data loader, each as for `gradwatch.diagnose`; of a long one
            the first 32 are recorded. A single batch is a list of one.
        optimizer: the one that trains the model: copies get one of its class with its options and
            its state. Or a function of the parameters. Adam with a learning rate of 1e-3 if None.
        steps: of the optimizer in a full training of a copy.
        budget: seconds for all of it. What was not reached is named. An interrupt from the
            keyboard ends it, too, and gives what there is.
        remedies: instead of all that are installed.
        on_step: called before each step of a copy with what is being trained.

    Raises `TypeError` or `ValueError` for arguments that make no sense, and `RuntimeError`, with
    the error as its cause, when the untreated model cannot make a step.
    """
    recorded = _recorded(batches)
    check_arguments(model, loss_fn, recorded[0])
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < MIN_STEPS:
        raise WrongValue(f"steps must be an int of at least {MIN_STEPS}, got {steps!r}")
    if not isinstance(budget, int | float) or not budget > 0:
        raise WrongValue(f"budget must be a positive number of seconds, got {budget!r}")
    make_optimizer = factory_of(optimizer, model)
    start = time.perf_counter()
    clock = Budget(budget, on_step)
    with patient(unwrapped(model), loss_fn, recorded) as (stand_in, stand_in_loss):
        case = Case(stand_in, stand_in_loss, recorded, make_optimizer)
        return _raced(
            case,
            steps,
            clock,
            catalog.remedies() if remedies is None else tuple(remedies),
            start,
        )


def _raced(
    case: Case, steps: int, clock: Budget, remedies: Sequence[Remedy], start: float
) -> Verdicts:
    untreated, reseeded = Arm(), Arm(reseed=True)
    if not run(case, untreated, steps, clock.endless(), watch=True):
        raise StepFailed(untreated.failed)
    found = candidates(untreated.courses[0].report, remedies)
    arms = [Arm((one,)) for one in found.prescriptions]
    finalists: list[Arm] = []
    missing: list[Arm] = []
    other: Arm | None = None
    if judge.needs_help(untreated):
        finalists, missing = halve(case, arms, steps, clock)
        doubles = [Arm(pair) for pair in pairs(finalists)]
        more, later = halve(case, doubles, steps, clock)
        missing += later
        finalists = judge.best([*finalists, *more])
        other = judge.at_random([arm for arm in arms if arm.courses], finalists)
        controls = [untreated, reseeded, *([other] if other is not None else [])]
        missing += _measured(case, [*controls, *finalists], steps, clock)
    return judge.verdicts(
        case,
        untreated,
        reseeded,
        other if other is not None and other.courses else None,
        [arm for arm in finalists if arm.courses],
        not_reached=tuple(arm.name for arm in missing if arm not in (untreated, reseeded, other)),
        not_applied=(*found.refused, *(arm.failed for arm in arms if arm.failed)),
        seconds=time.perf_counter() - start,
    )


def _measured(case: Case, arms: Sequence[Arm], steps: int, clock: Budget) -> list[Arm]:
    """Train each with every seed for all steps; returns which were not."""
    for arm in arms:
        if arm.prescriptions:
            arm.courses.clear()
    waiting = [(seed, arm) for seed in SEEDS for arm in arms if seed not in arm.courses]
    try:
        for seed, arm in waiting:
            run(case, arm, steps, clock, seed=seed, watch=seed == SEEDS[0])
    except (OutOfTime, KeyboardInterrupt):
        pass
    return [arm for arm in arms if not arm.courses]


def _recorded(batches: Iterable[Any]) -> list[Any]:
    if isinstance(batches, torch.Tensor | dict) or not isinstance(batches, Iterable):
        raise WrongType(
            f"batches must be a list of batches or a data loader, got {type(batches).__name__} "
            "(a single batch is a list of one)"
        )
    found = list(islice(batches, MAX_BATCHES))
    if not found:
        raise WrongValue("batches must hold at least one batch, it is empty")
    return found
