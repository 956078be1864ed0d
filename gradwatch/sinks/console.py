"""The terminal: a report as text that tells what is wrong, where the bits go and what to try.

Strings are shown as `Text`, which never reads markup, so a layer may be called `[red]`.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich import console as rich_console
from rich.console import ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.ledger import KindTotal, Ledger
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report
from gradwatch.core.waivers import Waiver
from gradwatch.sinks._text import (
    GAINED,
    LEVELS,
    LOST,
    clean,
    code_lines,
    for_encoding,
    name,
    signed,
)

MAX_BAR: Final = 40
"""Columns of the longest bar: on a wide terminal a longer one says nothing more."""
MAX_PROFILE: Final = 36
"""Columns of the profile over the layers, which must fit into 80 with its ends named."""
MAX_KIND: Final = 30
"""Characters of a kind of layer: a stretch of several joins their names."""
MAX_CODES: Final = 5
"""Prescriptions that are shown with their code; those after are variants or less to the point."""
MAX_KINDS: Final = 12
"""Kinds of layer in the ledger; the rest is added up in one line."""
MAX_WAIVERS: Final = 6
"""Waivers with their reasons; of more, only what they are called."""

STYLES: Final = {
    Severity.CRITICAL: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.NOTE: "bold cyan",
}


class Console:
    """Prints the latest report once, when it is closed.

    A page in the middle of a training's progress bar helps nobody, and that a run has become
    critical is logged when it happens, with or without this sink.
    """

    def __init__(self, console: rich_console.Console | None = None) -> None:
        self._console = console or rich_console.Console()
        self._latest: Report | None = None

    def write(self, report: Report, /) -> None:
        """Keep the report."""
        self._latest = report

    def close(self) -> None:
        """Print the latest report, once."""
        report, self._latest = self._latest, None
        if report is None:
            return
        page = Group(*render(report))
        if self._console.options.ascii_only:
            text = for_encoding(text_of(page, self._console), "ascii")
            self._console.file.write(text + "\n")
        else:  # the console's own way, which knows of progress bars and notebooks
            self._console.print(page, crop=False)


def to_text(report: Report, width: int = 100) -> str:
    """Return the report as plain text, in ASCII where the standard output has no bars.

    Only code to paste exceeds the width.
    """
    return plain(render(report), width)


def plain(parts: Iterable[RenderableType], width: int = 100) -> str:
    """Return the parts of a page as plain text, as `to_text` does."""
    console = rich_console.Console(file=io.StringIO(), width=width, color_system=None)
    return for_encoding(text_of(Group(*parts), console), getattr(sys.stdout, "encoding", None))


def text_of(renderable: RenderableType, console: rich_console.Console) -> str:
    """Return what the console would print, without spaces at the ends of lines."""
    with console.capture() as capture:
        # Not cropped, code keeps its lines whole; the terminal wraps them and copying undoes that.
        console.print(renderable, crop=False)
    return "\n".join(line.rstrip() for line in capture.get().split("\n")).rstrip("\n")


def render(report: Report) -> Iterator[RenderableType]:
    """Yield what there is to show, top to bottom. A healthy report is short."""
    at = f"at step {report.step}" if report.step >= 0 else "before its first step"
    yield Text(f"gradwatch: {name(report.model)} {at}", "bold")
    style = "bold green" if report.severity is None else STYLES[report.severity]
    yield Text(clean(report.verdict), style)
    if report.step >= 0:
        yield Text(f"Progress: {clean(report.progress.text)}.", "dim")
    for number, finding in enumerate(report.findings):
        if finding.because_of:
            yield _consequence(finding)
        else:  # the verdict has already said what the first one is
            yield from _finding(finding, summary=number > 0)
    yield from (_ledger if report.findings else _balance)(report.ledger)
    if report.prescriptions:
        yield _heading("What to try, one at a time")
        for number, prescription in enumerate(report.prescriptions, start=1):
            yield from _prescription(number, prescription, code=number <= MAX_CODES)
    if report.waivers:
        yield _heading("Not counted, and why")
        yield from map(_waiver, report.waivers[:MAX_WAIVERS])
        if rest := report.waivers[MAX_WAIVERS:]:
            others = ", ".join(dict.fromkeys(name(waiver.name) for waiver in rest))
            yield _indented(Text(f"and {len(rest)} more: {others}", "dim"))
    if report.notes:
        yield _heading("Not covered")
        yield from (_indented(Text(clean(note))) for note in report.notes)
    if report.run_folder is not None:
        folder = Text(f"\nRun folder: {code_lines(report.run_folder)[0]}", "dim")
        folder.no_wrap, folder.overflow = True, "ignore"
        yield folder


def _heading(text: str) -> RenderableType:
    return Text(f"\n{text}", "bold underline")


def _indented(content: RenderableType, columns: int = 2) -> RenderableType:
    return Padding(content, (0, 0, 0, columns))


def _finding(finding: Finding, *, summary: bool) -> Iterator[RenderableType]:
    since = f"since step {finding.since}"
    if finding.until > finding.since:
        since += f", still at step {finding.until}"
    label = (f"{finding.severity}: {name(finding.name)}", STYLES[finding.severity])
    yield Text.assemble("\n", label, f"  ({since})")
    if summary:
        yield _indented(Text(clean(finding.summary)))
    if finding.layers:
        yield _indented(Text(f"where: {_places(finding.layers)}"))
    if finding.causes:
        yield _indented(_causes(finding.causes))
    if finding.confidence:
        yield _indented(Text(f"rests on: {clean(finding.confidence)}", "dim"))


def _consequence(finding: Finding) -> RenderableType:
    """One line under its root: it goes when that does."""
    label = (f"{finding.severity}: {name(finding.name)}", STYLES[finding.severity])
    since = f"since step {finding.since}"
    return _indented(
        Text.assemble("from this follows ", label, f" ({since}): {clean(finding.summary)}")
    )


def _causes(causes: Sequence[Cause]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for number, cause in enumerate(causes):
        places = f"  [{_places(cause.layers)}]" if cause.layers else ""
        table.add_row(
            "" if number else "why:",
            Text(name(cause.name), "bold"),
            "" if cause.bits is None else f"{signed(cause.bits)} bits",
            "" if cause.share is None else f"{cause.share:.0%}",
            Text.assemble(clean(cause.text), (places, "dim")),
        )
    return table


def _places(names: Sequence[str]) -> str:
    labels = [name(layer) or "(model)" for layer in names]
    if len(labels) <= 4:
        return ", ".join(labels)
    return f"{labels[0]}, {labels[1]}, ... {labels[-1]}: {len(labels)} in all"


def _waiver(waiver: Waiver) -> RenderableType:
    labels = [name(parameter) for parameter in waiver.parameters]
    named = labels if len(labels) <= 2 else [f"{labels[0]} and {len(labels) - 1} more"]
    what = f"{', '.join(named)}: " if named else ""
    return _indented(Text.assemble(what, (clean(waiver.reason), "dim")))


def _balance(ledger: Ledger) -> Iterator[RenderableType]:
    if ledger.entries:
        change = f"Gradient: {signed(ledger.total)} bits from the model's output to its first layer"
        yield Text(f"{change} (-1 bit: it halves).", "dim")


def _ledger(ledger: Ledger) -> Iterator[RenderableType]:
    if not ledger.entries:
        return
    total = f"{signed(ledger.total)} bits from the output to the first layer"
    yield _heading(f"Where the gradient's bits go: {total}")
    legend = f"-1 bit: the gradient halves ({LOST} lost); +1 bit: it doubles ({GAINED} gained)"
    yield _indented(Text(legend, "dim"))
    kinds = sorted(ledger.by_kind(), key=lambda kind: -_size(kind.bits))
    largest = _size(kinds[0].bits)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right")
    table.add_column()  # the one that gives way on a narrow terminal
    for kind in kinds[:MAX_KINDS]:
        table.add_row(*_row(kind, largest))
    yield _indented(table)
    if rest := kinds[MAX_KINDS:]:
        bits = math.fsum(kind.bits for kind in rest)
        yield _indented(Text(f"and {len(rest)} more kinds: {signed(bits)} bits", "dim"))
    if len(ledger.entries) > 3 and largest >= 1:
        yield _indented(_profile(ledger))


def _row(kind: KindTotal, largest: float) -> Iterator[RenderableType]:
    times = len(kind.layers)
    label = clean(kind.kind, MAX_KIND)
    yield Text(f"{label} x {times}" if times > 1 else label)
    yield Text(f"{signed(kind.bits)} bits", "bold")
    yield Text(f"{signed(kind.each, 2)} each" if times > 1 else "", "dim")
    yield _Bar(_size(kind.bits) / largest if largest else 0.0, lost=kind.bits < 0)


def _profile(ledger: Ledger) -> RenderableType:
    """Draw the gradient's level at every entry: steep where it is lost."""
    levels = [0.0]  # at the model's output, and from there backwards
    for entry in reversed(ledger.entries):
        levels.append(levels[-1] + (entry.bits if math.isfinite(entry.bits) else 0.0))
    levels.reverse()
    low, high = min(levels), max(levels)
    columns = min(MAX_PROFILE, len(levels))
    chosen = [levels[round(i * (len(levels) - 1) / (columns - 1))] for i in range(columns)]
    scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
    line = "".join(LEVELS[round((level - low) * scale)] for level in chosen)
    return Text(f"\nfirst layer {signed(levels[0])} bits {line} 0 bits, output")


