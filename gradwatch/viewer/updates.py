"""How far a step moves the weights, of each parameter and exam, in units of the weights' own size.

Measured on the sample of a parameter's elements that the recorder follows: the norm of what the
optimizer's step changed, divided by the norm before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from gradwatch.core.record import Parameter, Record
from gradwatch.sinks._text import clean
from gradwatch.viewer.exams import evenly
from gradwatch.viewer.norms import NOT_MEASURED
from gradwatch.viewer.order import execution_order, owner
from gradwatch.viewer.packing import label, pack

_RANGE: Final = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
MAX_NUMBERS: Final = 60_000
"""Ratios in one page, some 2 bytes each: of more, parameters are left out."""


def update_data(exams: Sequence[Record]) -> dict[str, Any]:
    """Return the ratios by parameter and exam. Infinite: it moved away from 0; NaN: the movement is
    not finite; -2: not measured."""
    names = list(dict.fromkeys(p.name for record in reversed(exams) for p in record.parameters))
    order = execution_order(list(map(owner, names)), exams[-1] if exams else None)
    kept = evenly([names[i] for i in order], max(2, MAX_NUMBERS // max(1, len(exams))))
    place = {name: i for i, name in enumerate(kept)}
    ratios = np.full((len(kept), len(exams)), NOT_MEASURED, np.float32)
    for exam, record in enumerate(exams):
        for parameter in record.parameters:
            if parameter.name in place:
                ratios[place[parameter.name], exam] = ratio(parameter)
    return {
        "steps": [record.step for record in exams],
        "parameters": [clean(name) for name in kept],
        "layers": [label(owner(name)) for name in kept],
        "left_out": len(names) - len(kept),
        "ratios": pack(ratios),
    }


def ratio(parameter: Parameter) -> float:
    """Return norm(update) / norm(weight) over the sample, or the mark of what has none."""
    update, sample = parameter.update, parameter.sample
    if update is None or sample is None:
        return NOT_MEASURED
    # Of a damaged folder the squares can be anything.
    if update.nonfinite or sample.nonfinite or not update.squares >= 0 <= sample.squares:
        return math.nan
    if not sample.norm:
        return math.inf if update.norm else 0.0
    # What float32 cannot hold must look neither like 0 nor like infinity.
    return min(max(update.norm / sample.norm, _RANGE[0]), _RANGE[1]) if update.norm else 0.0
