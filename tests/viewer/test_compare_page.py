"""Two runs on one page, in a real browser: verdicts, findings, losses and layers of both."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradwatch.core import catalog, specimens
from gradwatch.core.comparison import Comparison, compare
from gradwatch.core.history import Columns, History, Pulse
from gradwatch.core.report import examine
from gradwatch.core.runfolder import Run, RunWriter, read
from gradwatch.viewer.compare_data import compare_data

pytestmark = pytest.mark.browser
EVIL = "</script><img src=x onerror=alert(1)>"


def recorded(folder: Path, past: History, model: str = "Net") -> Run:
    writer = RunWriter(folder, model=model)
    for record in past.records:
        writer.add_record(record)
    writer.add_pulses(past.pulses)
    writer.add_report(examine(past, catalog.detectors(), (), model=model))
    return read(folder)


@pytest.fixture
def both(tmp_path: Path) -> tuple[Run, Run]:
    sick, well = (recorded(tmp_path / n, specimens.load(n)) for n in ("sigmoid-mlp", "digits-mlp"))
    return sick, well


def opened(show: Any, runs: tuple[Run, Run]) -> tuple[Any, Comparison]:
    page = show(runs[0].report(), runs[0].history, beside=compare_data(*runs))
    return page, compare(*runs)


def rows(page: Any, caption: str) -> list[list[str]]:
    table = page.locator("#beside table", has_text=caption)
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]


def test_both_verdicts_and_where_each_finding_is(show: Any, both: tuple[Run, Run]) -> None:
    page, found = opened(show, both)
    text = page.locator("#beside").inner_text()
    assert found.headline in text
    assert "A: sigmoid-mlp" in text and "B: digits-mlp" in text
    assert [row[0].split("\n")[0] for row in rows(page, "Findings")] == [
        change.name for change in found.changes
    ]
    words = {"new": "only in B", "gone": "only in A", "same": "in both"}
    assert [row[3] for row in rows(page, "Findings")] == [words[c.kind] for c in found.changes]


def test_the_numbers_are_those_of_both_run_folders(show: Any, both: tuple[Run, Run]) -> None:
    """Of each layer to 3 digits, with their difference in bits."""
    page, found = opened(show, both)
    shown = rows(page, "Layers as of step")
    assert [row[0] for row in shown] == [layer.layer for layer in found.layers]
    for row, layer in zip(shown, found.layers, strict=True):
        for cells, pair in ((row[1:4], layer.gradient), (row[4:7], layer.update_ratio)):
            for cell, value in zip(cells, (pair.before, pair.after), strict=False):
                known = "nan" if cell == "\u2013" else cell
                expected = pytest.approx(math.nan if value is None else value, 6e-3, nan_ok=True)
                assert float(known) == expected
            assert (cells[2] == "\u2013") == (pair.bits is None)
            if pair.bits is not None:
                assert float(cells[2]) == pytest.approx(pair.bits, abs=0.06)
    ledger = {(row[0], row[1]): row[2:] for row in rows(page, "Ledger as of step")}
    for pair in found.ledger:
        if pair.before is not None and pair.after is not None and len(pair.layers) == 1:
            kinds = " → ".join(dict.fromkeys((pair.before.kind, pair.after.kind)))
            cells = ledger[pair.layers[0], kinds]
            expected = [pair.before.bits, pair.after.bits, pair.more]
            assert [float(cell) for cell in cells] == pytest.approx(expected, abs=0.06)
    for letter, names in (("A", found.only_before), ("B", found.only_after)):
        if names:
            assert page.get_by_text(f"Only in {letter}: ").count() == 1


def test_the_losses_can_be_read_by_keyboard_and_pointer(show: Any, both: tuple[Run, Run]) -> None:
    """Each step's, of both, to 3 digits."""
    page, _ = opened(show, both)
    cursor = page.get_by_label("Step", exact=True)
    cursor.focus()
    for key, step in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2)):
        page.keyboard.press(key)
        said = page.locator("#beside output").inner_text()
        assert said.startswith(f"step {step}:")
        for letter, run in zip("AB", both, strict=True):
            pulse = next((p for p in run.history.pulses if p.step == step and p.loss_known), None)
            record = next((r for r in run.history.records if r.step == step), None)
            loss = pulse.loss if pulse else record.loss if record else None
            cell = re.search(rf"{letter} (not known|[^,]+)", said)[1]  # type: ignore[index]
            assert cell == "not known" if loss is None else float(cell) == pytest.approx(loss, 6e-3)
    box = page.locator("#beside canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 60)
    last = max(run.history.pulses[-1].step for run in both)
    assert f"step {last}:" in page.locator("#beside output").inner_text()
    colours = page.locator("#beside canvas").evaluate("""canvas => new Set(new Uint32Array(
        canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer
    )).size""")
    assert colours > 10


def test_names_are_text_and_it_fits_a_narrow_window(show: Any, tmp_path: Path) -> None:
    past = specimens.load("digits-mlp")
    columns, none = Columns((f"{EVIL}.weight",)), np.zeros(0, np.float32)
    odd = History.of((), (Pulse(i, columns, np.ones(1, np.float32), none) for i in range(3)))
    a, b = recorded(tmp_path / "a", past), recorded(tmp_path / "b", odd, EVIL)
    page = show(a.report(), a.history, beside=compare_data(a, b, EVIL))
    text = page.locator("#beside").inner_text()
    assert f"B: {EVIL}" in text and text.count(EVIL) >= 2
    assert page.locator("img").count() == 0
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_cannot_be_read_is_said(show: Any) -> None:
    past = specimens.load("digits-mlp")
    report = examine(past, catalog.detectors(), ())
    page = show(report, past, beside={"problem": "b cannot be read: gone.", "headline": ""})
    assert "b cannot be read: gone." in page.locator("#beside").inner_text()
