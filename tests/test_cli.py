from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gradwatch
from gradwatch.cli import main
from gradwatch.core.catalog import explain, names
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.record import Record
from gradwatch.core.report import Report
from gradwatch.core.runfolder import RunWriter


def recorded(run_dir: Path, *findings: Finding) -> str:
    """Record a run with these findings and return its log_dir."""
    writer = RunWriter(run_dir, model="Deep")
    record = Record(7)
    writer.add_record(record)
    writer.add_report(Report("Deep", 7, findings, record=record))
    return str(run_dir)


CRITICAL = Finding("vanishing-gradient", Severity.CRITICAL, "57 bits are lost")
WARNING = Finding("vanishing-gradient", Severity.WARNING, "5 bits are lost")


@pytest.mark.parametrize(
    ("findings", "code", "verdict"),
    [
        ((), 0, "Healthy as of step 7: nothing was found."),
        ((WARNING,), 0, "Warning: 5 bits are lost"),
        ((CRITICAL, WARNING), 1, "Critical: 57 bits are lost"),
    ],
)
def test_report_shows_the_run_and_fails_when_it_is_critical(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    findings: tuple[Finding, ...],
    code: int,
    verdict: str,
) -> None:
    """The exit code is for scripts, the text for people."""
    run = recorded(tmp_path, *findings)
    assert main(["report", run]) == code
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == ["gradwatch: Deep at step 7", verdict]
    assert "\x1b" not in out
    assert err == ""


def test_report_takes_the_run_folder_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`runs/a` and `runs/a/gradwatch` are the same run."""
    recorded(tmp_path)
    assert main(["report", str(tmp_path / "gradwatch")]) == 0
    assert "gradwatch: Deep at step 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["cure"], "invalid choice: 'cure'"),
        (["report"], "the following arguments are required: RUN"),
        (["report", "no/such/run"], "no run was recorded in 'no/such/run'"),
        (["report", "\x1b[31m\u202e"], "no run was recorded in"),
        (["explain", "swap-activation-rely"], "did you mean swap-activation-relu"),
        (["explain", "zzzzzz"], "`gradwatch explain` lists all"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Exit code 2, one line on stderr, nothing on stdout."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert not set(err) & set("\x1b\u202e")


def test_explain_lists_every_name_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a report can name is in the list."""
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert tuple(line.split()[0] for line in lines) == names()
    assert all(len(line.split()) > 3 for line in lines)


def test_explain_prints_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    """The documentation lives in the tool."""
    for name in names():
        assert main(["explain", name]) == 0
        assert capsys.readouterr().out == explain(name) + "\n"


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_succeed(capsys: pytest.CaptureFixture[str], option: str) -> None:
    """Both print to stdout and return 0."""
    assert main([option]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"gradwatch {gradwatch.__version__}\n" if option == "--version" else "us")


# Runs a command as `python -m gradwatch` does, and says which heavy modules came in by it.
PROBE = """
import runpy, sys
code = 0
try:
    runpy.run_module("gradwatch", run_name="__main__", alter_sys=True)
except SystemExit as stop:
    code = stop.code
print("heavy:", {"torch", "tensorboard"} & set(sys.modules), file=sys.stderr)
sys.exit(code)
"""


def test_a_process_of_its_own_starts_light(tmp_path: Path) -> None:
    """`python -m gradwatch report` hands on the exit code and imports no torch."""
    run = recorded(tmp_path, CRITICAL)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "report", run], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (1, "heavy: set()")
    assert "Critical: 57 bits are lost" in done.stdout


def test_a_reader_that_hangs_up_changes_nothing(tmp_path: Path) -> None:
    """`gradwatch report RUN | true` has no traceback and the exit code of the verdict."""
    run = recorded(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "gradwatch", "report", run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 0
