"""Constant output: the model answers the same, to the last digit, whatever it is given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress, takes_turns
from gradwatch.core.record import ZERO_GRADIENT, Call, Record
from gradwatch.detectors import _ending, _groups, _outcome

HALVES = ("float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class ConstantOutput:
    """Between the input and the output there is a place behind which all samples are the same.

    The samples of a batch differ in what the first layers give, and the output is one number for
    all of them: a norm over a single value, whose answer is its bias; a function that is given
    values where it is flat; a sum that has overflowed, and by which everything is divided. Nothing
    can be learnt behind such a place but a constant, and what is before it gets no gradient.

    An output that differs by more than rounding, however little, is not meant, nor one that is
    constant because its last weights were born as zeros: they move in the first step. What makes
    all units of a layer dead, or saturates them, is said by the detectors of these.
    """

    name: ClassVar[str] = "constant-output"

    rounding: float = 1e-6
    """Standard deviation of the output over the batch, relative to its size, that counts as none:
    some float32 roundings."""
    alive: float = 1e-3
    """Share of a layer's squares in which samples differ from which on they are told apart."""
    same: float = 1e-6
    """The same share under which they are not, in float32's sums of squares."""
    steps: int = 20
    """Steps that it must have lasted to be critical: nothing but a constant was learnt in them."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams; a check-up is told only of norms, which no step changes."""
        streak = _outcome.latest_streak(history, self._constant)
        if not streak or not _outcome.seen_enough(history, streak) or takes_turns(history):
            return ()
        latest = streak[-1]
        place = self._place(latest)
        if place is None or (history.checkup and not _groups.is_norm(place.layer.kind)):
            return ()
        since, until = streak[0].step, latest.step
        lost = not history.checkup and until - since >= self.steps
        born = streak[0] is history.records[0]
        return (
            Finding(
                self.name,
                Severity.CRITICAL if lost else Severity.WARNING,
                f"the output is the same for every sample: behind `{place.layer.label}` "
                f"({place.layer.kind}) nothing is left in which they differ",
                (place.layer.name,),
                since,
                until,
                (_cause(place) if born else _later(place),),
                f"To the last digit, in {len(streak)} exams; {progress(history).text}.",
                {"exams": float(len(streak))},
            ),
        )

    def _constant(self, record: Record) -> bool:
        answer = record.answer
        if answer is None or answer.samples < 4 or answer.outputs > 1:
            return False
        return answer.varying <= self.rounding * answer.rms and self._place(record) is not None

    def _place(self, record: Record) -> Call | None:
        """Return the call behind which the samples are the same, if there is one before the output
        that tells them apart: of those in between, the one that takes most of the gradient."""
        calls = [call for _, call in _ending.leaves(record)]
        alive = [i for i, c in enumerate(calls) if c.spread is not None and c.spread >= self.alive]
        if not alive:  # the input itself may be different all the same
            alone = calls[:1] if calls and _of_one(calls[0]) else []
            return next(iter(alone), None)
        flat = [
            i
            for i, c in enumerate(calls)
            if i > alive[-1] and c.spread is not None and c.spread <= self.same
        ]
        between = calls[alive[-1] + 1 : flat[0] + 1] if flat else calls[alive[-1] + 1 :]
        norms = [c for c in between if _groups.is_norm(c.layer.kind)]
        between = [c for c in between if c.grad_output is not None and c.grad_output.squares > 0]
        return next(iter(norms), min(between, key=_passes, default=None))


def _of_one(call: Call) -> bool:
    """Whether it normalises each value by itself."""
    return "LayerNorm" in call.layer.kind and math.prod(call.layer.weight_shape or (2,)) == 1


def _passes(call: Call) -> float:
    """Bits of the gradient that come through."""
    return -1e9 if call.reason == ZERO_GRADIENT else call.gain or 0.0


def _cause(place: Call) -> Cause:
    """Say what is wrong with a place that was so from the first exam on."""
    kind, label, where = place.layer.kind, place.layer.label, (place.layer.name,)
    if _groups.is_norm(kind):
        text = (
            f"`{label}` takes the mean off values that are all there are: what remains is 0, and "
            "its bias. It has to normalise over more than one value."
        )
        return Cause("normalisation", text, where, share=1.0)
    if place.dtype in HALVES:
        text = (
            f"`{label}` is worked out in {place.dtype}, in which it overflows or rounds to one "
            "number for all."
        )
        return Cause("precision", text, where, share=1.0)
    if place.layer.weighted:
        text = f"What the weights of `{label}` make of its input is too small beside its bias."
        return Cause("init", text, where, share=1.0)
    text = f"What `{label}` is given is all where it is flat."
    return Cause("activation", text, where, share=1.0)


def _later(place: Call) -> Cause:
    text = f"`{place.layer.label}` was not born so: the steps have brought it there."
    return Cause("learning-rate", text, (place.layer.name,), share=1.0)


DETECTORS = (ConstantOutput(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "masked-attention")
SICK = ("norm-over-one-value",)
