"""Reads one segment of a run folder. Any file of it may be missing, torn or garbage."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.finding import Finding
from gradwatch.core.history import FIRST_PULSES, LAST_PULSES, Columns, Pulse
from gradwatch.core.progress import Progress
from gradwatch.core.record import Call, Group, Parameter, Record
from gradwatch.core.runfolder_format import (
    GAINS,
    NUMBERS,
    SCHEMA,
    STATS,
    Layout,
    optional_float,
    pulse_rows,
    unpack_stats,
)
from gradwatch.core.stats import Active

T = TypeVar("T")
LONGEST_LINE: Final = 64 * 2**20
"""Bytes; what is longer is not ours (the layout of a model of 100,000 calls has 10 MB)."""
CHUNK: Final = 2**22
"""Bytes of pulses that are read at once."""
DAMAGE: Final = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(OverflowError, RecursionError, OSError),
)
"""What reading arbitrary bytes as ours can raise."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the findings."""

    step: int = -1
    findings: tuple[Finding, ...] = ()
    progress: Progress | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def parse(data: Mapping[str, Any]) -> Verdict:
        """Read what the writer's `add_report` wrote; raises one of `DAMAGE` for anything else."""
        said = data["progress"]
        return Verdict(
            int(data["step"]),
            tuple(_finding(finding) for finding in data["findings"]),
            Progress(
                said["moving"],
                str(said["text"]),
                float(said["fall"]),
                said["diverged"],
                float(said["begin"]),
                optional_float(said["skill"]),
            ),
            tuple(map(str, data["notes"])),
        )


def _finding(data: Mapping[str, Any]) -> Finding:
    finding = Finding.from_json(data)
    causes = tuple(
        replace(cause, bits=optional_float(cause.bits), share=optional_float(cause.share))
        for cause in finding.causes
    )
    numbers = {name: float(value) for name, value in finding.numbers.items()}
    return replace(finding, causes=causes, numbers=numbers)


def _group(values: list[Any]) -> Group:
    kind, *numbers, maximize = values
    rate, decay, epsilon, first, second = map(optional_float, numbers)
    return Group(str(kind), rate, decay, epsilon, first, second, bool(maximize))


