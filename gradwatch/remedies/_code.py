"""How prescriptions are written: Python to paste, in which every name is quoted.

The names of modules are the user's and may hold anything but a dot: quotes and line breaks too.
They reach the code through `repr` only, in comments as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

WIDTH: Final = 88
NEW_OPTIMIZER: Final = (
    "# The parameters are not the same ones as before: make the optimizer anew, after this."
)
BEFORE_TRAINING: Final = (
    "# Before training: what an optimizer remembers belongs to the old weights."
)


def listing(names: Sequence[str]) -> str:
    """Return a Python expression for a list of names, short where they are numbered in order."""
    return _numbered(names) or rows([repr(name) for name in names])


def rows(items: Sequence[str]) -> str:
    """Return a list of expressions, wrapped."""
    flat = f"[{', '.join(items)}]"
    if len(flat) <= WIDTH - 16:
        return flat
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) > WIDTH - 8:
            lines.append("")
        lines[-1] += f"{item}, "
    return "[\n" + "".join(f"    {line.rstrip()}\n" for line in lines) + "]"


def tuples(groups: Sequence[Sequence[str]]) -> str:
    """Return a Python expression for a list of tuples of names."""
    if len({len(group) for group in groups}) == 1:
        columns = [_numbered(column) for column in zip(*groups, strict=True)]
        found = [column for column in columns if column is not None]
        if len(found) == len(columns):
            return f"list(zip({', '.join(found)}))"
    return rows([repr(tuple(group)) for group in groups])


def _numbered(names: Sequence[str]) -> str | None:
    """`["0.a", "2.a", "4.a", "6.a"]` as a comprehension; None when there is no such order."""
    if len(names) < 4:
        return None
    first, second = names[:2]
    for match in re.finditer(r"\d+", first, re.ASCII):
        head, number, tail = first[: match.start()], int(match[0]), first[match.end() :]
        other = re.fullmatch(re.escape(head) + r"(\d+)" + re.escape(tail), second, re.ASCII)
        if other is None or not re.fullmatch(r"[\w.]*", head + tail, re.ASCII):
            continue
        step = int(other[1]) - number
        wanted = [f"{head}{number + step * i}{tail}" for i in range(len(names))]
        if step > 0 and wanted == list(names):
            stop = number + step * (len(names) - 1) + 1
            start = f"{number}, " if number or step > 1 else ""
            by = f", {step}" if step > 1 else ""
            expression = f'f"{head}{{i}}{tail}"' if head + tail else "str(i)"
            return f"[{expression} for i in range({start}{stop}{by})]"
    return None


def replace_each(names: Sequence[str], *body: str) -> str:
    """Return code that runs `body` for every name of these modules: `name`, `module` in scope.

    A module that the model holds in two places is called by its first name in a record; replacing
    it there alone would leave the second as it was.
    """
    return "\n".join(
        [
            f"names = {listing(names)}",
            "chosen = {model.get_submodule(name) for name in names}",
            "for name, module in list(model.named_modules(remove_duplicate=False)):",
            "    if module in chosen:  # by identity: one module may stand in several places",
            *(f"        {line}" for line in body),
        ]
    )


def redraw(names: Sequence[str], draw: str) -> str:
    """Return code that draws the weights of these layers with `draw`, an expression in which
    `layer` is in scope, and sets their biases to 0."""
    return "\n".join(
        [
            f"for name in {listing(names)}:",
            "    layer = model.get_submodule(name)",
            f"    {draw}",
            '    if getattr(layer, "bias", None) is not None:',
            "        torch.nn.init.zeros_(layer.bias)",
        ]
    )


def mention(names: Sequence[str]) -> str:
    """Return names for a comment: all of a few, the first and the last of many."""
    shown = [repr(name) for name in names]
    return ", ".join(shown) if len(shown) <= 3 else f"{shown[0]} to {shown[-1]}, {len(shown)} times"


def counted(number: int, noun: str) -> str:
    """Return `1 layer`, `2 layers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def definition(*names: str) -> str:
    """Return the source of classes of `_modules`, to be pasted before what uses them."""
    source = Path(__file__).with_name("_modules.py").read_text(encoding="utf-8")
    found = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    lines = source.splitlines()
    parts = ("\n".join(lines[found[name].lineno - 1 : found[name].end_lineno]) for name in names)
    return re.sub(r"  # (type|noqa).*", "", "\n\n\n".join(parts)) + "\n\n\n"
