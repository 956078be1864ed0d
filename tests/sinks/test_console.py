from __future__ import annotations

import ast
import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console as RichConsole

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.progress import Progress
from gradwatch.core.record import Call, Layer, Record
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report
from gradwatch.core.stats import OCTAVES, Stats
from gradwatch.sinks._text import clean, for_encoding
from gradwatch.sinks.console import Console, render, to_text

NAMES = tuple(f"layers.{2 * i + 1}" for i in range(20))
CODE = f"for name in {list(NAMES)!r}:\n    model.set_submodule(name, torch.nn.ReLU())"


def stats_of_norm(log2_norm: float) -> Stats:
    return Stats(1, 0, 0, 0, 0.0, 4.0**log2_norm, np.zeros(OCTAVES, np.int64), 2.0**log2_norm)


def chain(*kinds_and_gains: tuple[str, float]) -> Record:
    """A net of layers in a row with the given gains in bits."""
    level = 0.0
    calls: list[Call] = []
    for position, (kind, gain) in reversed(list(enumerate(kinds_and_gains))):
        layer = Layer(f"layers.{position}", kind)
        calls.append(Call(layer, gain=gain, cut=True, grad_output=stats_of_norm(level)))
        level += gain
    return Record(60, tuple(reversed(calls)))


SIGMOIDS = chain(*[("Linear", -0.9), ("Sigmoid", -2.04)] * 20, ("LayerNorm", 1.5))
VANISHING = Finding(
    "vanishing-gradient",
    Severity.CRITICAL,
    "57 bits are lost on the way to layers.0",
    ("layers.0",),
    2,
    60,
    (
        Cause("activation", "20 Sigmoids pass on at most 1/4 each", NAMES, -40.8, 0.7),
        Cause("depth", "no skip connection bypasses them"),
    ),
    "the loss, known at every step",
)
SWAP = Prescription("swap-activation-relu", "Use ReLU", CODE, answers="vanishing-gradient: depth")
SICK = Report(
    "Deep",
    60,
    (VANISHING, Finding("dead-units", Severity.WARNING, "3 units are dead", since=20)),
    (SWAP, replace(SWAP, remedy="clip", title="Clip", code="clip_()\nstep()", per_step=True)),
    SIGMOIDS,
    progress=Progress(False, "the loss stays at 2.3"),
    notes=("layers.7 was overwritten in place",),
    run_folder="runs/a/gradwatch",
)
HEALTHY = Report(
    "Deep", 60, record=chain(("Linear", -0.1)), progress=Progress(True, "the loss fell")
)


def test_the_report_says_what_since_when_why_and_how_sure() -> None:
    """Everything that a finding holds is in the text, the verdict first."""
    text = to_text(SICK, 160)
    assert text.splitlines()[1] == "Critical: 57 bits are lost on the way to layers.0"
    for part in (
        "critical: vanishing-gradient  (since step 2, still at step 60)",
        "activation  -40.8 bits  70%  20 Sigmoids pass on at most 1/4 each",
        "[layers.1, layers.3, ... layers.39: 20 in all]",
        "rests on: the loss, known at every step",
        "warning: dead-units  (since step 20)\n  3 units are dead",
        "layers.7 was overwritten in place",
        "Run folder: runs/a/gradwatch",
        "before training (gradwatch explain swap-activation-relu)",
        "between backward() and optimizer.step()",
    ):
        assert part in text


def test_the_verdict_is_not_repeated() -> None:
    """The summary of the worst finding stands in the verdict only."""
    assert to_text(SICK).count("57 bits are lost") == 1


def test_bars_are_in_proportion_and_tell_loss_from_gain_without_colour() -> None:
    """A kind's bar is as long as its bits; what is gained has another glyph and sign."""
    lines = {line.split()[0]: line for line in to_text(SICK).splitlines() if line.strip()}
    assert "Sigmoid x 20  -40.8 bits  -2.04 each  " + 40 * "█" in lines["Sigmoid"]
    assert "Linear x 20   -18.0 bits  -0.90 each  " + 18 * "█" in lines["Linear"]
    assert lines["LayerNorm"].split() == ["LayerNorm", "+1.5", "bits", "░░"]
    assert "-1 bit: the gradient halves" in to_text(SICK)


def test_the_profile_falls_from_the_output_to_the_first_layer() -> None:
    """In a net that loses everywhere, the level rises from the first layer to the output."""
    line = next(line for line in to_text(SICK).splitlines() if "first layer -57" in line)
    levels = [c for c in line if c in "▁▂▃▄▅▆▇█"]
    assert levels[0] == "▁"
    assert max(levels) == "█"
    assert levels[:-1] == sorted(levels[:-1])  # the last one is the LayerNorm's gain


