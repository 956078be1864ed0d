"""The command line. It starts at once: torch is imported only inside the command that needs it.

Exit codes are for scripts: 0, or 1 where `report` shows something critical, `check` fails or `diff`
shows a run that is worse, or 2 when the command could not be done; the first line on stderr says
why.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO

from gradwatch import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from gradwatch.core.runfolder import Run

CRITICAL: Final = 1
FAILED: Final = 1
WORSE: Final = 1
UNDONE: Final = 2
LEAST_STEPS: Final = 20
WIDTH: Final = 100
"""Columns where the output is no terminal, as `print(report)` has."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    said = sys.argv[1:] if argv is None else argv
    try:
        try:
            arguments = _parser().parse_args(argv)
        except SystemExit as stop:  # argparse has said what there is to say
            return stop.code if isinstance(stop.code, int) else UNDONE
        return _done(arguments)
    except _CannotPrint as error:
        return _undone(f"{said[0]}: standard output must be a place to write to: {error}")


def _done(arguments: argparse.Namespace) -> int:
    if arguments.command == "demo":
        return _demo(arguments.folder)
    if arguments.command == "report":
        output, markdown = arguments.output, arguments.markdown
        return _report(arguments.run, arguments.other, output, markdown=markdown)
    if arguments.command == "diff":
        return _diff(arguments.a, arguments.b)
    if arguments.command == "export":
        return _export(arguments.run, arguments.output, arguments.format)
    if arguments.command == "check":
        return _check(arguments)
    return _explain(arguments.name)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line, without the usage."""
        self.exit(UNDONE, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help, or the version, as all else is printed: argparse hides what goes wrong."""
        if message and file is sys.stdout:
            _stream(lambda out: out.write(message))
        else:
            super()._print_message(message, file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("gradwatch", description="See the gradients of a training.")
    parser.add_argument("--version", action="version", version=f"gradwatch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train a net that does not learn, name the fault, repair it, and train again",
        description="Train a net that does not learn, name the fault, apply what is prescribed to "
        "a fresh copy, and train that. Exit code 1 if the repair does not learn.",
    )
    demo.add_argument(
        "--folder",
        default="runs/demo",
        help="where to write run folders, TensorBoard logs and pages (default: runs/demo)",
    )
    report = commands.add_parser(
        "report",
        help="show what was found in a recorded run; exit code 1 if it is critical",
        description="Show what was found in a recorded run. Exit code 1 if it is critical.",
    )
    report.add_argument("run", metavar="RUN", help="the log_dir of the run, or its run folder")
    report.add_argument(
        "other", metavar="OTHER", nargs="?", help="a run to put beside it on the page (with -o)"
    )
    report.add_argument(
        "-o", "--output", metavar="FILE", help="write a page to open in a browser instead"
    )
    report.add_argument(
        "--markdown",
        action="store_true",
        help="as Markdown of at most 8 kB, to paste into an issue or a chat (with -o, into FILE)",
    )
    diff = commands.add_parser(
        "diff",
        help="say how one run differs from another; exit code 1 if it is worse",
        description="Say how run B differs from run A: what is found no more or anew, and where "
        "gradients and updates differ. Exit code 1 if something is critical in B that is not in A.",
    )
    diff.add_argument("a", metavar="A", help="the log_dir of the run to compare with")
    diff.add_argument("b", metavar="B", help="the log_dir of the run to judge")
    export = commands.add_parser(
        "export",
        help="write every step and every exam of a run as CSV or JSON",
        description="Write every step of the flight recorder and every exam of a run. CSV has one "
        "number a line (step, source, name, call, quantity, value; source is pulse or exam); JSON "
        'is one object, in which "nan" and "inf" are strings. A gradient norm of 0 or inf in a '
        "pulse may only be out of the range of float32's squares: an exam has the exact one. It is "
        "empty (null) where backward did not reach the parameter.",
    )
    export.add_argument("run", metavar="RUN", help="the log_dir of the run, or its run folder")
    export.add_argument(
        "-o", "--output", metavar="FILE", help="where to write to (default: standard output)"
    )
    export.add_argument(
        "--format",
        choices=("csv", "json"),
        help="default: json where FILE ends in .json, else csv",
    )
    check = commands.add_parser(
        "check",
        help="train a copy of a model on one batch; exit code 1 if it does not train",
        description="Train a copy of a model on one batch and judge what comes out. Exit code 1 "
        "if the loss does not get below what a constant output reaches, or if something as severe "
        "as --fail-on is found.",
    )
    check.add_argument(
        "factory",
        metavar="PKG.MOD:FACTORY",
        help="a function without arguments that returns (model, loss_fn, batch), and a batch is "
        "(inputs, targets)",
    )
    check.add_argument(
        "--steps", type=_steps, default=100, metavar="N", help="optimizer steps (default: 100)"
    )
    check.add_argument(
        "--init-only",
        action="store_true",
        help="do not train: predict from one forward and backward pass (predictions are warnings)",
    )
    check.add_argument(
        "--fail-on",
        choices=("note", "warning", "critical"),
        default="critical",
        help="fail on findings as severe as this, too (default: critical)",
    )
    check.add_argument(
        "--try-remedies",
        action="store_true",
        help="if something is found, try remedies on copies for a minute and print what they are "
        "worth; the exit code stays that of the model as it is",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.add_argument(
        "--log-dir",
        metavar="DIR",
        help="also record what was found and tried in DIR, as a run for `gradwatch report DIR`",
    )
    explain = commands.add_parser(
        "explain",
        help="say what a detector or a remedy does, and why",
        description="Say what a detector or a remedy does, and why; without NAME, list them all.",
    )
    explain.add_argument("name", metavar="NAME", nargs="?", help="as a report names it")
    return parser


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) < LEAST_STEPS:
        raise argparse.ArgumentTypeError(f"must be an integer from {LEAST_STEPS}, got {text!r}")
    return int(text)


def _demo(folder: str) -> int:
    from pathlib import Path

    from gradwatch.demo import main as demo

    try:
        return demo(Path(folder))
    except OSError as error:
        with contextlib.suppress(_CannotPrint):
            _stream(lambda out: None)  # or what is left of it fails again at the end
        place = "--folder" if error.filename else "--folder, and standard output,"
        return _undone(f"demo: {place} must be a place to write to: {error}")


def _report(run: str, other: str | None, output: str | None, *, markdown: bool) -> int:
    from rich.console import Group, RenderableType

    from gradwatch.core.catalog import remedies
    from gradwatch.core.finding import Severity
    from gradwatch.sinks.console import render, text_of

    if other is not None and (markdown or output is None):
        return _undone("report: OTHER needs -o FILE; `gradwatch diff RUN OTHER` prints")
    try:
        found = _read(run)
        second = None if other is None else _read(other)
    except _CannotRead as error:
        return _undone(f"report: {error}")
    report = found.report(remedies())
    if markdown:
        from gradwatch.sinks.markdown import to_markdown

        page = to_markdown(report)
        try:
            _write(page, output)
        except OSError as error:
            return _undone(f"report: -o must be a file to write to: {error}")
    elif output is None:
        parts: list[RenderableType] = list(render(report))
        if report.trial is not None:
            from gradwatch.sinks.verdicts import heading
            from gradwatch.sinks.verdicts import render as trial

            parts += [heading(), *trial(report.trial)]
        _print(text_of(Group(*parts), _console()))
    else:
        from gradwatch.core.runfolder_stream import Stream
        from gradwatch.viewer.compare_data import compare_data
        from gradwatch.viewer.report import write_html

        try:
            beside = None if second is None else compare_data(found, second)
            stream = Stream(run)
            path = write_html(report, found.history, output, stream.pulses(), beside, stream)
        except OSError as error:
            return _undone(f"report: -o must be a file to write to: {error}")
        _print(f"{report.verdict}\nThe page is {path}: open it in a browser.")
    return CRITICAL if report.severity == Severity.CRITICAL else 0


def _diff(a: str, b: str) -> int:
    from rich.console import Group

    from gradwatch.core.comparison import NotJudged, compare
    from gradwatch.sinks.console import text_of
    from gradwatch.sinks.diff import render

    try:
        comparison = compare(_read(a), _read(b))
    except (_CannotRead, NotJudged, OSError) as error:
        return _undone(f"diff: {error}")
    _print(text_of(Group(*render(comparison)), _console()))
    return WORSE if comparison.worse else 0


def _export(run: str, output: str | None, form: str | None) -> int:
    from gradwatch.core.runfolder_stream import Stream
    from gradwatch.core.whole_file import whole_file
    from gradwatch.sinks.export import write_csv, write_json

    json = form == "json" or (form is None and (output or "").lower().endswith(".json"))

    def write(out: TextIO) -> None:
        if json:
            write_json(stream, found, out)
        else:
            write_csv(stream, out)

    try:
        found, stream = _read(run), Stream(run)
    except (_CannotRead, OSError) as error:
        return _undone(f"export: {error}")
    try:
        if output is None:
            _stream(write)
        else:
            with whole_file(output) as out:
                write(out)
    except OSError as error:
        return _undone(f"export: -o must be a file to write to: {error}")
    for problem in dict.fromkeys([*found.problems, *stream.problems]):
        _say(f"gradwatch export: {problem}")
    return 0


class _CannotRead(Exception):
    """Why a run cannot be read."""


def _read(run: str) -> Run:
    from gradwatch.core.runfolder import FutureVersion, read

    try:
        return read(run)
    except FileNotFoundError:
        raise _CannotRead(f"no run was recorded in {run!r}; RUN is the log_dir of a run") from None
    except (OSError, FutureVersion) as error:
        raise _CannotRead(str(error)) from error


def _check(arguments: argparse.Namespace) -> int:
    from gradwatch.checking.command import CannotCheck, check
    from gradwatch.core.finding import Severity

    page = None if arguments.json else _console()
    try:
        passed, text = check(
            arguments.factory,
            steps=arguments.steps,
            init_only=arguments.init_only,
            try_remedies=arguments.try_remedies,
            fail_on=Severity[arguments.fail_on.upper()],
            console=page,
            log_dir=arguments.log_dir,
        )
    except CannotCheck as error:
        return _undone(f"check: {error.args[0]}", *error.args[1:])
    _print(text)
    return 0 if passed else FAILED


def _explain(name: str | None) -> int:
    from gradwatch.core import catalog

    known = catalog.names()
    if name is None:
        width = max((len(known_name) for known_name in known), default=0)
        _print("\n".join(f"{each:{width}}  {_first_line(catalog.explain(each))}" for each in known))
        return 0
    if name not in known:
        close = get_close_matches(name, known)
        hint = f"did you mean {' or '.join(close)}?" if close else "`gradwatch explain` lists all"
        return _undone(f"explain: nothing is called {name!r}; {hint}")
    _print(catalog.explain(name))
    return 0


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _console() -> Console:
    """Return what renders for standard output; it does not write there itself."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(file=io.StringIO(), force_terminal=True)
    return Console(file=io.StringIO(), width=WIDTH)


def _undone(message: str, *where: str) -> int:
    """Say on stderr why a command could not be done, and where it failed in the user's code."""
    for line in (f"gradwatch {message}", *where):
        _say(line)
    return UNDONE


def _say(line: str) -> None:
    from gradwatch.sinks._text import clean, for_encoding

    print(for_encoding(clean(line), sys.stderr.encoding), file=sys.stderr)


def _write(text: str, output: str | None) -> None:
    """Write to a file, or to stdout without one."""
    if output is None:
        _print(text)
        return
    from gradwatch.core.whole_file import whole_file

    with whole_file(output) as out:
        out.write(f"{text}\n")


def _print(text: str) -> None:
    """Write to stdout; a reader that has seen enough (`| head`) changes no exit code."""
    from gradwatch.sinks._text import for_encoding

    _stream(lambda out: print(for_encoding(text, out.encoding), file=out, flush=True))


class _CannotPrint(Exception):
    """Why standard output cannot be written to."""


def _stream(write: Callable[[TextIO], object]) -> None:
    """Have something written to stdout; a reader that has seen enough changes no exit code."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):  # what the encoding has not is spelt out
            sys.stdout.reconfigure(errors="backslashreplace")
        write(sys.stdout)
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered would be written again, and fail again, at the interpreter's exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise _CannotPrint(error) from error
