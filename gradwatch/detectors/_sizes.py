"""The size of the weights: what random ones of that size do to the signal, and to the gradient.

They multiply the norm of a gradient by rms * sqrt(fan-in), and the root mean square of a signal by
the same; 1 keeps both, and sqrt(2) where a rectifier takes half of it away (He et al. 2015).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from gradwatch.core.record import Call, Parameter, Record
from gradwatch.detectors._groups import RECTIFIERS

TOO_LARGE: Final = 1.3
"""Weights that miss their size by less than this factor are of the right size."""


def weight(record: Record, layer: str) -> Parameter | None:
    """Return a layer's own weight."""
    wanted = f"{layer}.weight" if layer else "weight"
    return next((p for p in record.parameters if p.name == wanted), None)


def size(record: Record, call: Call | None) -> float | None:
    """Return rms * sqrt(fan-in) of a layer's weight; None where it is not known."""
    if call is None or len(shape := call.layer.weight_shape) < 2:
        return None
    parameter = weight(record, call.layer.name)
    if parameter is None or parameter.weight is None or not parameter.weight.rms:
        return None
    return parameter.weight.rms * math.sqrt(math.prod(shape[1:]))


def mean(sizes: Iterable[float]) -> float | None:
    """Return the geometric mean of some sizes; None if there are none."""
    logs = [math.log(one) for one in sizes]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


class Sizes:
    """The sizes of all of a model's weights, in units of what is right for its activations."""

    def __init__(self, record: Record) -> None:
        self.record = record
        rectified = any(call.layer.kind in RECTIFIERS for call in record.calls)
        gain = math.sqrt(2) if rectified else 1.0
        used = [
            (call.layer.name, one / gain)
            for call in record.calls
            if call.layer.weighted and (one := size(record, call)) is not None
        ]
        self.of = dict(used)
        self.mean = mean(one for _, one in used)
        """Their geometric mean, each as often as it is called: 1 where they are as they should."""

    def missing(self, sign: float) -> tuple[str, ...]:
        """Return the layers whose weights are too large (`sign` 1) or too small (-1)."""
        return tuple(name for name, one in self.of.items() if one**sign > TOO_LARGE)

    def explain(self, layers: Sequence[str]) -> float:
        """Return the decades by which the weights of these layers, after the first, let the signal
        grow at most: weights that are all of one sign add up what has a mean."""
        total = 0.0
        for name in layers[1:]:
            parameter = weight(self.record, name)
            if parameter is None or parameter.weight is None or not parameter.weight.rms:
                continue
            fan_in = parameter.weight.count / parameter.shape[0]
            coherent = fan_in * abs(parameter.weight.mean)
            total += math.log10(math.hypot(parameter.weight.rms * math.sqrt(fan_in), coherent))
        return total
