"""The command line. It starts at once: no command here imports torch.

Exit codes are for scripts: 0, or 1 where `report` shows something critical, or 2 when the command
could not be done, with one line on stderr that says why.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final, NoReturn

from gradwatch import __version__

CRITICAL: Final = 1
UNDONE: Final = 2
WIDTH: Final = 100
"""Columns where the output is no terminal, as `print(report)` has."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what there is to say
        return stop.code if isinstance(stop.code, int) else UNDONE
    if arguments.command == "report":
        return _report(arguments.run)
    return _explain(arguments.name)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line, without the usage."""
        self.exit(UNDONE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("gradwatch", description="See the gradients of a training.")
    parser.add_argument("--version", action="version", version=f"gradwatch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    report = commands.add_parser(
        "report",
        help="show what was found in a recorded run; exit code 1 if it is critical",
        description="Show what was found in a recorded run. Exit code 1 if it is critical.",
    )
    report.add_argument("run", metavar="RUN", help="the log_dir of the run, or its run folder")
    explain = commands.add_parser(
        "explain",
        help="say what a detector or a remedy does, and why",
        description="Say what a detector or a remedy does, and why; without NAME, list them all.",
    )
    explain.add_argument("name", metavar="NAME", nargs="?", help="as a report names it")
    return parser


def _report(run: str) -> int:
    from rich.console import Console, Group

    from gradwatch.core.catalog import remedies
    from gradwatch.core.finding import Severity
    from gradwatch.core.runfolder import FutureVersion, read
    from gradwatch.sinks.console import render, text_of

    try:
        report = read(run).report(remedies())
    except FileNotFoundError:
        return _undone(f"report: no run was recorded in {run!r}; RUN is the log_dir of a run")
    except (OSError, FutureVersion) as error:
        return _undone(f"report: {error}")
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    _print(text_of(Group(*render(report)), console))
    return CRITICAL if report.severity == Severity.CRITICAL else 0


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


def _undone(message: str) -> int:
    from gradwatch.sinks._text import clean, for_encoding

    print(for_encoding(f"gradwatch {clean(message)}", sys.stderr.encoding), file=sys.stderr)
    return UNDONE


def _print(text: str) -> None:
    """Write to stdout; a reader that has seen enough (`| head`) changes no exit code."""
    from gradwatch.sinks._text import for_encoding

    try:
        print(for_encoding(text, sys.stdout.encoding), flush=True)
    except BrokenPipeError:
        # What is still buffered would be written again, and fail again, at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
