"""What the files of a run folder hold: fixed-size rows, and JSON that every language can read.

A segment `seg-NNN` is what one writer wrote, and no other writer ever appends to it, so only its
very last row can be torn:

- `.json`: the header (format version, gradwatch version, model, session, reasons);
- `.records.jsonl`: one line per exam with its scalars and where its rows are; the line is written
  last, so an exam without its line does not exist. A later line of the same step replaces it;
- `.layouts.jsonl`: the calls and parameters that the rows of an exam belong to;
- `.stats.bin`, `.gains.bin`, `.active.bin`: rows of the exams (`STATS`, `GAINS`, plain integers);
- `.columns.json`, `.pulses.bin`: the pulses (`pulse_rows`);
- `.findings.jsonl`: one line per report.

Beside the segments there may be a `trial.json` (see `runfolder_trial`).

A number that JSON cannot hold is written as the string "nan", "inf" or "-inf".
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.history import Columns
from gradwatch.core.record import Call, Layer, Parameter, Record
from gradwatch.core.stats import OCTAVES, Stats

FOLDER: Final = "gradwatch"
"""Name of the folder inside the run's folder."""
SCHEMA: Final = 2
"""Version of this format."""
OF_CALLS: Final = ("output", "grad_output")
OF_PARAMETERS: Final = ("gradient", "weight", "update", "sample")
QUANTITIES: Final = (*OF_CALLS, *OF_PARAMETERS)
"""What a row of statistics is about; rows hold the position in this list."""
SCALARS: Final = ("count", "zeros", "nans", "infs", "total", "squares", "peak")
NUMBERS: Final = {"call": ("common", "drift"), "parameter": ("common", "descent", "carried")}
"""What else is known of each call and each parameter: single numbers, kept in the exam's line."""
LARGEST: Final = 2**32 - 1

STATS: Final = np.dtype(
    [
        ("step", "<i8"),
        ("slot", "<u4"),  # position in the calls or in the parameters of the layout
        ("quantity", "u1"),
        *((name, "<i8") for name in SCALARS[:4]),
        *((name, "<f8") for name in SCALARS[4:]),
        ("octaves", "<u4", (OCTAVES,)),
    ]
)
GAINS: Final = np.dtype(
    [("step", "<i8"), ("slot", "<u4"), ("known", "u1"), ("reason", "u1"), ("gain", "<f8")]
)


def segments(path: Path) -> dict[int, Path]:
    """Return the segments in a folder in the order of their numbers, each as its header's path."""
    names = ((re.fullmatch(r"seg-([0-9]{3,9})\.json", file.name), file) for file in path.iterdir())
    return dict(sorted((int(match[1]), file) for match, file in names if match))


def pulse_rows(columns: Columns) -> np.dtype[Any]:
    """Return the row type of the pulses with these columns."""
    return np.dtype(
        [
            ("step", "<i8"),
            ("loss", "<f8"),
            ("loss_known", "u1"),
            ("clip_ratio", "<f8"),
            ("norms", "<f4", (len(columns.parameters),)),
            ("outputs", "<f4", (len(columns.taps),)),
        ]
    )


