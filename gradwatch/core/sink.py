"""A `Sink` is a place that reports are written to."""

from __future__ import annotations

from typing import Protocol

from gradwatch.core.report import Report


class Sink(Protocol):
    """Gets every report; never called from inside backward. It renders and computes nothing."""

    def write(self, report: Report, /) -> None:
        """Take the report of an examined step, with the pulses since the last one."""
        ...

    def close(self) -> None:
        """Let go of files. May be called twice."""
        ...
