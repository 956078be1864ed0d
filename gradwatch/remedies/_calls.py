"""Functions that are called in some forward: how such a call is swapped, or said to be by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from gradwatch.core.record import Call, Layer, Record
from gradwatch.remedies import _code

CLASS: Final = f"""\
# Or, as it was tried, without a change to the source:
import sys


{_code.definition("SwappedCalls").rstrip()}

"""
"""What has to stand before the code of `swap` when it is pasted."""


def of(record: Record, name: str) -> list[Call]:
    """Return the calls of a layer."""
    return [call for call in record.calls if call.layer.name == name]


def swappable(record: Record, layer: Layer) -> bool:
    """Whether it is a function that the forward of a module calls."""
    return layer.functional and all(call.parent is not None for call in of(record, layer.name))


def swap(operations: Sequence[Layer], new: str, record: Record) -> str:
    """Return code that has these calls answered by submodules, each made by the code `new`.

    A record counts the calls of each function in each forward (`encoder.0:sigmoid#1`): how many
    there are in all goes along, so that calls which were not recorded are no reason to swap the
    wrong one.
    """
    places: defaultdict[str, dict[str, list[int]]] = defaultdict(dict)
    for layer in operations:
        path, _, number = layer.name.rpartition("#")
        places[path.rpartition(":")[0]].setdefault(layer.kind, []).append(int(number))
    lines = ["swapped = {  # in which forward: which function, how many calls of it, which of them"]
    for path, functions in places.items():
        described = {
            kind: (_number(record, f"{path}:{kind}"), sorted(numbers))
            for kind, numbers in functions.items()
        }
        lines.append(f"    {path!r}: {described!r},")
    return "\n".join(
        [
            *lines,
            "}",
            "for name, functions in swapped.items():",
            "    module = model.get_submodule(name)",
            "    new = {}",
            "    for call in [(f, i) for f, (_, which) in functions.items() for i in which]:",
            "        new[call] = f'swapped_{call[0]}_{call[1]}'",
            "        while hasattr(module, new[call]):",
            "            new[call] += '_'",
            f"        module.add_module(new[call], {new})",
            "    calls = {f: number for f, (number, _) in functions.items()}",
            "    module.forward = SwappedCalls(module, calls, new)",
        ]
    )


def advice(layers: Sequence[Layer], new: str, record: Record) -> str:
    """Return comments that say where to write `new` in the source."""
    lines = ["# In the source, since no module that can be replaced does it:"]
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for layer in layers:
        path = layer.name.rpartition(":")[0] if layer.functional else layer.name
        groups[path, layer.kind].append(layer.name)
    for (path, kind), names in groups.items():
        lines += [
            f"#   in the forward of {_module(path, record)} write {new}",
            f"#   instead of {kind!r} ({_code.mention(names)}).",
        ]
    return "\n".join(lines)


def _number(record: Record, function: str) -> int:
    """How often a forward calls a function."""
    return len(
        {
            call.layer.name
            for call in record.calls
            if call.layer.functional and call.layer.name.rpartition("#")[0] == function
        }
    )


def _module(path: str, record: Record) -> str:
    kind = next((call.layer.kind for call in record.calls if call.layer.name == path), "")
    what = repr(path) if path else "the model"
    return f"{what} (class {kind!r})" if kind else what
