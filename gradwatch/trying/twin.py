"""A twin: a copy of the model, treated or not, that trains on the recorded batches."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from types import CodeType
from typing import Any, Final

import torch
from torch import Tensor, nn

from gradwatch.checking.batch import (
    CannotStep,
    LossFn,
    StepFailed,
    Whole,
    backward,
    forward,
    fresh,
    loss_of,
)
from gradwatch.checking.patient import seeded
from gradwatch.core import answer, catalog
from gradwatch.core.answer import Answer
from gradwatch.core.ledger import ledger
from gradwatch.core.remedy import CannotApply, Prescription
from gradwatch.core.report import Report, examine
from gradwatch.instrument.answer import read_targets, readable
from gradwatch.trying.treatment import compiled, execute, scope_of
from gradwatch.watcher import Watcher

EXAMS: Final = 6
"""Exams of a watched training, beside those of its first steps."""
ANSWERS: Final = 5
"""The last steps, at least, whose answers are looked at."""
END: Final = 10
"""The median of the last tenth of the losses counts: single batches are noisy."""


@dataclass(frozen=True)
class Case:
    """What is to be tried on: none of it is ever changed."""

    model: nn.Module
    loss_fn: LossFn | None
    batches: Sequence[Any]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    """Makes the optimizer of a copy."""
    held: Sequence[Any] = ()
    """Batches that nothing is trained on: what copies are judged by."""


@dataclass
class Twin:
    """A copy under treatment."""

    model: nn.Module
    loss_fn: LossFn | None
    optimizer: torch.optim.Optimizer
    per_step: list[CodeType] = field(default_factory=list)
    scope: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Course:
    """How one training of a twin went."""

    losses: tuple[float, ...]
    seconds: float
    """Per step."""
    answers: tuple[Answer, ...] = ()
    """What the model answered in the last steps, where that could be read."""
    report: Report | None = None
    apart: tuple[Answer, ...] = ()
    """The same on batches that it was not trained on, in evaluation mode."""

    @property
    def end(self) -> float:
        """The median of the last losses; infinite when the training broke off."""
        last = self.losses[-max(3, len(self.losses) // END) :]
        return median(last) if all(map(math.isfinite, last)) else math.inf

    @property
    def skill(self) -> float | None:
        """What its answers are worth at the end."""
        return self._worth(self.answers)

    @property
    def held_skill(self) -> float | None:
        """What they are worth on batches that it was not trained on."""
        return self._worth(self.apart)

    def _worth(self, answers: Sequence[Answer]) -> float | None:
        known = [answer for answer in answers if answer.skill is not None]
        if not known or not math.isfinite(self.end):
            return None
        constant = median(answer.constant for answer in known)
        return 1 - median(answer.loss for answer in known) / constant

    @property
    def bits(self) -> float | None:
        """Bits of the gradient between the output and the first layer, in the last exam."""
        if self.report is None or self.report.record is None:
            return None
        found = ledger(self.report.record)
        return found.total if found.entries else None


def make(
    case: Case,
    prescriptions: Sequence[Prescription] = (),
    *,
    reseed: bool = False,
    seed: int = 0,
) -> Twin:
    """Copy the model and its loss function together, treat the copy, and make its optimizer.

    Weights that a remedy draws depend on the seed. With `reseed` every module that can draw its
    weights anew does so. Raises `CannotApply`.
    """
    with seeded(case.model.parameters(), seed):
        return _made(case, prescriptions, reseed)


def _made(case: Case, prescriptions: Sequence[Prescription], reseed: bool) -> Twin:
    model, loss_fn = copy.deepcopy((case.model, case.loss_fn))
    if reseed:
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    scope = scope_of(model, loss_fn, case.batches)
    later = []
    for one in prescriptions:
        if not one.runnable:
            raise CannotApply(f"{one.remedy} has to be done by hand")
        if one.per_step or one.of_optimizer:
            later.append(one)
        else:
            execute(one, scope)
    model, loss_fn = scope["model"], scope["loss_fn"]
    if isinstance(case.batches[0], Whole) and loss_fn is not None:
        raise CannotApply("the loss is computed in the training step: it has to be done by hand")
    twin = Twin(model, loss_fn, case.optimizer(model), [], scope)
    scope["optimizer"] = twin.optimizer
    for one in later:
        if one.per_step:
            twin.per_step.append(compiled(one))
        else:
            execute(one, scope)
            twin.optimizer = scope["optimizer"]
    return twin


def train(
    twin: Twin,
    batches: Sequence[Any],
    steps: int,
    *,
    held: Sequence[Any] = (),
    seed: int = 0,
    watch: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> Course:
    """Train a twin for some steps on the batches, in an order that the seed decides; it stops
    early when the loss is no longer finite. In the last steps it is asked for its answers on
    batches that are held back, too."""
    order = _order(len(batches), steps, seed)
    losses: list[float] = []
    answers: list[Answer] = []
    apart: list[Answer] = []
    end = steps - max(ANSWERS, steps // END)
    watcher = None
    if watch:
        every = max(1, steps // EXAMS)
        # Judged once, at the end: what is said of copies on the way is for nobody's log.
        watcher = Watcher(twin.model, twin.optimizer, every_n_steps=every, detectors=())
    start = time.perf_counter()
    try:
        with seeded([*twin.model.parameters()], seed):
            for number, i in enumerate(order):
                on_step()
                late = number >= end
                loss, said = step(twin, batches[i], read=late)
                if watcher is not None:
                    watcher.step(loss)
                losses.append(float(loss))
                answers += [] if said is None else [said]
                other = ask(twin, held[number % len(held)]) if late and held else None
                apart += [] if other is None else [other]
                if not math.isfinite(losses[-1]):
                    break
        seconds = (time.perf_counter() - start) / len(losses)
        report = None if watcher is None else _judged(twin.model, watcher)
        return Course(tuple(losses), seconds, tuple(answers), report, tuple(apart))
    finally:
        if watcher is not None:
            watcher.close()


def _judged(model: nn.Module, watcher: Watcher) -> Report:
    name = type(model).__name__
    return examine(watcher.history, catalog.detectors(), catalog.remedies(), model=name)


def _order(count: int, steps: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < steps:
        order += torch.randperm(count, generator=generator).tolist()
    return order[:steps]


def step(twin: Twin, batch: Any, *, read: bool = False) -> tuple[Tensor, Answer | None]:
    """Make one step of its training; returns the loss and, if that is to be read, what the model
    answered. Raises `StepFailed`."""
    batch = fresh(batch)
    output = forward(twin.model, batch)
    loss = loss_of(twin.loss_fn, output, batch)
    twin.optimizer.zero_grad()
    looked: list[Tensor] = []
    if read and isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(lambda gradient: looked.append(gradient.detach()))
    backward(loss)
    twin.scope["loss"] = loss
    try:
        for code in twin.per_step:
            exec(code, twin.scope)
        twin.optimizer.step()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise StepFailed(f"the optimizer's step raised {said}") from error
    return loss.detach(), _answer(output, looked[0], loss) if looked else None


def ask(twin: Twin, batch: Any) -> Answer | None:
    """Return what it answers on a batch that it is not trained on, in evaluation mode; None where
    that cannot be done, or its loss is no function of one output."""
    if isinstance(batch, Whole):
        return None
    batch = fresh(batch)
    with _evaluated(twin.model), suppress(CannotStep, RuntimeError):
        with torch.no_grad():
            output = forward(twin.model, batch)
        if isinstance(output, Tensor):
            output = output.detach().requires_grad_()
            loss = loss_of(twin.loss_fn, output, batch)
            (gradient,) = torch.autograd.grad(loss, output)
            return _answer(output, gradient, loss)
    return None


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _answer(output: Tensor, gradient: Tensor, loss: Tensor) -> Answer | None:
    if not readable(output, gradient):
        return None
    return answer.read(read_targets(output, gradient).tolist(), float(loss.detach()))
