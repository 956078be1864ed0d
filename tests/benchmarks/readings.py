"""What the rules of other tools read, taken from gradwatch's records as well as those allow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.record import Call, Parameter, Record
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Stats

_MIDDLES: Final = np.ldexp(1.5, np.arange(OCTAVE_LOW, OCTAVE_LOW + OCTAVES))
BOUNDED: Final = frozenset({"sigmoid", "tanh"})
ACTIVATIONS: Final = BOUNDED | {
    *("relu", "leakyrelu", "prelu", "elu", "selu", "gelu", "softmax", "logsoftmax", "silu", "mish"),
    *("hardswish", "hardsigmoid"),
}


@dataclass(frozen=True)
class Seen:
    """What a rule may look at: the exams so far, and every loss so far."""

    records: Sequence[Record]
    losses: Sequence[float]

    @property
    def now(self) -> Record:
        """The exam at which it is asked."""
        return self.records[-1]

    @property
    def late(self) -> Sequence[Record]:
        """The second half of the exams."""
        return self.records[len(self.records) // 2 :]


def mean_magnitude(stats: Stats) -> float:
    """Return mean(|x|), from the middles of octaves; NaN when not all is finite."""
    if stats.nonfinite or not stats.count:
        return math.nan
    return min(float(stats.octaves @ _MIDDLES) / stats.count, stats.rms)


def share_above(stats: Stats, magnitude: float) -> float:
    """Return the share of finite elements above a magnitude, spread evenly within its octave."""
    octave = math.frexp(magnitude)[1] - 1
    at = octave - OCTAVE_LOW
    within = (math.ldexp(1, octave + 1) - magnitude) / math.ldexp(1, octave)
    above = stats.octaves[at + 1 :].sum() + within * stats.octaves[at]
    return float(above) / max(1, stats.finite)


def outside(value: float, low: float, high: float) -> bool:
    """Return whether a value lies outside a range; NaN does not, as in the tools' comparisons."""
    return value < low or value > high


def true_std(stats: Stats) -> float:
    """Return the standard deviation, NaN when not all is finite."""
    return math.nan if stats.nonfinite else stats.std


def true_norm(stats: Stats | None) -> float:
    """Return the norm as torch gives it: NaN and inf included; 0 for what was never called."""
    if stats is None:
        return 0.0
    return math.nan if stats.nans else math.inf if stats.infs else stats.norm


def trained(record: Record) -> Iterator[tuple[Parameter, Stats]]:
    """Yield the parameters that are trained, with their gradients."""
    return ((p, p.gradient) for p in record.parameters if p.trainable and p.gradient is not None)


def kernels(record: Record) -> list[float]:
    """Return mean gradient magnitudes of the weights of two or more dimensions, in order of
    registration."""
    return [mean_magnitude(g) for p, g in trained(record) if len(p.shape) >= 2]


def modules(record: Record) -> Iterator[tuple[Call, Stats]]:
    """Yield the calls of modules with their outputs; operations are seen by no other tool."""
    return ((c, c.output) for c in record.calls if c.output is not None and not c.layer.functional)


def of_kind(record: Record, kinds: frozenset[str]) -> Iterator[tuple[Call, Stats]]:
    """Yield the calls of modules of some classes, given in lower case."""
    return ((c, out) for c, out in modules(record) if c.layer.kind.lower() in kinds)


def ratios(record: Record) -> list[float]:
    """Return mean|update| / mean|weight| of each weight of two or more dimensions, by their rms
    over the sample; NaN when not all of it is finite."""
    return [
        math.nan if update.nonfinite or sample.nonfinite else update.rms / (sample.rms + 1e-9)
        for _, update, sample in _moved(record)
    ]


def _moved(record: Record) -> Iterator[tuple[str, Stats, Stats]]:
    for p in record.parameters:
        if p.trainable and len(p.shape) >= 2 and p.update is not None and p.sample is not None:
            yield p.name, p.update, p.sample


def nonfinite(record: Record) -> bool:
    """Return whether the loss, an output, a gradient or a weight holds a NaN or an infinity."""
    stats = [out for _, out in modules(record)]
    stats += [s for p in record.parameters for s in (p.gradient, p.weight) if s is not None]
    return any(s.nonfinite for s in stats) or not math.isfinite(record.loss or 0.0)


def unchanged(seen: Seen, times: int, relative: float, absolute: float) -> bool:
    """Return whether some weight's sample did not move in any of the latest `times` exams."""
    counts: dict[str, int] = {}
    for record in seen.records[-times:]:
        for name, update, sample in _moved(record):
            counts[name] = counts.get(name, 0) + (
                update.peak <= absolute + relative * sample.rms and not update.nonfinite
            )
    return max(counts.values(), default=0) == times


def falls(seen: Seen, steps: int, share: float) -> bool:
    """Return whether the loss fell by a share of itself since so many steps ago."""
    if len(seen.losses) <= steps:
        return True
    before, now = seen.losses[-1 - steps], seen.losses[-1]
    return now <= before - share * abs(before)


def dead(record: Record, activity: float, share: float) -> bool:
    """Return whether in some ReLU over a share of the units is active less often than that."""
    return any(
        call.active is not None
        and float((call.active.units < activity * call.active.samples).mean()) > share
        for call, _ in of_kind(record, frozenset({"relu"}))
    )


def dense(record: Record) -> list[Parameter]:
    """Return the weights of `Linear` layers."""
    names = {f"{c.layer.name}.weight" for c in record.calls if c.layer.kind == "Linear"}
    return [p for p in record.parameters if p.name in names]


def leaves(record: Record) -> list[str]:
    """Return the modules that own parameters and hold no other such module, in order of
    registration."""
    owners = dict.fromkeys(p.name.rpartition(".")[0] for p in record.parameters)
    parents = {name[:i] for name in owners for i, c in enumerate(name) if c == "."}
    if len(owners) > 1:
        parents.add("")
    return [name for name in owners if name not in parents]


def flow(records: Sequence[Record]) -> NDArray[np.float64]:
    """Return the norm of the gradient at the output by exam and module (see `leaves`).

    The last one known where an exam is about others (in a GAN), 0 for one that is never called.
    """
    names, known, rows = leaves(records[-1]), dict[str, float](), list[list[float]]()
    for record in records:
        known |= {
            call.layer.name: true_norm(call.grad_output)
            for call in record.calls
            if call.grad_output is not None
        }
        rows.append([known.get(name, 0.0) for name in names])
    return np.array(rows).reshape(len(records), len(names))
