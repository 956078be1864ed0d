from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.progress import Progress
from gradwatch.core.record import Call, Layer, Record
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report
from gradwatch.core.stats import OCTAVES, Stats
from gradwatch.core.verdict import Outcome, Verdict, Verdicts
from gradwatch.sinks.markdown import MAX_BYTES, to_markdown


def chain(*kinds_and_gains: tuple[str, float]) -> Record:
    """A net of layers in a row with the given gains in bits."""
    level = 0.0
    calls: list[Call] = []
    for position, (kind, gain) in reversed(list(enumerate(kinds_and_gains))):
        octaves = np.zeros(OCTAVES, np.int64)
        gradient = Stats(1, 0, 0, 0, 0.0, 4.0**level, octaves, 2.0**level)
        layer = Layer(f"layers.{position}", kind)
        calls.append(Call(layer, gain=gain, cut=True, grad_output=gradient))
        level += gain
    return Record(60, tuple(reversed(calls)))


VANISHING = Finding(
    "vanishing-gradient",
    Severity.CRITICAL,
    "57 bits are lost between `layers.9` and `layers.0`",
    ("layers.0",),
    2,
    60,
    (Cause("activation", "20 Sigmoids pass on at most 1/4 each", (), -40.8, 0.7),),
)
SICK = Report(
    "Deep",
    60,
    (VANISHING, Finding("stalled-updates", Severity.WARNING, "x", because_of=VANISHING.name)),
    tuple(Prescription(f"r{i}", f"Do {i}", f"do({i})\n    more()") for i in range(20)),
    chain(*[("Linear", -0.9), ("Sigmoid", -2.0)] * 20),
    progress=Progress(False, "the loss stays at 2.3"),
    notes=("layers.7 was overwritten in place", "Not prescribed: Use an LSTM, because no."),
    run_folder="/home/alice/secret/runs/a/gradwatch",
)


def tokens(text: str) -> list[Token]:
    """Return all that a Markdown reader makes of it, HTML and tables included."""
    found: list[Token] = []
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for token in reader.parse(text):
        found += [token, *(token.children or ())]
    return found


def test_it_says_what_where_and_what_to_try() -> None:
    """The verdict on top, findings as a table, the ledger, the first remedies with their code."""
    text = to_markdown(SICK)
    lines = text.splitlines()
    assert lines[0] == "### gradwatch: Deep at step 60"
    assert lines[2] == "**Critical: 57 bits are lost between 'layers.9' and 'layers.0'**"
    for part in (
        "Progress: the loss stays at 2.3.",
        "| critical | vanishing-gradient | 2 | 57 bits",
        "*activation* 70%: 20 Sigmoids pass on at most 1/4 each |",
        "| warning | stalled-updates (from vanishing-gradient) | 0 | x |",
        "| Sigmoid x 20 | -40.0 | -2.00 |",
        "1. Do 0\n\n```python\ndo(0)\n    more()\n```",
        "- layers.7 was overwritten in place",
    ):
        assert part in text
    kinds = [token.type for token in tokens(text)]
    assert kinds.count("table_open") == 2
    assert kinds.count("fence") == 2


def test_what_is_left_out_is_said() -> None:
    text = to_markdown(SICK)
    omitted = "12 prescriptions, the code of 6 of these (gradwatch report shows them)"
    assert text.splitlines()[-1].endswith(f"run a. Left out here: {omitted}.")
    assert "LSTM" not in text  # what does not fit this model


def test_where_the_run_lies_is_not_told() -> None:
    """Who pastes it publicly gives away no path."""
    assert "alice" not in to_markdown(SICK)


def test_a_healthy_report_is_three_lines() -> None:
    text = to_markdown(Report("Deep", 60, record=Record(60), progress=Progress(True, "it falls")))
    assert [line for line in text.splitlines() if line][:3] == [
        "### gradwatch: Deep at step 60",
        "**Healthy as of step 60: nothing was found.**",
        "Progress: it falls.",
    ]
    assert len(text) < 250


UNTREATED = Outcome((2.3, 2.4, 2.3), (0.0, 0.0, 0.0), 200, bits=-26.0, seconds=1e-3, parameters=9)
TREATED = replace(UNTREATED, losses=(0.1, 0.2, 0.1), skills=(0.9, 0.8, 0.9), bits=-1.0)
SWAP = Verdict(SICK.prescriptions[:1], True, "90%", TREATED, UNTREATED, 12)
TRIAL = Verdicts((SWAP,), UNTREATED, None, summary="Do 0: its answers are 90% of the way.")


def test_a_trial_is_one_table() -> None:
    """Before the prescriptions: the result, the controls, what was tried with loss and skill."""
    text = to_markdown(replace(SICK, trial=TRIAL))
    assert "Tried on copies: **Do 0: its answers are 90% of the way.**" in text
    assert "| *untreated* | 0% | 2.3 ± 0.05 | | | |" in text
    tried = "| **helps** r0 | 90% | 0.1 ± 0.05 | +25.0 | 12 steps | +0% time, +0% weights |"
    assert tried in text
    assert text.index(tried) < text.index("**What to try, one at a time**")
    assert [token.type for token in tokens(text)].count("table_open") == 3


