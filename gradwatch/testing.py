"""`assert_trainable()`: a test that a network can learn at all.

    def test_my_net_trains():
        assert_trainable(Net(), nn.CrossEntropyLoss(), (images, labels))

A copy is trained on one batch. That is the oldest check of a network (if it cannot even learn a
few samples by heart, nothing else will help), but for one trap: a network whose gradient has
vanished learns the bias of its output, and its loss falls. So the loss must get below what the
best constant output reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gradwatch.checking.batch import (
    LossFn,
    StepFailed,
    WrongType,
    WrongValue,
    backward,
    check_arguments,
    forward,
    fresh,
    loss_of,
)
from gradwatch.checking.constant import Constant, NotApplicable, best_constant, item, own_loss
from gradwatch.checking.patient import patient, unwrapped
from gradwatch.core.finding import Detector, Finding, Severity
from gradwatch.core.report import Report
from gradwatch.sinks._text import clean
from gradwatch.watcher import Watcher

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

RATES: Final = (1e-3, 1e-2, 1e-4)
"""Learning rates of Adam, tried until one works: a bad one is no fault of the model."""
MARGIN: Final = 0.05
"""Part of the way from the best constant's loss to the lowest possible that must be made."""
HALF: Final = 0.5
"""Part of its first loss that a network must lose where no constant can be compared with."""
LAST: Final = 5
"""The median of so many last losses counts: with dropout they are noisy."""
EXAMS: Final = 5
"""Exams of a training, beside those of its first steps."""


@dataclass(frozen=True, slots=True)
class Trainability:
    """What came out of training a copy of a model on one batch."""

    trained: bool
    reason: str
    """One sentence with numbers."""
    losses: tuple[float, ...]
    """The loss of each step."""
    baseline: float | None
    """The loss of the best constant output; None where there is none to compare with."""
    report: Report
    """What the watcher saw."""

    def passes(self, fail_on: Severity) -> bool:
        """Return whether it trained, and nothing as severe as `fail_on` was found."""
        return self.trained and all(one.severity < fail_on for one in self.report.findings)

    def __str__(self) -> str:
        return "\n".join(map(clean, self._lines()))

    def _lines(self) -> Iterator[str]:
        yield f"{self.report.model} {'trains' if self.trained else 'does not train'}: {self.reason}"
        findings = self.report.findings
        main: Finding | None = findings[0] if findings else None
        if main is None:
            return
        yield f"Found: {main.severity} {main.name}: {main.summary}."
        if main.causes:
            yield f"Because of {main.cause}: {main.causes[0].text}"
        if self.report.prescriptions:
            first = self.report.prescriptions[0]
            yield f"Try: {first.title} (see `gradwatch explain {first.remedy}`)."


def trainability(
    model: nn.Module,
    loss_fn: LossFn | None,
    batch: Any,
    *,
    steps: int = 100,
    optimizer: OptimizerFactory | None = None,
    detectors: Iterable[Detector] | None = None,
    on_step: Callable[[str, int], None] | None = None,
) -> Trainability:
    """Train a copy of a model on one batch, watch it, and judge what comes out.

    The model itself is left exactly as it was, and the outcome does not depend on the state of
    any random generator. Where the training gets nowhere it is tried again with another optimizer.

    Args:
        loss_fn, batch: as for `gradwatch.diagnose`. One batch, of some 32 samples or more: few
            samples say little about what goes beyond a constant output.
        steps: of the optimizer, 20 or more; 50 to 200 are enough.
        optimizer: a function that makes the optimizer from the list of parameters, in place of
            Adam with a learning rate of 1e-3, then 1e-2, then 1e-4.
        detectors: instead of all that are installed.
        on_step: called before each step with the name of the optimizer and the number of the step.

    Raises as `gradwatch.diagnose` does.
    """
    check_arguments(model, loss_fn, batch)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 20:
        raise WrongValue(f"steps must be an int of at least 20, got {steps!r}")
    if optimizer is not None and not callable(optimizer):
        raise WrongType(
            f"optimizer must be a function of the parameters, got {optimizer!r:.80}: give "
            "lambda params: torch.optim.SGD(params, lr=0.1)"
        )
    model = unwrapped(model)
    detectors = None if detectors is None else tuple(detectors)
    tried: list[Trainability] = []
    for factory in (optimizer,) if optimizer is not None else tuple(map(_adam, RATES)):
        with patient(model, loss_fn, batch) as (stand_in, stand_in_loss):
            run = _Run(stand_in, stand_in_loss, batch, factory)
            tried.append(run.outcome(steps, detectors, on_step))
        if tried[-1].trained:
            break
    # What got furthest speaks for a model that does not train: a loss that is not finite least.
    return min(tried, key=lambda one: (not one.trained, not one.losses[-1] < math.inf, _end(one)))


