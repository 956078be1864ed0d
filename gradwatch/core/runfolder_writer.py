"""Writes a run folder: append-only, and nothing is held open, so a killed run loses nothing."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np

from gradwatch import __version__
from gradwatch.core.history import Columns, Pulse
from gradwatch.core.record import REASONS, Record
from gradwatch.core.report import Report
from gradwatch.core.runfolder_format import (
    FOLDER,
    GAINS,
    LARGEST,
    NUMBERS,
    SCHEMA,
    STATS,
    Layout,
    pack_gains,
    pack_stats,
    pulse_rows,
    segments,
    to_line,
)

KNOWN_LAYOUTS: Final = 256
"""Layouts remembered; a model whose every step is different must not fill the memory with them."""


class RunWriter:
    """Appends exams, pulses and reports to `<run_dir>/gradwatch`, in a new segment of its own.

    Adding the same thing twice writes it once; adding a completed version of the latest exam
    replaces it. An exam of an earlier step than the latest means that the training went back: it
    overrides what was written from that step on. After an `OSError` (a full disk) the next call
    starts a new segment.
    """

    def __init__(self, run_dir: str | os.PathLike[str], *, model: str = "model") -> None:
        self.path = Path(run_dir) / FOLDER
        self.path.mkdir(parents=True, exist_ok=True)
        self._model = model
        self._session = ""
        self._segment: _Segment | None = None
        self._last_record = -1
        self._last_pulse = -1
        self._last_report = ""
        self._start_session()

    def add_record(self, record: Record) -> None:
        """Append an exam, or what has become known of the latest one since."""
        if record.step < self._last_record:
            self._start_session()
        with self._writing() as segment:
            segment.add_record(record)
            self._last_record = record.step

    def add_pulses(self, pulses: Iterable[Pulse]) -> None:
        """Append pulses in the order of their steps; those already written are left out."""
        new = [pulse for pulse in pulses if pulse.step > self._last_pulse]
        for columns, group in groupby(new, key=lambda pulse: pulse.columns):
            if self._segment is not None and self._segment.columns not in (None, columns):
                self._segment = None
            rows = list(group)
            with self._writing() as segment:
                segment.add_pulses(columns, rows)
                self._last_pulse = rows[-1].step

    def add_report(self, report: Report) -> None:
        """Append the findings and the verdict of a report, not its exam and pulses."""
        line = to_line(
            {
                "step": report.step,
                "verdict": report.verdict,
                "findings": [finding.to_json() for finding in report.findings],
                "progress": {
                    "moving": report.progress.moving,
                    "text": report.progress.text,
                    "fall": report.progress.fall,
                    "diverged": report.progress.diverged,
                    "begin": report.progress.begin,
                    "skill": report.progress.skill,
                },
                "notes": list(report.notes),
            }
        )
        if line != self._last_report:
            with self._writing() as segment:
                segment.append(".findings.jsonl", line.encode())
                self._last_report = line

    def close(self) -> None:
        """Do nothing: every append is complete on disk when its call returns."""

    def _start_session(self) -> None:
        # Segments of one session continue each other; a new session overrides what comes later.
        self._session = uuid.uuid4().hex
        self._segment = None
        self._last_record = self._last_pulse = -1
        self._last_report = ""

    @contextmanager
    def _writing(self) -> Iterator[_Segment]:
        try:
            if self._segment is None:
                self._segment = _Segment(self.path, self._header())
            yield self._segment
        except BaseException:
            self._segment = None
            raise

    def _header(self) -> dict[str, object]:
        return {
            "schema": SCHEMA,
            "gradwatch": __version__,
            "model": self._model,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "session": self._session,
            "reasons": REASONS,
        }


class _Segment:
    """The files of one segment."""

    def __init__(self, path: Path, header: dict[str, object]) -> None:
        self.columns: Columns | None = None
        self._stem = _claim(path, to_line(header).encode())
        self._layouts: dict[str, list[int]] = {}
        self._rows: tuple[int, bytes, bytes, bytes, str] | None = None
        self._places: dict[str, object] = {}
        self._line = ""

    def add_record(self, record: Record) -> None:
        layout, stats = Layout.of(record), pack_stats(record)
        gains = pack_gains(record, REASONS)
        width, active, units = _pack_active(record)
        rows = (record.step, stats.tobytes(), gains.tobytes(), active, layout)
        if rows != self._rows:
            self._places = {
                "layout": self._layout(layout),
                "stats": [self.append(".stats.bin", rows[1]) // STATS.itemsize, len(stats)],
                "gains": [self.append(".gains.bin", rows[2]) // GAINS.itemsize, len(gains)],
                "active": {"at": self.append(".active.bin", active), "width": width, "of": units},
            }
            self._rows = rows
        scalars = {
            "step": record.step,
            "loss": record.loss,
            "clip_ratio": record.clip_ratio,
            "read_point": record.read_point,
            "notes": record.notes,
            "groups": [astuple(group) for group in record.groups],
            "output": record.output,
            "times": [[i, call.times] for i, call in enumerate(record.calls) if call.times],
            **{
                f"{owner}_{name}": [getattr(one, name) for one in owners]
                for owner, owners in (("call", record.calls), ("parameter", record.parameters))
                for name in NUMBERS[owner]
            },
            "unreached": [i for i, p in enumerate(record.parameters) if not p.reached],
        }
        line = to_line({**scalars, **self._places})
        if line != self._line:
            self.append(".records.jsonl", line.encode())
            self._line = line

    def add_pulses(self, columns: Columns, pulses: Sequence[Pulse]) -> None:
        if self.columns is None:
            names = {"parameters": columns.parameters, "taps": columns.taps}
            self.append(".columns.json", to_line(names).encode())
            self.columns = columns
        rows = np.zeros(len(pulses), pulse_rows(columns))
        for name in ("step", "loss", "loss_known", "clip_ratio"):
            rows[name] = [getattr(pulse, name) for pulse in pulses]
        rows["norms"] = np.stack([pulse.norms for pulse in pulses])
        rows["outputs"] = np.stack([pulse.outputs for pulse in pulses])
        self.append(".pulses.bin", rows.tobytes())

    def append(self, suffix: str, data: bytes) -> int:
        """Append all of the data or nothing; return the offset in bytes at which it begins."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        return _append(Path(f"{self._stem}{suffix}"), flags, data)

    def _layout(self, line: str) -> list[int]:
        if line not in self._layouts:
            if len(self._layouts) >= KNOWN_LAYOUTS:
                self._layouts.clear()
            data = line.encode()
            self._layouts[line] = [self.append(".layouts.jsonl", data), len(data)]
        return self._layouts[line]


