from __future__ import annotations

import os
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
        (["report", "no/such/run", "--markdown"], "report: no run was recorded in 'no/such/run'"),
        (["diff", "no/such/run"], "the following arguments are required: B"),
        (["diff", "no/such/run", "b"], "diff: no run was recorded in 'no/such/run'"),
        (["export"], "the following arguments are required: RUN"),
        (["export", "no/such/run"], "export: no run was recorded in 'no/such/run'"),
        (["export", "a", "--format", "xml"], "invalid choice: 'xml'"),
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
print("heavy:", {"torch", "tensorboard", "wandb"} & set(sys.modules), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("report", "RUN"), 1, "Critical: 57 bits are lost"),
        (("report", "RUN", "--markdown"), 1, "**Critical: 57 bits are lost**"),
        (("report", "RUN", "OTHER", "-o", "/dev/stdout"), 1, "B is better: critical in A"),
        (("diff", "OTHER", "RUN"), 1, "B is worse: critical in B and not in A: vanishing-gradient"),
        (("diff", "RUN", "OTHER"), 0, "B is better: critical in A and not in B: vanishing"),
        (("export", "RUN"), 0, "step,source,name,call,quantity,value"),
        (("export", "RUN", "--format", "json"), 0, '"verdict":"Critical: 57 bits are lost"'),
    ],
)
def test_a_process_of_its_own_starts_light(
    tmp_path: Path, command: tuple[str, ...], code: int, said: str
) -> None:
    """`python -m gradwatch` hands on the exit code and imports no torch."""
    run = {"RUN": recorded(tmp_path / "a", CRITICAL), "OTHER": recorded(tmp_path / "b")}
    arguments = [run.get(argument, argument) for argument in command]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (code, "heavy: set()")
    assert said in done.stdout


