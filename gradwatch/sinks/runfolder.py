"""The run folder as a sink: what `gradwatch report` and every other face read later."""

from __future__ import annotations

import os
from pathlib import Path

from gradwatch.core.report import Report
from gradwatch.core.runfolder import RunWriter
from gradwatch.core.runfolder_format import FOLDER


class RunFolder:
    """Writes reports to `<run_dir>/gradwatch`, which is made at once: a bad path fails early."""

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.path = Path(run_dir) / FOLDER
        self.path.mkdir(parents=True, exist_ok=True)
        self._writer: RunWriter | None = None

    def write(self, report: Report, /) -> None:
        """Append the exam, the pulses and the findings that are not there yet."""
        if self._writer is None:
            self._writer = RunWriter(self.path.parent, model=report.model)
        if report.record is not None:
            self._writer.add_record(report.record)
        self._writer.add_pulses(report.pulses)
        self._writer.add_report(report)

    def close(self) -> None:
        """Do nothing: the writer holds no file open between two reports."""
