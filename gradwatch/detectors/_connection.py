"""Where the way back from the loss is cut: which trained layer is fed by one that is not reached.

An unused head is called, too, and no gradient reaches it; nobody is harmed. What makes it a mistake
is that something which is trained goes on from its output. The taps tell: a `.detach()`, a
`.data`, a round trip through NumPy or a new `torch.tensor` change no number, so what goes into the
next layer has the sum that came out of the last one, bit for bit and step after step. Behind an
argmax or a draw from a distribution it has not; there the widths of the two have to agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.history import Pulse
from gradwatch.core.record import NO_GRAD_INPUT, Parameter, Record
from gradwatch.detectors._drawn import as_drawn
from gradwatch.detectors._outcome import layer_of, layers_of

INPUT: Final = ":input"
"""Ends the name of a tap on what a module was given."""
SAME: Final = 1e-4
"""Relative difference up to which two sums are of the same numbers: in another order, float32 adds
them up to within 1e-6."""
OFTEN: Final = 0.3
"""Share of the steps in which it must be so: a GAN's generator and discriminator take turns."""
COPIES: Final = (1.0, 2.0, 3.0)
"""As often may a module be given the same tensor: attention has it as query, key and value."""
LATEST: Final = 256
"""Steps whose sums are compared: ten would do."""
NEAREST: Final = 64
"""Outputs before an input that are tried in pairs: a concatenation or a sum has both their sums."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A place at which the way back ends though the way forth goes on."""

    layers: tuple[str, ...]
    """Those before it, that no gradient reaches, in execution order."""
    text: str
    """What was seen, as a sentence."""


