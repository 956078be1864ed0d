"""What the callbacks of all frameworks have in common: their options, and the trial at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from gradwatch.checking.batch import TrainingStep
from gradwatch.core.finding import Detector, Severity
from gradwatch.core.reporter import warn_safely
from gradwatch.core.runfolder import find
from gradwatch.core.sink import Sink
from gradwatch.core.verdict import Verdicts
from gradwatch.instrument.schedule import Schedule
from gradwatch.recording import Recording, budget_of
from gradwatch.sinks.latest import Latest
from gradwatch.watcher import Watcher


class Callback:
    """Holds the options of a callback, checked, and tries remedies when a training went wrong."""

    watcher: Watcher | None = None
    """That of the latest training: `watcher.report()` tells what is known as of now. None before,
    and in all processes but the first: gradients are read reduced."""
    verdicts: Verdicts | None = None
    """What the trial of the latest training gave."""
    _recording: Recording | None = None

    def __init__(
        self,
        *,
        every_n_steps: int = 50,
        report: bool = True,
        stop_on: str | None = None,
        sinks: Iterable[Sink] = (),
        detectors: Iterable[Detector] | None = None,
        trace_forward: bool = True,
        try_remedies: bool | float = False,
        strict: bool = False,
    ) -> None:
        if stop_on not in (None, "critical", "warning"):
            raise ValueError(f"stop_on must be 'critical', 'warning' or None, got {stop_on!r}")
        Schedule(every_n_steps)  # raises here, and not when the training begins
        self._options: dict[str, Any] = {
            "every_n_steps": every_n_steps,
            "detectors": None if detectors is None else tuple(detectors),
            "trace_forward": trace_forward,
            "strict": strict,
        }
        self._prints = report
        self._seconds = budget_of(try_remedies)
        self._stop_on = None if stop_on is None else Severity[stop_on.upper()]
        self._sinks = tuple(sinks)
        self._forget()

    def _forget(self) -> None:
        """Set what belongs to one training to what it is before."""
        self._recording = self.verdicts = None
        self._latest = Latest()
        self._losses: list[Tensor] = []
        self._advice = ""

    def _try_remedies(self, model: Any, training_step: TrainingStep | None) -> None:
        """Try remedies on what was recorded, if anything was, and the report asks for it."""
        recording, self._recording = self._recording, None
        watcher, seconds = self.watcher, self._seconds
        if recording is None or watcher is None or seconds is None:
            return

        def act() -> None:
            report = watcher.report()
            if not report.healthy:
                folder = _recorded(report.run_folder)
                self.verdicts = recording.trial(model, training_step, seconds, folder)
                print(self.verdicts)

        self._safely(act)

    def _safely(self, act: Callable[[], None]) -> None:
        """Do something for a trial: an error of it costs the trial only."""
        try:
            act()
        except Exception as error:
            if self._options["strict"]:
                raise
            self._recording = None
            warn_safely(f"gradwatch tries no remedies: {type(error).__name__}: {error}")


def _recorded(folder: str | None) -> str | None:
    """Return the run folder if a run was written to it: it may have been full, or taken away."""
    try:
        return None if folder is None else str(find(Path(folder))[0])
    except OSError:
        return None
