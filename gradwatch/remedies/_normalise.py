"""What batch and layer normalisation share: which layers get one, and the code that adds it.

The weighted layer is wrapped together with its normalisation, so that it also works where the
activation after it is called in some `forward` and is no module.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final

from gradwatch.core.record import Call, Record
from gradwatch.core.remedy import CannotPrescribe
from gradwatch.remedies import _code, _reading

TREATS: Final = frozenset(
    {
        (finding, cause)
        for finding in ("vanishing-gradient", "exploding-gradient", "signal-scale")
        for cause in ("init", "depth", "normalisation")
    }
    | {
        ("vanishing-gradient", "activation"),
        ("saturated-activation", "init"),
        ("non-finite", "normalisation"),
    }
)
"""The (finding, cause) pairs that a normalisation answers."""

_ATTENTION: Final = {"multiheadattention", "scaleddotproductattention", "layernorm", "rmsnorm"}
_SEQUENCES: Final = _ATTENTION | {"embedding", "lstm", "gru", "rnn"}
"""What tells of sequences: their Linear layers give (batch, time, features)."""


def hidden_layers(record: Record) -> tuple[Call, ...]:
    """Return the hidden layers to normalise; raises `CannotPrescribe` when there is none.

    Those with an activation after them, and all hidden ones of a net that has no activation: the
    projections of an attention are neither.
    """
    hidden = _reading.hidden(record)
    active = [place for place in hidden if place.activation is not None] or hidden
    bare = [place for place in active if not place.normalised]
    if active and not bare:
        raise CannotPrescribe("every hidden layer is followed by a normalisation already")
    fit = {
        place.layer.name: place.call
        for place in bare
        if _reading.replaceable(record, place.call) and place.layer.weight_shape
    }
    if not fit:
        raise CannotPrescribe("no hidden Linear or Conv layer was found that can be wrapped")
    return tuple(fit.values())


def refuse_sequences(record: Record) -> None:
    """Raise `CannotPrescribe` where Linear layers give more than vectors."""
    for call in record.calls:
        kind = _reading.canonical(call.layer.kind)
        if kind in _SEQUENCES or kind.startswith("transformer"):
            raise CannotPrescribe(
                f"the model works on sequences (it has a {call.layer.kind}), where it would mix up "
                "time and features: see layer-norm"
            )


def wrap(calls: tuple[Call, ...], norm: Callable[[int, str], str]) -> str:
    """Return code that wraps each layer with `norm(number of its spatial axes, its width)`."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for call in calls:
        groups[norm(axes(call), _width(call))].append(call.layer.name)
    parts = [
        _code.replace_each(
            names,
            f"norm = {new}",
            "norm.to(module.weight)  # to its device and number format",
            "model.set_submodule(name, torch.nn.Sequential(module, norm))",
        )
        for new, names in groups.items()
    ]
    return "\n".join([*parts, _code.NEW_OPTIMIZER])


def axes(call: Call) -> int:
    """Return the number of spatial axes: 0 for a Linear layer, 2 for a Conv2d."""
    return max(0, len(call.layer.weight_shape) - 2)


def _width(call: Call) -> str:
    """Its number of output features, as code."""
    if call.layer.builtin and call.layer.kind == "Linear":
        return "module.out_features"
    if call.layer.builtin and call.layer.kind.startswith("Conv"):
        return "module.out_channels"  # of a transposed one with groups: not in its weight's shape
    return str(call.layer.weight_shape[0])