def to_line(data: object) -> str:
    """Return one line of strict JSON."""
    return json.dumps(_plain(data), allow_nan=False, separators=(",", ":")) + "\n"


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def optional_float(value: Any) -> float | None:
    """Read a number that may be null or not finite; raises `ValueError` or `TypeError`."""
    return None if value is None else float(value)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rows of an exam belong to: calls and parameters without their numbers."""

    calls: tuple[Call, ...]
    parameters: tuple[Parameter, ...]

    @staticmethod
    def of(record: Record) -> str:
        """Return the line that describes the layout of a record."""
        calls = [
            [
                *(call.layer.name, call.layer.kind, call.layer.functional, call.layer.weighted),
                *(call.layer.weight_shape, call.layer.builtin, *([True] * call.layer.foreign)),
                *(call.index, call.parent, call.cut, call.dtype, call.training),
            ]
            for call in record.calls
        ]
        parameters = [
            [p.name, p.shape, p.trainable, p.held, p.group, p.dtype] for p in record.parameters
        ]
        return to_line({"calls": calls, "parameters": parameters})

    @staticmethod
    def parse(line: bytes) -> Layout:
        """Read what `of` wrote; raises `ValueError` or `TypeError` for anything else."""
        data = json.loads(line)
        calls: list[Call] = []
        for *described, index, parent, cut, dtype, training in data["calls"]:
            name, kind, functional, weighted, shape, builtin, *foreign = described
            if parent is not None and not 0 <= parent < len(calls):
                raise ValueError(f"parent must be an earlier call, got {parent}")
            layer = Layer(
                *(str(name), str(kind), bool(functional), bool(weighted)),
                *(tuple(int(size) for size in shape), bool(builtin), any(foreign)),
            )
            call = Call(layer, int(index), parent, cut=bool(cut))
            calls.append(replace(call, dtype=str(dtype), training=bool(training)))
        parameters = tuple(
            Parameter(
                str(name),
                tuple(int(size) for size in shape),
                bool(trainable),
                held=None if held is None else bool(held),
                group=None if group is None else int(group),
                dtype=str(dtype),
            )
            for name, shape, trainable, held, group, dtype in data["parameters"]
        )
        return Layout(tuple(calls), parameters)


def pack_stats(record: Record) -> NDArray[np.void]:
    """Return the rows of all statistics of a record."""
    found: list[tuple[int, int, Stats]] = []
    for quantity, name in enumerate(QUANTITIES):
        for slot, owner in enumerate(record.calls if name in OF_CALLS else record.parameters):
            stats = getattr(owner, name)
            if stats is not None:
                found += ((slot, quantity, piece) for piece in _pieces(stats))
    rows = np.zeros(len(found), STATS)
    if found:
        rows["step"] = record.step
        rows["slot"] = [slot for slot, _, _ in found]
        rows["quantity"] = [quantity for _, quantity, _ in found]
        for name in SCALARS:
            rows[name] = [getattr(stats, name) for _, _, stats in found]
        rows["octaves"] = np.stack([stats.octaves for _, _, stats in found])
    return rows


def _pieces(stats: Stats) -> Iterator[Stats]:
    # An octave of more than 2^32 elements needs several rows: rows merge, so nothing is lost.
    while stats.octaves.max() > LARGEST:
        octaves = np.minimum(stats.octaves, LARGEST)
        yield replace(Stats.empty(), octaves=octaves)
        stats = replace(stats, octaves=stats.octaves - octaves)
    yield stats


def unpack_stats(rows: NDArray[np.void]) -> dict[str, dict[int, Stats]]:
    """Return the statistics by quantity and slot; rows of the same place are merged."""
    places = zip(rows["quantity"].tolist(), rows["slot"].tolist(), strict=True)
    # A large model has thousands of rows in an exam: `Stats` gets its fields in their order.
    fields = [rows[name].tolist() for name in SCALARS]
    fields.insert(-1, list(rows["octaves"].astype(np.int64)))
    found: defaultdict[str, dict[int, Stats]] = defaultdict(dict)
    for (quantity, slot), values in zip(places, zip(*fields, strict=True), strict=True):
        stats = Stats(*values)
        slots = found[QUANTITIES[quantity]]
        slots[slot] = slots[slot] + stats if slot in slots else stats
    return found


def pack_gains(record: Record, reasons: Iterable[str]) -> NDArray[np.void]:
    """Return one row per call with its gain or the reason why there is none."""
    positions = {reason: position for position, reason in enumerate(reasons)}
    rows = np.zeros(len(record.calls), GAINS)
    if record.calls:
        rows["step"] = record.step
        rows["slot"] = np.arange(len(record.calls))
        rows["known"] = [call.gain is not None for call in record.calls]
        rows["reason"] = [positions[call.reason] for call in record.calls]
        rows["gain"] = [math.nan if call.gain is None else call.gain for call in record.calls]
    return rows
