"""Every remedy: what it claims to cure is trained with it, and what it claims not to cure."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import CellType, FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.checking.patient import seeded
from gradwatch.core import catalog
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.core.report import Report
from gradwatch.remedies import _modules
from gradwatch.trying import twin
from gradwatch.trying.candidates import UNKNOWN, candidates
from tests.zoo import case as zoo
from tests.zoo.corpus import collect
from tests.zoo.recipes import constant, convolutional
from tests.zoo.trainings import SICK, FunctionalMLP, PreNormTransformer, Training, batches, mlp

MODULES = [m for m in catalog.modules("gradwatch.remedies") if hasattr(m, "REMEDIES")]
REMEDIES = catalog.remedies()
CASES = collect()
ENOUGH = 60
"""Steps of a training without a remedy after which it is asked what is wrong."""


def claims(attribute: str) -> list[Any]:
    """The trainings that are named in each remedy's file."""
    return [
        pytest.param(module, name, id=f"{module.__name__.rpartition('.')[2]}-{name}")
        for module in MODULES
        for name in getattr(module, attribute, ())
    ]


@pytest.mark.parametrize(("module", "name"), claims("CURES"))
def test_it_cures_what_it_says(module: ModuleType, name: str) -> None:
    scores = [score for score, limit in tried(module, name) if score < limit]
    assert scores, f"none of {[score for score, _ in tried(module, name)]} is good enough"


@pytest.mark.parametrize(("module", "name"), claims("DOES_NOT_CURE"))
def test_it_does_not_cure_what_it_says_it_does_not(module: ModuleType, name: str) -> None:
    """That it cannot be applied, and says so, is one way not to cure."""
    assert all(score >= limit for score, limit in tried(module, name))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_its_trainings_are_known_and_not_held_out(module: ModuleType) -> None:
    for name in (*module.CURES, *module.DOES_NOT_CURE):
        assert name in SICK or (CASES[name].sick and not CASES[name].held_out)


# --- on any model: the right thing, or a reason ----------------------------------------------


class Reader(nn.Module):
    """Reads a sequence and answers from its last state."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


class Cells(nn.Module):
    """The same with a cell in a loop."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 16)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state)  # type: ignore[no-any-return]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: mlp(3, nn.Sigmoid), (64,)),
    "functional": (lambda: FunctionalMLP(3), (64,)),
    "conv": (lambda: convolutional(3, norm=nn.BatchNorm2d), (1, 8, 8)),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(8, 12, 3),
            nn.Tanh(),
            nn.Conv1d(12, 12, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48, 10),
        ),
        (8, 8),
    ),
    "transformer": (lambda: PreNormTransformer(2), (8, 8)),
    "rnn": (lambda: Reader(nn.RNN(8, 16, 2, batch_first=True)), (8, 8)),
    "lstm": (lambda: Reader(nn.LSTM(8, 16, batch_first=True)), (8, 8)),
    "cells": (lambda: Cells(nn.RNNCell(8, 16)), (8, 8)),
    "frozen": (lambda: frozen(), (64,)),
}


def frozen() -> nn.Module:
    model = mlp(3, nn.ReLU)
    model[:4].requires_grad_(False)
    return model


@cache
def looked_at(kind: str) -> tuple[twin.Case, Record]:
    torch.manual_seed(0)
    build, shape = MODELS[kind]
    model, batch = build(), (torch.randn(16, *shape), torch.randint(0, 10, (16,)))
    record = gradwatch.diagnose(model, F.cross_entropy, batch).record
    assert record is not None
    case = twin.Case(
        model,
        F.cross_entropy,
        [batch, batch],
        lambda m: torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=1e-3),
    )
    return case, record


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("remedy", REMEDIES, ids=lambda remedy: remedy.name)
def test_it_fits_any_model_or_says_why_not(remedy: Any, kind: str) -> None:
    """What is called runnable runs on a copy, which then trains, can be copied, and is told apart
    by nothing in its inputs and outputs."""
    case, record = looked_at(kind)
    before = copy.deepcopy(case.model.state_dict())
    try:
        prescription = remedy.prescribe(UNKNOWN, record)
    except CannotPrescribe as reason:
        assert len(str(reason)) > 10
        return
    if prescription.runnable:
        treated = twin.make(case, [prescription])
        copy.deepcopy(treated.model)
        course = twin.train(treated, case.batches, 2)
        assert all(map(math.isfinite, course.losses))
    else:
        assert all(line.startswith("#") for line in prescription.code.splitlines())
    torch.testing.assert_close(case.model.state_dict(), before, rtol=0, atol=0)


# --- how a claim is tried --------------------------------------------------------------------


def tried(module: ModuleType, name: str) -> Iterator[tuple[float, float]]:
    """Yield for each of the file's remedies that can be applied the score, and its limit."""
    report, recorded, limit = untreated(name)
    for remedy in module.REMEDIES:
        for prescription in candidates(report, [remedy]).prescriptions:
            build = partial(cured, name, prescription, recorded)
            outcome = zoo.train(build, steps(name))
            yield outcome.score, limit