def test_a_healthy_report_is_short() -> None:
    """No news fits into four lines."""
    text = to_text(HEALTHY)
    assert text.splitlines()[1] == "Healthy as of step 60: nothing was found."
    assert len(text.splitlines()) <= 4


@pytest.mark.parametrize("width", [20, 80, 120])
def test_code_can_be_pasted_at_every_width(width: int) -> None:
    """Code stands at the left edge, in its own lines and whole, however narrow the terminal."""
    text = to_text(SICK, width)
    assert f"\n\n{CODE}\n" in text
    assert "\n\nclip_()\nstep()\n" in text
    ast.parse(CODE)
    prose = [line for line in text.splitlines() if line not in CODE.splitlines()]
    assert width < 80 or max(len(line) for line in prose) <= width


def test_plain_text_has_no_escape_codes() -> None:
    """What `print(report)` shows can be written to a file."""
    assert "\x1b" not in to_text(SICK)
    assert str(SICK) == to_text(SICK)


EVIL = "[red]a[/red]\x1b[31m\x07\u202egpj.exe\u2066\u200b\ud800" + "x" * 500


def test_names_from_a_model_are_harmless() -> None:
    """Markup is text; control, direction and lone surrogate characters vanish; length is bound."""
    evil = Report(
        EVIL,
        1,
        (Finding(EVIL, Severity.CRITICAL, EVIL, (EVIL,), causes=(Cause(EVIL, EVIL, (EVIL,)),)),),
        (Prescription(EVIL, EVIL, f"a = 1\n# {EVIL}", answers=EVIL),),
        chain((EVIL, -3.0)),
        notes=(EVIL,),
        run_folder=EVIL,
    )
    text = to_text(evil, 80)
    assert "[red]a[/red]" in text
    assert not set(text) & set("\x1b\x07\u202e\u2066\u200b\ud800")
    assert "a = 1\n# [red]a" in text
    text.encode()


def test_cleaning_shortens_in_the_middle_and_keeps_one_line() -> None:
    """Both ends of a name tell layers apart, so they stay."""
    assert clean("a\nb\tc") == "a b c"
    short = clean("head" + "x" * 999 + "tail", 20)
    assert (short[:4], short[-4:], len(short) <= 20) == ("head", "tail", True)


def test_bars_become_ascii_where_the_encoding_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training under Windows with its output in a file does not end in UnicodeEncodeError."""
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    text = to_text(SICK)
    text.encode("cp1252")
    assert "-2.04 each  " + 40 * "#" in text
    assert for_encoding("░", "no-such-encoding") == "+"


def test_numbers_that_are_not_finite_break_nothing() -> None:
    """NaN and infinite gains are printed and have no bar."""
    record = chain(("Linear", -3.0), ("ReLU", -2.0), ("Linear", -3.0), ("Tanh", -1.0))
    calls = (replace(record.calls[0], gain=float("nan")), *record.calls[1:])
    for broken in (replace(record, calls=calls), Record(0), chain(("A", float("-inf")))):
        assert "57 bits are lost" in to_text(replace(SICK, record=broken))


def test_nothing_seen_is_said() -> None:
    """A report from before the first step says so."""
    assert "no step was made while watching" in to_text(Report("Deep", -1))


def capturing(encoding: str = "utf-8") -> tuple[RichConsole, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    return RichConsole(file=file, width=80), raw


def test_the_sink_prints_the_latest_report_once_at_the_end() -> None:
    """Nothing is printed into the training's own output, and a second close repeats nothing."""
    console, raw = capturing()
    sink = Console(console)
    sink.write(HEALTHY)
    sink.write(SICK)
    assert raw.getvalue() == b""
    sink.close()
    sink.close()
    text = raw.getvalue().decode()
    assert text.count("Where the gradient's bits go") == 1
    assert "nothing was found" not in text
    assert f"\n{CODE}\n" in text


def test_the_sink_prints_ascii_on_a_console_without_bars() -> None:
    """A console whose encoding is not a Unicode one gets `#` for bars."""
    console, raw = capturing("ascii")
    sink = Console(console)
    sink.write(SICK)
    sink.close()
    assert 36 * b"#" in raw.getvalue()


def test_closing_a_sink_that_saw_nothing_is_silent() -> None:
    """No report, no output."""
    console, raw = capturing()
    Console(console).close()
    assert raw.getvalue() == b""


def test_many_kinds_are_summed_up_in_one_line() -> None:
    """A model of fifty kinds of layers does not fill the screen, and no bits get lost."""
    kinds = [(f"Kind{i}", -1.0) for i in range(50)]
    text = to_text(replace(SICK, record=chain(*kinds)))
    assert "and 38 more kinds: -38.0 bits" in text


def test_render_is_the_same_for_every_face() -> None:
    """The text is what rich renders."""
    console, raw = capturing()
    console.print(*render(HEALTHY), sep="\n")
    assert raw.getvalue().decode().split() == to_text(HEALTHY).split()
