"""The page in a real browser: it shows the run, true to its numbers, and talks to nobody."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from gradwatch.core import catalog, specimens
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import Columns, History, Pulse
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report, examine

pytestmark = pytest.mark.browser
EVIL = "</script><img src=x onerror=alert(1)>"
NONE = np.zeros(0, np.float32)


def judged(past: History) -> Report:
    """The report as of the end of a history."""
    return examine(past, catalog.detectors(), catalog.remedies())


def history(names: tuple[str, ...], norms: np.ndarray[Any, Any]) -> History:
    """Pulses whose norms are given by step and parameter."""
    columns = Columns(names)
    return History.of(
        (),
        (Pulse(i, columns, row.astype(np.float32), NONE, 1.0, True) for i, row in enumerate(norms)),
    )


def point(page: Any, row: float, column: float) -> str:
    """Point at a place of the heat map, in shares of its rows and steps; return what is told."""
    page.locator(".scroller").scroll_into_view_if_needed()
    box = page.locator(".scroller").bounding_box()
    left = page.locator(".loss h3").evaluate("title => parseFloat(title.style.marginLeft)")
    width = box["width"] - left - 8
    page.mouse.move(box["x"] + left + column * width, box["y"] + row * box["height"])
    return str(page.locator(".tip").inner_text())


def colours(page: Any) -> int:
    """Count the colours of the heat map."""
    return int(
        page.locator(".scroller canvas").evaluate("""canvas => new Set(new Uint32Array(
            canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer
        )).size""")
    )


def test_a_sick_run_shows_its_finding(show: Any) -> None:
    """Verdict, cause, code to copy, ledger, heat map and a mark on the axis of steps."""
    past = specimens.load("sigmoid-mlp")
    report = judged(past)
    page = show(report, past)
    assert page.locator("h1").inner_text().startswith("Critical: the gradient")
    assert "vanishing-gradient" in page.locator("#finding-1 h3").inner_text()
    assert "activation" in page.locator("#finding-1 .causes tbody th").first.inner_text()
    assert "torch.nn.ReLU()" in page.locator("#try pre").first.inner_text()
    assert "Sigmoid \u00d7 20" in page.locator("#ledger").inner_text()
    assert page.locator(".lane .bar").count() == len(report.findings)
    assert colours(page) > 50


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_colour_scheme(show: Any, scheme: str) -> None:
    """Text stands out from the page, in both."""
    past = specimens.load("digits-mlp")
    page = show(judged(past), past)
    page.emulate_media(color_scheme=scheme)
    shade = "name => getComputedStyle(document.body)[name].match(/[0-9]+/g).slice(0, 3)"
    text, ground = (
        sum(map(int, page.evaluate(shade, name))) / 3 for name in ("color", "backgroundColor")
    )
    assert text - ground > 150 if scheme == "dark" else ground - text > 150


def test_the_number_at_the_pointer_is_the_one_in_the_run(show: Any) -> None:
    """To 3 digits, with its step and its layer, by pointer and by keyboard."""
    past = specimens.load("digits-mlp")
    page = show(judged(past), past)
    page.select_option("#pulse select", "parameters")
    names = past.pulses[0].columns.parameters
    for row, column in ((0, 0.01), (3, 0.5), (len(names) - 1, 0.99)):
        told = point(page, (row + 0.5) / len(names), column)
        step = int(re.search(r"step (\d+)", told)[1])  # type: ignore[index]
        value = float(re.search(r"gradient norm (\S+)", told)[1])  # type: ignore[index]
        assert told.startswith(names[row])
        pulse = next(pulse for pulse in past.pulses if pulse.step == step)
        assert value == pytest.approx(float(pulse.norms[row]), rel=6e-3)
    page.mouse.move(1, 1)
    page.locator("#pulse select").press("Tab")
    # It begins where the pointer was: in the last row.
    for key in ("Home", "ArrowRight", "ArrowRight", *["ArrowUp"] * len(names), "ArrowDown"):
        page.keyboard.press(key)
    told = page.locator(".tip").inner_text()
    assert told.startswith(names[1]) and "step 2" in told
    assert float(re.search(r"gradient norm (\S+)", told)[1]) == pytest.approx(  # type: ignore[index]
        float(past.pulses[2].norms[1]), rel=6e-3
    )


def test_no_spike_is_lost_where_steps_share_a_pixel(show: Any) -> None:
    """One step of 4,000 that is a million times larger, or NaN, is seen and found."""
    norms = np.ones((4000, 2))
    norms[1234, 0], norms[3003, 1] = 1e6, np.nan
    past = history(("a.weight", "b.weight"), norms)
    page = show(judged(past), past)
    assert "step 1234," in point(page, 0.25, 1234.5 / 4000)
    assert "NaN" in point(page, 0.75, 3003.5 / 4000)
    assert colours(page) > 4


@pytest.mark.parametrize(
    ("steps", "layers", "value"),
    [(0, 0, 1.0), (1, 1, 1.0), (3, 500, 1.0), (5, 3, np.nan), (5, 3, -1.0), (5, 3, 0.0)],
)
def test_it_draws_what_is_extreme(show: Any, steps: int, layers: int, value: float) -> None:
    """No step, one, 500 layers that scroll, nothing but NaN, nothing reached, all zero."""
    names = tuple(f"layer.{i}.weight" for i in range(layers))
    past = history(names, np.full((steps, layers), value))
    page = show(judged(past), past)
    if not steps:
        assert "No step was recorded" in page.locator("#pulse").inner_text()
        return
    told = point(page, 0.01, 0.5)
    word = {"1.0": "1.00", "nan": "NaN", "-1.0": "not reached", "0.0": "0,"}[str(value)]
    assert "layer.0" in told and word in told
    if layers == 500:
        page.locator(".scroller").evaluate("map => map.scrollTo(0, map.scrollHeight)")
        assert "layer.499" in point(page, 0.99, 0.5)


def test_it_fits_a_narrow_window(show: Any) -> None:
    """Nothing sticks out of a telephone's screen, also after the window was wider."""
    past = specimens.load("sigmoid-mlp")
    page = show(judged(past), past)
    page.set_viewport_size({"width": 390, "height": 800})
    # Not wait_for_function: it evaluates a string in the page, which the page's own policy forbids.
    for _ in range(100):
        if page.evaluate("document.querySelector('.scroller canvas').offsetWidth") < 390:
            break
        page.wait_for_timeout(50)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_names_are_text(show: Any) -> None:
    """Markup in the names of a model is shown as it is written, and never runs."""
    cause = Cause(EVIL, EVIL, (EVIL,), -1.0, 1.0)
    finding = Finding(EVIL, Severity.WARNING, EVIL, (EVIL,), 0, 1, (cause,), EVIL, {EVIL: 1.0})
    report = Report(
        EVIL, 1, (finding,), (Prescription(EVIL, EVIL, EVIL, answers=EVIL),), notes=(EVIL,)
    )
    past = history((f"{EVIL}.weight",), np.ones((2, 1)))
    page = show(report, past)
    assert EVIL in point(page, 0.5, 0.5)
    for place in ("h1", "#finding-1 h3", ".causes", "#try summary", "#try pre", "#notes", ".lanes"):
        assert EVIL in page.locator(place).first.inner_text()
    assert page.locator("img").count() == 0
