"""What a model ends with: the activation that everything it answers goes through."""

from __future__ import annotations

import math
from typing import Final

from gradwatch.core.record import Call, Record
from gradwatch.core.remedy import CannotPrescribe
from gradwatch.remedies import _calls, _code, _reading

SOFTMAX: Final = "softmax"
SIGMOID: Final = "sigmoid"
_BOUNDS: Final = {
    **dict.fromkeys((SOFTMAX, SIGMOID, "hardsigmoid"), (0.0, 1.0)),
    **dict.fromkeys(("tanh", "hardtanh", "softsign"), (-1.0, 1.0)),
    **dict.fromkeys(("relu", "softplus", "exp", "square"), (0.0, math.inf)),
    "relu6": (0.0, 6.0),
    **dict.fromkeys(("elu", "celu"), (-1.0, math.inf)),
    "selu": (-1.7581, math.inf),
    "gelu": (-0.17, math.inf),
    "silu": (-0.2785, math.inf),
    "mish": (-0.3088, math.inf),
    **dict.fromkeys(("logsigmoid", "logsoftmax"), (-math.inf, 0.0)),
}
"""The smallest and the largest value of functions that do not reach every number."""
_UNCHANGING: Final = frozenset(
    {
        *("identity", "flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze", "alias"),
        *("tocopy", "to", "float", "clone", "contiguous", "permute", "transpose", "t"),
    }
)
"""What may come after it: the same numbers in another shape or format."""
_SLACK: Final = 1e-3


def calls(record: Record) -> tuple[Call, ...]:
    """Return what comes after the last weighted layer, without what changes no number."""
    every = _reading.places(record)
    return tuple(
        call
        for call in (every[-1].after if every else ())
        if _reading.canonical(call.layer.kind) not in _UNCHANGING
    )


def activation(record: Record) -> Call | None:
    """Return the bounded function that makes the output; None where there is none.

    A gate (`x * sigmoid(...)`) is none: nothing may come after it, and where the output was seen,
    it must be in its range.
    """
    last = calls(record)[-1:]
    if not last or _reading.canonical(last[0].layer.kind) not in _BOUNDS:
        return None
    said = record.answer
    if said is not None and math.isfinite(said.low) and math.isfinite(said.high):
        low, high = bounds(last[0])
        if said.low < low - _SLACK or said.high > high + _SLACK:
            return None
        if kind(last[0]) == SOFTMAX and said.samples and not said.probabilities:
            return None  # along another axis: no distribution over the last one
    return last[0]


def kind(call: Call) -> str:
    """Return the canonical name of its function."""
    return _reading.canonical(call.layer.kind)


def bounds(call: Call) -> tuple[float, float]:
    """Return the smallest and the largest value that it can give."""
    return _BOUNDS.get(kind(call), (-math.inf, math.inf))


def bounded(call: Call) -> bool:
    """Whether there are numbers that it cannot give."""
    return bounds(call) != (-math.inf, math.inf)


def removal(record: Record, *gone: Call) -> tuple[str, bool]:
    """Return code that takes these calls out, and whether it needs the class of `_calls`; raises
    `CannotPrescribe` where that is not possible."""
    parts, functions = [], []
    for call in gone:
        if len(_calls.of(record, call.layer.name)) > 1:
            raise CannotPrescribe(f"{call.layer.label!r} is called in several places")
        if _reading.replaceable(record, call):
            names = [call.layer.name]
            parts.append(
                _code.replace_each(names, "model.set_submodule(name, torch.nn.Identity())")
            )
        elif _calls.swappable(record, call.layer):
            functions.append(call.layer)
        else:
            raise CannotPrescribe(f"{call.layer.label!r} cannot be taken out of what holds it")
    if functions:
        parts += [
            _calls.advice(functions, "what it is called with", record),
            _calls.swap(functions, "torch.nn.Identity()", record),
        ]
    return "\n".join(parts), bool(functions)
