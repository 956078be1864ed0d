"""The trial in a run folder: what remedies were worth on copies of the model, in one file.

`trial.json` is written whole or not at all, and a later trial replaces it. It belongs to the
session that was the latest when it was written: a training that was begun anew in the same folder
may be of another model. Nothing in it is ever executed by reading it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gradwatch import __version__
from gradwatch.core.finding import Finding
from gradwatch.core.remedy import Prescription
from gradwatch.core.runfolder_format import optional_float, segments, to_line
from gradwatch.core.verdict import Outcome, Verdict, Verdicts
from gradwatch.core.whole_file import whole_file

TRIAL: Final = "trial.json"
"""Name of the file."""
TRIAL_SCHEMA: Final = 1
"""Version of its format."""
LARGEST_TRIAL: Final = 16 * 2**20
"""Bytes; what is longer is not ours (a trial of a model of 10,000 layers has some 100 kB)."""


def write_trial(folder: Path, verdicts: Verdicts) -> None:
    """Keep a trial beside the run in this run folder; raises `OSError`."""
    data = {
        "schema": TRIAL_SCHEMA,
        "gradwatch": __version__,
        "session": _latest_session(folder),
        "trial": verdicts.to_json(),
    }
    with whole_file(folder / TRIAL) as out:
        out.write(to_line(data))


def read_trial(folder: Path, session: str, problems: list[str]) -> Verdicts | None:
    """Return the trial of this session; None where there is none, and a problem where it cannot be
    read. Models and the report of a trial are not kept."""
    file = folder / TRIAL
    try:
        if not file.exists():
            return None
        if file.stat().st_size > LARGEST_TRIAL:
            raise ValueError(f"it has {file.stat().st_size} bytes")
        data = json.loads(file.read_bytes())
        if int(data["schema"]) > TRIAL_SCHEMA:
            problems.append(
                f"{TRIAL}: it was written by gradwatch {data.get('gradwatch')} in version "
                f"{data['schema']} of its format, and this gradwatch reads versions up to "
                f"{TRIAL_SCHEMA}: pip install --upgrade gradwatch."
            )
        elif data["session"] != session:
            problems.append(f"{TRIAL}: its remedies were tried for an earlier training here.")
        else:
            return _verdicts(data["trial"])
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as damage:
        problems.append(f"{TRIAL}: the trial could not be read ({damage}).")
    except (OSError, RecursionError) as damage:
        problems.append(f"{TRIAL}: the trial could not be read ({type(damage).__name__}).")
    return None


def _latest_session(folder: Path) -> str:
    """Return the session of the last segment that tells it."""
    for header in reversed(segments(folder).values()):
        try:
            return str(json.loads(header.read_bytes())["session"])
        except (ValueError, TypeError, LookupError, RecursionError):
            continue
    raise FileNotFoundError(f"{folder} holds no run to keep a trial for")


def _verdicts(data: Mapping[str, Any]) -> Verdicts:
    untreated, reseeded = _outcome(data["untreated"]), data["reseeded"]
    other = data["other"]
    return Verdicts(
        tuple(_verdict(one, untreated) for one in data["verdicts"]),
        untreated,
        None if reseeded is None else _outcome(reseeded),
        None if other is None else _verdict(other, untreated),
        dropped=tuple(map(str, data["dropped"])),
        not_reached=tuple(map(str, data["not_reached"])),
        not_applied=tuple(map(str, data["not_applied"])),
        seconds=float(data["seconds"]),
        summary=str(data["summary"]),
    )


def _verdict(data: Mapping[str, Any], untreated: Outcome) -> Verdict:
    match = data["steps_to_match"]
    prescriptions = tuple(map(_prescription, data["prescriptions"]))
    if not prescriptions:
        raise ValueError("a verdict on nothing")
    return Verdict(
        prescriptions,
        bool(data["recommended"]),
        str(data["reason"]),
        _outcome(data["treated"]),
        untreated,
        None if match is None else int(match),
    )


def _prescription(data: Mapping[str, Any]) -> Prescription:
    return Prescription(
        str(data["remedy"]),
        str(data["title"]),
        str(data["code"]),
        runnable=bool(data["runnable"]),
        per_step=bool(data["per_step"]),
        of_optimizer=bool(data["of_optimizer"]),
        changes_loss=bool(data["changes_loss"]),
        answers=str(data["answers"]),
    )


def _outcome(data: Mapping[str, Any]) -> Outcome:
    losses = tuple(map(float, data["losses"]))
    skills = tuple(map(optional_float, data["skills"]))
    parameters = int(data["parameters"])
    if not losses or len(skills) != len(losses) or not 0 <= parameters < 2**63:
        raise ValueError(f"{len(losses)} losses, {len(skills)} skills, {parameters:.3g} weights")
    return Outcome(
        losses,
        skills,
        int(data["steps"]),
        tuple(map(Finding.from_json, data["findings"])),
        optional_float(data["bits"]),
        float(data["seconds"]),
        parameters,
        tuple(map(bool, data["fell"])),
        tuple(map(optional_float, data["held_skills"])),
    )
