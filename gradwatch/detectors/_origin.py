"""Where the first non-finite number of a step stands: which layer, which operation, which way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from gradwatch.core.history import History, Pulse
from gradwatch.core.record import NO_GRAD_INPUT, NOT_FINITE, Call, Record, around

INPUT: Final = ":input"
"""Ends the name of a tap on what a module was given."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SINGULAR: Final = _words(
    """
    log log2 log10 log1p xlogy sqrt rsqrt reciprocal exp exp2 expm1 acos asin acosh atanh std var
    std_mean var_mean norm linalg_vector_norm softmax log_softmax logsumexp tan cosh sinh lgamma
    digamma logit erfinv cdist prod cumprod atan2 linalg_svd linalg_eigh linalg_inv_ex
    """
)
"""Operations that have a point without a value or a slope, or that overflow early."""
SELDOM: Final = _words("div pow")
"""Those that have one, too, but are mostly by or to a constant."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The place, and how it was found."""

    way: str
    """`input`, `weights`, `forward`, `backward`, `loss`; empty when it was not observed."""
    layers: tuple[str, ...] = ()
    text: str = ""
    exact: bool = False
    """Whether the gradients themselves show the place (the step was examined)."""


class Scene:
    """All that is known of the step in which it happened."""

    def __init__(self, history: History, step: int) -> None:
        self.history = history
        self.step = step
        self.pulse = next((p for p in history.pulses if p.step == step), None)
        self.record = next((r for r in history if r.step == step), None)

    @cached_property
    def before(self) -> Record | None:
        """The last exam before the step."""
        return next((r for r in reversed(self.history.records) if r.step < self.step), None)

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """The calls of the exam that is nearest: the model is the same in all of them."""
        records = sorted(self.history, key=lambda r: (abs(r.step - self.step), r.step))
        return next((record.calls for record in records if record.calls), ())

    @cached_property
    def bad_taps(self) -> tuple[str, ...]:
        """The taps that are not finite and that are not so in every step (an attention mask), in
        the order in which the modules returned."""
        pulse = self.pulse
        if pulse is None:
            return ()
        usual: set[str] = set()
        for other in self.history.pulses:
            if other.step >= self.step:
                break
            bad = np.flatnonzero(~np.isfinite(other.outputs))
            usual |= {other.columns.taps[i] for i in bad}
        taps = pulse.columns.taps
        found = [taps[i] for i in np.flatnonzero(~np.isfinite(pulse.outputs))]
        order = _order(self.calls)
        if all(name in order for name in found):
            found.sort(key=lambda name: order[name])
        return tuple(name for name in found if name not in usual)

    def ops(self, after: int, until: int, parent: int | None = None) -> list[str]:
        """Return the operations outside modules between two positions in the calls, or in a call,
        the likeliest first."""
        found = [
            call.layer
            for i, call in enumerate(self.calls)
            if after < i < until and call.layer.functional and parent in (None, call.parent)
        ]
        return [layer.name for layer in sorted(found, key=lambda layer: _danger(layer.kind))]


def _danger(kind: str) -> int:
    return 0 if kind in SINGULAR else 1 if kind in SELDOM else 2


def locate(scene: Scene) -> Origin:
    """Find the place, in the forward pass if a number is not finite there."""
    return _forward(scene) or _backward(scene)


def _order(calls: Sequence[Call]) -> dict[str, tuple[int, int, int, int]]:
    """Return for each tap when it was read: as its module's first call returned."""
    last = list(range(len(calls)))
    for i, call in reversed([*enumerate(calls)]):
        if call.parent is not None:
            last[call.parent] = max(last[call.parent], last[i])
    order: dict[str, tuple[int, int, int, int]] = {}
    for i, call in enumerate(calls):
        inner = int(last[i] > i)
        order.setdefault(call.layer.name + INPUT, (last[i], inner, -i, 0))
        order.setdefault(call.layer.name, (last[i], inner, -i, 1))
    return order


def _forward(scene: Scene) -> Origin | None:
    born = next(iter(scene.bad_taps), None)
    record = scene.record
    if (
        born is None
        and record is not None
        and (scene.pulse is None or not scene.pulse.outputs.size)
    ):
        # No taps: the examined calls tell the innermost one that gave what it did not get.
        bad = [c for c in record.calls if c.output is not None and c.output.nonfinite]
        inner = [c for c in bad if not any(_within(record, other, c) for other in bad)]
        born = inner[0].layer.name if inner else None
    if born is None:
        return None
    name = born.removesuffix(INPUT)
    label = name or "(model)"
    if record is not None and any(
        p.weight is not None and p.weight.nonfinite and p.name.rpartition(".")[0] == name
        for p in record.parameters
    ):
        return Origin("weights", (name,), f"the weights of `{label}` are not finite themselves")
    positions = [i for i, call in enumerate(scene.calls) if call.layer.name == name]
    at = positions[0] if positions else 0
    if born.endswith(INPUT):
        if _is_data(scene, born):
            return Origin(
                "input", (name,), f"the model's input is not finite (first seen by `{label}`)"
            )
        before = _fed_by(scene, at)
        ops = scene.ops(before, at)
        text = f"born in the forward pass, in an operation whose result goes into `{label}`"
        feeding = (scene.calls[before].layer.name,) if before >= 0 else ()
        return Origin("forward", (*_placed(ops, feeding), name), text + _likely(ops))
    ops = scene.ops(at, len(scene.calls), parent=at) if positions else []
    text = f"born in the forward pass, in `{label}`"
    return Origin("forward", (name, *ops[:1]), text + _likely(ops))


