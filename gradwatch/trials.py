"""`trial()`: remedies are tried on copies of the model and measured, before any is advised."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from gradwatch.checking.batch import (
    LossFn,
    StepFailed,
    TrainingStep,
    Whole,
    WrongType,
    WrongValue,
    check_arguments,
)
from gradwatch.checking.patient import patient, seeded, unwrapped
from gradwatch.checkup import diagnose
from gradwatch.core import catalog
from gradwatch.core.remedy import Remedy
from gradwatch.core.reporter import warn_safely
from gradwatch.core.runfolder import find
from gradwatch.core.runfolder_trial import write_trial
from gradwatch.core.verdict import Outcome, Verdicts
from gradwatch.trying import judge
from gradwatch.trying.candidates import candidates, pairs
from gradwatch.trying.optimizers import OptimizerFactory, Remade, factory_of
from gradwatch.trying.race import Arm, Budget, OutOfTime, halve, run
from gradwatch.trying.twin import Case, make, train

SEEDS: Final = (0, 1, 2)
"""The candidates of the last round, and the controls, are trained with each of them."""
MAX_BATCHES: Final = 32
"""Batches that are recorded when more are given."""
HELD: Final = 16
"""One in so many batches is held back: others are soon learnt by heart."""
MIN_STEPS: Final = 40
WARM: Final = 5
"""Steps that tell how long one takes."""
CONTROLS: Final = 3
SINGLE: Final = 0.4
"""Part of the budget in which single remedies have to be sorted out ..."""
DOUBLE: Final = 0.25
"""... and of what is left then, in which pairs have to be."""


def trial(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Iterable[Any],
    *,
    optimizer: torch.optim.Optimizer | Remade | OptimizerFactory | None = None,
    steps: int = 200,
    budget: float = 60.0,
    remedies: Iterable[Remedy] | None = None,
    finalists: int = 4,
    training_step: TrainingStep | None = None,
    on_step: Callable[[str], None] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
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
            the first 32 are recorded. A single batch is a list of one. Of 16 and more, every
            sixteenth is held back, and copies are asked on those, too, in evaluation mode: a few
            batches are soon learnt by heart.
        optimizer: the one that trains the model: copies get one of its class with its options and
            its state. Or a function of the parameters. Adam with a learning rate of 1e-3 if None.
        steps: of the optimizer in a full training of a copy; fewer (40 or more) where the budget
            would not last for these.
        budget: seconds for all of it. What was not reached is named. An interrupt from the
            keyboard ends it, too, and gives what there is.
        remedies: instead of all that are installed.
        finalists: how many are measured with several seeds in the last round.
        training_step: for a loss that is no function of one output: called with a model and a
            batch, it returns the loss. It has to use the model that it is given; loss_fn is None.
        on_step: called before each step of a copy with what is being trained.
        log_dir: of the recorded run that this is about: the result is kept in its run folder, where
            the page, the tab and the Markdown report of that run show it.

    Raises `TypeError` or `ValueError` for arguments that make no sense, `FileNotFoundError` when no
    run was recorded in log_dir, and `RuntimeError`, with the error as its cause, when the untreated
    model cannot make a step. For a model that cannot be copied nothing is tried: the result says
    so, and its report prescribes.
    """
    recorded = _recorded(batches)
    if training_step is not None:
        if loss_fn is not None or not callable(training_step):
            raise WrongType(
                "training_step must be a function of a model and a batch, and loss_fn None, got "
                f"{training_step!r:.80} and {loss_fn!r:.80}"
            )
        recorded = [Whole(training_step, batch) for batch in recorded]
    check_arguments(model, loss_fn, recorded[0])
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < MIN_STEPS:
        raise WrongValue(f"steps must be an int of at least {MIN_STEPS}, got {steps!r}")
    if not isinstance(budget, int | float) or not budget > 0:
        raise WrongValue(f"budget must be a positive number of seconds, got {budget!r}")
    if not isinstance(finalists, int) or isinstance(finalists, bool) or finalists < 1:
        raise WrongValue(f"finalists must be an int of at least 1, got {finalists!r}")
    make_optimizer = factory_of(optimizer, model)
    folder = None if log_dir is None else find(Path(log_dir))[0]
    start = time.perf_counter()
    clock = Budget(budget, on_step)
    try:
        copy.deepcopy((unwrapped(model), loss_fn))
    except Exception as error:
        return _kept(_untried(model, loss_fn, recorded[0], error), folder)
    with patient(unwrapped(model), loss_fn, recorded) as (stand_in, stand_in_loss):
        kept = [batch for i, batch in enumerate(recorded, 1) if i % HELD]
        held = recorded[HELD - 1 :: HELD]
        case = Case(stand_in, stand_in_loss, kept, make_optimizer, held)
        wanted = catalog.remedies() if remedies is None else tuple(remedies)
        return _kept(_raced(case, steps, clock, wanted, finalists, start), folder)


