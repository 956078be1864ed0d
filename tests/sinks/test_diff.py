from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gradwatch.core.comparison import Change, Comparison, LayerPair, Pair
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.progress import Progress
from gradwatch.core.report import Report
from gradwatch.sinks.console import plain
from gradwatch.sinks.diff import MAX_LAYERS, render

VANISHING = Finding("vanishing-gradient", Severity.CRITICAL, "57 bits are lost")
DEAD = Finding("dead-units", Severity.WARNING, "3 units are dead")
SICK = Report("Net", 60, (VANISHING,), progress=Progress(False, "the loss stays"))
WELL = Report("Net", 80, (DEAD,), progress=Progress(True, "the loss falls"))
BETTER = Comparison(
    replace(SICK, run_folder="runs/a/gradwatch"),
    replace(WELL, run_folder="runs/b/gradwatch"),
    (Change(None, DEAD), Change(VANISHING, None)),
    (
        LayerPair("layers.0", Pair(1e-9, 4e-9), Pair(1e-4, 0.0)),
        LayerPair("layers.1", Pair(1.0, 1.0), Pair(1e-3, 1e-3)),
        LayerPair("layers.2", Pair(None, math.nan), Pair(1e-3, 1.01e-3)),
    ),
    step=60,
    only_after=("extra",),
    problems=("runs/a/gradwatch: seg-000.pulses.bin: its last row is torn.",),
)


def test_it_says_what_changed_and_where() -> None:
    text = plain(render(BETTER))
    lines = text.splitlines()
    assert lines[0] == "B is better: critical in A and not in B: vanishing-gradient"
    for part in (
        "A  runs/a: Net at step 60",
        "B  runs/b: Net at step 80",
        "Critical: 57 bits are lost",
        "Progress: the loss falls.",
        "new   warning   dead-units: 3 units are dead",
        "gone  critical  vanishing-gradient: 57 bits are lost",
        "Layers, as of step 60",
        "only in B: extra",
        "seg-000.pulses.bin: its last row is torn.",
        "differ by less than 0.1 bits: 1 more",
    ):
        assert part in text
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["layers.0"] == ["1e-09", "4e-09", "+2.0", "0.0001", "0"]
    assert rows["layers.2"] == ["-", "not", "finite", "0.001", "0.001", "+0.0"]
    assert "layers.1" not in rows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((), "Nothing was found in A or in B"),
        ((Change(DEAD, DEAD),), "The same was found in A and in B"),
        ((Change(None, VANISHING),), "B is worse: critical in B and not in A: vanishing-gradient"),
        ((Change(DEAD, None),), "Nothing is critical in A or in B; other findings differ"),
        (
            (Change(replace(VANISHING, name="x"), None), Change(None, VANISHING)),
            "B is worse: critical in B and not in A: vanishing-gradient (and no longer critical: "
            "x)",
        ),
        (
            (Change(VANISHING, VANISHING), Change(None, DEAD)),
            "What is critical in A is so in B; other findings differ",
        ),
    ],
)
def test_the_first_line_is_the_answer(changes: tuple[Change, ...], said: str) -> None:
    after = tuple(change.after for change in changes if change.after is not None)
    comparison = Comparison(Report("M", 1), Report("M", 1, after), changes)
    assert comparison.headline == said
    assert plain(render(comparison)).splitlines()[0] == said


def test_a_severity_that_changed_is_shown_from_and_to() -> None:
    worse = Change(replace(VANISHING, severity=Severity.WARNING), VANISHING)
    text = plain(render(replace(BETTER, changes=(worse,))))
    assert "worse  warning -> critical  vanishing-gradient" in text


def test_of_many_layers_those_that_differ_most_are_shown_in_their_order() -> None:
    """The output fits on a screen, whatever the model's size."""
    layers = tuple(
        LayerPair(f"layers.{i}", Pair(1.0, 2.0 ** (i % 50)), Pair(None, None)) for i in range(1000)
    )
    lines = plain(render(replace(BETTER, layers=layers))).splitlines()
    shown = [int(line.split()[0][7:]) for line in lines if line.startswith("  layers.")]
    assert shown == [49 + 50 * i for i in range(20)]
    assert len(shown) == MAX_LAYERS
    assert "  differ by less than that: 980 more" in lines


def test_models_without_a_common_layer_are_said_to_have_none() -> None:
    bare = replace(BETTER, layers=(), only_before=("a", "b"), only_after=tuple("cdefgh"))
    text = plain(render(bare))
    assert "no layer of A has the same name in B" in text
    assert "only in A: a, b\n" in text
    assert "only in B: c, d, e, f and 2 more" in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_names_are_harmless_and_lines_fit(width: int) -> None:
    """Markup is text, control and direction characters vanish, length is bound."""
    evil = "[red]a[/red]\x1b[31m\x07\u202egpj.exe\u2066\u200b\ud800" + "x" * 2000
    finding = Finding(evil, Severity.CRITICAL, evil)
    report = Report(evil, 1, (finding,), progress=Progress(None, evil), run_folder=evil)
    layers = (LayerPair(evil, Pair(1.0, 2.0), Pair(1.0, 2.0)),)
    comparison = Comparison(
        *(report, report, (Change(None, finding), Change(finding, finding)), layers, 1),
        *((evil,), (evil,), (evil,)),
    )
    text = plain(render(comparison), width)
    assert "[red]a[/red]" in text.replace("\n", "")
    assert not set(text) & set("\x1b\x07\u202e\u2066\u200b\ud800")
    assert max(map(len, text.splitlines())) <= width
    text.encode()
