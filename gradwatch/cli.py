"""The command line. It starts at once: torch is imported only inside the command that needs it.

Exit codes are for scripts: 0, or 1 where `report` shows something critical or `check` fails, or 2
when the command could not be done; the first line on stderr says why.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, NoReturn

from gradwatch import __version__

if TYPE_CHECKING:
    from rich.console import Console

CRITICAL: Final = 1
FAILED: Final = 1
UNDONE: Final = 2
LEAST_STEPS: Final = 20
WIDTH: Final = 100
"""Columns where the output is no terminal, as `print(report)` has."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what there is to say
        return stop.code if isinstance(stop.code, int) else UNDONE
    if arguments.command == "demo":
        return _demo(arguments.folder)
    if arguments.command == "report":
        return _report(arguments.run, arguments.output)
    if arguments.command == "check":
        return _check(arguments)
    return _explain(arguments.name)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line, without the usage."""
        self.exit(UNDONE, f"{self.prog}: {message}; see {self.prog} --help\n")


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
        "-o", "--output", metavar="FILE", help="write a page to open in a browser instead"
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
        return _undone(f"demo: --folder must be a place to write to: {error}")


def _report(run: str, output: str | None) -> int:
    from rich.console import Group

    from gradwatch.core.catalog import remedies
    from gradwatch.core.finding import Severity
    from gradwatch.core.runfolder import FutureVersion, read
    from gradwatch.sinks.console import render, text_of

    try:
        found = read(run)
    except FileNotFoundError:
        return _undone(f"report: no run was recorded in {run!r}; RUN is the log_dir of a run")
    except (OSError, FutureVersion) as error:
        return _undone(f"report: {error}")
    report = found.report(remedies())
    if output is None:
        _print(text_of(Group(*render(report)), _console()))
    else:
        from gradwatch.viewer.report import write_html

        try:
            page = write_html(report, found.history, output)
        except OSError as error:
            return _undone(f"report: -o must be a file to write to: {error}")
        _print(f"{report.verdict}\nThe page is {page}: open it in a browser.")
    return CRITICAL if report.severity == Severity.CRITICAL else 0


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
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=WIDTH)


def _undone(message: str, *where: str) -> int:
    """Say on stderr why a command could not be done, and where it failed in the user's code."""
    from gradwatch.sinks._text import clean, for_encoding

    for line in (f"gradwatch {message}", *where):
        print(for_encoding(clean(line), sys.stderr.encoding), file=sys.stderr)
    return UNDONE


def _print(text: str) -> None:
    """Write to stdout; a reader that has seen enough (`| head`) changes no exit code."""
    from gradwatch.sinks._text import for_encoding

    try:
        print(for_encoding(text, sys.stdout.encoding), flush=True)
    except BrokenPipeError:
        # What is still buffered would be written again, and fail again, at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
