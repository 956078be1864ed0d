"""Where a jump of the gradient came from: from what went in, from the loss, or from the weights.

The norms of a layer's weight gradient and of its bias gradient differ by the size of what goes into
the layer, whatever comes back to it. So the first layer tells the size of the input, in every step;
the sums of the modules' outputs tell whether anything else in the forward pass was out of size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gradwatch.core.history import History, Pulse

WINDOW: Final = 128
"""Steps that a step is compared with, as in OLMo-core's spike detection."""
KNOWN: Final = 20
"""Steps that must be known before one is judged."""
TIMES: Final = 10.0
"""How many times the median of the steps before makes a jump ..."""
DEVIATIONS: Final = 6.0
"""... and how far out of their spread, in (robust) standard deviations of the logarithm."""
OUT: Final = 5.0
"""A size is out of its usual when it is so many times the largest of the steps before."""
THROWN: Final = 2.0
"""Outputs that are so many times the largest before come of other weights (or of the input)."""
RECENT: Final = 8
"""Steps before a jump whose median loss and gradient are the usual ones."""
ALIKE: Final = 4.0
"""Loss and gradient jump alike, as a factor of the loss makes them, within this factor."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a jump came from."""

    cause: str
    """`data`, `loss` or `learning-rate`."""
    text: str

    @property
    def outside(self) -> bool:
        """Whether the step before it is not to blame."""
        return self.cause != "learning-rate"


@dataclass(frozen=True, slots=True)
class Jump:
    """A step whose gradient jumps out of those before."""

    step: int
    source: Source


def jumps(pulses: list[Pulse]) -> list[int]:
    """Return the positions of the steps whose gradient jumps out of those before."""
    norms = np.asarray([pulse.norm for pulse in pulses], np.float64)
    if norms.size <= KNOWN:
        return []
    # Nearly every step is not even far above the least of those before: not worth two medians.
    known = np.where(np.isfinite(norms) & (norms > 0), norms, np.inf)
    padded = np.concatenate([np.full(WINDOW, np.inf), known[:-1]])
    far = np.flatnonzero(norms > TIMES * sliding_window_view(padded, WINDOW).min(1))
    found = [int(i) for i in far if _out(norms[max(0, i - WINDOW) : i], norms[i])]
    # Growth over many steps is no jump; but what follows closely on one is a part of it.
    return [
        i
        for n, i in enumerate(found)
        if norms[i] > TIMES / 2 * np.median(norms[i - RECENT : i])
        or (n > 0 and i - found[n - 1] <= RECENT)
    ]


def onset(pulses: list[Pulse], found: list[int], i: int) -> int:
    """Return the step that a jump really began with: of the jumps that it follows on without a
    pause, the first; and of the steps just before that one, the first that was far above its own
    recent ones."""
    for earlier in reversed([j for j in found if j < i]):
        if i - earlier > RECENT:
            break
        i = earlier
    norms = np.asarray([pulse.norm for pulse in pulses[max(0, i - 2 * RECENT) : i + 1]])
    for n in range(min(RECENT, norms.size - 1), norms.size):
        if norms[n] > TIMES / 2 * np.median(norms[max(0, n - RECENT) : n]):
            return i - (norms.size - 1 - n)
    return i


def first(history: History) -> Jump | None:
    """Return the run's first jump; None if there is none."""
    pulses = [pulse for pulse in history.pulses if pulse.loss_known]
    found = jumps(pulses)
    if not found:
        return None
    at = onset(pulses, found, found[0])
    return Jump(pulses[at].step, source(history, pulses, at))