class Flow:
    """What the pulses and the latest exam tell of a run's connections."""

    def __init__(self, record: Record, pulses: tuple[Pulse, ...]) -> None:
        """All pulses are of the same parameters."""
        columns = pulses[-1].columns
        self.record = record
        self.taps = {name: i for i, name in enumerate(columns.taps)}
        latest = [p.outputs for p in pulses[-LATEST:] if p.columns == columns]
        self._sums = np.stack(latest).astype(np.float64)
        reached = ~(np.stack([pulse.norms for pulse in pulses]) < 0)  # NaN is a gradient, too
        shares = dict(zip(columns.parameters, reached.mean(0).tolist(), strict=True))
        self.missed = tuple(name for name, share in shares.items() if not share)
        self._trained = {layer_of(name) for name, share in shares.items() if share >= OFTEN}
        self._own: dict[str, list[Parameter]] = {}
        for parameter in record.parameters:
            self._own.setdefault(layer_of(parameter.name), []).append(parameter)

    def cuts(self, missed: frozenset[str]) -> Iterator[Cut]:
        """Yield the cuts that these unreached parameters lie before."""
        unreached = {layer_of(name) for name in missed}
        layers = [one for one in self.taps if one in unreached and self._called(self.taps[one])]
        for name, at in self.taps.items():
            consumer = name.removesuffix(INPUT)
            before = tuple(layer for layer in layers if self.taps[layer] < at)
            if not before or consumer in unreached:
                continue
            if name == consumer:
                if self._looks_up(name, before):
                    text = f"`{name}` has as many rows as `{before[-1]}` has outputs"
                    yield Cut(before, f"No other layer tells which are read: {text}.")
                continue
            ends = self._ends(consumer)
            if ends is not None and (source := self._source(at, frozenset(before), alone=ends)):
                text = f"what `{consumer}` is given is what `{source}` gave, number for number"
                behind = self.taps[source]
                before = tuple(layer for layer in before if self.taps[layer] <= behind)
                yield Cut(before, f"In every step {text}, yet without its history.")
            elif ends and self._fits(before, consumer, at):
                text = f"`{consumer}` is given as many numbers as `{before[-1]}` gives"
                yield Cut(before, f"No other layer feeds what comes after them: {text}.")

    def tables(self, missed: frozenset[str]) -> Iterator[Cut]:
        """Yield embeddings that are used without a call of theirs and without their history: the
        model is given indices alone, and its first layer that is trained gets numbers all the same,
        as many as a row of the table has."""
        called = {call.layer.name for call in self.record.calls}
        outermost = [call.layer.name for call in self.record.calls if call.parent is None]
        if "" not in outermost or INPUT in self.taps:
            return
        first = next((name for name in self.taps if name.endswith(INPUT)), "")
        consumer = first.removesuffix(INPUT)
        if not first or not self._ends(consumer):
            return
        for layer in dict.fromkeys(layer_of(name) for name in missed):
            shape = self._weight_shape(layer)
            if layer not in called and shape[1:] == self._widths(consumer)[:1]:
                text = f"`{consumer}` is given rows that are as long as those of `{layer}`"
                yield Cut((layer,), f"No numbers but indices go into the model, and {text}.")

    def unseen(self, missed: frozenset[str]) -> Iterator[Cut]:
        """Yield layers that nobody has trained and that are called under `no_grad`, if at all: the
        first layer that is trained gets numbers that are not the model's input, as many as the last
        of these layers gives."""
        layers = layers_of(name for name in missed)
        outermost = [call.layer.name for call in self.record.calls if call.parent is None]
        if not layers or "" not in outermost or any(layer in self.taps for layer in layers):
            return
        own = [p for layer in layers for p in self._own[layer]]
        first = next((c for c in self.record.calls if c.layer.name in self._trained), None)
        if first is None or first.reason != NO_GRAD_INPUT or not as_drawn(own):
            return
        consumer = first.layer.name
        at = self.taps.get(consumer + INPUT)
        known = list(self._own)
        before = tuple(one for one in layers if known.index(one) < known.index(consumer))
        if at is not None and before and self._fits(before[-1:], consumer, at):
            text = f"`{consumer}` is given as many numbers as `{before[-1]}` gives, which are not"
            yield Cut(before, f"Nobody has trained them, and {text} the model's input.")

    def bypassed(self, missed: frozenset[str]) -> Iterator[Cut]:
        """Yield layers whose output gets a gradient that their own weight never gets."""
        parents = {call.parent for call in self.record.calls if not call.layer.functional}
        for i, call in enumerate(self.record.calls):
            name = call.layer.name
            own = [p for p in self._own.get(name, ()) if p.trainable and len(p.shape) > 1]
            arrives = call.grad_output is not None and call.grad_output.squares > 0
            if (
                arrives
                and call.layer.weight_shape
                and i not in parents
                and own
                and missed.issuperset(p.name for p in own)
            ):
                text = f"A gradient comes to the output of `{name}`, and none to its weight."
                yield Cut((name,), text)

    def amidst(self, layers: tuple[str, ...]) -> bool:
        """Whether what is trained is called after one of these: a head that is not used comes
        last."""
        calls = [call.layer.name for call in self.record.calls if call.layer.weighted]
        first = min((calls.index(layer) for layer in layers if layer in calls), default=len(calls))
        return not self._trained.isdisjoint(calls[first:])

    def copied(self, layers: tuple[str, ...]) -> bool:
        """Whether they are a copy of what is trained: a target network, a running average."""
        shapes = {layer: [p.shape for p in own] for layer, own in self._own.items()}
        return copied(layers, shapes, self._trained)

    def _called(self, tap: int) -> bool:
        return bool((self._sums[:, tap] != 0).mean() >= OFTEN)

    def _ends(self, name: str) -> bool | None:
        """Whether the gradient that comes to a module ends there, or in an operation just before
        it (a learnt position that is added), or in the layer that it passes its output to; None if
        no gradient comes to it."""
        calls = self.record.calls
        for i, call in enumerate(calls):
            if call.layer.name != name:
                continue
            if call.grad_output is not None:
                return call.reason == NO_GRAD_INPUT or self._ends_before(i)
            after = next((c for c in calls[i + 1 :] if c.layer.weighted), None)
            passes = after is not None and after.layer.name + INPUT not in self.taps
            if passes and after is not None and after.grad_output is not None:
                return after.reason == NO_GRAD_INPUT
        return None

    def _ends_before(self, position: int) -> bool:
        for call in reversed(self.record.calls[:position]):
            if call.layer.functional and call.reason == NO_GRAD_INPUT and call.grad_output:
                return True
            if call.layer.weighted:
                return False
        return False

    def _source(self, at: int, before: frozenset[str], *, alone: bool) -> str | None:
        """Return the output of an unreached layer, or of what has no parameters behind it, that
        goes into this input: alone, or together with another."""
        found: list[tuple[str, int]] = []
        others: list[int] = []
        last: str | None = None
        for name, position in self.taps.items():
            if position >= at:
                break
            others.append(position)
            if not name.endswith(INPUT):
                last = name if name in self._own else last
                found += [(name, position)] if last in before else []
        given = self._sums[:, at]
        for name, position in found[-NEAREST:]:
            gave = self._sums[:, position]
            if alone and any(self._same(given, n * gave) for n in COPIES):
                return name
            # What is next to nothing (a normalised batch sums to 0) proves nothing in a pair.
            counts = np.abs(gave) > 100 * SAME * np.abs(given)
            if counts.mean() >= OFTEN and any(
                self._same(given[counts], (gave + self._sums[:, other])[counts])
                for other in others[-NEAREST:]
                if other != position and self._called(other)
            ):
                return name
        return None

    def _same(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
        with np.errstate(invalid="ignore"):
            close = np.abs(one - other) <= SAME * np.abs(one)
        close &= (one != 0) & np.isfinite(one)
        # One-hot vectors and probabilities add up to the number of samples: that says nothing.
        counts = np.abs(one[close] - one[close].round()) <= SAME
        return bool(close.mean() >= OFTEN) and not (counts.all() and len({*one[close]}) == 1)

    def _fits(self, before: tuple[str, ...], name: str, at: int) -> bool:
        """Whether an unreached layer is as wide as the input of this one (a flattened image has
        several numbers of each channel), which nothing else explains."""
        wanted = self._widths(name)[0]
        shapes = {one: self._weight_shape(one) for one in (name, *before)}
        fits = any(
            wanted == width or (len(shapes[one]) > len(shapes[name]) and not wanted % width)
            for one in before
            if (width := self._widths(one)[1]) > 1
        )
        return wanted > 1 and fits and not self._is_data(at) and not self.copied(before)

    def _is_data(self, at: int) -> bool:
        """Whether a layer before it was given the same, or the model: it is fed by the batch."""
        return any(
            name.endswith(INPUT)
            and (position < at or name == INPUT)
            and self._same(self._sums[:, at], self._sums[:, position])
            for name, position in self.taps.items()
        )

    def _looks_up(self, name: str, before: tuple[str, ...]) -> bool:
        """Whether this is an embedding, the first layer that is trained, with a row for each
        output of an unreached one."""
        calls = [call for call in self.record.calls if call.layer.name == name]
        at = self.taps[name]
        return (
            name in self._trained
            and any("Embedding" in call.layer.kind for call in calls)
            and name + INPUT not in self.taps
            and self._widths(before[-1])[1] == self._widths(name)[0]
            and not any(self.taps.get(other, at) < at for other in self._trained)
        )

    @cached_property
    def _kinds(self) -> dict[str, str]:
        return {call.layer.name: call.layer.kind for call in self.record.calls}

    def _weight_shape(self, layer: str) -> tuple[int, ...]:
        own = {p.name.rpartition(".")[2]: p.shape for p in self._own.get(layer, ())}
        return own.get("weight", ())

    def _widths(self, layer: str) -> tuple[int, int]:
        """Return how many numbers (channels) go into a layer and come out; 0 if not known."""
        own = {p.name.rpartition(".")[2]: p.shape for p in self._own.get(layer, ())}
        if "weight_hh_l0" in own:
            return own["weight_ih_l0"][1], own["weight_hh_l0"][1]
        if "in_proj_weight" in own:
            return own["in_proj_weight"][1], own["in_proj_weight"][1]
        shape = own.get("weight", ())
        if len(shape) < 2:
            return (shape[0], shape[0]) if shape else (0, 0)
        kind = self._kinds.get(layer, "")
        turned = "Embedding" in kind or "Transpose" in kind
        return (shape[0], shape[1]) if turned else (shape[1], shape[0])


def copied(
    layers: tuple[str, ...], shapes: Mapping[str, list[tuple[int, ...]]], trained: Set[str]
) -> bool:
    """Whether all these layers stand under one module, and under another one the same stand,
    which are trained; `shapes` are those of each layer's parameters."""
    parts = layers[0].split(".")
    for i in range(1, len(parts)):
        above, rest = ".".join(parts[:i]) + ".", ".".join(parts[i:])
        others = {name.removesuffix(rest) for name in trained if f".{name}".endswith(f".{rest}")}
        for other in others - {above}:
            pairs = [(one, other + one.removeprefix(above)) for one in layers]
            if all(
                one.startswith(above) and twin in trained and shapes.get(one) == shapes.get(twin)
                for one, twin in pairs
            ):
                return True
    return False
