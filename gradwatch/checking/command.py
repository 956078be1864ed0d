"""`gradwatch check pkg.mod:factory`: does this model train at all? For scripts and for CI."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.progress import Progress
from rich.text import Text

from gradwatch.checking.batch import CannotStep, described
from gradwatch.checking.patient import seeded
from gradwatch.checkup import diagnose
from gradwatch.core.finding import Severity
from gradwatch.core.report import Report
from gradwatch.core.runfolder_format import to_line
from gradwatch.core.verdict import Verdicts
from gradwatch.sinks._text import clean
from gradwatch.sinks.console import render, text_of
from gradwatch.sinks.runfolder import RunFolder
from gradwatch.sinks.verdicts import heading
from gradwatch.sinks.verdicts import render as verdicts_page
from gradwatch.testing import Trainability, trainability
from gradwatch.trials import trial
from gradwatch.trying.bar import BUDGET, bar

EXPECTED: Final = "(model, loss_fn, batch)"
FRAMES: Final = 2
"""Frames of a factory's own traceback that are shown."""


class CannotCheck(Exception):
    """What the user named cannot be checked: the first line says why, others show where."""


def check(
    factory: str,
    *,
    steps: int,
    init_only: bool,
    try_remedies: bool,
    fail_on: Severity,
    console: Console | None,
    log_dir: str | None = None,
) -> tuple[bool, str]:
    """Check what a factory gives; returns whether it passes, and what to print.

    With a `log_dir`, what was found and tried is also recorded there, as a run of its own. What is
    printed is a page for the console, or one line of JSON without it. Raises `CannotCheck`.
    """
    place = _place(log_dir)
    # What is critical is in the result already, and needs no log line in the midst of the bar.
    logging.getLogger("gradwatch").addHandler(logging.NullHandler())
    # Standard output is for the result; whatever the user's code prints goes beside it.
    with _importable(), contextlib.redirect_stdout(sys.stderr):
        model, loss_fn, batch = _made(factory)
        result: Trainability | None = None
        try:
            if init_only:
                report = diagnose(model, loss_fn, batch)
            else:
                result = _trained(model, loss_fn, batch, steps)
                report = result.report
            needed = not report.healthy or (result is not None and not result.trained)
            _record(report, place)
            verdicts = _tried(model, loss_fn, batch, log_dir) if try_remedies and needed else None
        except CannotStep as error:
            where = _frames(error.__cause__)
            raise CannotCheck(f"what {factory} gives: {error}", *where) from error
    failing = [one for one in report.findings if one.severity >= fail_on]
    passed = not failing and (result is None or result.trained)
    if console is None:
        return passed, to_line(_as_data(factory, passed, report, result, verdicts)).rstrip("\n")
    page = Group(*_page(factory, passed, report, result), *_trial(verdicts))
    return passed, text_of(page, console)


def _trained(model: Any, loss_fn: Any, batch: Any, steps: int) -> Trainability:
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        bar = progress.add_task("training a copy", total=steps)

        def on_step(optimizer: str, step: int) -> None:
            said = f"training a copy with {optimizer}"
            progress.update(bar, completed=step, description=said)

        return trainability(model, loss_fn, batch, steps=steps, on_step=on_step)


def _place(log_dir: str | None) -> RunFolder | None:
    try:
        return None if log_dir is None else RunFolder(log_dir)
    except OSError as error:
        raise CannotCheck(f"--log-dir must be a folder to write to: {error}") from error


def _record(report: Report, place: RunFolder | None) -> None:
    if place is not None:
        try:
            place.write(report)
        except OSError as error:
            raise CannotCheck(f"--log-dir must be a folder to write to: {error}") from error


def _tried(model: Any, loss_fn: Any, batch: Any, log_dir: str | None) -> Verdicts:
    with bar(BUDGET) as on_step:
        return trial(model, loss_fn, [batch], budget=BUDGET, on_step=on_step, log_dir=log_dir)


def _trial(verdicts: Verdicts | None) -> Iterator[Any]:
    if verdicts is not None:
        yield heading()
        yield from verdicts_page(verdicts)


def _as_data(
    factory: str,
    passed: bool,
    report: Report,
    result: Trainability | None,
    verdicts: Verdicts | None,
) -> dict[str, object]:
    losses = None
    if result is not None:
        first, last = result.losses[0], result.losses[-1]
        losses = {"first": first, "last": last, "steps": len(result.losses)}
    return {
        "factory": factory,
        "model": report.model,
        "passed": passed,
        "verdict": report.verdict,
        "trained": None if result is None else result.trained,
        "reason": None if result is None else result.reason,
        "losses": losses,
        "baseline": None if result is None else result.baseline,
        "findings": [finding.to_json() for finding in report.findings],
        "prescriptions": [one.to_json() for one in report.prescriptions],
        "notes": list(report.notes),
        "trial": None if verdicts is None else verdicts.to_json(),
    }


def _page(factory: str, passed: bool, report: Report, result: Trainability | None) -> Iterator[Any]:
    style = "bold green" if passed else "bold red"
    yield Text(f"{'PASS' if passed else 'FAIL'} {clean(factory)}", style)
    if result is not None:
        yield Text(clean(f"{'Trains' if result.trained else 'Does not train'}: {result.reason}"))
    yield Text("")
    yield from render(report)


# --- the factory -----------------------------------------------------------------------------


def _made(path: str) -> tuple[Any, Any, Any]:
    factory = _found(path)
    if not callable(factory):
        raise CannotCheck(f"{path} must be callable, it is {factory!r:.80}")
    try:
        with seeded():  # the same weights every time: the exit code is no matter of luck
            made = factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a script's main() ends with it
        frames = _frames(error)
        said = f"{path} raised {type(error).__name__}: {error}"
        if not frames and isinstance(error, TypeError):
            said = f"{path} must be callable without arguments: {error}"
        raise CannotCheck(said, *frames) from error
    if not isinstance(made, tuple | list) or len(made) != 3:
        raise CannotCheck(f"{path} must return {EXPECTED}, it returned {described(made)}")
    return made[0], made[1], made[2]


def _found(path: str) -> Any:
    name, colon, attribute = path.partition(":")
    if not (name and colon and attribute):
        raise CannotCheck(f"FACTORY must be written pkg.mod:factory, got {path!r}")
    if name.endswith(".py") or "/" in name or "\\" in name:
        dotted = name.removesuffix(".py").strip("./\\").replace("/", ".").replace("\\", ".")
        raise CannotCheck(
            f"FACTORY must name a module, got the file {name!r}: try {dotted}:{attribute}"
        )
    try:
        found: Any = import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise CannotCheck(
                f"no module is called {missing!r} (looked for {path} from the current directory)"
            ) from error
        frames = _frames(error)
        said = f"{type(error).__name__}: {error}"
        raise CannotCheck(f"importing {name} for {path} raised {said}", *frames) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, dir(found))
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise CannotCheck(f"{path}: {name} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def _frames(error: BaseException | None) -> list[str]:
    """Return the lines of the last frames of an error that are the user's own."""
    libraries = (str(Path(__file__).parent), str(Path(traceback.__file__).parent), "<")
    trace = traceback.extract_tb(error.__traceback__ if error is not None else None)
    frames = [one for one in trace if not one.filename.startswith(libraries)]
    frames = [one for one in frames if "site-packages" not in one.filename][-FRAMES:]
    return [
        line
        for frame in frames
        for line in (f"  {frame.filename}:{frame.lineno} in {frame.name}", f"    {frame.line}")
    ]


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Have the current directory on the path, as `python -m` has."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")
