"""How the backward signal changes with depth: shared by the detectors of vanishing and exploding.

The literature's object is the gradient at the layers' outputs (Glorot & Bengio 2010, Hanin 2018),
not that of their weights. Its fitted drop is free of scale: on 14 healthy and 8 sick networks
that the rule was not made on, the healthy ones had at most 0.5 decades and the sick at least 2.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.finding import Cause
from gradwatch.core.ledger import Entry
from gradwatch.core.record import Record
from gradwatch.core.stats import Stats
from gradwatch.detectors import _sizes

MIN_LAYERS: Final = 3
"""A trend needs three points."""
MAX_LAYERS: Final = 256
"""Deeper networks are looked at in so many evenly spaced layers."""
MIN_SHARE: Final = 0.05
"""A cause that takes less of the bits is not worth a remedy."""
GAP: Final = 1
"""Exams in a row that may look good within a streak of bad ones: a gradient is noisy."""


@dataclass(frozen=True, slots=True)
class Trend:
    """The output gradients of the weighted layers, in execution order."""

    layers: tuple[str, ...]
    drop: float
    """Decades lost from the last layer to the first: Theil-Sen slope times (layers - 1)."""
    monotony: float
    """Kendall's tau between depth and gradient: 1 when every earlier layer has less."""
    scale_drop: float | None
    """The same drop for (output norm * gradient norm), which no rescaling of layers changes
    (Philipp et al. 2017); None where outputs were not measured."""
    signal_growth: float | None
    """Decades by which the output's root mean square grows from the first layer to the last."""
    scale_monotony: float | None = None
    """Kendall's tau of what `scale_drop` is the drop of."""

    @property
    def witnessed(self) -> bool:
        """Whether a second statistic agrees that the signal itself is lost or blown up."""
        if self.scale_drop is None or self.signal_growth is None:
            return True
        sign = math.copysign(1, self.drop)
        return sign * self.scale_drop >= 1 or -sign * self.signal_growth >= 1


def trend(record: Record) -> Trend | None:
    """Fit the trend of one exam; None when there are too few layers or a gradient is not finite."""
    gradients: dict[str, float] = {}
    outputs: dict[str, Stats | None] = {}
    for call in record.calls:
        if not call.layer.weighted or call.grad_output is None:
            continue
        if call.grad_output.nonfinite:
            return None
        name = call.layer.name
        gradients[name] = gradients.get(name, 0.0) + call.grad_output.squares
        before = outputs.get(name, call.output)
        if name in outputs and before is not None and call.output is not None:
            before += call.output
        outputs[name] = before if call.output is not None else None
    # An exact zero is no point of a trend: it may be a head that was initialised with zeros.
    layers = [name for name, squares in gradients.items() if 0 < squares < math.inf]
    if len(layers) < MIN_LAYERS:
        return None
    picked = np.unique(np.linspace(0, len(layers) - 1, MAX_LAYERS).round().astype(int))
    layers = [layers[i] for i in picked] if len(layers) > MAX_LAYERS else layers
    backward = 0.5 * np.log10([gradients[name] for name in layers])
    slope, monotony = _fit(backward)
    known = [output for name in layers if (output := outputs[name]) is not None and output.squares]
    scale_drop = growth = scale_monotony = None
    if len(known) == len(layers):
        growth = _fit(np.log10([output.rms for output in known]))[0] * (len(layers) - 1)
        forward = 0.5 * np.log10([output.squares for output in known])
        scale_slope, scale_monotony = _fit(backward + forward)
        scale_drop = scale_slope * (len(layers) - 1)
    drop = slope * (len(layers) - 1)
    return Trend(tuple(layers), drop, monotony, scale_drop, growth, scale_monotony)


@dataclass(frozen=True, slots=True)
class Signal:
    """How the size of the outputs changes over the weighted layers, on the way forward."""

    layers: tuple[str, ...]
    decades: float
    monotony: float
    overflows: bool = False
    """Whether the layer after the last of these is no longer finite."""


