"""The charts of one layer, and the folded ledger, in a real browser: true to the records."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from gradwatch.core import catalog, specimens
from gradwatch.core.history import History
from gradwatch.core.ledger import ledger
from gradwatch.core.record import Call, Layer, Record
from gradwatch.core.report import Report, examine
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Stats

pytestmark = pytest.mark.browser
ORDER = ".tree[aria-label^='In execution order']"
EVIL = "</script><img src=x onerror=alert(1)>"


def judged(past: History) -> Report:
    """The report as of the end of a history."""
    return examine(past, catalog.detectors(), catalog.remedies())


def together(record: Record, layer: str, quantity: str) -> Stats:
    """All numbers of a layer in an exam."""
    if quantity == "outputs":
        parts = [call.output for call in record.calls if call.layer.name == layer]
    else:
        owned = [p for p in record.parameters if p.name.rpartition(".")[0] == layer]
        parts = [getattr(p, quantity.removesuffix("s")) for p in owned]
    return sum((part for part in parts if part is not None), Stats.empty())


def percent(text: str) -> float:
    found = re.search(r"(\S+) %", text)
    assert found, text
    return float(found[1])


def chart(page: Any, quantity: str) -> Any:
    return page.locator(f"#octaves [role=application][aria-label^='{quantity} of']")


@pytest.mark.parametrize("name", ["digits-mlp", "resnet", "dying-relu"])
def test_the_shares_at_the_keys_are_those_of_the_records(show: Any, name: str) -> None:
    """Each octave of the last and of the first exam, to 3 digits, with its range and its zeros."""
    past = specimens.load(name)
    page = show(judged(past), past)
    layer = past.records[-1].parameters[0].name.rpartition(".")[0]
    page.get_by_label("Layer", exact=True).select_option(layer)
    for quantity in ("gradients", "weights", "outputs"):
        for record, key in ((past.records[-1], "End"), (past.records[0], "Home")):
            stats = together(record, layer, quantity)
            chart(page, quantity).focus()
            page.keyboard.press("Home")
            for _ in past.records:
                page.keyboard.press("ArrowDown" if key == "End" else "ArrowUp")
            seen = 0.0
            for _ in range(OCTAVES):
                told = page.locator(".ridges .told:visible").inner_text()
                assert f"{quantity}, step {record.step}\n" in told and told.startswith(layer)
                superscript = re.search(r"2([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+) \((\S+)\) to", told)
                assert superscript, told
                low = int(superscript[1].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
                assert float(superscript[2]) == pytest.approx(2.0**low, rel=6e-3)
                share = 100 * stats.octaves[low - OCTAVE_LOW] / stats.count
                assert percent(told) == pytest.approx(share, rel=9e-3)
                seen += percent(told)
                page.keyboard.press("ArrowRight")
                if page.locator(".ridges .told:visible").inner_text() == told:
                    break
            zeros = 100 * stats.zeros / stats.count
            if stats.zeros:
                assert percent(told[told.index("zero:") :]) == pytest.approx(zeros, rel=6e-3)
            assert seen + zeros == pytest.approx(100, abs=0.5)


def test_the_pointer_tells_what_the_keys_tell(show: Any) -> None:
    """And leaving hides it."""
    past = specimens.load("digits-mlp")
    page = show(judged(past), past)
    canvas = chart(page, "weights")
    canvas.scroll_into_view_if_needed()
    canvas.focus()
    page.keyboard.press("ArrowDown")
    by_key = page.locator(".ridges .told:visible").inner_text()
    page.keyboard.press("Escape")
    assert page.locator(".ridges .told:visible").count() == 0
    box = canvas.bounding_box()
    tips = set()
    for share in np.linspace(0.2, 0.98, 60):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] - 38)
        tips.add(page.locator(".ridges .told:visible").inner_text())
    assert by_key in tips and len(tips) > 3
    page.mouse.move(1, 1)
    assert page.locator(".ridges .told:visible").count() == 0


def test_numbers_that_are_not_finite_are_named(show: Any) -> None:
    """NaN apart from infinite, and apart from the zeros."""
    past = specimens.load("nan-forward")
    bad = next(
        (record, parameter)
        for record in past.records
        for parameter in record.parameters
        if parameter.gradient is not None and parameter.gradient.nans
    )
    page = show(judged(past), past)
    layer = bad[1].name.rpartition(".")[0]
    page.get_by_label("Layer", exact=True).select_option(layer)
    chart(page, "gradients").focus()
    page.keyboard.press("ArrowDown")
    told = page.locator(".ridges .told:visible").inner_text()
    stats = together(past.records[-1], layer, "gradients")
    assert percent(told[told.index("NaN:") :]) == pytest.approx(
        100 * stats.nans / stats.count, rel=6e-3
    )


def test_a_row_of_the_heat_map_and_a_link_choose_the_layer(show: Any) -> None:
    """By click, by Enter and by the list; whoever gets the address sees the same layer."""
    past = specimens.load("digits-mlp")
    page = show(judged(past), past)
    layers = list(dict.fromkeys(p.rpartition(".")[0] for p in past.pulses[0].columns.parameters))
    chosen = page.get_by_label("Layer", exact=True)
    assert chosen.input_value() in layers
    page.locator(".scroller").scroll_into_view_if_needed()
    box = page.locator(".scroller").bounding_box()
    for row in (0, len(layers) - 1):
        y = box["y"] + (row + 0.5) / len(layers) * box["height"]
        page.mouse.click(box["x"] + 0.8 * box["width"], y)
        assert chosen.input_value() == layers[row]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert chosen.input_value() == layers[-2]
    assert f"p.gradwatch.layer={layers[-2]}" in page.url
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector("[data-gw-ready]", state="attached", timeout=20_000)
    assert other.get_by_label("Layer", exact=True).input_value() == layers[-2]
    assert "layer" in other.locator("#octaves .muted").first.inner_text().lower()


def test_the_ratio_at_the_keys_is_that_of_the_records(show: Any) -> None:
    """Of every parameter in two exams, to 3 digits; Enter chooses its layer."""
    past = specimens.load("digits-mlp")
    page = show(judged(past), past)
    focus = page.locator("#updates [role=application]")
    focus.focus()
    for key in ("ArrowDown", "Home", *["ArrowUp"] * 40):
        page.keyboard.press(key)
    for record, key in ((past.records[0], "Home"), (past.records[-1], "End")):
        for parameter in record.parameters:
            page.keyboard.press(key)
            told = page.locator("#updates .told").inner_text()
            value = float(re.search(r"weight (\S+)", told)[1])  # type: ignore[index]
            assert told.startswith(parameter.name) and f"step {record.step}\n" in told
            assert value == pytest.approx(parameter.update_ratio, rel=6e-3)
            page.keyboard.press("ArrowDown")
        for _ in record.parameters:
            page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    layer = past.records[0].parameters[0].name.rpartition(".")[0]
    assert page.get_by_label("Layer", exact=True).input_value() == layer


def deep(layers: int) -> History:
    """One exam of a chain in blocks of four layers, each of which loses half a bit."""
    calls = []
    for i in range(layers):
        name = f"encoder.layers.{i // 4}.{'abcd'[i % 4]}"
        squares = 2.0 ** (i - layers)
        stats = Stats(1, 0, 0, 0, 1.0, squares, np.zeros(OCTAVES, np.int64), 1.0)
        calls.append(Call(Layer(name, "Linear"), gain=-0.5, cut=True, grad_output=stats))
    return History.of([Record(0, tuple(calls))])


def test_the_ledger_folds_along_the_modules(show: Any) -> None:
    """1,000 layers are some lines until they are unfolded, by mouse or keys; sums are exact."""
    past = deep(1000)
    book = ledger(past.records[0])
    assert len(book.entries) == 1000
    page = show(judged(past), past)
    tree = page.locator(ORDER)
    assert tree.locator(".node:visible").count() <= 32
    sums: dict[str, float] = defaultdict(float)
    for entry in book.entries:
        sums[entry.layers[0].split(".")[2]] += entry.bits
    tree.locator("summary").click()
    tree.locator(".node").nth(251).wait_for(state="attached")
    first = tree.locator("summary").filter(has_text=re.compile(r"^7 ")).first
    assert float(
        first.locator(".number").first.inner_text().replace("\u2212", "-")
    ) == pytest.approx(sums["7"], abs=0.06)
    before = tree.locator(".node").count()
    first.focus()
    page.keyboard.press("Enter")
    tree.locator(".node").nth(before + 3).wait_for()
    assert tree.locator(".node:visible").count() == tree.locator(".node").count() == before + 4
    page.keyboard.press("Enter")
    assert tree.locator(".node:visible").count() == before


def test_a_small_ledger_is_unfolded_and_whole(show: Any) -> None:
    """Every line is there, with its bits, in execution order."""
    past = specimens.load("pre-norm-transformer")
    entries = ledger(past.records[-1]).entries
    page = show(judged(past), past)
    lines = page.locator(f"{ORDER} div.node").all()[1:]  # the first one is the head
    told = [line.get_attribute("title") for line in lines]
    assert len(told) == len(entries) <= 30
    for text, entry in zip(told, entries, strict=True):
        about, bits = text.split("\n")
        assert about == f"{entry.kind}: {', '.join(entry.layers)}"
        assert float(bits.removesuffix(" bits")) == pytest.approx(entry.bits, abs=1e-3)


def test_hostile_names_stay_text(show: Any) -> None:
    """In the list of layers, in the charts and in the folds."""
    stats = Stats(1, 0, 0, 0, 1.0, 1.0, np.zeros(OCTAVES, np.int64), 1.0)
    names = (EVIL, f"{EVIL}.a", "...", ":", "a:b:c", "")
    calls = tuple(
        Call(Layer(name, EVIL), gain=-1.0, cut=True, output=stats, grad_output=stats)
        for name in names
    )
    page = show(Report("Net", 0), History.of([Record(0, calls)]))
    assert EVIL in page.get_by_label("Layer", exact=True).inner_text()
    assert page.locator(ORDER).inner_text().count("<img") >= 2
    assert page.locator("img").count() == 0
