"""The order in which the layers of a model are called: that of all rows of the page."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.core.record import Record


def execution_order(layers: Sequence[str], record: Record | None) -> list[int]:
    """Return the positions of these layers in the order of their first calls in an exam."""
    called: dict[str, int] = {}
    for position, call in enumerate(record.calls if record else ()):
        called.setdefault(call.layer.name, position)

    def place(i: int) -> int:
        layer = layers[i]
        while layer and layer not in called:  # its parameter is used by a module further out
            layer = owner(layer)
        return called.get(layer, -1)

    return sorted(range(len(layers)), key=place)


def owner(name: str) -> str:
    """Return the name of the module that a parameter, or a module, belongs to."""
    return name.rpartition(".")[0]
