"""Zero gradient: backward reaches the weights, and what arrives is exactly zero, every time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from gradwatch.core.answer import heads
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress, takes_turns
from gradwatch.core.record import ZERO_GRADIENT, Call, Parameter, Record
from gradwatch.detectors import _depth, _ending, _experts, _groups, _outcome

PRODUCTS: Final = frozenset({"mul", "bmm", "mm", "baddbmm", "matmul", "linear", "Bilinear"})
"""Operations whose gradient is zero on both sides if both factors are."""
CURVES: Final = ("exp", "exp2", "expm1", "erf", "pow", "square")
"""Functions that are flat only far out."""
CLAMPS: Final = frozenset({"clamp", "clamp_min", "clamp_max", "clip", "minimum", "maximum"})
"""Operations that have a derivative between their bounds only."""
UNDERFLOW: Final = 1e-30
"""Gradient from which on float32 can lose the rest: a zero after that is the format's doing."""


@dataclass(frozen=True, slots=True)
class ZeroGradient:
    """Weights whose gradient was exactly zero in every exam, though backward reached them.

    A gradient is never exactly zero by chance. It is where something has no derivative (rounding,
    a sign, a comparison, an argmax), where two factors are both zero (two tables or two layers in a
    row that were initialised with zeros), where a softmax has but one unit, and where a loss counts
    instead of measuring. The place is where a gradient goes in and none comes out; if none comes
    out of the loss, it is the loss.

    Weights that start at zero gradient and get one later, as behind a head of zeros, are not meant;
    nor are experts to whom no sample is sent, dead rectifiers, functions that are saturated, half
    precision that underflows, and heads whose loss is switched off in a training that learns.
    """

    name: ClassVar[str] = "zero-gradient"

    share: float = 0.1
    """Share of all trainable elements from which on it is said."""
    inner: float = 0.02
    """The same for layers inside of the model, of which no output is made."""
    half: float = 0.5
    """The same from which on a training that is stuck is stuck for that."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Look at all exams: a gradient in one of them is enough."""
        records = [record for record in history if any(p.gradient for p in record.parameters)]
        if not records or not _outcome.seen_enough(history, records):
            return ()
        latest = records[-1]
        names = _always_zero(records, once=history.checkup)
        names -= set(_unasked(latest, names))
        if not names:
            return self._run_out(history)
        sizes = {p.name: math.prod(p.shape) for p in latest.parameters if p.trainable}
        share = sum(sizes.get(name, 0) for name in names) / max(1, sum(sizes.values()))
        stops = _stops(latest)
        inner = _inner(latest, names)
        cause = _cause(latest, stops, inner)
        if history.checkup and cause is not None and (cause.name == "init" and share < 1):
            return ()  # behind a head or in branches of zeros they get one after the first step
        going = progress(history)
        least = self.inner if inner else self.share
        whole = share == 1 and not history.checkup  # whatever moves the loss, no weight does
        if cause is None or share < least or not (stops or inner or whole or not going.moving):
            return ()
        if whole or (going.moving is False and (share >= self.half or stops)):
            severity = Severity.CRITICAL
        else:
            severity = Severity.WARNING
        layers = _outcome.owners(p for p in _zero(latest) if p.name in names)
        return (
            Finding(
                self.name,
                severity,
                f"the gradient of {len(names)} parameters ({share:.0%} of all that is to be "
                f"trained) is exactly zero{_times(records)}: those of "
                f"{_depth.listed(layers)}",
                layers,
                records[0].step,
                latest.step,
                (cause,),
                f"No rounding makes an exact zero; {going.text}.",
                {"parameters": float(len(names)), "share": share},
            ),
        )

    def _run_out(self, history: History) -> tuple[Finding, ...]:
        """The loss is not small, and has stopped to say in what direction it falls."""
        going = progress(history)
        streak = _outcome.latest_streak(history, _none_left)
        if not _outcome.lasting(streak) or going.moving is not False or going.skill is not None:
            return ()
        if takes_turns(history) or not all((r.loss or 0.0) > 0 for r in streak):
            return ()
        text = "No answer is near enough, or far enough, for the loss to have a slope there."
        return (
            Finding(
                self.name,
                Severity.CRITICAL,
                f"the loss is {streak[-1].loss:.4g}, and its gradient has been exactly zero in the "
                f"latest {len(streak)} exams",
                (),
                streak[0].step,
                streak[-1].step,
                (Cause("loss", text, share=1.0),),
                f"No rounding makes an exact zero; {going.text}.",
                {"parameters": float(len(streak[-1].parameters)), "share": 1.0},
            ),
        )


def _none_left(record: Record) -> bool:
    """Whether the loss sends no gradient at all, though it is there."""
    outer = [c.grad_output for c in record.calls if c.parent is None and c.grad_output is not None]
    return bool(outer) and not any(gradient.squares for gradient in outer)


def _times(records: Sequence[Record]) -> str:
    return f" in all {len(records)} exams" if len(records) > 1 else ""


def _always_zero(records: Sequence[Record], *, once: bool) -> set[str]:
    """Return the parameters whose gradient was zero in every exam that had one of them, and in
    enough of those: of several optimizers each has its turn."""
    reached: dict[str, list[Record]] = {}
    alive: set[str] = set()
    for record in records:
        zero = {p.name for p in _zero(record)}
        for p in record.parameters:
            if p.gradient is not None:
                reached.setdefault(p.name, []).append(record)
                alive |= {p.name} - zero
    return {name for name, seen in reached.items() if once or _outcome.lasting(seen)} - alive


