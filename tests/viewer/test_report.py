"""The HTML report: complete in one file, true to the run folder, and safe with any name."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradwatch.core import catalog, specimens
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import Columns, History, Pulse
from gradwatch.core.ledger import ledger
from gradwatch.core.record import Call, Layer, Parameter, Record
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report, examine
from gradwatch.core.stats import OCTAVES, Stats
from gradwatch.viewer import norms, page_data, report
from gradwatch.viewer.report import page, write_html

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "--><!--<script>",
    "a\"b'c`d&amp;&",
    "line\nbreak\u2028and\u2029\r\0more",
    "\u202egnp.exe",
    "q" * 2000,
    "\ud800",
)


class Page(HTMLParser):
    """Checks that every element is closed by its own end; keeps what scripts and styles hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.held: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if self.open and self.open[-1] == tag and tag in ("script", "style"):
            key = attributes.get("id") or tag
            self.held[key] = self.held.get(key, "") + data

    @property
    def data(self) -> Any:
        return json.loads(self.held["gradwatch-data"])


def unpack(packed: str, columns: int) -> NDArray[np.float32]:
    planes = np.frombuffer(gzip.decompress(base64.b64decode(packed)), np.uint8).reshape(4, -1)
    return np.ascontiguousarray(planes.T).view("<f4").reshape(-1, columns)


def history(
    steps: int, layers: int, change: Callable[[NDArray[np.float32]], None] = lambda norms: None
) -> History:
    """Pulses of some layers with a weight and a bias each; `change` edits steps x parameters."""
    names = [f"body.{i}.{kind}" for i in range(layers) for kind in ("weight", "bias")]
    columns, none = Columns(tuple(names)), np.zeros(0, np.float32)
    exponents = np.random.default_rng(0).normal(-10, 3, (steps, len(names)))
    norms = np.exp2(exponents).astype(np.float32)
    change(norms)
    return History.of(
        (),
        (Pulse(step, columns, norms[step], none, 2.0 / (1 + step), True) for step in range(steps)),
    )


def hostile() -> tuple[Report, History]:
    cause = Cause(HOSTILE[0], " ".join(HOSTILE), HOSTILE, math.nan, math.inf)
    finding = Finding(
        HOSTILE[0], Severity.WARNING, " ".join(HOSTILE), HOSTILE, 0, 1, (cause,), HOSTILE[1]
    )
    columns = Columns(HOSTILE)
    norms = np.ones(len(HOSTILE), np.float32)
    pulses = (Pulse(step, columns, norms, np.zeros(0, np.float32)) for step in range(2))
    layers = tuple(Call(Layer(name, name), gain=-1.0, cut=True) for name in HOSTILE)
    record = Record(1, layers, notes=HOSTILE)
    code = Prescription(HOSTILE[0], HOSTILE[1], "\n".join(HOSTILE), answers=HOSTILE[0])
    past = History.of([record], pulses)
    return Report(HOSTILE[0], 1, (finding,), (code,), record, notes=HOSTILE), past


def judged(past: History) -> Report:
    """The report as of the end of a history."""
    return examine(past, catalog.detectors(), catalog.remedies(), run_folder="runs/a/gradwatch")


def test_a_sick_run_says_what_why_and_what_to_try() -> None:
    """Verdict, causes with bits, prescriptions as code, ledger and pulse are all in the file."""
    past = specimens.load("sigmoid-mlp")
    data = Page(page(judged(past), past)).data
    assert data["severity"] == "critical"
    assert data["run"] == "a"
    assert data["findings"][0]["name"] == "vanishing-gradient"
    assert data["findings"][0]["causes"][0]["bits"] < -20
    assert "torch.nn.ReLU()" in data["prescriptions"][0]["code"]
    exams, layouts = data["ledgers"]["exams"], data["ledgers"]["layouts"]
    assert [exam["step"] for exam in exams] == [record.step for record in past.records]
    for exam, record in zip(exams, past.records, strict=True):
        assert len(exam["bits"]) == len(layouts[exam["layout"]])
        assert sum(exam["bits"]) == pytest.approx(ledger(record).total, abs=0.01)
    assert "Sigmoid" in {entry["kind"] for entry in layouts[0]}
    assert len(data["pulse"]["losses"]) == len(data["pulse"]["steps"]) > 0


def test_without_scripts_the_findings_can_still_be_read() -> None:
    """The file holds the verdict and a table of findings as plain HTML."""
    past = specimens.load("nan-forward")
    text = page(judged(past), past)
    static = text[text.index("<noscript>") : text.index("</noscript>")]
    assert "<h1>Critical: gradients are not finite since step 37" in static
    assert "<td>critical</td>" in static


