"""The table of the remedies benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from tests.benchmarks.detection_measures import rate
from tests.benchmarks.remedies import FIRST, Row


def render(rows: Sequence[Row], of: int, *, named: bool = True) -> Iterator[RenderableType]:
    """Yield what was measured; `named` lists what went wrong, by name in the development half."""
    sick = [row for row in rows if row.sick]
    repairable = [row for row in sick if row.repairable]
    hopeless = [row for row in sick if not row.repairable]
    healthy = [row for row in rows if not row.sick]
    agreed, told = (sum(row.signs[i] for row in sick) for i in (0, 1))
    yield (
        f"{len(rows)} of {of} trainings are of the form that a trial takes. Unstuck: what is "
        "ranked first, carried out on new weights and trained on fresh batches, gets below the "
        "case's own threshold (median of three seeds). Intervals: Wilson, 95 %."
    )
    table = Table("", "all", "target", title="Remedies")
    table.add_row("sick trainings that some remedy repairs", rate(r.repairable for r in sick), "")
    table.add_row(
        "of those: unstuck by what is ranked first", rate(r.unstuck for r in repairable), "≥ 95 %"
    )
    table.add_row(
        f"where none repairs: the right kind of advice among the first {FIRST}",
        rate(r.right_advice for r in hopeless),
        "≥ 90 %",
    )
    table.add_row(
        "better or worse than untreated, as the trial said",
        rate(i < agreed for i in range(told)),
        "≥ 95 %",
    )
    table.add_row("healthy: something is recommended", rate(bool(r.advised) for r in healthy), "0")
    yield table
    if named:
        yield from _to_do([row for row in rows if not row.held_out])


def _to_do(rows: Sequence[Row]) -> Iterator[RenderableType]:
    wrong = Table("training", "advised", "what repairs it", "the trial's words", title="To do")
    for row in rows:
        if row.sick and row.repairable and not row.unstuck:
            wrong.add_row(row.name, row.advised or "nothing", row.repaired_by, row.summary)
        elif row.sick and not row.repairable and not row.right_advice:
            wrong.add_row(row.name, row.advised or "nothing", "no remedy", row.summary)
        elif not row.sick and row.advised:
            wrong.add_row(row.name, row.advised, "it is healthy", row.summary)
    if wrong.row_count:
        yield wrong