def _kept(verdicts: Verdicts, folder: Path | None) -> Verdicts:
    """Keep them in a run folder, if there is one: a full disk does not cost what was measured."""
    if folder is not None:
        try:
            write_trial(folder, verdicts)
        except OSError as error:
            warn_safely(f"gradwatch: the trial is not kept in {folder}: {error}")
    return verdicts


def _untried(model: nn.Module, loss_fn: LossFn | None, batch: Any, error: Exception) -> Verdicts:
    """Prescribe for a model of which there can be no copies: from an examination of its own."""
    why = f"The model cannot be copied ({type(error).__name__}: {error}), so nothing was tried."
    nothing = Outcome((math.nan,), (None,), 0)
    return Verdicts((), nothing, None, report=diagnose(model, loss_fn, batch), summary=why)


def _raced(
    case: Case,
    steps: int,
    clock: Budget,
    remedies: Sequence[Remedy],
    number: int,
    start: float,
) -> Verdicts:
    untreated, reseeded = Arm(), Arm(reseed=True)
    steps = _affordable(case, steps, clock, len(SEEDS) * (number + CONTROLS + 1))
    if not run(case, untreated, steps, clock.endless(), watch=True):
        raise StepFailed(untreated.failed)
    found = candidates(untreated.courses[0].report, remedies)
    arms = [Arm((one,)) for one in found.prescriptions]
    ahead: list[Arm] = []
    missing: list[Arm] = []
    other: Arm | None = None
    dropped: tuple[str, ...] = ()
    usual = untreated.courses[0].end
    if judge.needs_help(untreated):
        ahead, missing = halve(case, arms, steps, clock.part(SINGLE), number, usual)
        doubles = [Arm(pair) for pair in pairs(ahead)]
        more, later = halve(case, doubles, steps, clock.part(DOUBLE), number, usual)
        missing += later
        ahead = judge.best([*ahead, *more], number, usual)
        dropped = tuple(judge.dropped([*arms, *doubles], ahead))
        other = judge.at_random([arm for arm in arms if arm.courses], ahead)
        # In this order, so that a short budget has a verdict on the best at least.
        last = [untreated, *ahead[:1], reseeded, *ahead[1:]]
        last += [other] if other is not None else []
        missing += _measured(case, last, steps, clock)
    return judge.verdicts(
        case,
        untreated,
        reseeded,
        other if other is not None and other.courses else None,
        [arm for arm in ahead if arm.courses],
        dropped=dropped,
        not_reached=tuple(arm.name for arm in missing if arm not in (untreated, reseeded, other)),
        not_applied=(*found.refused, *(arm.failed for arm in arms if arm.failed)),
        seconds=time.perf_counter() - start,
    )


def _affordable(case: Case, steps: int, clock: Budget, trainings: int) -> int:
    """Return how many steps a full training can have, of which there are so many: fewer only where
    the budget would not last for that."""
    twin = make(case)
    with suppress(StepFailed):  # the untreated copy will say so
        seconds = train(twin, case.batches, WARM, on_step=clock.endless().tick).seconds
        return max(MIN_STEPS, min(steps, int(clock.left / (trainings * max(seconds, 1e-9)))))
    return steps


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
    if isinstance(batches, Iterator):
        raise WrongType(
            "batches must be a list of batches or a data loader: an iterator "
            f"({type(batches).__name__}) would be used up"
        )
    owners = (batches, getattr(batches, "sampler", None))
    generators = [one for o in owners if (one := getattr(o, "generator", None)) is not None]
    states = [generator.get_state() for generator in generators]
    with seeded():  # a loader draws its order, and a seed for its workers
        found = list(islice(batches, MAX_BATCHES))
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    if not found:
        raise WrongValue("batches must hold at least one batch, it is empty")
    return found