def assert_trainable(
    model: nn.Module,
    loss_fn: LossFn | None,
    batch: Any,
    *,
    steps: int = 100,
    optimizer: OptimizerFactory | None = None,
    fail_on: Severity | str = Severity.CRITICAL,
) -> None:
    """Raise `AssertionError` with what is wrong and what to try if a model cannot learn a batch.

    Also if it learns, and yet something as severe as `fail_on` is found: "note", "warning" or
    "critical". The arguments are those of `trainability`; the model is left exactly as it was.
    """
    __tracebackhide__ = True
    severity = _severity(fail_on)
    result = trainability(model, loss_fn, batch, steps=steps, optimizer=optimizer)
    if not result.passes(severity):
        raise AssertionError(str(result))


class _Run:
    """One training of a stand-in."""

    def __init__(
        self, model: nn.Module, loss_fn: LossFn | None, batch: Any, factory: OptimizerFactory
    ) -> None:
        self.model, self.loss_fn, self.batch = model, loss_fn, batch
        self.optimizer = factory([one for one in model.parameters() if one.requires_grad])
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise WrongType(
                f"optimizer must return a torch optimizer, it returned {self.optimizer!r:.80}"
            )
        rate = self.optimizer.param_groups[0].get("lr")
        self.name = f"{type(self.optimizer).__name__}({'' if rate is None else f'lr={rate:g}'})"
        self.losses: list[float] = []
        self.first: Any = None
        self.last: Any = None
        self.widths: tuple[int, ...] = ()

    def outcome(
        self,
        steps: int,
        detectors: tuple[Detector, ...] | None,
        on_step: Callable[[str, int], None] | None,
    ) -> Trainability:
        every = max(1, steps // EXAMS)
        with Watcher(
            self.model, self.optimizer, every_n_steps=every, detectors=detectors
        ) as watcher:
            for step in range(steps):
                if on_step is not None:
                    on_step(self.name, step)
                watcher.step(self._step())
                if not math.isfinite(self.losses[-1]):
                    break
            report = watcher.report()
        baseline, trained, reason = self._judged(report)
        return Trainability(trained, reason, tuple(self.losses), baseline, report)

    def _step(self) -> Tensor:
        batch = fresh(self.batch)
        output = forward(self.model, batch)
        loss = loss_of(self.loss_fn, output, batch)
        self.optimizer.zero_grad()
        backward(loss)
        try:
            self.optimizer.step()
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise StepFailed(f"the step of {self.name} raised {said}") from error
        self.last = tree_map_only(Tensor, Tensor.detach, output)
        self.first = self.last if self.first is None else self.first
        self.losses.append(float(loss.detach()))
        return loss.detach()

    def _judged(self, report: Report) -> tuple[float | None, bool, str]:
        last = len(self.losses) - 1
        if not math.isfinite(self.losses[-1]):
            return None, False, f"the loss is {self.losses[-1]} at step {last} of {self.name}."
        begin, end = self.losses[0], median(self.losses[-LAST:])
        went = f"the loss went from {begin:.4g} to {end:.4g} in {last + 1} steps of {self.name}"
        try:
            constant = self._constant(report)
        except NotApplicable as missing:
            trained = end < begin - HALF * abs(begin)
            how = "at least halved" if trained else "not halved"
            return None, trained, f"{went}: {how} (judged so, because {missing})."
        room = constant.loss - constant.floor
        trained = end < constant.loss - MARGIN * room
        if trained:
            verdict = f", and the best constant output reaches {constant.loss:.4g}."
        elif end < constant.loss:
            verdict = f": hardly below the {constant.loss:.4g} that a constant output reaches."
        else:
            verdict = (
                f", and a constant output reaches {constant.loss:.4g}: it would do as well to "
                "ignore its input."
            )
        return constant.loss, trained, went + verdict

    def _constant(self, report: Report) -> Constant:
        batch = fresh(self.batch)
        first, last = self.first, self.last
        if self.loss_fn is None:
            of_logits = own_loss(first, batch)
            first, last = item(first, "logits"), item(last, "logits")
            return best_constant(of_logits, first, last, _head(report))

        def of_output(output: Any) -> Tensor:
            return loss_of(self.loss_fn, output, batch)

        return best_constant(of_output, first, last, _head(report))


def _adam(rate: float) -> OptimizerFactory:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


def _end(result: Trainability) -> float:
    return median(result.losses[-LAST:])


def _head(report: Report) -> int | None:
    """Return how many values the last weighted layer gives."""
    calls = report.record.calls if report.record is not None else ()
    shapes = [c.layer.weight_shape for c in calls if c.layer.weighted and c.layer.weight_shape]
    return shapes[-1][0] if shapes else None


def _severity(fail_on: Severity | str) -> Severity:
    try:
        return fail_on if isinstance(fail_on, Severity) else Severity[fail_on.upper()]
    except (KeyError, AttributeError):
        expected = ", ".join(f'"{one}"' for one in Severity)
        raise ValueError(f"fail_on must be one of {expected}, got {fail_on!r}") from None
