"""A run as one table or one JSON document, for pandas, a spreadsheet or a script of one's own.

Both hold every step of the flight recorder and every exam, and are written as they are read.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, TextIO

import numpy as np

from gradwatch import __version__
from gradwatch.core.history import Pulse
from gradwatch.core.ledger import ledger
from gradwatch.core.record import Call, Parameter, Record
from gradwatch.core.runfolder import Run
from gradwatch.core.runfolder_format import to_line
from gradwatch.core.runfolder_stream import Stream
from gradwatch.core.stats import Stats
from gradwatch.sinks._text import code_lines

COLUMNS: Final = ("step", "source", "name", "call", "quantity", "value")
"""Of the table. `source` is `pulse` (every step) or `exam`; `name` is a parameter, a layer, or
empty for what belongs to the whole step; `call` counts the calls of a layer in a step."""
FORMULA: Final = ("=", "+", "-", "@")
"""A cell that begins so is executed by a spreadsheet."""
MEASURES: Final = ("rms", "mean", "std", "peak", "zeros", "nans", "infs", "count")
"""Of each tensor in an exam: plain names of the properties of `Stats`."""


def write_csv(stream: Stream, out: TextIO) -> None:
    """Write one line per number: `step,source,name,call,quantity,value`.

    Values are numbers, `nan`, `inf` or `-inf`; empty where backward did not reach a parameter.
    What was not measured has no line.
    """
    table = csv.writer(out, lineterminator="\n")
    table.writerow(COLUMNS)
    for pulse in stream.pulses():
        step = str(pulse.step)
        if pulse.loss_known:
            table.writerow((step, "pulse", "", "", "loss", pulse.loss))
        if not math.isnan(pulse.clip_ratio):
            table.writerow((step, "pulse", "", "", "clip_ratio", _short(pulse.clip_ratio)))
        names = _cells(pulse.columns.parameters)
        for name, norm in zip(names, _norms(pulse), strict=True):
            table.writerow((step, "pulse", name, "", "gradient_norm", norm))
    for record in stream.records():
        for name, call, quantity, value in _numbers(record):
            table.writerow((record.step, "exam", _cell(name), call, quantity, value))


def write_json(stream: Stream, run: Run, out: TextIO) -> None:
    """Write one JSON object, a row of the recorder or an exam a line.

    It is strict JSON: what is not finite is the string "nan", "inf" or "-inf". The norm of a
    parameter that backward did not reach is null.
    """
    report = run.report()
    head = {
        "gradwatch": __version__,
        "model": report.model,
        "step": report.step,
        "verdict": report.verdict,
        "progress": {"moving": report.progress.moving, "text": report.progress.text},
        "findings": [finding.to_json() for finding in report.findings],
        "notes": list(report.notes),
        "trial": None if run.trial is None else run.trial.to_json(),
    }
    out.write(f'{_line(head)[:-1]},\n"pulses":[')
    _write_all(out, map(_pulse, stream.pulses()))
    out.write('],\n"exams":[')
    _write_all(out, map(_exam, stream.records()))
    problems = list(dict.fromkeys([*run.problems, *stream.problems]))
    out.write(f'],\n"problems":{_line(problems)}}}\n')


# --- every step ------------------------------------------------------------------------------


def _norms(pulse: Pulse) -> list[str]:
    """Return the gradient norms in the fewest digits that tell float32 numbers apart."""
    return ["" if norm < 0 else _short(norm) for norm in pulse.norms]


def _pulse(pulse: Pulse) -> dict[str, object]:
    norms = [float(norm) if norm else None for norm in _norms(pulse)]
    return {
        "step": pulse.step,
        "loss": pulse.loss if pulse.loss_known else None,
        "clip_ratio": None if math.isnan(pulse.clip_ratio) else float(_short(pulse.clip_ratio)),
        "norms": dict(zip(pulse.columns.parameters, norms, strict=True)),
    }


def _short(value: float | np.float32) -> str:
    return str(np.float32(value))


# --- exams -----------------------------------------------------------------------------------


def _numbers(record: Record) -> Iterator[tuple[str, str, str, float]]:
    """Yield name, call, quantity and value of all that is known of an exam."""
    for quantity, value in _step(record).items():
        if value is not None:
            yield "", "", quantity, value
    for call in record.calls:
        yield from _known(call.layer.label, str(call.index), _call(call))
    for parameter in record.parameters:
        yield from _known(parameter.name, "", _parameter(parameter))


def _known(name: str, call: str, numbers: dict[str, Any]) -> Iterator[tuple[str, str, str, float]]:
    for quantity, value in numbers.items():
        if isinstance(value, dict):
            yield from ((name, call, f"{quantity}_{key}", one) for key, one in value.items())
        elif value is not None:
            yield name, call, quantity, value


def _exam(record: Record) -> dict[str, object]:
    return {
        "step": record.step,
        **_step(record),
        "read_point": record.read_point,
        "layers": [
            {
                "name": call.layer.name,
                "kind": call.layer.kind,
                "call": call.index,
                "parent": call.parent,
                **_call(call),
                "reason": call.reason or None,
            }
            for call in record.calls
        ],
        "parameters": [
            {
                "name": parameter.name,
                "shape": parameter.shape,
                "trainable": parameter.trainable,
                "reached": parameter.reached,
                **_parameter(parameter),
            }
            for parameter in record.parameters
        ],
        "notes": record.notes,
    }


def _step(record: Record) -> dict[str, float | None]:
    accounts, answer = ledger(record), record.answer
    return {
        "loss": record.loss,
        "clip_ratio": record.clip_ratio,
        "gradient_norm": record.gradient_norm,
        "learning_rate": max(record.learning_rates, default=None),
        "bits_to_first_layer": accounts.total if accounts.entries else None,
        "skill": None if answer is None else answer.skill,
    }


def _call(call: Call) -> dict[str, Any]:
    return {
        "gain_bits": call.gain,
        "spread": call.spread,
        "dead_units": None if call.active is None else call.active.dead,
        "units": None if call.active is None else int(call.active.units.size),
        "output": _stats(call.output),
        "output_gradient": _stats(call.grad_output),
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    gradient = parameter.gradient
    return {
        "gradient_norm": None if gradient is None else gradient.norm,
        "weight_norm": None if parameter.weight is None else parameter.weight.norm,
        "update_ratio": parameter.update_ratio,
        "descent": parameter.descent,
        "spread": parameter.spread,
        "gradient": _stats(gradient),
        "weight": _stats(parameter.weight),
    }


def _stats(stats: Stats | None) -> dict[str, float] | None:
    return None if stats is None else {name: getattr(stats, name) for name in MEASURES}


# --- how it is written -----------------------------------------------------------------------


def _line(data: object) -> str:
    return to_line(data).rstrip("\n")


def _write_all(out: TextIO, rows: Iterator[dict[str, object]]) -> None:
    for number, row in enumerate(rows):
        out.write((",\n" if number else "\n") + _line(row))


@lru_cache(maxsize=64)
def _cells(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(_cell, names))


def _cell(name: str) -> str:
    """Return a name on one line, whole, without control characters, that is no formula."""
    text = " ".join(code_lines(name))
    return f"'{text}" if text.startswith(FORMULA) else text