def _unasked(record: Record, names: set[str]) -> Iterator[str]:
    """Yield those of experts to whom no sample is sent while others get one: theirs is zero."""
    for mixture in _experts.mixtures(record):
        inside = {
            p.name: expert
            for p in record.parameters
            for expert in mixture.experts
            if p.name.startswith(f"{expert}.")
        }
        asked = {expert for name, expert in inside.items() if name not in names}
        yield from (name for name, expert in inside.items() if asked and expert not in asked)


def _zero(record: Record) -> list[Parameter]:
    return [
        p
        for p in record.parameters
        if p.trainable
        and p.dtype not in ("float16", "bfloat16")
        and p.gradient is not None
        and p.gradient.count == p.gradient.zeros > 0
    ]


def _stops(record: Record) -> list[Call]:
    """Return the calls that a gradient goes into and none comes out of, the last one first."""
    return [
        call
        for _, call in reversed(list(_ending.leaves(record)))
        if call.reason == ZERO_GRADIENT
        and call.grad_output is not None
        and call.grad_output.squares > 0
    ]


def _inner(record: Record, names: set[str]) -> tuple[str, ...]:
    """Return the layers of these parameters that are called inside of the model, whose outputs get
    a gradient of zero, and are not among its own outputs (a head whose loss is switched off)."""
    layers = set(_outcome.layers_of(names))
    made = [_ending.source(record, head) for head in heads(record.output)]
    outputs = {call.layer.name for call in made if call is not None}
    gradients = [c.grad_output for c in record.calls if c.parent is None and c.grad_output]
    if not any(gradient.squares > 0 for gradient in gradients):
        return ()
    return tuple(
        call.layer.name
        for call in record.calls
        if call.layer.name in layers - outputs
        and call.parent is not None
        and call.grad_output is not None
        and not call.grad_output.squares
    )


def _cause(record: Record, stops: Sequence[Call], inner: tuple[str, ...]) -> Cause | None:
    """Say why; None if it is another detector's business."""
    for call in stops:
        kind, gradient = call.layer.kind, call.grad_output
        where = (call.layer.name,)
        if gradient is None or gradient.peak < UNDERFLOW or call.dtype in ("float16", "bfloat16"):
            continue
        if kind in _groups.RECTIFIERS:
            continue
        if kind in ("Softmax", "softmax", "LogSoftmax", "log_softmax") and _single(call):
            return Cause(
                "loss",
                f"`{call.layer.label}` is a softmax over one unit, which is 1 whatever comes in: "
                "one unit needs a sigmoid and a binary cross-entropy.",
                where,
                share=1.0,
            )
        if kind in _groups.BOUNDED:
            continue
        if _groups.is_norm(kind):
            text = f"`{call.layer.label}` takes the mean off values that are all there are."
            return Cause("normalisation", text, where, share=1.0)
        if call.layer.weighted or kind in PRODUCTS:
            return Cause(
                "init",
                f"`{call.layer.label}` multiplies zeros with zeros: both of what it multiplies was "
                "initialised with zeros, and each gets the other as its gradient.",
                where,
                share=1.0,
            )
        if call.output is not None and not call.output.squares:
            text = (
                f"`{call.layer.label}` ({kind}) gives 0, whatever comes in: it is all in the range "
            )
            return Cause("activation", text + "where it is flat.", where, share=1.0)
        if kind in CLAMPS:
            text = f"All that `{call.layer.label}` is given is beyond its bounds, where it is flat."
            return Cause("activation", text, where, share=1.0)
        if kind in CURVES:
            text = f"`{call.layer.label}` ({kind}) is given values so large that it is flat there."
            return Cause("data-scale", text, where, share=1.0)
        return Cause(
            "disconnection",
            f"`{call.layer.label}` ({kind}) has a derivative of zero everywhere: nothing comes "
            "through it (a straight-through estimate lets the gradient pass).",
            where,
            share=1.0,
        )
    if stops:
        return None
    if inner:
        return Cause(
            "disconnection",
            f"What `{inner[-1]}` gives is used, but not in a way that has a derivative: as an "
            "index, in a comparison, or times zero.",
            inner,
            share=1.0,
        )
    outer = [c for c in record.calls if c.parent is None and c.grad_output is not None]
    if any(c.grad_output is not None and c.grad_output.squares > 0 for c in outer[-1:]):
        return Cause("loss", "Their part of the loss has a weight of zero.", share=1.0)
    return Cause(
        "loss",
        "The gradient is zero where it leaves the loss: the loss counts or rounds, or it compares "
        "with what it cannot differ from.",
        tuple(call.layer.name for call in outer[-1:]),
        share=1.0,
    )


def _single(call: Call) -> bool:
    """Whether all that a softmax gives is 1, or what a log-softmax gives 0."""
    out = call.output
    if out is None:
        return True  # an operation: a softmax that stops all of the gradient over several units
    return out.zeros == out.count or (out.peak == 1 and out.total == out.count)


DETECTORS = (ZeroGradient(),)
HEALTHY = ("digits-mlp", "embedding-bag", "code-rounded-straight-through")
SICK = ("loss-of-counted-errors", "skip-gram-both-tables-zero")