@pytest.mark.parametrize("past", [History(), history(1, 3), specimens.load("nan-forward")])
def test_the_page_is_whole_and_asks_for_nothing(past: History) -> None:
    """Well-formed, no address of another machine, and a policy that allows this file only."""
    text = page(judged(past), past)
    found = Page(text)
    words = text.replace("// ", "")
    for place in (("pulse", "norms"), ("octaves", "shares"), ("updates", "ratios")):
        words = words.replace(found.data[place[0]][place[1]], "")  # base64 may hold //
    assert not re.search(r"https?:|//[a-z]|@import|url\(", words, re.IGNORECASE)
    assert all("src" not in attributes for _, attributes in found.elements)
    policy = next(a["content"] for t, a in found.elements if t == "meta" and "content" in a)
    assert policy is not None and policy.startswith("default-src 'none'; ")
    for held in (found.held["script"], found.held["style"]):
        digest = base64.b64encode(hashlib.sha256(held.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_no_name_breaks_out_of_the_page() -> None:
    """Markup, quotes, line ends, direction marks and 2,000 characters stay text, and invisible
    characters are gone."""
    text = page(*hostile())
    found = Page(text)
    assert [tag for tag, _ in found.elements].count("script") == 2
    assert not {"img", "b"} & {tag for tag, _ in found.elements}
    assert "<img" not in text and "<!--" not in text
    assert not re.search("[\u202e\u2028\u2029\0]", text)
    data = found.data
    assert data["findings"][0]["name"] == HOSTILE[0]
    assert data["pulse"]["parameters"][2] == HOSTILE[2]
    assert "gnp.exe" in data["pulse"]["parameters"]
    assert max(map(len, data["pulse"]["parameters"])) < 120
    text.encode("utf-8")


def test_the_same_run_gives_the_same_file(tmp_path: Path) -> None:
    """A report can be compared, and committed."""
    past = history(20, 3)
    first = write_html(judged(past), past, tmp_path / "a.html")
    second = write_html(judged(past), past, tmp_path / "b.html")
    assert first == tmp_path / "a.html"
    assert first.read_bytes() == second.read_bytes()


def test_norms_round_trip_to_three_digits() -> None:
    """From the smallest to the largest float32, and NaN, infinity, zero and marks exactly."""
    values = np.ldexp(np.random.default_rng(1).uniform(1, 2, 278), np.arange(-149, 129))
    largest = float(np.finfo(np.float32).max)
    special = np.asarray([np.nan, np.inf, 0.0, -1.0, -2.0, largest])
    given = np.concatenate([values[:-1], special]).astype(np.float32)
    read = unpack(page_data.pack(given), 1).ravel()
    assert read[-6:].tobytes() == given[-6:].tobytes()
    normal = given[given > 1.2e-38]
    np.testing.assert_allclose(read[given > 1.2e-38], normal, rtol=2e-4)
    np.testing.assert_allclose(read[:-6], given[:-6], rtol=2e-4, atol=2.0**-138)


def test_a_run_of_1500_steps_and_50_layers_is_small() -> None:
    """It can be mailed: under 1.5 MB, and the page itself under 60 kB of readable source."""
    past = history(1500, 50)
    assert len(page(judged(past), past).encode()) < 1_500_000
    assert sum(file.stat().st_size for file in report.STATIC.iterdir()) < 100_000
    assert {file.name for file in report.STATIC.iterdir()} == {
        *report.SCRIPTS,
        "index.js",
        "style.css",
    }


def test_merging_steps_loses_no_spike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run is too long for one page, the largest of some steps is shown, NaN before all."""

    def change(norms: NDArray[np.float32]) -> None:
        norms[17, 0], norms[33, 1], norms[34, 1], norms[:, 2] = 1e30, np.nan, 1e9, -1

    monkeypatch.setattr(norms, "MAX_NUMBERS", 200)
    past = history(100, 3, change)
    data = page_data.pulse_data(past)
    shown = unpack(data["norms"], len(data["steps"]))
    assert data["merged"] == 4 and shown.shape == (6, 25)
    assert data["steps"] == list(range(0, 100, 4))
    assert shown[0, 17 // 4] == pytest.approx(1e30, rel=1e-3)
    assert np.isnan(shown[1, 33 // 4]) and (shown[2] == -1).all()
    exact = np.stack([pulse.norms for pulse in past.pulses])
    np.testing.assert_allclose(shown[3], exact[:, 3].reshape(25, 4).max(1), rtol=2e-4)
    assert data["losses"] == pytest.approx([2 / (1 + step) for step in range(0, 100, 4)])


def test_rows_stand_in_execution_order() -> None:
    """Not in the order in which the modules were made; a container's own come before its parts."""
    names = ("head.weight", "body.scale", "body.0.weight", "body.0.bias")
    calls = tuple(Call(Layer(name, "Linear")) for name in ("", "body", "body.0", "head"))
    norms = np.asarray([1, 2, 3, 4], np.float32)
    pulse = Pulse(0, Columns(names), norms, np.zeros(0, np.float32))
    data = page_data.pulse_data(History.of([Record(0, calls)], [pulse]))
    assert data["parameters"] == ["body.scale", "body.0.weight", "body.0.bias", "head.weight"]
    assert data["layers"] == ["body", "body.0", "body.0", "head"]
    assert unpack(data["norms"], 1).ravel().tolist() == [2, 3, 4, 1]


def test_an_exam_knows_the_norms_that_a_pulse_cannot() -> None:
    """1e-25 squares to 0 in float32, and 1e25 to infinity: the exam's numbers are shown."""

    def stats(norm: float) -> Stats:
        return Stats(1, 0, 0, 0, norm, norm**2, np.zeros(OCTAVES, np.int64), norm)

    norms = np.asarray([0.0, np.inf, 0.0, np.nan], np.float32)
    exact = [stats(1e-25), stats(1e25), stats(0.0), None]
    parameters = [Parameter(name, (1,), gradient=g) for name, g in zip("abcd", exact, strict=True)]
    pulse = Pulse(0, Columns(tuple("abcd")), norms, np.zeros(0, np.float32))
    data = page_data.pulse_data(History.of([Record(0, (), tuple(parameters))], [pulse]))
    found = unpack(data["norms"], 1).ravel()
    assert found[:3].tolist() == pytest.approx([1e-25, 1e25, 0.0], rel=1e-3)
    assert np.isnan(found[3])


def test_a_run_of_exams_alone_has_a_pulse_too() -> None:
    """A specimen may hold no pulses; what an exam did not reach is marked, not made up."""
    full = specimens.load("digits-mlp")
    data = page_data.pulse_data(History.of(full.records))
    assert data["steps"] == [record.step for record in full.records]
    norms = unpack(data["norms"], len(data["steps"]))
    gradient = full.records[0].parameters[0].gradient
    assert gradient is not None
    assert norms[0, 0] == pytest.approx(gradient.norm, rel=1e-3)


def test_losses_keep_what_is_not_finite_apart_from_what_is_not_known() -> None:
    """null where nobody told it, and "nan" where it is."""
    none = np.zeros(0, np.float32)
    losses = [(1.0, True), (math.nan, True), (math.nan, False), (math.inf, True)]
    pulses = [Pulse(i, Columns(), none, none, *loss) for i, loss in enumerate(losses)]
    past = History.of((), pulses)
    assert Page(page(judged(past), past)).data["pulse"]["losses"] == [1.0, "nan", None, "inf"]


def test_scripts_join_to_one_without_imports() -> None:
    """Each imports from those before it only, so that one file can hold them all."""
    joined = report.bundle()
    assert not re.search(r"^(import|export)\b", joined, re.MULTILINE)
    for position, name in enumerate(report.SCRIPTS):
        source = (report.STATIC / name).read_text(encoding="utf-8")
        used = set(re.findall(r'from "\./([a-z]+\.js)"', source))
        assert used <= set(report.SCRIPTS[:position])
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", joined, re.MULTILINE)
    assert len(names) == len(set(names))


def test_no_data_is_ever_read_as_markup() -> None:
    """The page makes elements and text nodes; nothing in it parses a string as HTML or code."""
    dangerous = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|srcdoc"
    assert not re.search(dangerous, report.bundle())


def test_the_report_is_written_without_torch(tmp_path: Path) -> None:
    """Reading a run and writing its page loads neither torch nor rich."""
    file = tmp_path / "a.html"
    code = f"""
import sys
from gradwatch.core import catalog, specimens
from gradwatch.core.report import examine
from gradwatch.viewer.report import write_html
past = specimens.load("digits-mlp")
write_html(examine(past, catalog.detectors(), catalog.remedies()), past, {str(file)!r})
print([name for name in ("torch", "rich", "tensorboard") if name in sys.modules])
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
