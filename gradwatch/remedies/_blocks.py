"""Blocks that a skip connection can go around: a weighted layer up to its activation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gradwatch.core.record import Record
from gradwatch.remedies import _reading
from gradwatch.remedies._reading import Place


def square(place: Place, record: Record) -> bool:
    """Whether its input can be added to its output."""
    layer, call = place.layer, place.call
    shape = layer.weight_shape
    if layer.functional or not call.cut or len(shape) < 2 or shape[0] != shape[1]:
        return False
    if len(shape) == 2:
        return True
    # A stride or missing padding of a convolution shows in the number of elements only.
    source = place.before
    return (
        source is not None
        and source.output is not None
        and call.output is not None
        and source.output.count == call.output.count
    )


def projectable(place: Place) -> bool:
    """Whether a projection of its input can be added to its output."""
    kind = place.layer.kind
    plain = kind == "Linear" or (kind.startswith("Conv") and "Transpose" not in kind)
    if not place.layer.builtin or not plain or not place.call.cut:
        return False
    source, shape = place.before, place.layer.weight_shape
    if len(shape) == 2:
        return True
    if source is None or source.output is None or place.call.output is None:
        return False
    # Without padding a convolution has fewer positions, and no stride gives a 1x1 one as many.
    positions = place.call.output.count // shape[0]
    return source.output.count // shape[1] % positions == 0


def functional(place: Place) -> bool:
    """Whether its activation is called in a forward and is no module."""
    return place.activation is not None and place.activation.layer.functional


def _block(place: Place, record: Record) -> tuple[str, ...]:
    """The modules from the layer to its activation, where they are a plain chain; else empty."""
    chain = [place.call]
    if place.activation is not None:
        chain += place.after[: place.after.index(place.activation) + 1]
    plain = all(
        _reading.replaceable(record, call) and call.parent == place.call.parent and call.cut
        for call in chain
    )
    return tuple(call.layer.name for call in chain) if plain else ()


def chains(places: Sequence[Place], record: Record) -> list[tuple[str, ...]]:
    """The blocks that can be wrapped: no module of one is also called outside of all of them."""
    found = [block for place in places if (block := _block(place, record))]
    calls = Counter(call.layer.name for call in record.calls)
    while True:
        inside = Counter(name for block in found for name in block)
        whole = [block for block in found if all(inside[name] == calls[name] for name in block)]
        heads = Counter(block[0] for block in set(whole))  # one layer, two different activations
        whole = [block for block in whole if heads[block[0]] == 1]
        if whole == found:
            return list(dict.fromkeys(whole))
        found = whole