def test_a_trial_without_anything_tried_is_a_sentence() -> None:
    nothing = Outcome((math.nan,), (None,), 0)
    said = Verdicts((), nothing, None, summary="The model cannot be copied, so nothing was tried.")
    text = to_markdown(replace(SICK, trial=said))
    assert "Tried on copies: **The model cannot be copied" in text
    assert [token.type for token in tokens(text)].count("table_open") == 2


EVIL = [
    "</script><img src=x onerror=alert(1)>",
    "a | b || c",
    "`code` ``` and\n```\n# head\n\n- list",
    "[link](javascript:alert(1)) ![image](http://x.y/z.png) <http://auto.link>",
    "**bold** _em_ ~~gone~~ $x$ \\",
    "\u202egnp.exe\u2066\x1b[31m\x07\u200b\ud800",
    "# head",
    "1. one",
    "- item",
    "> quote",
    "=====",
    "&lt;b&gt; &amp;",
    "x" * 2000,
    "&" * 2000,
    "\U0001f4a5" * 2000,
    "\n".join(["| a | b |", "|---|---|", "| c | d |"]),
]


def evil(text: str, times: int = 1) -> Report:
    cause = Cause(text, text, (text,), math.nan, math.inf)
    finding = Finding(text, Severity.CRITICAL, text, (text,), causes=(cause,) * 3)
    prescriptions = (
        Prescription(text, text, f"name = {text[:99]!r}\n# {text[:99]}", answers=text),
    ) * times
    record = chain((text, -3.0), (text, -2.0))
    return Report(
        *(text, 1, (finding,) * times, prescriptions, record),
        progress=Progress(None, text),
        notes=(text,) * times,
        run_folder=f"/runs/{text}/gradwatch",
        trial=replace(
            TRIAL,
            verdicts=(replace(SWAP, prescriptions=prescriptions[:1], reason=text),) * 2 * times,
            other=replace(SWAP, prescriptions=prescriptions[:1]),
            summary=text,
        ),
    )


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_names_are_text_and_no_markup(text: str) -> None:
    """Whatever a layer is called: no HTML, link, image, heading, list or cell comes of it."""
    report = evil(text)
    page = to_markdown(report)
    plain = tokens(to_markdown(evil("plain")))
    found = tokens(page)
    allowed = {"html_inline", "text", "softbreak", "text_special"}
    assert [t.type for t in found if t.type not in allowed] == [
        t.type for t in plain if t.type not in allowed
    ]
    assert {token.content for token in found if token.type == "html_inline"} <= {"<br>"}
    assert not set(page) & set("\u202e\u2066\x1b\x07\u200b\ud800")
    page.encode()


def test_it_shows_the_name_as_it_is() -> None:
    """Neutralised does not mean changed: a reader sees the characters."""
    name = "a|b<c>*d*_e_[f](g)\\h~i$"
    heading = tokens(to_markdown(evil(name)))[1]
    assert heading.children is not None
    assert "".join(child.content for child in heading.children) == f"gradwatch: {name} at step 1"


def test_nobody_is_mentioned_and_nothing_is_linked() -> None:
    """GitHub writes to whom an issue mentions and links addresses wherever they stand."""
    page = to_markdown(evil("@everyone a@b.de https://x.y www.x.y"))
    prose = page.partition("```")[0]
    assert "@everyone" not in prose
    assert "https\\://x" in prose
    assert "www\\.x" in prose


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_it_is_never_longer_than_its_bound(text: str) -> None:
    """A hundred findings with the longest of names."""
    assert len(to_markdown(evil(text, 100)).encode()) <= MAX_BYTES
    assert "Left out here: " in to_markdown(evil(text, 100))


def test_a_fence_in_the_code_does_not_end_it() -> None:
    """A run of backticks in the code makes the fence longer."""
    code = "x = '''\n````\n'''"
    page = to_markdown(replace(SICK, prescriptions=(Prescription("r", "Do", code),)))
    (fence,) = [token for token in tokens(page) if token.type == "fence"]
    assert fence.content == f"{code}\n"


def test_nothing_seen_is_said() -> None:
    assert "no step was made while watching" in to_markdown(Report("Deep", -1))


def test_a_long_code_is_only_named() -> None:
    """A class to paste is for a file: the report itself shows it."""
    long = Prescription("r", "Do", "\n".join(f"step({i})" for i in range(500)))
    page = to_markdown(replace(SICK, prescriptions=(long, *SICK.prescriptions[:1])))
    assert "1. Do\n\n2. Do 0\n\n```python\ndo(0)" in page
    assert "step(0)" not in page
    assert "Left out here: the code of 1 of these" in page
