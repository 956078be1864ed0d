"""Accumulating gradients: each step's gradient still holds those of all steps before it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History, Pulse
from gradwatch.core.progress import progress
from gradwatch.core.record import Parameter, Record
from gradwatch.detectors import _outcome

SAME: Final = 1e-4
"""Relative difference up to which two norms in float32 are the same."""


@dataclass(frozen=True, slots=True)
class AccumulatingGradients:
    """`zero_grad()` is forgotten: backward adds to gradients that the optimizer has used already.

    The sum of all gradients since the beginning is a momentum that never fades (among the most
    common mistakes: Karpathy 2018). It is seen exactly: parameters that are stepped have, in every
    examined step, the very gradient of the step before when the first backward begins. Batches that
    are accumulated on purpose begin each step with none; the networks of a GAN carry what the
    other's step left to them, but only into the other's step; and a gradient that is faded instead
    of zeroed is less than it was.

    The loss often falls at first, while the sum is short: a warning then, and critical once the
    training gets nowhere.
    """

    name: ClassVar[str] = "accumulating-gradients"

    share: float = 0.9
    """Share of the parameters of an optimizer that must carry a gradient into every step; where it
    is less, whole layers that do so in several exams."""
    exams: int = 2
    """Exams in which they must do so."""
    whole: float = 0.95
    """What must be left of the gradient of the step before, where that is known."""
    resets: float = 0.1
    """Share of the steps in which the norm may fall by a third: more often, it is zeroed now and
    then, in steps of micro-batches."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge all exams but that of the first step, which has nothing to carry."""
        records = [record for record in history if record.step > 0 and _moved(record)]
        if records and records[0].step == 1 and not any(p.carried for p in _moved(records[0])):
            records = records[1:]  # the first step of a second optimizer
        never = self._never_zeroed(records) if len(records) >= self.exams else ()
        # Of several optimizers each has its own exams.
        records = [r for r in records if any(p.name in never and p.carried for p in _moved(r))]
        if (
            len(records) < self.exams
            or not never
            or self._faded(history, records, set(never))
            or self._reset(history)
        ):
            return ()
        going, latest = progress(history), records[-1]
        carried = _norm(p.carried for p in latest.parameters if p.name in never)
        first = next(record for record in history if record.gradient_norm > 0)
        grown = latest.gradient_norm / first.gradient_norm
        lasts = _outcome.lasting(records) and not going.moving
        layers = _outcome.owners(p for p in latest.parameters if p.name in never)
        cause = Cause(
            "optimizer",
            "zero_grad() is not called, or on another optimizer: backward() adds to the gradients "
            f"of all steps before. Their norm is {grown:.3g} times that of the first step.",
            layers,
            share=1.0,
        )
        return (
            Finding(
                self.name,
                Severity.CRITICAL if lasts else Severity.WARNING,
                f"gradients are never zeroed: a norm of {carried:.3g} was there before step "
                f"{latest.step} made its own",
                layers,
                records[0].step,
                latest.step,
                (cause,),
                f"Seen in each of {len(records)} examined steps; {going.text}.",
                {"carried": carried, "grown": grown},
            ),
        )

    def _never_zeroed(self, records: list[Record]) -> frozenset[str]:
        """Return the parameters of the optimizers' groups that carry a gradient into every step."""
        moved = {p.name: p.group for record in records for p in _moved(record)}
        zeroed = {p.name for record in records for p in record.parameters if p.carried == 0}
        known = {p.name for r in records for p in r.parameters if p.carried is not None}
        found: set[str] = set()
        for group in set(moved.values()):
            members = {name for name, of in moved.items() if of == group} & known
            if len(members - zeroed) >= self.share * len(members) > 0:
                found |= members - zeroed
            elif len(records) >= _outcome.LASTING_EXAMS:
                found |= _whole(records, members - zeroed)
        return frozenset(found)

    def _faded(self, history: History, records: list[Record], never: set[str]) -> bool:
        """Whether less is carried than the step before had left behind."""
        before = {pulse.step + 1: pulse for pulse in history.pulses}
        kept = [
            _norm(p.carried for p in record.parameters if p.name in never) / left
            for record in records
            if (left := _left(before.get(record.step), never)) > 0
        ]
        return bool(kept) and float(np.median(kept)) < self.whole

    def _reset(self, history: History) -> bool:
        """Without an optimizer a step may be that of a micro-batch."""
        norms = np.asarray([pulse.norm for pulse in history.pulses], np.float64)
        if norms.size < 2 or any(record.groups for record in history):
            return False
        return float(np.mean(norms[1:] < norms[:-1] / 1.5)) > self.resets


def _whole(records: list[Record], names: set[str]) -> set[str]:
    """Return those of whole layers that carry a gradient into each of several steps that they are
    moved in: `zero_grad()` of a part of the model."""
    often = {
        name
        for name in names
        if sum(_adds(p) for r in records for p in _moved(r) if p.name == name)
        >= _outcome.LASTING_EXAMS
    }
    broken = {_outcome.owner(p) for r in records for p in _moved(r) if p.name not in often}
    return {name for name in often if _outcome.layer_of(name) not in broken}


def _adds(parameter: Parameter) -> bool:
    """Whether the step added to a gradient that was there. What a loss is made with directly (a
    learnt weight of it) has this step's gradient before any layer is reached, and no other."""
    carried, gradient = parameter.carried, parameter.gradient
    if not carried or gradient is None:
        return False
    return abs(gradient.norm / carried - 1) > SAME


def _moved(record: Record) -> list[Parameter]:
    return [p for p in record.parameters if p.update is not None and p.update.squares > 0]


def _left(pulse: Pulse | None, names: set[str]) -> float:
    """Return the norm that a step left in these parameters' gradients, after its clipping."""
    if pulse is None:
        return 0.0
    columns = dict(zip(pulse.columns.parameters, pulse.norms, strict=True))
    clipped = pulse.clip_ratio if math.isfinite(pulse.clip_ratio) else 1.0
    return min(1.0, clipped) * _norm(max(0.0, float(columns.get(name, 0.0))) for name in names)


def _norm(values: Iterable[float | None]) -> float:
    return math.sqrt(math.fsum((value or 0.0) ** 2 for value in values))


DETECTORS = (AccumulatingGradients(),)
HEALTHY = ("digits-mlp", "resnet", "default-relu-mlp-adam", "multi-task-balanced")
SICK = ("zero-grad-forgotten",)
