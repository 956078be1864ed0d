"""Are these weights as they were drawn? Nobody has trained them then, neither here nor before."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from gradwatch.core.record import Parameter

FEWEST: Final = 100
"""Elements that tell a distribution: the largest of fewer may well be far below the bound."""
ERRORS: Final = 4.0
"""Standard errors by which the mean square may miss that of the distribution."""
GAP: Final = 10.0
"""The largest of n lies within this many n-ths of the bound, but for once in e^10 draws."""


def as_drawn(parameters: Iterable[Parameter]) -> bool:
    """Whether most elements of these weights are what torch's own initialisation draws: uniform up
    to the bound that follows from the layer's shape, which no training keeps to."""
    sizes = {True: 0, False: 0}
    for parameter in parameters:
        if len(parameter.shape) > 1 and parameter.weight is not None:
            sizes[_uniform(parameter)] += math.prod(parameter.shape)
    return sizes[True] > sizes[False]


def _uniform(parameter: Parameter) -> bool:
    weight = parameter.weight
    if weight is None or weight.count < FEWEST or weight.nonfinite:
        return False
    incoming = math.prod(parameter.shape[1:])
    outgoing = parameter.shape[0] * math.prod(parameter.shape[2:])
    # Linear and Conv (Kaiming with a gain of 1/sqrt(3)), Kaiming for ReLU, LeCun, Xavier; and
    # what recurrent layers draw, by their width.
    squares = (1 / incoming, 6 / incoming, 3 / incoming, 6 / (incoming + outgoing))
    return any(_up_to(math.sqrt(square), weight.peak, weight.rms, weight.count) for square in squares)


def _up_to(bound: float, peak: float, rms: float, count: int) -> bool:
    """Whether `count` numbers of these sizes are uniform between -bound and bound."""
    error = ERRORS * math.sqrt(4 / 45 / count)  # of the mean of x^2 for a bound of 1
    near = abs((rms / bound) ** 2 - 1 / 3) <= error
    return near and 1 - GAP / count <= peak / bound <= 1 + 1e-6
