"""A progress bar for a trial: it may take a minute, and says what it is at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

BUDGET: Final = 60.0
"""Seconds of a trial if no other number is given."""


@contextmanager
def bar(budget: float) -> Iterator[Callable[[str], None]]:
    """Show how much of the budget (in seconds) is spent, on stderr, while what is yielded is called
    with what is being done; nothing where stderr is no terminal."""
    terminal = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    shown = Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)
    start = time.perf_counter()
    with shown:
        task = shown.add_task("trying remedies", total=budget)

        def on_step(doing: str) -> None:
            spent = min(budget, time.perf_counter() - start)
            shown.update(task, completed=spent, description=f"trying remedies: {doing}")

        yield on_step