def source(history: History, pulses: list[Pulse], at: int) -> Source:
    """Tell what the jump at a position came from."""
    pulse, before = pulses[at], pulses[max(0, at - WINDOW) : at]
    recent = before[-RECENT:]
    grown = _input_growth(history, pulse, before)
    if grown > OUT:
        # Of the units of the data each batch would tell.
        return Source(
            "data", f"What went into the model in this step was {grown:.3g} times as large."
        )
    if (inner := _largest(_output_growths(pulse, before))) > THROWN:
        return Source(
            "learning-rate",
            f"The outputs of the layers were {inner:.3g} times as large, the inputs were not: the "
            "step before has thrown the weights.",
        )
    if inner == 0:  # no module's output is looked at
        return Source("learning-rate", "The step before may have thrown the weights.")
    usual = float(np.median([p.loss for p in recent]))
    norm_jump = pulse.norm / float(np.median([p.norm for p in recent]))
    loss_jump = pulse.loss / usual if usual else math.inf
    if not loss_jump * ALIKE > norm_jump:
        return Source("data", "The model's outputs were as usual, and so was the loss.")
    if loss_jump < ALIKE * norm_jump:
        return Source(
            "loss",
            f"The model's outputs were as usual; loss and gradient were some {norm_jump:.3g} times "
            "as large: a factor of the loss.",
        )
    return Source(
        "data",
        "The model's outputs were as usual, the loss was not: a target was far out of range.",
    )


def _out(before: NDArray[np.float64], norm: float) -> bool:
    before = before[np.isfinite(before) & (before > 0)]
    if before.size < KNOWN or not np.isfinite(norm) or norm <= 0:
        return False
    logs = np.log10(before)
    middle = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - middle)))
    rise = float(np.log10(norm)) - middle
    return rise > max(DEVIATIONS * spread, float(np.log10(TIMES)))


def _input_growth(history: History, pulse: Pulse, before: list[Pulse]) -> float:
    """Return by how much the input was larger than ever in the steps before; 0 if not known."""
    taps = [i for i, name in enumerate(pulse.columns.taps) if name in {":input", *_first(history)}]
    found = list(_growths((p.outputs[i] for p in [*before, pulse]) for i in taps))
    pair = _first_pair(history, pulse)
    if pair is not None:
        weight, bias = pair
        sizes = [
            float(p.norms[weight] / p.norms[bias]) for p in [*before, pulse] if p.norms[bias] > 0
        ]
        if pulse.norms[bias] > 0:
            found += _growths([sizes])
    return _largest(found)


def _output_growths(pulse: Pulse, before: list[Pulse]) -> Iterator[float]:
    outputs = [i for i, name in enumerate(pulse.columns.taps) if not name.endswith(":input")]
    return _growths((p.outputs[i] for p in [*before, pulse]) for i in outputs)


def _growths(series: Iterable[Iterable[float]]) -> Iterator[float]:
    """Yield for each series its last value over the largest before, in size."""
    for values in series:
        sizes = np.abs(np.asarray(list(values), np.float64))
        usual = sizes[:-1][np.isfinite(sizes[:-1])]
        if usual.size and usual.max() > 0:
            yield float(sizes[-1] / usual.max()) if math.isfinite(sizes[-1]) else math.inf


def _largest(values: Iterable[float]) -> float:
    return max(values, default=0.0)


def _first(history: History) -> list[str]:
    """Return the tap on the input of the first layer with a weight."""
    return [f"{name}:input" for name in _first_layer(history)]


def _first_layer(history: History) -> list[str]:
    weighted = (call.layer.name for r in history for call in r.calls if call.layer.weighted)
    return list(islice(weighted, 1))


def _first_pair(history: History, pulse: Pulse) -> tuple[int, int] | None:
    """Return the columns of the first layer's weight and bias; None if it has no bias."""
    layers = _first_layer(history)
    columns = {name: i for i, name in enumerate(pulse.columns.parameters)}
    if not layers:
        return None
    prefix = f"{layers[0]}." if layers[0] else ""
    pair = columns.get(f"{prefix}weight"), columns.get(f"{prefix}bias")
    return None if pair[0] is None or pair[1] is None else (pair[0], pair[1])
