"""The terminal: how one run differs from another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradwatch.core.comparison import SAME, Change, Comparison, LayerPair, Pair
from gradwatch.core.report import Report
from gradwatch.sinks._text import clean, name, signed

MAX_LAYERS: Final = 20
"""Layers that are shown, those that differ most; in execution order."""
MAX_SUMMARY: Final = 300
"""Characters of what a finding says: `gradwatch report` shows all of it."""
LEAST: Final = 0.1
"""Bits (7 %) under which two layers count as alike."""
STYLES: Final = {"new": "bold red", "worse": "bold red", "gone": "bold green", "better": "green"}


def render(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield what there is to show, top to bottom."""
    style = "bold green" if comparison.gone_critical else "bold"
    yield Text(clean(comparison.headline), "bold red" if comparison.worse else style)
    yield Text("")
    yield _runs(comparison)
    changed = [change for change in comparison.changes if change.kind != SAME]
    if changed:
        yield _heading("Findings")
        yield _indented(_changes(changed))
    if alike := [change for change in comparison.changes if change.kind == SAME]:
        names = ", ".join(f"{name(c.name)} ({c.finding.severity})" for c in alike)
        yield Text("")
        yield _indented(Text(f"in both: {names}"))
    yield from _layers(comparison)
    if comparison.problems:
        yield _heading("Not readable")
        yield from (_indented(Text(clean(problem))) for problem in comparison.problems)


def _runs(comparison: Comparison) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for letter, report in (("A", comparison.before), ("B", comparison.after)):
        label = f"{_run(report)}: {name(report.model)} at step {report.step}"
        said = (clean(report.verdict, MAX_SUMMARY), f"Progress: {clean(report.progress.text)}.")
        table.add_row(Text(letter, "bold"), Group(Text(label, "bold"), *map(Text, said)))
    return table


def _run(report: Report) -> str:
    return clean(str(Path(report.run_folder).parent)) if report.run_folder else "a run"


def _changes(changes: Sequence[Change]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for change in changes:
        severity = str(change.finding.severity)
        if change.before is not None and change.after is not None:
            severity = f"{change.before.severity} -> {severity}"
        table.add_row(
            Text(change.kind, STYLES[change.kind]),
            severity,
            Text.assemble(
                (name(change.name), "bold"), f": {clean(change.finding.summary, MAX_SUMMARY)}"
            ),
        )
    return table


def _layers(comparison: Comparison) -> Iterator[RenderableType]:
    yield _heading(f"Layers, as of step {comparison.step} (medians of the latest exams until then)")
    ranked = sorted(comparison.layers, key=lambda layer: -layer.size)
    largest = [layer for layer in ranked if layer.size >= LEAST][:MAX_LAYERS]
    if largest:
        yield _indented(_table([layer for layer in comparison.layers if layer in largest]))
        yield Text("")
        legend = "update: rms(update) / rms(weights) in a step; +1 bit: in B it is twice that of A"
        yield _indented(Text(legend, "dim"))
    if not ranked:
        yield _indented(Text("no layer of A has the same name in B", "dim"))
    if rest := ranked[len(largest) :]:
        less = "less than that" if rest[0].size >= LEAST else f"less than {LEAST:g} bits"
        count = f"{len(rest)} more" if largest else f"all {len(rest)}"
        yield _indented(Text(f"differ by {less}: {count}", "dim"))
    for letter, names in (("A", comparison.only_before), ("B", comparison.only_after)):
        if names:
            shown = ", ".join(name(layer) or "(model)" for layer in names[:4])
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            yield _indented(Text(f"only in {letter}: {shown}{more}"))


def _table(layers: Sequence[LayerPair]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("layer", no_wrap=True, overflow="ellipsis")
    for quantity in ("gradient", "update"):
        table.add_column(f"{quantity} A", justify="right", no_wrap=True)
        table.add_column("B", justify="right", no_wrap=True)
        table.add_column("bits", justify="right", no_wrap=True)
    for layer in layers:
        cells = (*_cells(layer.gradient), *_cells(layer.update_ratio))
        table.add_row(Text(name(layer.layer) or "(model)"), *cells)
    return table


def _cells(pair: Pair) -> Iterator[Text]:
    yield from (Text(_number(value)) for value in (pair.before, pair.after))
    bits = pair.bits
    if bits is None:
        yield Text("")
    else:
        yield Text(signed(bits), "bold" if abs(bits) >= 1 else "")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return "not finite" if math.isnan(value) else f"{value:.2g}"


def _heading(text: str) -> RenderableType:
    return Text(f"\n{text}", "bold underline")


def _indented(content: RenderableType) -> RenderableType:
    return Padding(content, (0, 0, 0, 2))