def signal(record: Record) -> Signal | None:
    """Fit the root mean squares of the outputs, up to the first that is not finite; None when
    there are too few layers, or one has no output or one that is zero."""
    outputs: dict[str, Stats] = {}
    for call in record.calls:
        if call.layer.weighted and call.output is not None:
            before = outputs.get(call.layer.name)
            outputs[call.layer.name] = call.output if before is None else before + call.output
    sizes: list[float] = []
    for output in outputs.values():
        if output.nonfinite or not output.rms < math.inf:
            break
        sizes.append(output.rms)
    if len(sizes) < MIN_LAYERS or not all(sizes):
        return None
    slope, monotony = _fit(np.log10(sizes))
    overflows = len(sizes) < len(outputs)
    return Signal(tuple(outputs)[: len(sizes)], slope * (len(sizes) - 1), monotony, overflows)


def _fit(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the Theil-Sen slope per layer and Kendall's tau."""
    i, j = np.triu_indices(values.size, 1)
    rises = values[j] - values[i]
    return float(np.median(rises / (j - i))), float(np.sign(rises).mean())


@dataclass(frozen=True, slots=True)
class Streak:
    """The exams, up to the latest that could be judged, in which a trend was bad."""

    records: tuple[Record, ...]
    trend: Trend
    """That of the latest of them."""

    @property
    def since(self) -> int:
        """The first step of it."""
        return self.records[0].step

    @property
    def until(self) -> int:
        """The last step of it."""
        return self.records[-1].step

    @property
    def steps(self) -> int:
        """How many optimizer steps it spans."""
        return self.until - self.since


def streak(judged: Sequence[tuple[Record, Trend, bool]]) -> Streak | None:
    """Return the streak of bad exams at the end, in which single good ones are passed over; None
    when the last ones were not bad."""
    bad: list[Record] = []
    last: Trend | None = None
    good = 0
    for record, found, is_bad in reversed(judged):
        good = 0 if is_bad else good + 1
        if good > GAP:
            break
        if is_bad:
            bad.append(record)
            last = last or found
    return Streak(tuple(reversed(bad)), last) if last is not None else None


def bits(entries: Iterable[Entry]) -> float:
    """Return the sum of the entries' bits."""
    return math.fsum(entry.bits for entry in entries)


def names(entries: Iterable[Entry]) -> tuple[str, ...]:
    """Return the entries' layers, each once, in execution order."""
    return tuple(dict.fromkeys(name for entry in entries for name in entry.layers))


def shares(causes: Iterable[Cause], sign: float) -> tuple[Cause, ...]:
    """Give each cause its share of the bits with that sign, the largest first; leave out what
    takes less than `MIN_SHARE`."""
    sizes = {cause: sign * (cause.bits or 0.0) for cause in causes}
    total = math.fsum(size for size in sizes.values() if size > 0)
    ranked = sorted(sizes, key=lambda cause: sizes[cause], reverse=True)
    return tuple(
        replace(cause, share=sizes[cause] / total)
        for cause in ranked
        if sizes[cause] > MIN_SHARE * total
    )


def listed(layers: Sequence[str]) -> str:
    """Name some layers in a sentence."""
    shown = [f"`{name or '(model)'}`" for name in layers]
    return ", ".join(shown) if len(shown) <= 3 else f"{shown[0]}, {shown[1]} ... {shown[-1]}"


def kinds(entries: Sequence[Entry], verb: str) -> str:
    """Say what the entries are and do: "20 Sigmoids lose" or "3 Conv2d and 1 Linear lose"."""
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.kind] = counts.get(entry.kind, 0) + 1
    named = " and ".join(
        f"{count} {kind}{'s' if count > 1 and kind[-1].isalpha() else ''}"
        for kind, count in counts.items()
    )
    return f"{named} {verb}{'s' if len(entries) == 1 else ''}"


def init_factor(record: Record, entries: Iterable[Entry], gain: float) -> float | None:
    """Return the mean (geometric) ratio of the weights' size to gain / sqrt(fan-in), the size
    that keeps the signal (He et al. 2015 with gain sqrt(2) for rectifiers)."""
    sizes = (_sizes.size(record, entry.call) for entry in entries)
    mean = _sizes.mean(size for size in sizes if size is not None)
    return None if mean is None else mean / gain
