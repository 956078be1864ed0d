"""The latest report, kept for who asks: a callback that may end the training, for example."""

from __future__ import annotations

from gradwatch.core.report import Report


class Latest:
    """Keeps the latest report; None before the first."""

    def __init__(self) -> None:
        self.report: Report | None = None

    def write(self, report: Report, /) -> None:
        """Take the place of the one before."""
        self.report = report

    def close(self) -> None:
        """Do nothing: the report stays."""