def _pack_active(record: Record) -> tuple[int, bytes, list[tuple[int, int, int]]]:
    """Return the bytes per count, the counts, and (call, samples, units) for each call."""
    found = [(slot, call.active) for slot, call in enumerate(record.calls) if call.active]
    units = [(slot, active.samples, active.units.size) for slot, active in found]
    counts = [active.units for _, active in found]
    large = any(count.size and count.max() > LARGEST for count in counts)
    kind: np.dtype[Any] = np.dtype("<i8" if large else "<u4")
    return kind.itemsize, b"".join(count.astype(kind).tobytes() for count in counts), units


def _claim(path: Path, header: bytes) -> Path:
    """Create the next free segment by its header; two writers never get the same one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    number = max(segments(path), default=-1)
    while True:
        number += 1
        stem = path / f"seg-{number:03d}"
        file = Path(f"{stem}.json")
        try:
            _append(file, flags, header)
        except FileExistsError:
            continue
        except OSError:
            file.unlink(missing_ok=True)
            raise
        return stem


def _append(file: Path, flags: int, data: bytes) -> int:
    descriptor = os.open(file, flags, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, data) if data else 0
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        if written != len(data):
            os.ftruncate(descriptor, size)
            message = f"only {written} of {len(data)} bytes could be written"
            raise OSError(errno.ENOSPC, message, str(file))
        return size
    finally:
        os.close(descriptor)