@pytest.mark.parametrize("command", ["report", "export"])
def test_a_reader_that_hangs_up_changes_nothing(tmp_path: Path, command: str) -> None:
    """`gradwatch report RUN | true` has no traceback and the exit code of the verdict."""
    run = recorded(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "gradwatch", command, run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("option", [(), ("--format", "csv")])
def test_export_writes_a_table_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, ...]
) -> None:
    """To standard output, as UTF-8 lines that end the same everywhere."""
    run = recorded(tmp_path)
    assert main(["export", run, *option]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "step,source,name,call,quantity,value"
    assert "7,exam,,,gradient_norm,0.0\n" in out
    assert err == ""


@pytest.mark.parametrize(
    ("name", "option", "json"),
    [
        ("a.csv", (), False),
        ("a.json", (), True),
        ("a.JSON", (), True),
        ("a.json", ("--format", "csv"), False),
        ("a", ("--format", "json"), True),
    ],
)
def test_export_into_a_file(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    option: tuple[str, ...],
    json: bool,
) -> None:
    """The format is that of the file's name, or the one that is asked for."""
    run, target = recorded(tmp_path / "run"), tmp_path / name
    assert main(["export", run, "-o", str(target), *option]) == 0
    assert capsys.readouterr() == ("", "")
    assert target.read_text().startswith("{" if json else "step,")
    assert {file.name for file in tmp_path.iterdir()} == {"run", name}


@pytest.mark.parametrize("command", [("export",), ("report", "--markdown"), ("report",)])
@pytest.mark.parametrize("target", ["no/such/folder/a.csv", "."])
def test_a_place_that_cannot_be_written_to_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    target: str,
) -> None:
    """Exit code 2, one line, nothing left behind."""
    run = recorded(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert main([*command, run, "-o", target]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert f"gradwatch {command[0]}: -o must be a file to write to" in err
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_an_export_that_breaks_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of before stays, whole."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run, target = recorded(tmp_path / "run"), tmp_path / "a.csv"
    target.write_text("old")
    monkeypatch.setattr("gradwatch.sinks.export.write_csv", full)
    assert main(["export", run, "-o", str(target)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert target.read_text() == "old"
    assert {file.name for file in tmp_path.iterdir()} == {"run", "a.csv"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    "command",
    [
        ("report", "RUN"),
        ("report", "RUN", "--markdown"),
        ("report", "RUN", "-o", "page.html"),
        ("diff", "RUN", "RUN"),
        ("export", "RUN"),
        ("export", "RUN", "--format", "json"),
        ("explain",),
        ("explain", "vanishing-gradient"),
        ("demo", "--folder", "RUN"),
        ("--help",),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_that_is_full_is_said(
    tmp_path: Path, command: tuple[str, ...], unbuffered: str
) -> None:
    """Exit code 2 and one line, also where it is noticed at the very end only."""
    run = recorded(tmp_path / "a", CRITICAL)
    arguments = [{"RUN": run}.get(argument, argument) for argument in command]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gradwatch", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "PYTHONUNBUFFERED": unbuffered,
            },
        )
    assert done.returncode == 2
    assert "standard output" in done.stderr
    assert "must be a place to write to: [Errno 28] No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_page_that_breaks_off_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is replaced when all of the new one is on the disk."""
    run, target = recorded(tmp_path / "run"), tmp_path / "a.html"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gradwatch.core.whole_file.os.replace", full)
    assert main(["report", run, "-o", str(target)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert target.read_text() == "old"
    assert {file.name for file in tmp_path.iterdir()} == {"run", "a.html"}


def test_a_page_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`report A B -o FILE`; the exit code is that of A's verdict."""
    a, b = recorded(tmp_path / "a", CRITICAL), recorded(tmp_path / "b")
    target = tmp_path / "page.html"
    for runs, code in (((a, b), 1), ((b, a), 0)):
        assert main(["report", *runs, "-o", str(target)]) == code
        assert '"beside":{"headline":"B is ' in target.read_text()
    capsys.readouterr()
    for arguments in ([a, b], [a, b, "--markdown", "-o", "x.md"]):
        assert main(["report", *arguments]) == 2
        assert "OTHER needs -o FILE" in capsys.readouterr().err
    assert main(["report", a, "no/such/run", "-o", str(target)]) == 2
    assert "no run was recorded in 'no/such/run'" in capsys.readouterr().err


def test_export_says_what_it_could_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can be read is exported; the rest is named on stderr."""
    run = recorded(tmp_path)
    with (tmp_path / "gradwatch" / "seg-000.records.jsonl").open("a") as file:
        file.write("{torn")
    assert main(["export", run]) == 0
    out, err = capsys.readouterr()
    assert "7,exam,,,gradient_norm,0.0\n" in out
    assert err.splitlines() == [
        "gradwatch export: seg-000.records.jsonl: its last line is torn and was ignored."
    ]


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [((), (CRITICAL,), 1), ((WARNING,), (CRITICAL,), 1), ((CRITICAL,), (), 0), ((), (WARNING,), 0)],
)
def test_diff_fails_where_the_second_run_is_worse(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: tuple[Finding, ...],
    after: tuple[Finding, ...],
    code: int,
) -> None:
    """1 for something critical that was not, else 0."""
    a, b = recorded(tmp_path / "a", *before), recorded(tmp_path / "b", *after)
    assert main(["diff", a, b]) == code
    out, err = capsys.readouterr()
    assert f"A  {a}: Deep at step 7" in out.replace("\n   ", "")
    assert err == ""


def test_diff_with_a_run_that_was_never_judged_is_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No finding because nobody looked is not healthy."""
    RunWriter(tmp_path / "b").add_record(Record(0))
    assert main(["diff", recorded(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "ended before its first report" in capsys.readouterr().err


def test_markdown_goes_into_a_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`-o` is where to write, `--markdown` what; the exit code is that of the verdict."""
    run, target = recorded(tmp_path / "run", CRITICAL), tmp_path / "a.md"
    assert main(["report", run, "--markdown", "-o", str(target)]) == 1
    assert capsys.readouterr() == ("", "")
    assert main(["report", run, "--markdown"]) == 1
    assert target.read_text() == capsys.readouterr().out
