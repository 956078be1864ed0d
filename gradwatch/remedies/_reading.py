"""What the remedies read off a record: which layer is followed by what, and which can be replaced.

A record holds the calls of one step in execution order; a remedy needs the weighted layers in that
order, each with what comes after it, and must never touch what makes the model's output.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import NO_GRAD_INPUT, Call, Layer, Record
from gradwatch.core.remedy import CannotPrescribe, Remedy

SATURATING: Final = frozenset(
    {"sigmoid", "tanh", "hardsigmoid", "hardtanh", "softsign", "logsigmoid", "tanhshrink"}
)
_SMOOTH: Final = {"gelu", "silu", "mish", "elu", "celu", "selu", "softplus", "hardswish", "glu"}
_PIECEWISE: Final = {"relu", "relu6", "leakyrelu", "prelu", "rrelu", "threshold", "softshrink"}
ACTIVATIONS: Final = SATURATING | _SMOOTH | _PIECEWISE
OPEN_CONTAINERS: Final = frozenset({"Sequential"})
"""Containers of torch.nn that only call their children; others also read a child's attributes."""


@dataclass(frozen=True, slots=True)
class Place:
    """One call of a weighted layer, and the calls after it up to the next weighted one."""

    call: Call
    before: Call | None
    """The call before it that called no other module; None for the first."""
    after: tuple[Call, ...]

    @property
    def layer(self) -> Layer:
        """The weighted layer."""
        return self.call.layer

    @property
    def activation(self) -> Call | None:
        """The first activation after it."""
        return next((call for call in self.after if is_activation(call.layer)), None)

    @property
    def normalised(self) -> bool:
        """Whether a normalisation already comes before its activation."""
        for call in self.after:
            if is_activation(call.layer):
                return False
            if "norm" in canonical(call.layer.kind):
                return True
        return False


def canonical(kind: str) -> str:
    """Return the spelling in which a module and the operation of the same name agree."""
    return kind.lower().replace("_", "")


def is_activation(layer: Layer) -> bool:
    """Whether it is an activation function, as a module or as an operation."""
    return canonical(layer.kind) in ACTIVATIONS


def places(record: Record) -> tuple[Place, ...]:
    """Return the weighted calls in execution order."""
    calls = record.calls
    containers = {call.parent for call in calls if not call.layer.functional}
    found: list[tuple[Call, Call | None, list[Call]]] = []
    previous = None
    for position, call in enumerate(calls):
        parent = None if call.parent is None else calls[call.parent].layer
        if position in containers:
            continue
        if parent is not None and parent.weighted and call.layer.functional:
            continue  # how a weighted layer of the user's own multiplies
        if call.layer.weighted:
            found.append((call, previous, []))
        elif found:
            found[-1][2].append(call)
        previous = call
    return tuple(Place(call, before, tuple(after)) for call, before, after in found)


def hidden(record: Record) -> tuple[Place, ...]:
    """Return the weighted calls without those of the last layer, which makes the output."""
    every = places(record)
    return tuple(place for place in every if place.layer.name != every[-1].layer.name)


def output_activations(record: Record) -> frozenset[str]:
    """Return the names of the activations that run after the last weighted layer."""
    every = places(record)
    after = every[-1].after if every else record.calls
    return frozenset(call.layer.name for call in after if is_activation(call.layer))


def blamed(finding: Finding, remedy: Remedy) -> tuple[str, ...]:
    """Return the layers of the causes that the remedy treats, in the order of the causes."""
    layers: dict[str, None] = {}
    for cause in finding.causes:
        if (finding.name, cause.name) in remedy.treats:
            layers |= dict.fromkeys(cause.layers)
    return tuple(layers)


def answers(finding: Finding, remedy: Remedy) -> str:
    """Return the finding and the first of its causes that the remedy treats."""
    for cause in finding.causes:
        if (finding.name, cause.name) in remedy.treats:
            return f"{finding.name}: {cause.name}"
    return finding.name


def replaceable(record: Record, call: Call) -> bool:
    """Whether another module can stand in its place without a change to the user's code."""
    if call.layer.functional or not call.layer.name:
        return False
    if call.parent is None:
        return True
    parent = record.calls[call.parent].layer
    return not parent.builtin or parent.kind in OPEN_CONTAINERS


def own_weights(record: Record) -> tuple[Place, ...]:
    """Return the places whose `weight` is a parameter of the layer, to be written to in place.

    What is frozen has its weights for a reason, and is left out.
    """
    frozen = {parameter.name for parameter in record.parameters if not parameter.trainable}
    # The weight of a parametrized layer (weight norm and its like) is computed.
    split = (
        parameter.name.partition(".parametrizations.weight.") for parameter in record.parameters
    )
    computed = {name for name, found, _ in split if found}
    return tuple(
        place
        for place in places(record)
        if not place.layer.functional
        and len(place.layer.weight_shape) >= 2
        and place.layer.name not in computed
        and f"{place.layer.name}.weight" not in frozen
    )


def to_initialise(finding: Finding, remedy: Remedy, record: Record) -> tuple[Place, ...]:
    """Return the places whose weights to draw anew: the blamed ones, or all if none is named.

    A layer that takes the data has no gradient at its input, so it cannot be blamed: it goes with
    the others where at least half of them are. Raises `CannotPrescribe` when there is none.
    """
    every = own_weights(record)
    if not every:
        raise CannotPrescribe("no Linear or Conv layer with a weight of its own was found")
    named = set(blamed(finding, remedy))
    sick = named & set(names(every))
    if named and named <= _elsewhere(record):
        raise CannotPrescribe("the weights in question are not those of a Linear or Conv layer")
    if not sick:
        return every
    first = {place.layer.name for place in every if place.call.reason == NO_GRAD_INPUT}
    if 2 * len(sick) >= len(set(names(every)) - first):
        sick |= first
    return tuple(place for place in every if place.layer.name in sick)


def _elsewhere(record: Record) -> set[str]:
    """What holds weights and is no Linear or Conv layer: recurrent layers, operations with raw
    parameters, and these parameters."""
    recurrent = {
        call.layer.name
        for call in record.calls
        if call.layer.builtin and call.layer.kind.startswith(("RNN", "LSTM", "GRU"))
    }
    raw = {
        call.layer.name for call in record.calls if call.layer.functional and call.layer.weighted
    }
    return recurrent | raw | {parameter.name for parameter in record.parameters}


def names(calls: Iterable[Place | Call]) -> tuple[str, ...]:
    """Return the names of their layers, each once."""
    return tuple(dict.fromkeys(call.layer.name for call in calls))