def _prescription(
    number: int, prescription: Prescription, *, code: bool
) -> Iterator[RenderableType]:
    yield Text(f"\n{number}. {clean(prescription.title)}", "bold")
    when = "between backward() and optimizer.step()" if prescription.per_step else "before training"
    adapt = "" if prescription.runnable else "; adapt it by hand, the place is no module"
    answers = f"for {clean(prescription.answers)}; " if prescription.answers else ""
    more = f"gradwatch explain {name(prescription.remedy)}"
    if not code:
        where = f"report.prescriptions[{number - 1}].code"
        yield _indented(Text(f"{answers}its code is in {where}", "dim"), 3)
        return
    yield _indented(Text(f"{answers}{when}{adapt} ({more})\n", "dim"), 3)
    # At the left edge and in lines of its own: select, paste, run.
    for line in code_lines(prescription.code):
        yield Text(line, "cyan", no_wrap=True, overflow="ignore")


def _size(bits: float) -> float:
    return abs(bits) if math.isfinite(bits) else 0.0


class _Bar:
    """A bar as long as its share of the space that is left for bars."""

    def __init__(self, share: float, *, lost: bool) -> None:
        self.share = share
        self.glyph, self.style = (LOST, "red") if lost else (GAINED, "blue")

    def __rich_console__(
        self, console: rich_console.Console, options: ConsoleOptions
    ) -> RenderResult:
        length = self.share * min(MAX_BAR, options.max_width)
        yield Segment(self.glyph * math.ceil(length - 0.05), Style.parse(self.style))

    def __rich_measure__(
        self, console: rich_console.Console, options: ConsoleOptions
    ) -> Measurement:
        return Measurement(4, MAX_BAR)