class Segment:
    """The exams and verdicts of one writer by step; the rows are read when they are asked for."""

    def __init__(self, header: Path, problems: list[str]) -> None:
        """Read the header and the lines; raises one of `DAMAGE` when the header is not ours."""
        data = json.loads(header.read_bytes())
        if int(data["schema"]) > SCHEMA:
            raise FutureVersion(header, data)
        self.model, self.session = str(data["model"]), str(data["session"])
        self._reasons = tuple(map(str, data["reasons"]))
        self._stem = header.with_suffix("")
        self._problems = problems
        self._layouts: dict[tuple[int, int], Layout] = {}
        self.records = dict(self._lines(".records.jsonl", lambda line: (int(line["step"]), line)))
        verdicts = self._lines(".findings.jsonl", Verdict.parse)
        self.verdicts = {verdict.step: verdict for verdict in verdicts}
        self._columns = Columns()
        self._pulse_count = 0
        if self._file(".pulses.bin").exists():
            try:
                self._read_columns()
            except DAMAGE as damage:
                self._problem(".columns.json", f"its pulses cannot be read ({damage})")

    @property
    def first_step(self) -> int | None:
        """The first step that it tells anything of."""
        steps = list(self.records)
        if self._pulse_count:
            steps.append(self._pulse_step(0))
        return min(steps, default=None)

    def forget_from(self, step: int) -> None:
        """Drop what belongs to this step or a later one."""
        self.records = {s: line for s, line in self.records.items() if s < step}
        self.verdicts = {s: verdict for s, verdict in self.verdicts.items() if s < step}
        self._pulse_count = bisect_left(range(self._pulse_count), step, key=self._pulse_step)

    def record(self, step: int) -> Record | None:
        """Read an exam; None, and a problem, when it is damaged."""
        try:
            return self._record(self.records[step])
        except DAMAGE as damage:
            self._problem(".records.jsonl", f"the exam of step {step} was skipped ({damage})")
            return None

    def pulses(self) -> Iterator[Pulse]:
        """Read as many of the first and of the last pulses as a `History` keeps."""
        count = self._pulse_count
        first = min(count, FIRST_PULSES)
        return self._pulses((0, first), (max(first, count - LAST_PULSES), count))

    def all_pulses(self) -> Iterator[Pulse]:
        """Read every pulse, some at a time."""
        count = self._pulse_count
        some = max(1, CHUNK // pulse_rows(self._columns).itemsize)
        return self._pulses(*((at, min(at + some, count)) for at in range(0, count, some)))

    def _pulses(self, *spans: tuple[int, int]) -> Iterator[Pulse]:
        kind = pulse_rows(self._columns)
        for start, stop in spans:
            try:
                rows = self._rows(".pulses.bin", kind, start, stop - start)
            except DAMAGE as damage:
                self._problem(".pulses.bin", f"its pulses were skipped ({damage})")
                return
            norms, outputs = rows["norms"].astype(np.float32), rows["outputs"].astype(np.float32)
            told = [rows[name].tolist() for name in ("loss", "loss_known", "clip_ratio")]
            of = zip(rows["step"].tolist(), norms, outputs, *told, strict=True)
            for step, norm, output, loss, known, clipped in of:
                yield Pulse(step, self._columns, norm, output, loss, bool(known), clipped)

    def _record(self, line: Mapping[str, Any]) -> Record:
        step = int(line["step"])
        layout = self._layout(*line["layout"])
        rows = self._rows(".stats.bin", STATS, *line["stats"])
        gains = self._rows(".gains.bin", GAINS, *line["gains"])
        if (rows["step"] != step).any() or (gains["step"] != step).any():
            raise ValueError("its rows belong to another step")
        stats, active = unpack_stats(rows), self._active(**line["active"])
        times = {int(slot): tuple(map(float, values)) for slot, values in line["times"]}
        none = {"call": [None] * len(layout.calls), "parameter": [None] * len(layout.parameters)}
        numbers = {
            # What a run's recorder did not measure yet is not in its lines.
            (owner, name): tuple(map(optional_float, line.get(f"{owner}_{name}") or none[owner]))
            for owner, names in NUMBERS.items()
            for name in names
        }
        # Not by `replace`: it takes four times as long, and a large model has thousands of these.
        calls = tuple(
            Call(
                layer=call.layer,
                index=call.index,
                parent=call.parent,
                cut=call.cut,
                dtype=call.dtype,
                training=call.training,
                gain=float(row["gain"]) if row["known"] else None,
                reason=self._reasons[row["reason"]],
                active=active.get(slot),
                output=stats["output"].get(slot),
                grad_output=stats["grad_output"].get(slot),
                times=times.get(slot, ()),
                common=numbers["call", "common"][slot],
                drift=numbers["call", "drift"][slot],
            )
            for slot, (call, row) in enumerate(zip(layout.calls, gains, strict=True))
        )
        unreached = frozenset(line["unreached"])
        parameters = tuple(
            Parameter(
                name=parameter.name,
                shape=parameter.shape,
                trainable=parameter.trainable,
                held=parameter.held,
                group=parameter.group,
                dtype=parameter.dtype,
                reached=slot not in unreached,
                gradient=stats["gradient"].get(slot),
                weight=stats["weight"].get(slot),
                update=stats["update"].get(slot),
                sample=stats["sample"].get(slot),
                common=numbers["parameter", "common"][slot],
                descent=numbers["parameter", "descent"][slot],
                carried=numbers["parameter", "carried"][slot],
            )
            for slot, parameter in enumerate(layout.parameters)
        )
        return Record(
            *(step, calls, parameters),
            *(optional_float(line["loss"]), optional_float(line["clip_ratio"])),
            *(str(line["read_point"]), tuple(map(str, line["notes"]))),
            tuple(map(_group, line["groups"])),
            tuple(map(float, line["output"])),
        )

    def _layout(self, at: int, length: int) -> Layout:
        if (at, length) not in self._layouts:
            self._layouts[at, length] = Layout.parse(self._bytes(".layouts.jsonl", at, length))
        return self._layouts[at, length]

    def _active(self, at: int, width: int, of: list[tuple[int, int, int]]) -> dict[int, Active]:
        kind: np.dtype[Any] = np.dtype({4: "<u4", 8: "<i8"}[width])
        found: dict[int, Active] = {}
        for slot, samples, units in of:
            data = self._bytes(".active.bin", at, units * width)
            found[int(slot)] = Active(int(samples), np.frombuffer(data, kind).astype(np.int64))
            at += units * width
        return found

    def _read_columns(self) -> None:
        data = json.loads(self._file(".columns.json").read_bytes())
        columns = Columns(tuple(map(str, data["parameters"])), tuple(map(str, data["taps"])))
        width = pulse_rows(columns).itemsize
        count, torn = divmod(self._file(".pulses.bin").stat().st_size, width)
        self._columns, self._pulse_count = columns, count
        if torn:
            self._problem(".pulses.bin", "its last row is torn and was ignored")

    def _pulse_step(self, position: int) -> int:
        row = self._rows(".pulses.bin", pulse_rows(self._columns), position, 1)
        return int(row["step"][0])

    def _lines(self, suffix: str, parse: Callable[[Any], T]) -> list[T]:
        found: list[T] = []
        skipped, torn = 0, False
        if not self._file(suffix).exists():
            return found
        with self._file(suffix).open("rb") as stream:
            while line := stream.readline(LONGEST_LINE):
                torn = not line.endswith(b"\n")
                try:
                    if not torn:
                        found.append(parse(json.loads(line)))
                except DAMAGE:
                    skipped += 1
        if skipped:
            self._problem(suffix, f"lines that could not be read and were skipped: {skipped}")
        if torn:
            self._problem(suffix, "its last line is torn and was ignored")
        return found

    def _rows(self, suffix: str, kind: np.dtype[Any], start: int, count: int) -> NDArray[np.void]:
        data = self._bytes(suffix, start * kind.itemsize, count * kind.itemsize)
        return np.frombuffer(data, kind)

    def _bytes(self, suffix: str, at: int, length: int) -> bytes:
        # Read and not mapped: a mapped file that is cut while we look at it ends the process.
        if not length:
            return b""
        file = self._file(suffix)
        if not 0 <= at <= at + length <= file.stat().st_size:
            raise ValueError(f"{file.name} holds no bytes {at} to {at + length}")
        with file.open("rb") as stream:
            stream.seek(at)
            return stream.read(length)

    def _file(self, suffix: str) -> Path:
        return Path(f"{self._stem}{suffix}")

    def _problem(self, suffix: str, text: str) -> None:
        self._problems.append(f"{self._file(suffix).name}: {text}.")


class FutureVersion(Exception):
    """A segment was written by a later gradwatch."""

    def __init__(self, header: Path, data: Mapping[str, Any]) -> None:
        self.why = (
            f"written by gradwatch {data.get('gradwatch')} in version {data['schema']} of the "
            f"format, and this gradwatch reads versions up to {SCHEMA}: "
            "pip install --upgrade gradwatch"
        )
        super().__init__(f"{header} was {self.why}")
