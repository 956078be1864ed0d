"""The reporter: keeps a run's history, has it judged, and sends the reports to the sinks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from warnings import warn

from gradwatch.core.finding import Detector, Severity
from gradwatch.core.history import History, Pulse
from gradwatch.core.record import Record
from gradwatch.core.remedy import Remedy
from gradwatch.core.report import Report, examine
from gradwatch.core.sink import Sink

log = logging.getLogger("gradwatch")


class Reporter:
    """Turns records and pulses into reports. A sink that fails is left out from then on."""

    def __init__(
        self,
        model: str,
        detectors: Iterable[Detector],
        remedies: Iterable[Remedy],
        sinks: Iterable[Sink],
        *,
        run_folder: str | None = None,
        strict: bool = False,
    ) -> None:
        self.history = History()
        self._model = model
        self._detectors = tuple(detectors)
        self._remedies = tuple(remedies)
        self._sinks = list(sinks)
        self._run_folder = run_folder
        self._strict = strict
        self.notes: list[str] = []
        self._unsent: list[Pulse] = []
        self._said: set[str] = set()

    def note(self, text: str) -> None:
        """Say once, in every report from now on, what could not be observed."""
        if text not in self.notes:
            self.notes.append(text)

    def add_pulses(self, pulses: Iterable[Pulse]) -> None:
        """Take pulses in the order of their steps."""
        pulses = list(pulses)
        self.history.extend(pulses)
        self._unsent += pulses

    def add_record(self, record: Record) -> None:
        """Take an examined step."""
        self.history.add(record)

    def set_loss(self, loss: float) -> None:
        """Tell the loss of the latest examined step."""
        if self.history.latest is not None:
            self.history.replace_latest(replace(self.history.latest, loss=loss))

    def report(self, pulses: tuple[Pulse, ...] = ()) -> Report:
        """Return what is known as of now."""
        return examine(
            self.history,
            self._detectors,
            self._remedies,
            model=self._model,
            pulses=pulses,
            notes=self.notes,
            run_folder=self._run_folder,
        )

    def send(self) -> None:
        """Judge, and write the report with the pulses since the last one to every sink."""
        pulses, self._unsent = tuple(self._unsent), []
        report = self.report(pulses)
        for finding in report.findings:
            if finding.severity == Severity.CRITICAL and finding.name not in self._said:
                self._said.add(finding.name)
                log.warning("step %d: critical: %s", report.step, finding.summary)
        for sink in tuple(self._sinks):
            self._to(sink, lambda sink: sink.write(report))

    def close(self) -> None:
        """Close every sink."""
        for sink in tuple(self._sinks):
            self._to(sink, lambda sink: sink.close())

    def _to(self, sink: Sink, call: Callable[[Sink], None]) -> None:
        try:
            call(sink)
        except Exception as error:
            if self._strict:
                raise
            self._sinks = [other for other in self._sinks if other is not sink]
            with suppress(Exception):
                sink.close()
            text = f"{type(sink).__name__} is left out: {type(error).__name__}: {error}"
            self.note(text)
            warn_safely(f"gradwatch: {text}")


def warn_safely(text: str) -> None:
    """Warn, but never raise: where warnings are errors, the log is told instead."""
    try:
        warn(text, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        log.warning("%s", text)
