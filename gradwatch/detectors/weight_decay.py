"""Weight decay dominates: the weights are shrunk faster than they can learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, Final

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Group, Parameter, Record
from gradwatch.detectors import _depth, _outcome, _penalty, _steps

DECOUPLED: Final = ("W", "Lion", "Adafactor", "LAMB", "Lamb", "LARS", "Muon")
"""Ends of the class names of optimizers that decay the weight itself (Loshchilov & Hutter 2019);
the others add the decay to the gradient."""


@dataclass(frozen=True, slots=True)
class WeightDecayDominates:
    """Most of a step only makes the weights smaller, and they did become so.

    A penalty on the squared weights in the loss counts as decay, too: it is what the loss is more
    than that of the answers, in the same proportion to the weights' squares in all exams.

    What decay does is compared with what the gradient does: weight decay times the weight with the
    gradient where decay is added to it (SGD, Adam), and the decay's step with the whole step where
    it is not (AdamW). At the end of a good training the two balance as well, so that it also takes
    weights that have shrunk to much less than they began with, and a training that is stuck, or far
    from the right answers (less than half of the way from the best constant one).
    """

    name: ClassVar[str] = "weight-decay-dominates"

    ratio: float = 0.5
    """What decay does over what the gradient does (or over the whole step), in half of the weights
    (measured: at most 0.4 in healthy trainings that are not done)."""
    shrunk: float = 0.7
    """Size of the typical weight, as a part of what it began with."""
    drop: float = 2.5
    """Decades that the gradient of a first step may lose over depth: more is a fault of its own."""
    learnt: float = 0.5
    """Part of the way to the right answers after which it is no fault."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams against the first."""
        born: dict[str, float] = {}
        for record in history:
            for parameter in record.parameters:
                if parameter.weight is not None:
                    born.setdefault(parameter.name, parameter.weight.rms)
        penalty = _penalty.strength(history)
        streak = tuple(
            _penalty.as_decay(record, penalty)
            for record in _steps.since(
                history, lambda record: self._dominates(_penalty.as_decay(record, penalty))
            )
        )
        trend = _depth.trend(history.records[0]) if streak else None
        if trend is not None and trend.drop > self.drop:
            return ()  # next to a gradient that is lost on its way any decay is strong
        going = progress(history)
        if not streak or not (size := _size(streak[-1], born)) < self.shrunk:
            return ()
        if going.moving and (going.skill is None or going.skill > self.learnt):
            return ()
        return (self._finding(streak, size, going, penalty),)

    def _finding(
        self, streak: tuple[Record, ...], size: float, going: Progress, penalty: float
    ) -> Finding:
        latest = streak[-1]
        ratio = median(_ratios(latest))
        decay = max(group.weight_decay or 0.0 for _, group in _decayed(latest))
        certain = _outcome.lasting(streak) and going.moving is False
        layers = _outcome.owners(parameter for parameter, _ in _decayed(latest))
        cause = Cause(
            "optimizer",
            f"The loss holds {penalty:.2g} times the sum of the squared weights, and that makes "
            f"{ratio:.0%} of the gradient."
            if penalty
            else f"A weight decay of {decay:.2g} does {ratio:.2g} times what the gradient does.",
            layers,
            share=1.0,
        )
        return Finding(
            self.name,
            Severity.CRITICAL if certain else Severity.WARNING,
            f"the typical weight has shrunk to {size:.2g} of its size: weight decay is stronger "
            "than the gradient",
            layers,
            streak[0].step,
            latest.step,
            (cause,),
            f"Seen since step {streak[0].step}; {going.text}.",
            {"ratio": ratio, "size": size},
        )

    def _dominates(self, record: Record) -> bool | None:
        ratios = list(_ratios(record))
        return median(ratios) >= self.ratio if ratios else None


def _decayed(record: Record) -> Iterator[tuple[Parameter, Group]]:
    for parameter, group in _steps.grouped(record):
        if group.weight_decay and group.learning_rate and parameter.weight is not None:
            yield parameter, group


def _ratios(record: Record) -> Iterator[float]:
    """Yield what decay does over what the gradient does, of each weight that is not 0."""
    for parameter, group in _decayed(record):
        assert parameter.weight is not None and parameter.gradient is not None
        assert group.weight_decay is not None and group.learning_rate is not None
        decay, whole = group.weight_decay * parameter.weight.rms, parameter.gradient.rms
        if group.kind.endswith(DECOUPLED):
            if parameter.update is None:
                continue
            decay, whole = decay * group.learning_rate, parameter.update.rms
        if decay and whole:
            yield decay / whole


def _size(record: Record, born: dict[str, float]) -> float:
    sizes = [
        parameter.weight.rms / born[parameter.name]
        for parameter, _ in _decayed(record)
        if parameter.weight is not None and born.get(parameter.name)
    ]
    return median(sizes) if sizes else 1.0


DETECTORS = (WeightDecayDominates(),)
HEALTHY = ("adagrad", "digits-mlp", "resnet", "pre-norm-transformer")
SICK = ("large-weight-decay",)
