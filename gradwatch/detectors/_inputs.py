"""What goes into a model, told from what its first layers make of it.

The input itself is not recorded. But weights that are random, as at the start, multiply the root
mean square of what they get by rms(weight) * sqrt(fan-in), so that the output of a first layer
tells the size of its input: to within 20 % on 121 layers of which it is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from gradwatch.core.history import History
from gradwatch.core.record import NO_GRAD_INPUT, Call, Record, around

LARGE: Final = 30.0
"""Root mean square from which inputs are large: one is what every initialisation assumes."""
RECURRENT: Final = ("RNN", "LSTM", "GRU")
JOINS: Final = ("cat", "concat", "concatenate", "stack", "hstack", "column_stack", "dstack")
"""Operations that put one tensor beside another."""
HUGE: Final = 300.0
"""... from which on it takes a norm behind the first layer to live with them."""
FAINT: Final = 0.01
"""Norm of what differs between samples under which inputs are tiny; that of one-hot inputs is 1."""
ALIKE: Final = 1e-5
"""Share of its squares in which the input differs between samples, under which it is offset: its
mean is 300 times its standard deviation."""


SAME: Final = 1e-11
"""... under which the samples are one and the same: float32 rounds to 1e-14 of the squares."""


@dataclass(frozen=True, slots=True)
class Input:
    """What one or several first layers get."""

    layers: tuple[str, ...]
    size: float
    """Root mean square, estimated."""
    differing: float
    """Norm of what differs between samples."""
    spread: float
    """Share of its squares in which samples differ."""
    normalised: bool
    """Whether a norm follows before the next weights."""
    flushed: str = ""
    """The layer in float16 that gave only zeros, where that is what comes in."""

    @property
    def large(self) -> bool:
        """Whether it is so large that ordinary weights cannot work with it."""
        return self.size >= LARGE

    @property
    def cause(self) -> str:
        """Whose doing it is: the units of the data, the data themselves, or the number format."""
        if self.flushed:
            return "precision"
        return "data" if self.spread < SAME else "data-scale"

    @property
    def text(self) -> str:
        """What is off, as a sentence."""
        layers = f"`{self.layers[0] or '(model)'}`"
        if self.flushed:
            return f"What goes into {layers} is 0: `{self.flushed}` left the range of float16."
        if self.spread < SAME:
            return f"What goes into {layers} is the same for every sample of the batch."
        if self.spread < ALIKE and self.large:
            return (
                f"What goes into {layers} is of size {self.size:.3g}, and differs between samples "
                f"by only {self.size * math.sqrt(self.spread):.2g}: it is not centred."
            )
        if self.large:
            return f"What goes into {layers} is of size {self.size:.3g}, and should be near 1."
        return (
            f"What goes into {layers} differs between samples by a norm of only "
            f"{self.differing:.2g}: all of them look alike to it."
        )


def off_scale(record: Record) -> Input | None:
    """Return the largest input that is too large, or else the inputs, if all are too small or the
    same; None where they are as they should be, or not known."""
    found = [one for i, call in enumerate(record.calls) if (one := _input(record, i, call))]
    found += [Input((layer,), size, size, 1.0, False) for layer, size in huge_sequences(record)]
    if large := [one for one in found if one.large and not one.normalised]:
        return max(large, key=lambda one: one.size)
    first = next((call.layer.name for call in record.calls if call.layer.weighted), None)
    faint = [one for one in found if one.differing < FAINT and not one.normalised]
    if len(faint) < len(found) or first not in {one.layers[0] for one in faint}:
        return None
    return min(faint, key=lambda one: one.differing)


def _input(record: Record, position: int, call: Call) -> Input | None:
    if not call.layer.weighted or call.spread is None:
        return None
    joined = call.reason != NO_GRAD_INPUT
    if joined and not _small_before(record, position):
        return None
    wanted = f"{call.layer.name}.weight" if call.layer.name else "weight"
    weight = next((p.weight for p in record.parameters if p.name == wanted), None)
    shape = call.layer.weight_shape
    if weight is None or not weight.rms or len(shape) < 2 or call.output is None:
        return None
    # What the bias adds is the same for all samples, and has nothing to do with the input.
    own = next((p.weight for p in record.parameters if p.name == wanted[:-6] + "bias"), None)
    rms = math.sqrt(max(0.0, call.output.rms**2 - (own.rms**2 if own is not None else 0.0)))
    differing = call.output.rms * math.sqrt(call.spread) / weight.rms
    norm = max(rms / weight.rms, differing)
    if joined and norm / math.sqrt(math.prod(shape[1:])) < HUGE:
        return None  # nothing but what comes from the layers before
    return Input(
        (call.layer.name,),
        norm / math.sqrt(math.prod(shape[1:])),
        differing,
        (differing / norm) ** 2 if norm else 0.0,
        _normalised(record, position),
        _flushed(record, position),
    )


def sequences(record: Record) -> Iterator[tuple[str, float]]:
    """Yield recurrent layers that get the data, and in what size: the gradient of a weight is that
    of the bias beside it times the input."""
    for call in record.calls:
        if call.layer.kind not in RECURRENT or call.reason != NO_GRAD_INPUT:
            continue
        own = [p for p in record.parameters if p.name.rpartition(".")[0] == call.layer.name]
        found = {p.name.rpartition(".")[2]: p.gradient for p in own}
        weight, bias = found.get("weight_ih_l0"), found.get("bias_ih_l0")
        if weight is not None and bias is not None and bias.rms > 0:
            yield call.layer.name, weight.rms / bias.rms


def huge_sequences(record: Record) -> Iterator[tuple[str, float]]:
    """Yield those whose input is huge: that of a weight's gradient is not known so well."""
    yield from ((layer, size) for layer, size in sequences(record) if size >= HUGE)


