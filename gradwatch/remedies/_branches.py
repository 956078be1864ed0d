"""Residual branches, read off a record: where something is added to what went past it.

A record holds no edges, but says which calls all of a forward's gradient passes through (`cut`). A
branch is a run of calls that it does not, up to the `add` that it does again; the skip connection
is what goes past them. Two layers in parallel look much the same, but seldom end at the width at
which they begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gradwatch.core.record import Call, Layer, Record
from gradwatch.core.remedy import CannotPrescribe
from gradwatch.remedies import _reading

MIN_BRANCHES: Final = 4
"""With fewer the sum does not grow much."""
SHORT: Final = 4
"""Weighted layers of a branch in which the gradient does not fade: an attention has so many."""


def last_layers(record: Record) -> tuple[str, ...]:
    """Return the paths of the layers whose `weight` decides on the size of a branch, in order: its
    last layer, or the normalisation after that. Raises `CannotPrescribe` for a net with few."""
    found = ends(record)
    if len(found) < MIN_BRANCHES:
        raise CannotPrescribe(
            f"of residual branches whose size can be set it has {len(found)}, and a sum does not "
            f"grow much with less than {MIN_BRANCHES}"
        )
    return found


def ends(record: Record) -> tuple[str, ...]:
    """The same for any number of branches."""
    shapes = {p.name: p.shape for p in record.parameters if p.trainable}
    paths = (_last(calls, shapes) for calls in _branches(record))
    return tuple(dict.fromkeys(path for path in paths if f"{path}.weight" in shapes))


def inside(record: Record) -> frozenset[str]:
    """Return the names of the layers that have a skip connection around them and a few others."""
    return frozenset(
        call.layer.name
        for calls in _branches(record)
        if sum(call.layer.weighted for call in calls) <= SHORT
        for call in calls
    )


def _branches(record: Record) -> Iterator[list[Call]]:
    """Yield the calls of each branch, with all that they call."""
    inside: dict[int | None, list[int]] = {}
    for position, call in enumerate(record.calls):
        inside.setdefault(call.parent, []).append(position)

    def below(position: int) -> Iterator[Call]:
        call = record.calls[position]
        yield call
        for child in inside.get(position, ()):
            layer = record.calls[child].layer
            if not (call.layer.weighted and layer.weighted and layer.functional):
                yield from below(child)  # the rest is how a layer of the user's own multiplies

    for children in inside.values():
        run: list[int] = []
        for position in children:
            call = record.calls[position]
            if not call.cut:
                run.append(position)
                continue
            if call.layer.functional and call.layer.kind == "add" and run:
                yield [inner for outer in run for inner in below(outer)]
            run = []


def _last(calls: Sequence[Call], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the path of what ends a branch; empty where its size cannot be set."""
    weights = [_weight(call, shapes) for call in calls]
    own = [i for i, path in enumerate(weights) if path]
    if not own or any(c.layer.weighted and c.layer.functional for c in calls[own[-1] + 1 :]):
        return ""  # what ends it is a weight that no layer holds
    first, last = own[0], own[-1]
    begins = _sides(calls[first].layer, shapes[f"{weights[first]}.weight"])[0]
    ends = _sides(calls[last].layer, shapes[f"{weights[last]}.weight"])[1]
    if begins.isdisjoint(ends):
        return ""
    for call in calls[last + 1 :]:
        if "norm" in _reading.canonical(call.layer.kind):
            return call.layer.name
    return weights[last]


def _weight(call: Call, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the path of the layer that holds the last weight of a weighted call, if one does."""
    if call.layer.functional or not call.layer.weighted:
        return ""
    for path in (call.layer.name, f"{call.layer.name}.out_proj"):  # an attention of torch.nn
        if len(shapes.get(f"{path}.weight", ())) > 1:
            return path
    return ""


def _sides(layer: Layer, shape: tuple[int, ...]) -> tuple[set[int], set[int]]:
    """Return the widths that may go in and come out; of a layer of the user's own either way."""
    if not layer.builtin:
        return set(shape[:2]), set(shape[:2])
    depthwise = len(shape) > 2 and shape[1] == 1
    return {shape[0] if depthwise else shape[1]}, {shape[0]}