@cache
def untreated(name: str) -> tuple[Report, list[Any], float]:
    """Return what is found in a training as it is, its first batches, and what a cure must reach.

    For a training without a threshold that is half of its first loss, or of the loss of the best
    constant answer.
    """
    recorded: list[Any] = []
    build = built(name)
    outcome = zoo.train(
        lambda: recording(build(), recorded), min(ENOUGH, steps(name)), watch=True, every_n_steps=20
    )
    assert outcome.watcher is not None
    report = outcome.watcher.report()
    if name in CASES:
        return report, recorded, CASES[name].threshold
    answer = None if report.record is None else report.record.answer
    constant = answer.constant if answer is not None else math.inf
    return report, recorded, min(outcome.losses[0], constant) / 2


def steps(name: str) -> int:
    return CASES[name].steps if name in CASES else SICK[name].steps


def built(name: str) -> Callable[[], zoo.Trial]:
    return CASES[name].build if name in CASES else lambda: supervised(SICK[name])


def supervised(training: Training) -> zoo.Trial:
    """Set up one of the trainings as a case of the corpus is."""
    model = training.model()
    optimizer = training.optimizer(training.trained(model), lr=training.learning_rate)
    loss_fn = copy.deepcopy(training.loss)
    drawn = batches(training)

    def step(i: int) -> Tensor:
        inputs, targets = next(drawn)
        training.disturb(model, i)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * training.schedule(i)
        loss = loss_fn(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss  # type: ignore[no-any-return]

    return zoo.Trial(model, [optimizer], step)


def recording(trial: zoo.Trial, into: list[Any], count: int = 8) -> zoo.Trial:
    """Note the first batches: what goes into the model, and into its loss function beside its
    answer."""
    taken: list[Any] = []
    model = trial.model

    def note(_: nn.Module, inputs: Any, options: dict[str, Any]) -> None:
        taken[:] = [copy.deepcopy(inputs or options)]

    model.register_forward_pre_hook(note, with_kwargs=True)
    cell, loss_fn = loss_of(trial)

    def told(output: Any, targets: Any) -> Any:
        if len(into) < count and taken:
            into.append((taken[0], copy.deepcopy(targets)))
        return loss_fn(output, targets)

    if cell is not None:
        cell.cell_contents = told
    return trial


def cured(name: str, prescription: Prescription, recorded: list[Any]) -> zoo.Trial:
    return treated(built(name)(), prescription, recorded)


def treated(trial: zoo.Trial, prescription: Prescription, recorded: list[Any]) -> zoo.Trial:
    """Apply what is prescribed, as a trial does, and have the training's step work with it."""
    model, optimizer = trial.model, trial.optimizers[0]
    cell, loss_fn = loss_of(trial)
    known = {id(parameter) for parameter in model.parameters()}
    scope = {name: v for name, v in vars(_modules).items() if isinstance(v, type)}
    scope |= {"torch": torch, "model": model, "loss_fn": loss_fn, "batches": recorded}
    scope["optimizer"] = optimizer
    code = compile(prescription.runs or prescription.code, prescription.remedy, "exec")
    if prescription.per_step:
        optimizer.register_step_pre_hook(lambda *_: exec(code, scope))
        return trial
    with seeded(model.parameters()):
        exec(code, scope)
    if prescription.of_optimizer and held(trial, "schedule")[1] is constant:
        keep_rate(scope["optimizer"])
    if new := [p for p in scope["model"].parameters() if id(p) not in known]:
        optimizer.add_param_group({"params": new})
    for found in cells(trial):
        if found.cell_contents is model:
            found.cell_contents = scope["model"]
        elif found.cell_contents is optimizer:
            found.cell_contents = scope["optimizer"]
    if cell is not None:
        cell.cell_contents = scope["loss_fn"]
    # In units of the targets' deviation the loss is what the score of such a case is.
    standardised = isinstance(scope["loss_fn"], _modules.StandardisedTargets)
    return zoo.Trial(
        scope["model"],
        [scope["optimizer"], *trial.optimizers[1:]],
        trial.step,
        trial.scaler,
        None if standardised else trial.score,
    )


def keep_rate(optimizer: torch.optim.Optimizer) -> None:
    """Have the rate that a remedy sets last, in a step that writes the same one each time."""
    rates = [group["lr"] for group in optimizer.param_groups]

    def before(*_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=False):
            group["lr"] = rate

    def after(*_: Any) -> None:  # a scheduler of the remedy has gone on by now
        rates[:] = [group["lr"] for group in optimizer.param_groups]

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def loss_of(trial: zoo.Trial) -> tuple[CellType | None, Any]:
    """Return where the step keeps its loss function, and the function."""
    return held(trial, "loss", "loss_fn")


def held(trial: zoo.Trial, *names: str) -> tuple[CellType | None, Any]:
    """Return where the step keeps something of one of these names, and what it is."""
    for function in functions(trial.step):
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            if name in names:
                return cell, cell.cell_contents
    return None, None


def cells(trial: zoo.Trial) -> Iterator[CellType]:
    """Yield what the functions of a training hold of the world around them."""
    for function in functions(trial.step, trial.score):
        yield from function.__closure__ or ()


def functions(*known: Any) -> list[FunctionType]:
    """Return functions, and those that they hold."""
    found: list[FunctionType] = []
    waiting = list(known)
    while waiting:
        function = waiting.pop()
        if isinstance(function, FunctionType) and function not in found:
            found.append(function)
            waiting += [cell.cell_contents for cell in function.__closure__ or ()]
    return found
