"""Non-finite: a NaN or an infinity in the gradients, and where it was born."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History, Pulse
from gradwatch.core.record import NOT_FINITE, Call, Record
from gradwatch.detectors import _depth

INPUT: Final = ":input"
"""Ends the name of a tap on what a module was given."""
GROWTH: Final = 1000.0
"""A norm grown by so much over the first steps': the numbers ran away before they broke."""


@dataclass(frozen=True, slots=True)
class _Origin:
    layers: tuple[str, ...]
    text: str
    cause: str = "numerics"


@dataclass(frozen=True, slots=True)
class NonFinite:
    """A gradient or the loss is NaN or infinite; one optimizer step later every weight is.

    The step is exact, from the pulse. The place is where the first non-finite number stands: in
    the forward pass the first module whose output is not finite while its input is; if all outputs
    are finite, the place in the backward pass behind which gradients are still finite. Infinite
    *outputs* alone (an attention mask of -inf) are no finding: the gradients decide.
    """

    name: ClassVar[str] = "non-finite"

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Find the first step with a non-finite gradient, and its origin there."""
        step = _onset(history)
        if step is None:
            return ()
        pulse = next((p for p in history.pulses if p.step == step), None)
        record = next((r for r in history if r.step == step), None)
        origin = _forward(history, pulse, record) or _backward(history, pulse, record)
        over = _recovered(history)
        only_loss = pulse is not None and bool(np.isfinite(pulse.norms).all())
        what = ("the loss" if only_loss else "gradients") + (
            (" was" if only_loss else " were") if over else (" is" if only_loss else " are")
        )
        cause = _cause(history, step, origin)
        return (
            Finding(
                self.name,
                Severity.NOTE if over else Severity.CRITICAL,
                f"{what} not finite since step {step}: {origin.text}"
                if not over
                else f"{what} not finite at step {step}: {origin.text}; it is over",
                origin.layers,
                step,
                history.last_step,
                (cause,),
                "The step is exact."
                + ("" if origin.layers else " The layer could not be seen in this step."),
                {"step": float(step)},
            ),
        )


def _bad(pulse: Pulse) -> bool:
    return bool(np.isnan(pulse.norms).any()) or (pulse.loss_known and not math.isfinite(pulse.loss))


def _bad_gradients(record: Record) -> list[str]:
    return [p.name for p in record.parameters if p.gradient is not None and p.gradient.nonfinite]


def _onset(history: History) -> int | None:
    exams = {record.step: bool(_bad_gradients(record)) for record in history}
    onset = next((step for step, bad in exams.items() if bad), None)
    infinite: int | None = None
    for pulse in history.pulses:
        if onset is not None and pulse.step >= onset:
            break
        if _bad(pulse):
            return pulse.step if infinite is None else infinite
        # An infinite norm may only be float32's square that overflowed, unless NaNs follow it
        # without a break; an exam of that very step has the last word.
        overflowed = bool(np.isinf(pulse.norms).any()) and exams.get(pulse.step, True)
        infinite = (pulse.step if infinite is None else infinite) if overflowed else None
    return onset


def _recovered(history: History) -> bool:
    last_pulse = history.pulses[-1:]
    if last_pulse and history.latest is not None and last_pulse[0].step > history.latest.step:
        return bool(np.isfinite(last_pulse[0].norms).all()) and not _bad(last_pulse[0])
    return history.latest is not None and not _bad_gradients(history.latest)


def _forward(history: History, pulse: Pulse | None, record: Record | None) -> _Origin | None:
    """Return where in the forward pass the first non-finite number stands, if there is one."""
    born = None if pulse is None else _first_bad_tap(history, pulse)
    if born is None and record is not None and (pulse is None or not pulse.outputs.size):
        # No taps: the examined calls tell the innermost one that gave what it did not get.
        bad = [c for c in record.calls if c.output is not None and c.output.nonfinite]
        if bad:
            inner = [c for c in bad if not any(_within(record, o, c) for o in bad)]
            born = inner[0].layer.name
    if born is None:
        return None
    name = born.removesuffix(INPUT)
    if record is not None and any(
        p.weight is not None and p.weight.nonfinite and p.name.rpartition(".")[0] == name
        for p in record.parameters
    ):
        return _Origin((name,), f"the weights of `{name or '(model)'}` are not finite themselves")
    if born.endswith(INPUT):
        first = pulse is not None and pulse.columns.taps[:1] == (born,)
        if first:
            return _Origin(
                (name,), f"the model's input is not finite (first seen by `{name}`)", "data"
            )
        return _Origin(
            (name,),
            f"born in the forward pass, in an operation whose result goes into "
            f"`{name or '(model)'}`",
        )
    return _Origin((name,), f"born in the forward pass, in `{name or '(model)'}`")


def _within(record: Record, inner: Call, outer: Call) -> bool:
    position = record.calls.index(inner)
    parent = record.calls[position].parent
    while parent is not None:
        if record.calls[parent] is outer:
            return True
        parent = record.calls[parent].parent
    return False


def _first_bad_tap(history: History, pulse: Pulse) -> str | None:
    usual: set[str] = set()
    for other in history.pulses:
        if other.step >= pulse.step:
            break
        bad = ~np.isfinite(other.outputs)
        usual |= {other.columns.taps[i] for i in np.flatnonzero(bad)}
    for name, value in zip(pulse.columns.taps, pulse.outputs, strict=True):
        if not math.isfinite(value) and name not in usual:
            return name
    return None


def _backward(history: History, pulse: Pulse | None, record: Record | None) -> _Origin:
    """All outputs are finite: find how far back the gradients are."""
    if record is not None:
        for call in reversed(record.calls):
            gradient = call.grad_output
            if gradient is None or gradient.nonfinite or call.reason != NOT_FINITE:
                continue
            if all(record.calls[i].reason != NOT_FINITE for i in _children(record, call)):
                return _Origin(
                    (call.layer.name,), f"born in the backward pass of `{call.layer.label}`"
                )
    order = _execution_order(history)
    bad = _bad_layers(pulse, record)
    if not bad and pulse is not None and pulse.outputs.size:
        return _Origin((), "born in the loss: every layer's output is finite, every gradient too")
    if not bad:
        return _Origin((), "where it was born was not observed")
    known = [name for name in order if name in bad]
    behind = order[order.index(known[-1]) + 1 :] if known else []
    if not behind:
        return _Origin((), "born in the loss or between the last layer and the loss")
    # Whatever is called between the two can have given birth to it; modules of one's own first,
    # for those of torch.nn have been through this before.
    calls = history.latest.calls if history.latest is not None else ()
    names = list(dict.fromkeys(call.layer.name for call in calls))
    between = names[names.index(known[-1]) + 1 : names.index(behind[0])]
    builtin = {call.layer.name for call in calls if call.layer.builtin or call.layer.functional}
    suspects = sorted(between, key=lambda name: name in builtin) or [known[-1]]
    return _Origin(
        (*suspects, behind[0]) if between else (known[-1], behind[0]),
        f"born in the backward pass between `{behind[0]}` and `{known[-1]}`"
        + (f", most likely of `{suspects[0]}`" if between else ""),
    )


def _children(record: Record, call: Call) -> list[int]:
    position = record.calls.index(call)
    return [i for i, other in enumerate(record.calls) if other.parent == position]


def _execution_order(history: History) -> list[str]:
    latest = history.latest
    if latest is None:
        return []
    owners = {p.name.rpartition(".")[0] for p in latest.parameters}
    calls = (c.layer.name for r in history for c in r.calls)
    return [name for name in dict.fromkeys(calls) if name in owners]


def _bad_layers(pulse: Pulse | None, record: Record | None) -> set[str]:
    bad: Sequence[str] = []
    if record is not None:
        bad = _bad_gradients(record)
    elif pulse is not None:
        bad = [pulse.columns.parameters[i] for i in np.flatnonzero(~np.isfinite(pulse.norms))]
    return {name.rpartition(".")[0] for name in bad}


def _cause(history: History, step: int, origin: _Origin) -> Cause:
    if origin.cause == "data":
        return Cause("data", "What goes into the model is not finite.", origin.layers, share=1.0)
    born = next((found for r in history if (found := _depth.trend(r)) is not None), None)
    if born is not None and born.drop <= -3 and born.witnessed:
        return Cause(
            "init",
            f"The numbers ran away: at its first exam the gradient grew by {-born.drop:.1f} "
            "decades over depth.",
            origin.layers,
            share=1.0,
        )
    norms = [p.norm for p in history.pulses if p.step < step]
    early = float(np.median(norms[:5])) if norms else 0.0
    if len(norms) > 1 and early and max(norms[-3:]) > GROWTH * early:
        return Cause(
            "learning-rate",
            f"The numbers ran away: the gradient norm grew from {early:.3g} to "
            f"{max(norms[-3:]):.3g} before.",
            origin.layers,
            share=1.0,
        )
    return Cause(
        "numerics",
        "The gradients before were ordinary: one operation left the range of its numbers "
        "(a logarithm or root of 0, a division by 0, 0 times infinity, an overflow).",
        origin.layers,
        share=1.0,
    )


DETECTORS = (NonFinite(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "masked-attention")
SICK = ("nan-forward", "nan-backward")
