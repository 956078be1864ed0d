"""The README's table of the detection benchmark, written between two markers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Final

import torch

import gradwatch
from tests.benchmarks.detection import EXAMS, LATE, SETTLED, SOON, Run
from tests.benchmarks.detection_measures import (
    FALSE,
    HALVES,
    SICK,
    TOOLS,
    Measure,
    speaks,
    wilson,
)

BEGIN: Final = "<!-- detection-bench:begin -->"
END: Final = "<!-- detection-bench:end -->"
COLUMNS: Final = ("development", "held out")
MEASURES: Final = {
    "sick: a warning or worse stands at the end": "anything said",
    "sick: it is named right": "named right",
    "sick: the cause that is read first is right": "right cause on top",
    "sick: warned of in time": "warning in time",
    "sick: critical in time": "critical in time",
    "NaN or infinity: at its exact step": "non-finite: exact step",
    "NaN or infinity: in its exact layer": "non-finite: exact layer",
    "born sick: warned of at step 0": "of those born so: warned of at step 0",
    "healthy or repaired: critical, ever": "healthy or repaired: critical, ever",
    "healthy or repaired: warned of at the end": (
        "healthy or repaired: warning or worse, at the end"
    ),
}
"""Rows of the README: their titles there, and those of the measures."""


def write(path: Path, runs: Sequence[Run]) -> None:
    """Replace what stands between the markers of a file."""
    path.write_text(replaced(path.read_text("utf-8"), section(runs, date.today())), "utf-8")


def replaced(text: str, new: str) -> str:
    """Return a text with what stands between the two markers replaced.

    Raises `ValueError` unless each marker is there once, in this order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text must have one {BEGIN} and, after it, one {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{new.strip()}\n{END}{rest.split(END)[1]}"


def section(runs: Sequence[Run], day: date) -> str:
    """Return the two tables, and what they are of."""
    sick, cured = sum(run.sick for run in runs), sum(run.cured for run in runs)
    measures = {measure.title: measure for measure in (*SICK, *FALSE)}
    rows = [(title, *_shares(measures[name], runs)) for title, name in MEASURES.items()]
    tools = [
        (tool, *(_share(speaks(tool, run) for run in runs if run.sick is s) for s in (True, False)))
        for tool in TOOLS
    ]
    return "\n\n".join(
        (
            f"{sick} sick trainings, {len(runs) - sick - cured} healthy ones, and {cured} that are "
            f"the sick ones with their cure;\ngradwatch {gradwatch.__version__}, torch "
            f"{torch.__version__.partition('+')[0]}, {day.isoformat()}. In brackets: 95 % "
            "intervals.",
            _table(("", *(f"{half} half" for half in COLUMNS)), rows),
            f"In time is a warning within {SOON:.0%} of the steps after the fault began (or "
            f"{EXAMS} exams, if that is later),\nand a critical finding within {LATE:.0%} of them. "
            "The rules of other tools, with the thresholds that they ship,\non the same trainings: "
            f"in how many they fire in at least half of the exams after step {SETTLED}.",
            _table(("", "sick", "healthy or repaired"), tools),
        )
    )


def _shares(measure: Measure, runs: Sequence[Run]) -> list[str]:
    return [_share(measure(filter(HALVES[half], runs))) for half in COLUMNS]


def _share(hits: Iterable[bool]) -> str:
    hits = list(hits)
    if not hits:
        return "-"
    low, high = wilson(sum(hits), len(hits))
    return f"{sum(hits)} of {len(hits)}: {sum(hits) / len(hits):.0%} ({low:.0%}-{high:.0%})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
