"""The terminal: what a trial measured, as a table of remedies beside their controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradwatch.core.remedy import Prescription
from gradwatch.core.verdict import Outcome, Verdict, Verdicts
from gradwatch.sinks._text import clean, code_lines
from gradwatch.sinks.console import plain

NAME: Final = 26
"""Columns for the name of a remedy: `swap-activation-leaky-relu`."""
NOTHING: Final = 5e-5
"""Losses under this are shown as 0."""
MAX_NAMES: Final = 6
"""Candidates that were not reached or could not be applied and are named; the rest is counted."""


def to_text(verdicts: Verdicts) -> str:
    """Return the page as text."""
    return plain(render(verdicts))


def heading() -> RenderableType:
    """Return what stands over the page, where it follows a report."""
    return Text("\nTried on copies", style="bold underline")


def render(verdicts: Verdicts) -> Iterator[RenderableType]:
    """Yield the parts of the page: the result, the table, the code of the best."""
    yield Text(clean(verdicts.summary), style="bold")
    if verdicts.verdicts:
        yield _table(verdicts)
    best = next(iter(verdicts.recommended), None)
    if best is not None:
        yield Text("\nThe change:", style="bold")
        yield Padding(Text("\n".join(code_lines(best.code))), (0, 0, 0, 2))
    if not verdicts.verdicts and (report := verdicts.report) is not None:
        yield from _prescribed(report.prescriptions)
    yield from _rest("tried for fewer steps, and dropped", verdicts.dropped)
    yield from _rest("not reached within the budget", verdicts.not_reached)
    if verdicts.verdicts:
        yield from _rest("cannot be applied here", verdicts.not_applied)
    steps = verdicts.untreated.steps
    yield Text(f"{verdicts.seconds:.0f} s, {steps} steps each", style="dim")


def _prescribed(prescriptions: Sequence[Prescription]) -> Iterator[RenderableType]:
    """What answers the findings, where nothing could be measured."""
    for one in prescriptions[:MAX_NAMES]:
        yield Text(f"\nNot measured: {clean(one.title)}", style="bold")
        yield Padding(Text("\n".join(code_lines(one.code))), (0, 0, 0, 2))


def _table(verdicts: Verdicts) -> Table:
    table = Table("", "tried", "loss", "skill", "bits", "matches after", "cost", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    table.columns[1].min_width = NAME
    for verdict in verdicts:
        table.add_row(
            Text("✓" if verdict.recommended else ""),
            Text(clean(verdict.name), overflow="fold"),
            *_measured(verdict.treated),
            _bits(verdict),
            "never" if verdict.steps_to_match is None else f"{verdict.steps_to_match} steps",
            _cost(verdict),
            style="bold" if verdict.recommended else "",
        )
    controls = [("untreated", verdicts.untreated), ("new weights", verdicts.reseeded)]
    if (other := verdicts.other) is not None:
        controls.append((f"at random: {clean(other.name)}", other.treated))
    for name, control in controls:
        if control is not None:
            table.add_row("", name, *_measured(control), "", "", "", style="dim")
    return table


def _measured(outcome: Outcome) -> tuple[str, str]:
    spread = f" ±{outcome.spread / 2:.1g}" if len(outcome.losses) > 1 else ""
    skill = outcome.skill
    loss = f"{outcome.loss:.4g}{spread}" if abs(outcome.loss) >= NOTHING else "0.0000"
    return loss, "" if skill is None else f"{skill:.0%}"


def _bits(verdict: Verdict) -> str:
    recovered = verdict.bits_recovered
    return "" if recovered is None else f"{recovered:+.0f}"


def _cost(verdict: Verdict) -> str:
    return f"{verdict.more_time:+.0%} time, {verdict.more_parameters:+.0%} weights"


def _rest(what: str, names: tuple[str, ...]) -> Iterator[Text]:
    if names:
        shown = "; ".join(names[:MAX_NAMES])
        more = f"; and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        yield Text(f"{len(names)} {what}: {clean(shown)}{more}", style="dim")
