"""Stalled updates: the optimizer steps, and the weights do not move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Parameter, Record
from gradwatch.detectors import _outcome, _slow, _steps, _unmoved


@dataclass(frozen=True, slots=True)
class StalledUpdates:
    """The steps are so small that nothing can come of them, or they are none at all.

    Each step promises a fall of the loss: the product of the gradient with the movement of the
    weights. When all steps so far together promise less than a hundredth of the loss, the training
    gets nowhere because of the steps, and not because of the model. That the loss would follow the
    weights if they moved is seen from the same numbers: where it would not, the fault is elsewhere
    (a saturated output, a vanishing gradient), and this detector is silent. So it is while the loss
    falls, and for an ordinary warm-up, whose steps soon promise more.

    In a training that has learnt little it is also said of steps that never reach a ten-thousandth
    of the weights' size, and of a group with most of the weights whose rate is a hundredth of the
    others' and less, so that it does not move.

    A learning rate that falls to nothing and stays there for half of the run while there is much
    left to learn is a schedule that ends too early. Weights that do not move at all although
    gradients are there mean that the optimizer gets none of them: `zero_grad()` between
    `backward()` and `step()`, or `step()` before `backward()`.
    """

    name: ClassVar[str] = "stalled-updates"

    promise: float = 0.02
    """Relative fall of the loss that all steps together must promise ..."""
    per_step: float = 1e-4
    """... and each of them on average, or the loss takes more than 10 000 steps to go."""
    hopeless: float = 1e-5
    """Promise per step under which no usual length of a run is enough."""
    steps: int = 20
    """Optimizer steps before the promise is judged: a warm-up begins with little."""
    still: float = 1e-6
    """Update-to-weight ratio, per step, under which a weight counts as standing still (a thousandth
    is usual: Karpathy's CS231n)."""
    rounds: float = 1e-5
    """Update-to-weight ratio that plain gradient descent would make, far above float32's roundings
    (6e-8)."""
    share: float = 0.9
    """Share of the weights (as parameters) that must stand still."""
    decayed: float = 1e-3
    """The learning rate has fallen to nothing when it is under this part of its largest."""
    part: float = 0.5
    """Part of the run that must have been still since: a cosine spends 2 % of its steps there."""
    learnt: float = 0.5
    """Part of the way to the right answers after which a schedule may well have ended."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the run as of its latest exam."""
        going = progress(history)
        streak = _steps.since(history, self._stands_still)
        found = self._never(history, going)
        found = found or self._slow(history, going) or self._promises_little(history, going)
        if _outcome.lasting(streak):
            found = self._ended(history, streak, going) or self._nothing(streak, going) or found
        return () if found is None else (found,)

    def _never(self, history: History, going: Progress) -> Finding | None:
        """Some weights get gradients and never change, not in the last bit, while others do."""
        exams, stuck = _unmoved.unmoved(history)
        if not stuck:
            return None
        severity = Severity.CRITICAL if going.moving is False else Severity.WARNING
        text = (
            "They get gradients, an optimizer with a learning rate holds them, and they do not "
            "change: its step() is never called, or their values are put back."
        )
        layers = _outcome.layers_of(stuck)
        return _finding(exams, severity, "disconnection", text, going, None, layers)

    def _slow(self, history: History, going: Progress) -> Finding | None:
        """Something moves, and it would take ten times as long."""
        if not _outcome.learns_little(history, going):
            return None
        warning, walk = Severity.WARNING, _steps.walk(history)
        if text := _slow.petered_out(history):
            return _finding(history.records, warning, "optimizer", text, going, walk)
        text, layers = _slow.part(history)
        if not text and going.moving is not True and self._promises_little(history, going) is None:
            text = _slow.everywhere(history) or _slow.hardly(history)
        if not text:
            return None
        return _finding(history.records, warning, "learning-rate", text, going, walk, layers)

    def _ended(
        self, history: History, streak: tuple[Record, ...], going: Progress
    ) -> Finding | None:
        """The learning rate fell to nothing long before the training was done."""
        rates = [rate for record in history for rate in record.learning_rates]
        now = max(streak[-1].learning_rates, default=math.inf)
        long = streak[-1].step - streak[0].step >= self.part * streak[-1].step
        done = bool(going.moving) if going.skill is None else going.skill > self.learnt
        if done or not long or not rates or not now < self.decayed * max(rates):
            return None
        text = (
            f"The learning rate fell from {max(rates):.2g} to {now:.2g} by step {streak[0].step}: "
            "the schedule ends too early (is it meant per epoch, and stepped per batch?)."
        )
        severity = Severity.WARNING if going.moving else Severity.CRITICAL
        return _finding(streak, severity, "learning-rate", text, going)

    def _nothing(self, streak: tuple[Record, ...], going: Progress) -> Finding | None:
        """Not even the last bit of a weight changes."""
        if going.moving or _largest(streak) or _weights(streak[0]) != _weights(streak[-1]):
            return None  # an exam may have fallen between the steps of accumulated micro-batches
        rates = [rate for record in streak for rate in record.learning_rates]
        if all(record.clip_ratio == 0 for record in streak) and any(rates):
            name, text = (
                "optimizer",
                "When the optimizer steps, the gradients of backward() are gone: zero_grad() "
                "stands between backward() and step(), or step() before backward().",
            )
        elif not rates:
            name, text = (
                "disconnection",
                "Nothing is done with the gradients: step() is not called, or on an optimizer that "
                "does not hold these parameters.",
            )
        elif max(rates) * _pull(streak[-1]) > self.rounds:
            name, text = (
                "optimizer",
                f"At a learning rate of {max(rates):.2g} they would: step() is never called.",
            )
        else:
            name = "learning-rate"
            text = f"At a learning rate of {max(rates):.2g} the steps round to nothing."
        return _finding(streak, Severity.CRITICAL, name, text, going)

    def _promises_little(self, history: History, going: Progress) -> Finding | None:
        """All steps together could not have changed the loss."""
        walk = _steps.walk(history)
        if walk is None or walk.steps < self.steps or going.moving or not walk.movement:
            return None
        records = history.records
        rates = records[-1].learning_rates
        text = (
            f"The learning rate{f' ({max(rates):.2g})' if rates else ''} is too low for these "
            "gradients: the loss would follow the weights, and they hardly move."
        )
        if walk.promise is None or walk.response is None:  # the loss is not known
            slow = walk.promise is None and walk.movement < self.still * walk.steps
            if not slow:
                return None
            return _finding(records, Severity.WARNING, "learning-rate", text, going, walk)
        enough = min(self.promise, self.per_step * walk.steps)
        if not 0 < walk.promise < enough or walk.response < _slow.RESPONSE:
            return None
        hopeless = walk.promise < self.hopeless * walk.steps
        sure = hopeless and going.moving is False and going.skill is not None
        severity = Severity.CRITICAL if sure else Severity.WARNING
        return _finding(records, severity, "learning-rate", text, going, walk)

    def _stands_still(self, record: Record) -> bool | None:
        measured = _measured(record)
        still = [ratio for _, ratio in measured if ratio < self.still]
        return len(still) >= self.share * len(measured) if measured else None


def _finding(
    records: tuple[Record, ...],
    severity: Severity,
    cause: str,
    text: str,
    going: Progress,
    walk: _steps.Walk | None = None,
    layers: tuple[str, ...] = (),
) -> Finding:
    largest = _largest(records[-1:], layers)
    how = f"the largest change is {largest:.2g} of a weight's size in a step"
    numbers = {"ratio": largest}
    if walk is not None:
        numbers["movement"] = walk.movement
        if walk.promise is not None:
            how += f", and all {walk.steps} steps promised the loss a fall of {walk.promise:.2%}"
            numbers["promise"] = walk.promise
    layers = layers or _outcome.owners(parameter for parameter, _ in _measured(records[-1]))
    return Finding(
        StalledUpdates.name,
        severity,
        f"the weights stand still: {how if largest else 'they do not change at all in a step'}",
        layers,
        records[0].step,
        records[-1].step,
        (Cause(cause, text, layers, share=1.0),),
        f"Measured on what the weights really moved; {going.text}.",
        numbers,
    )


def _pull(record: Record) -> float:
    """Return the typical size of a gradient, relative to that of its weight."""
    found = [
        p.gradient.rms / p.weight.rms
        for p, _ in _measured(record)
        if p.gradient is not None and p.weight is not None and p.weight.rms
    ]
    return median(found) if found else 0.0


def _weights(record: Record) -> dict[str, float]:
    return {p.name: p.weight.squares for p, _ in _measured(record) if p.weight is not None}


def _largest(records: tuple[Record, ...], layers: tuple[str, ...] = ()) -> float:
    found = [one for record in records for one in _measured(record)]
    return max((r for p, r in found if not layers or _outcome.owner(p) in layers), default=0.0)


def _measured(record: Record) -> list[tuple[Parameter, float]]:
    return [
        (parameter, parameter.update_ratio)
        for parameter in _outcome.weights(record)
        if parameter.update_ratio is not None
        and parameter.held is not False
        and parameter.gradient is not None
        and parameter.gradient.squares > 0
    ]


DETECTORS = (StalledUpdates(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "warm-up")
SICK = ("low-learning-rate", "zero-grad-after-backward")
