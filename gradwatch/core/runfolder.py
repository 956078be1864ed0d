"""Reads a run folder: the whole truth about a run, for every face that comes after the training.

Whatever is damaged is skipped and said, never guessed; nothing in it is ever executed (no
pickle); and however long the run was, no more rows are read than a `History` keeps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradwatch.core.finding import Finding
from gradwatch.core.history import FIRST_RECORDS, LAST_RECORDS, History
from gradwatch.core.progress import Progress, progress
from gradwatch.core.remedy import Remedy
from gradwatch.core.report import Report, prescribe
from gradwatch.core.runfolder_format import FOLDER, segments
from gradwatch.core.runfolder_segment import DAMAGE, FutureVersion, Segment, Verdict
from gradwatch.core.runfolder_trial import read_trial
from gradwatch.core.runfolder_writer import RunWriter
from gradwatch.core.verdict import Verdicts
from gradwatch.core.waivers import waivers

__all__ = ["FutureVersion", "Run", "RunWriter", "read"]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run folder says of its run."""

    path: Path
    """The run folder itself."""
    model: str
    """Class name of the model."""
    history: History
    findings: tuple[Finding, ...] = ()
    """As of the latest report."""
    findings_by_step: Mapping[int, tuple[Finding, ...]] = field(default_factory=dict)
    """The findings of every report, by its step."""
    notes: tuple[str, ...] = ()
    """What could not be observed or prescribed, as of the latest report."""
    problems: tuple[str, ...] = ()
    """What could not be read in this folder, and was skipped."""
    progress: Progress | None = None
    """As of the latest report."""
    trial: Verdicts | None = None
    """What remedies were worth on copies of the model; None where that was not measured. Its code
    is to be trusted as far as whoever wrote the folder."""

    def report(self, remedies: Iterable[Remedy] = ()) -> Report:
        """Return the latest report as it was judged then, with prescriptions from `remedies`."""
        record = self.history.latest
        prescriptions, unanswered = prescribe(self.findings, remedies, record)
        said = [*self.notes, *(record.notes if record else ()), *unanswered, *self.problems]
        if not self.findings_by_step:
            said.append("This run was never judged: it ended before its first report.")
        return Report(
            self.model,
            max(self.findings_by_step, default=self.history.last_step),
            self.findings,
            prescriptions,
            record,
            progress=self.progress or progress(self.history),
            notes=tuple(dict.fromkeys(said)),
            run_folder=str(self.path),
            waivers=waivers(self.history),
            trial=self.trial,
        )


def read(run_dir: str | os.PathLike[str]) -> Run:
    """Read the run folder in `run_dir`, or `run_dir` where it is one itself.

    Raises `FileNotFoundError` when there is none, `FutureVersion` when a later gradwatch wrote all
    of it.
    """
    path, headers = find(Path(run_dir))
    problems: list[str] = []
    parts = resumed(headers, problems)
    exams = {step: part for part in parts for step in part.records}
    steps = sorted(exams)
    records = [
        exams[step].record(step)
        for step in steps[:FIRST_RECORDS] + steps[FIRST_RECORDS:][-LAST_RECORDS:]
    ]
    history = History.of(
        (record for record in records if record is not None),
        (pulse for part in parts for pulse in part.pulses()),
    )
    verdicts = {step: verdict for part in parts for step, verdict in part.verdicts.items()}
    last = verdicts[max(verdicts)] if verdicts else Verdict()
    trial = read_trial(path, parts[-1].session, problems) if parts else None
    return Run(
        path,
        parts[-1].model if parts else "model",
        history,
        last.findings,
        {step: verdicts[step].findings for step in sorted(verdicts)},
        last.notes,
        tuple(problems),
        last.progress,
        trial,
    )


def find(run_dir: Path) -> tuple[Path, Iterable[Path]]:
    """Return the run folder and the headers of its segments; raises as `read` does."""
    for path in (run_dir / FOLDER, run_dir):
        if path.is_dir() and (found := segments(path)):
            return path, found.values()
    raise FileNotFoundError(
        f"run_dir must be a folder that gradwatch recorded a run in, and {run_dir} holds none: "
        f"there is no {run_dir / FOLDER / 'seg-000.json'}"
    )


def resumed(headers: Iterable[Path], problems: list[str]) -> list[Segment]:
    """Open the segments; a resumed run overrides what was written from its first step on.

    Raises `FutureVersion` when all that could be read was written by a later gradwatch.
    """
    parts: list[Segment] = []
    session, future = "", None
    for header in headers:
        try:
            part = Segment(header, problems)
        except DAMAGE as damage:
            problems.append(f"{header.name}: its segment was skipped ({damage}).")
            continue
        except FutureVersion as later:
            problems.append(f"{header.name}: its segment was skipped ({later.why}).")
            future = later
            continue
        if part.first_step is not None and part.session != session:
            session = part.session
            for earlier in parts:
                earlier.forget_from(part.first_step)
        parts.append(part)
    if future is not None and not parts:
        raise future
    return parts