def _is_data(scene: Scene, born: str) -> bool:
    """Whether what was handed to the model is not finite: told by the tap on its outermost call,
    which may be given several things; one that has none is called by keywords."""
    pulse = scene.pulse
    assert pulse is not None
    values = dict(zip(pulse.columns.taps, pulse.outputs.tolist(), strict=True))
    outermost = [call for call in scene.calls if call.parent is None and not call.layer.functional]
    given = [
        values[call.layer.name + INPUT]
        for call in outermost
        if call.reason == NO_GRAD_INPUT and call.layer.name + INPUT in values
    ]
    if given:
        return not all(map(math.isfinite, given))
    return pulse.columns.taps[:1] == (born,)


def _fed_by(scene: Scene, position: int) -> int:
    """Return the position of the module call that returned last before this one; -1 for none."""
    above = set(around(scene.calls, scene.calls[position]))
    for i in range(position - 1, -1, -1):
        if not scene.calls[i].layer.functional and i not in above:
            return i
    return -1


def _placed(ops: list[str], feeding: tuple[str, ...]) -> tuple[str, ...]:
    """Name the operation first where it stands in a module of its own, else what feeds it."""
    likely = tuple(ops[:1])
    return (*likely, *feeding) if likely and likely[0][0] != ":" else (*feeding, *likely)


def _likely(ops: list[str]) -> str:
    if not ops:
        return ""
    more = f" (of {len(ops)})" if len(ops) > 1 else ""
    return f", most likely in `{ops[0].removeprefix(':')}`{more}"


def _within(record: Record, inner: Call, outer: Call) -> bool:
    return record.calls.index(outer) in around(record.calls, inner)


def _backward(scene: Scene) -> Origin:
    """All outputs are finite: find how far back the gradients are."""
    record, pulse = scene.record, scene.pulse
    if record is not None:
        for i, call in reversed([*enumerate(record.calls)]):
            gradient = call.grad_output
            if gradient is None or gradient.nonfinite or call.reason != NOT_FINITE:
                continue
            children = (c.reason for c in record.calls if c.parent == i)
            if NOT_FINITE not in children:
                before = _fed_by(scene, i)
                feeding = (record.calls[before].layer.name,) if before >= 0 else ()
                layers = _placed([call.layer.name], feeding if call.layer.functional else ())
                text = f"born in the backward pass of `{call.layer.label.removeprefix(':')}`"
                return Origin("backward", layers, text, exact=True)
    order = _with_parameters(scene)
    bad = _bad_layers(scene)
    if not bad and pulse is not None and pulse.outputs.size:
        text = "born in the loss: every layer's output is finite, every gradient too"
        return Origin("loss", (), text)
    if not bad:
        return Origin("", (), "where it was born was not observed")
    known = [name for name in order if name in bad]
    behind = order[order.index(known[-1]) + 1 :] if known else []
    if not behind:
        return Origin("loss", (), "born in the loss or between the last layer and the loss")
    # Whatever is called between the two can have given birth to it: operations that have a
    # singular point first, then modules of one's own, for those of torch.nn are tried.
    names = list(dict.fromkeys(call.layer.name for call in scene.calls))
    between = names[names.index(known[-1]) + 1 : names.index(behind[0])]
    tried = {c.layer.name for c in scene.calls if c.layer.builtin or c.layer.functional}
    danger = {c.layer.name: _danger(c.layer.kind) for c in scene.calls if c.layer.functional}
    own = [name for name in between if name not in tried]
    ops = sorted((n for n in between if danger.get(n, 2) < 2), key=danger.__getitem__)
    suspects = [*_placed(ops, (known[-1],) if not own else ()), *own]
    suspects += [name for name in between if name not in suspects]
    text = f"born in the backward pass between `{behind[0]}` and `{known[-1]}`"
    likely = (ops or own or between)[:1]
    return Origin(
        "backward",
        (*dict.fromkeys([*suspects, behind[0]] if between else [known[-1], behind[0]]),),
        text + (f", most likely of `{likely[0].removeprefix(':')}`" if likely else ""),
    )


def _with_parameters(scene: Scene) -> list[str]:
    """Return the layers that have parameters, in execution order."""
    latest = scene.history.latest
    if latest is None:
        return []
    owners = {p.name.rpartition(".")[0] for p in latest.parameters}
    calls = (c.layer.name for r in scene.history for c in r.calls)
    return [name for name in dict.fromkeys(calls) if name in owners]


def _bad_layers(scene: Scene) -> set[str]:
    names: Sequence[str] = []
    if scene.record is not None:
        names = bad_gradients(scene.record)
    elif (pulse := scene.pulse) is not None:
        bad = np.flatnonzero(~np.isfinite(pulse.norms))
        names = [pulse.columns.parameters[i] for i in bad]
    return {name.rpartition(".")[0] for name in names}


def bad_gradients(record: Record) -> list[str]:
    """Return the parameters whose gradient is not finite."""
    return [p.name for p in record.parameters if p.gradient is not None and p.gradient.nonfinite]


def bad_pulse(pulse: Pulse) -> bool:
    """Whether a gradient or the loss is not a number, or the loss is infinite."""
    return bool(np.isnan(pulse.norms).any()) or (pulse.loss_known and not math.isfinite(pulse.loss))