def _small_before(record: Record, position: int) -> bool:
    """Whether what all layers before have given is of ordinary size: something that is not comes
    from beside them, as a column that is joined to what an embedding gives."""
    outer = {*around(record.calls, record.calls[position])}
    if not any(call.layer.kind in JOINS for call in record.calls[:position]):
        return False
    sizes = [
        call.output.rms
        for i, call in enumerate(record.calls[:position])
        if call.output is not None and i not in outer
    ]
    return bool(sizes) and max(sizes) < LARGE


def _flushed(record: Record, position: int) -> str:
    """Return the layer before this one that gave nothing but zeros in float16."""
    for call in reversed(record.calls[:position]):
        output = call.output
        if output is not None and output.count and call.dtype == "float16":
            return "" if output.squares or output.nonfinite else call.layer.label
    return ""


def _normalised(record: Record, position: int) -> bool:
    for call in record.calls[position + 1 :]:
        if "norm" in call.layer.kind.lower():
            return True
        if call.layer.weighted:
            return False
    return False


def targets_off(record: Record) -> float | None:
    """Return the standard deviation of the targets of a squared error, where it is large."""
    answer = record.answer
    if answer is None or not answer.target_varying >= LARGE:
        return None
    return answer.target_varying


@dataclass(frozen=True, slots=True)
class Outlier:
    """A batch whose inputs were of another size."""

    step: int
    times: float
    layers: tuple[str, ...]


def outlier(history: History, step: int) -> Outlier | None:
    """Return the batch at a step, if its inputs were so much larger than those of the exams before
    that inputs like these would be too large."""
    sizes: dict[str, list[float]] = {}
    for record in history:
        if record.step > step:
            break
        for i, call in enumerate(record.calls):
            one = _input(record, i, call)
            if one is None:
                continue
            before = sizes.setdefault(call.layer.name, [])
            if record.step == step and before and one.size >= LARGE * median(before):
                return Outlier(step, one.size / median(before), one.layers)
            before.append(one.size)
    return None
