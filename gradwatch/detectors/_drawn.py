"""Are these weights as they were drawn? Nobody has trained them then, neither here nor before."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from gradwatch.core.record import Parameter, Record
from gradwatch.core.stats import Stats
from gradwatch.detectors._outcome import owner

FEWEST: Final = 16
"""Elements that tell torch's own distribution ..."""
SOME: Final = 100
"""... that tell any other uniform one ..."""
MANY: Final = 1000
"""... and a normal one, whose end is no edge."""
ERRORS: Final = 4.0
"""Standard errors by which the mean square may miss that of the distribution."""
GAP: Final = 10.0
"""The largest of n lies within this many n-ths of the bound, but for once in e^10 draws."""
TAIL: Final = (3.0, 6.0)
"""Standard deviations at which the largest of a thousand to a million normal ones lies; a training
makes a few far larger."""
USUAL: Final = 0.02**2
"""Variance that transformers are begun with (Radford et al. 2018, Devlin et al. 2019)."""


def as_drawn(parameters: Iterable[Parameter]) -> bool:
    """Whether most elements of these weights are what the usual initialisations draw: uniform up to
    a bound or normal with a deviation that follow from the layer's shape, which no training keeps
    to."""
    sizes = {True: 0, False: 0}
    for parameter in parameters:
        if len(parameter.shape) > 1:
            weight = parameter.weight or parameter.sample
            drawn = weight is not None and _drawn(weight, parameter.shape)
            sizes[drawn] += math.prod(parameter.shape)
    return sizes[True] > sizes[False]


def as_torch_draws(record: Record, layers: Iterable[str]) -> bool:
    """Whether the weights of most of these layers are what torch draws unless it is told to do
    otherwise: a third of what keeps the variance of a signal."""
    wanted = set(layers)
    found = [
        _uniform(p.weight, 1 / (3 * math.prod(p.shape[1:])))
        for p in record.parameters
        if len(p.shape) > 1 and p.weight is not None and owner(p) in wanted
    ]
    return 2 * sum(found) > len(found)


def _drawn(weight: Stats, shape: tuple[int, ...]) -> bool:
    if weight.nonfinite or weight.count < FEWEST:
        return False
    fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
    # torch's own for Linear and Conv (Kaiming with a gain of 1/sqrt(3)); LeCun, He by either fan,
    # Xavier.
    variances = (1 / (3 * fan_in), 1 / fan_in, 2 / fan_in, 2 / fan_out, 2 / (fan_in + fan_out))
    uniform = variances if weight.count >= SOME else variances[:1]
    return any(_uniform(weight, v) for v in uniform) or any(
        _normal(weight, v) for v in (*variances[1:], USUAL)
    )


def _uniform(weight: Stats, variance: float) -> bool:
    bound = math.sqrt(3 * variance)
    error = ERRORS * math.sqrt(0.8 / weight.count)  # of the mean square, for a variance of 1
    near = abs(weight.rms**2 / variance - 1) <= error
    return near and 1 - GAP / weight.count <= weight.peak / bound <= 1 + 1e-6


def _normal(weight: Stats, variance: float) -> bool:
    error = ERRORS * math.sqrt(2 / weight.count)
    near = abs(weight.rms**2 / variance - 1) <= error
    return weight.count >= MANY and near and TAIL[0] <= weight.peak / math.sqrt(variance) <= TAIL[1]
