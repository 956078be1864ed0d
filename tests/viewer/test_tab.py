"""The tab in a real TensorBoard and a real browser: while a run is written, and with any run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradwatch.core import catalog, specimens
from gradwatch.core.history import Columns, History, Pulse
from gradwatch.core.report import examine
from gradwatch.core.runfolder import RunWriter
from tests.viewer.tensorboard_server import tensorboard

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=alert(1)>"
NONE = np.zeros(0, np.float32)


def write(run_dir: Path, past: History) -> RunWriter:
    """Record a run: its exams, its pulses and what was found in them."""
    writer = RunWriter(run_dir, model="Net")
    for record in past.records:
        writer.add_record(record)
    writer.add_pulses(past.pulses)
    writer.add_report(examine(past, catalog.detectors(), (), model="Net"))
    return writer


def pulses(steps: range, name: str = "layer.weight") -> Iterator[Pulse]:
    columns = Columns((name,))
    return (Pulse(i, columns, np.ones(1, np.float32), NONE, 1.0, True) for i in steps)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sick, healthy, one with hostile names, and a hundred more."""
    folder = tmp_path_factory.mktemp("logs")
    write(folder / "sick", specimens.load("sigmoid-mlp"))
    write(folder / "healthy" / "digits", specimens.load("digits-mlp"))
    RunWriter(folder / EVIL, model=EVIL).add_pulses(pulses(range(3), f"{EVIL}.weight"))
    RunWriter(folder / "many" / "0", model="Net").add_pulses(pulses(range(3)))
    for i in range(1, 100):
        shutil.copytree(folder / "many" / "0", folder / "many" / str(i))
    return folder


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[[str], Any]]:
    """Open an address; an error, a dialog or a request to another machine fails the test."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 1000})

    def console(message: Any) -> None:
        # TensorBoard warns of its own page, and asks for its fonts where they are not.
        place = str((message.location or {}).get("url", ""))
        theirs = message.type != "error" and "gradwatch" not in place
        if not theirs and not place.endswith(".woff2"):
            wrong.append(f"console: {message.text} {place}")

    def request(sent: Any) -> None:
        if not sent.url.startswith(("http://localhost:", "data:", "blob:")):
            wrong.append(sent.url)

    def open_(address: str) -> Any:
        page = context.new_page()
        page.on("console", console)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("request", request)
        page.goto(address)
        return page

    yield open_
    context.close()
    assert wrong == []


def tab(page: Any, run: str | None = None) -> Any:
    """The frame of the tab, once it shows a run."""
    frame = page.frame_locator("iframe")
    ready = "#gradwatch[data-gw-ready]"
    if run is not None:
        ready += f'[data-gw-run="{run}"]'
    frame.locator(ready).wait_for(timeout=30_000)
    return frame


def point(page: Any, frame: Any, row: float, column: float) -> str:
    """Point at a place of the heat map, in shares of its rows and steps; return what is told."""
    frame.locator(".scroller").scroll_into_view_if_needed()
    box = frame.locator(".scroller").bounding_box()
    left = frame.locator(".loss h3").evaluate("title => parseFloat(title.style.marginLeft)")
    width = box["width"] - left - 8
    page.mouse.move(box["x"] + left + column * width, box["y"] + row * box["height"])
    return str(frame.locator(".tip").inner_text())


@pytest.fixture(scope="module")
def address(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tensorboard(tmp_path_factory.mktemp("tb"), f"--logdir={logs}") as found:
        yield found


def test_the_sick_run_shows_its_finding(visit: Any, address: str) -> None:
    """By the menu of TensorBoard, then the list of runs: verdict, layer, cause, remedy."""
    page = visit(address)
    page.get_by_role("tab", name="gradwatch").click()
    frame = tab(page)
    frame.get_by_label("Run", exact=True).select_option("sick")
    frame = tab(page, "sick")
    assert frame.locator("h1").inner_text().startswith("Critical: the gradient")
    past = specimens.load("sigmoid-mlp")
    layer = examine(past, catalog.detectors(), ()).findings[0].layers[0]
    assert layer in frame.locator("#finding-1").inner_text().split()[:40] or (
        layer in frame.locator("#finding-1 code").all_inner_texts()
    )
    assert "activation" in frame.locator("#finding-1 .causes tbody th").first.inner_text()
    assert "torch.nn.ReLU()" in frame.locator("#try pre").first.inner_text()
    assert page.url.endswith("#gradwatch&p.gradwatch.run=sick")
    frame.locator(".lane .bar").first.click()  # to the finding, and not out of the page
    assert frame.locator("#finding-1").evaluate("card => card === document.activeElement")


def test_hover_numbers_are_those_of_the_run_folder(visit: Any, address: str) -> None:
    """To 3 digits, with step and layer, also where the map is zoomed."""
    past = specimens.load("digits-mlp")
    names = past.pulses[0].columns.parameters
    page = visit(f"{address}#gradwatch&p.gradwatch.run=healthy%2Fdigits&p.gradwatch.by=parameters")
    frame = tab(page, "healthy/digits")
    for zoomed in (False, True):
        for row, column in ((0, 0.01), (2, 0.5), (len(names) - 1, 0.99)):
            told = point(page, frame, (row + 0.5) / len(names), column)
            step = int(re.search(r"step (\d+)", told)[1])  # type: ignore[index]
            value = float(re.search(r"gradient norm (\S+)", told)[1])  # type: ignore[index]
            norms = next(pulse.norms for pulse in past.pulses if pulse.step == step)
            assert told.startswith(names[row])
            assert value == pytest.approx(float(norms[row]), rel=6e-3)
        if not zoomed:
            point(page, frame, 0.5, 0.3)
            page.mouse.down()
            point(page, frame, 0.5, 0.6)
            page.mouse.up()
            assert frame.get_by_text("Show all steps").is_visible()


def test_keys_zoom_and_the_link_shows_the_same_view(visit: Any, address: str) -> None:
    """Without a pointer; and whoever gets the address sees the same steps and the same ledger."""
    page = visit(f"{address}#gradwatch&p.gradwatch.run=sick")
    frame = tab(page, "sick")
    frame.locator("#pulse select").press("Tab")
    for key in ("Home", "ArrowRight", "ArrowRight", "+", "+", "Enter"):
        page.keyboard.press(key)
    told = frame.locator(".tip").inner_text()
    chosen = frame.get_by_label("Exam").input_value()
    assert "step 2" in told and chosen == "2"
    page.wait_for_url("**p.gradwatch.step=2*")
    assert "p.gradwatch.to=" in page.url
    other = tab(again := visit(page.url), "sick")
    assert other.get_by_text("Show all steps").is_visible()
    assert other.get_by_label("Exam").input_value() == "2"
    for share in (0.01, 0.99):
        assert point(again, other, 0.5, share) == point(page, frame, 0.5, share)
    frame.locator(".scroller").focus()
    page.keyboard.press("0")
    assert not frame.get_by_text("Show all steps").is_visible()


def test_a_finding_s_colours_follow_tensorboard(visit: Any, address: str) -> None:
    """Dark when TensorBoard is, whatever the system is, and back."""
    page = visit(f"{address}#gradwatch&p.gradwatch.run=sick")
    frame = tab(page, "sick")
    ground = "body => getComputedStyle(body).backgroundColor.match(/[0-9]+/g).map(Number)[0]"
    for dark in (True, False):
        page.evaluate("on => document.body.classList.toggle('dark-mode', on)", dark)
        page.wait_for_timeout(100)
        assert (frame.locator("body").evaluate(ground) < 100) == dark


def test_names_are_text(visit: Any, address: str) -> None:
    """Of a run, a model and a layer."""
    page = visit(f"{address}#gradwatch")
    frame = tab(page)  # it is the first one
    assert EVIL in frame.get_by_label("Run", exact=True).inner_text()
    assert EVIL in frame.locator(".about").inner_text()
    assert EVIL in point(page, frame, 0.5, 0.5)
    assert frame.locator("img").count() == 0


def test_two_runs_side_by_side(visit: Any, address: str) -> None:
    """By keyboard; the link carries the second run, and what is not there any more is said."""
    page = visit(f"{address}#gradwatch&p.gradwatch.run=sick")
    frame = tab(page, "sick")
    against = frame.get_by_label("Compare with")
    assert "sick" not in against.locator("option").all_inner_texts()
    against.focus()
    page.keyboard.type("healthy")
    frame.locator('#gradwatch[data-gw-with="healthy/digits"]').wait_for(timeout=30_000)
    told = frame.locator("#beside").inner_text()
    assert "A: sick" in told and "B: healthy/digits" in told
    assert "p.gradwatch.with=healthy%2Fdigits" in page.url
    other = tab(visit(page.url), "sick")
    assert other.locator("#beside").inner_text() == told
    assert other.get_by_label("Compare with").input_value() == "healthy/digits"
    against.select_option("")
    frame.locator('#gradwatch[data-gw-with=""]').wait_for(timeout=30_000)
    assert frame.locator("#beside").count() == 0 and "p.gradwatch.with" not in page.url
    gone = tab(visit(f"{address}#gradwatch&p.gradwatch.run=sick&p.gradwatch.with=gone"), "sick")
    gone.get_by_text("no run of this name: gone").wait_for(timeout=20_000)
    assert gone.locator("h1").inner_text().startswith("Critical")


def test_many_runs_can_be_searched(visit: Any, address: str) -> None:
    """A part of the name is enough; a run that is gone is said to be."""
    page = visit(f"{address}#gradwatch&p.gradwatch.run=sick")
    frame = tab(page, "sick")
    frame.get_by_label("search").fill("MANY/4")
    runs = frame.get_by_label("Run", exact=True).locator("option").all_inner_texts()
    assert runs == ["sick", "many/4", *(f"many/4{i}" for i in range(10))]
    gone = visit(f"{address}#gradwatch&p.gradwatch.run=gone")
    gone.frame_locator("iframe").get_by_text("no run of this name: gone").wait_for(timeout=20_000)


@pytest.mark.parametrize("loader", ["true", "false"])
def test_a_run_appears_while_it_is_written(visit: Any, tmp_path: Path, loader: str) -> None:
    """With either of TensorBoard's ways to read events, below a prefix, in a logdir of a spec."""
    logdir = tmp_path / "logs"
    logdir.mkdir()
    flags = (f"--logdir_spec=mine:{logdir}", "--path_prefix=/proxy", f"--load_fast={loader}")
    if loader == "true":  # the fast one knows no specs
        flags = (f"--logdir={logdir}", "--path_prefix=/proxy", "--load_fast=true")
    with tensorboard(tmp_path, *flags) as found:
        page = visit(f"{found}#gradwatch")
        frame = page.frame_locator("iframe")
        (logdir / "a").mkdir()
        writer = RunWriter(logdir / "a" / "b", model="Net")
        writer.add_pulses(pulses(range(10)))
        page.reload()
        run = "a/b" if loader == "true" else "mine/a/b"
        frame = tab(page, run)
        assert "step 9" in frame.locator(".about").inner_text()
        point(page, frame, 0.5, 0.5)
        page.mouse.down()
        point(page, frame, 0.5, 0.9)
        page.mouse.up()
        writer.add_pulses(pulses(range(10, 25)))
        frame.get_by_text("step 24", exact=False).first.wait_for(timeout=20_000)
        assert frame.get_by_text("Show all steps").is_visible()  # the view stays


def test_a_closer_look_at_a_long_run_is_exact(visit: Any, tmp_path: Path) -> None:
    """Where steps share a column, zooming in fetches them one by one; and back."""
    steps, layers = 6000, 400
    norms = np.exp2(np.random.default_rng(0).normal(-8, 2, (steps, layers))).astype(np.float32)
    columns = Columns(tuple(f"blocks.{i}.weight" for i in range(layers)))
    RunWriter(tmp_path / "long", model="Net").add_pulses(
        Pulse(i, columns, row, NONE) for i, row in enumerate(norms)
    )
    with tensorboard(tmp_path, f"--logdir={tmp_path}") as found:
        page = visit(f"{found}#gradwatch")
        frame = tab(page, "long")
        assert "steps " in point(page, frame, 0.01, 0.5)
        page.mouse.down()
        point(page, frame, 0.01, 0.6)
        page.mouse.up()
        for _ in range(50):
            told = point(page, frame, 0.01, 0.3)
            if "steps " not in told:
                break
            page.wait_for_timeout(200)
        step = int(re.search(r"step (\d+)", told)[1])  # type: ignore[index]
        value = float(re.search(r"gradient norm (\S+)", told)[1])  # type: ignore[index]
        assert 3000 < step < 3600 and value == pytest.approx(float(norms[step, 0]), rel=6e-3)
        frame.get_by_text("Show all steps").click()
        frame.get_by_text("Show all steps").wait_for(state="hidden", timeout=20_000)
        assert "steps " in point(page, frame, 0.01, 0.9)


def test_the_link_carries_the_chosen_layer(visit: Any, address: str) -> None:
    """Chosen by a click on a row; the exam's numbers are those of the run folder."""
    past = specimens.load("digits-mlp")
    names = past.pulses[0].columns.parameters
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    page = visit(f"{address}#gradwatch&p.gradwatch.run=healthy%2Fdigits")
    frame = tab(page, "healthy/digits")
    point(page, frame, 1 - 0.5 / len(layers), 0.5)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_url(f"**p.gradwatch.layer={layers[-1]}*")
    other = tab(visit(page.url), "healthy/digits")
    assert other.get_by_label("Layer", exact=True).input_value() == layers[-1]
    other.locator("#updates [role=application]").press("End")
    told = other.locator("#updates .told").inner_text()
    parameter = next(p for p in past.records[-1].parameters if told.startswith(p.name))
    value = float(re.search(r"weight (\S+)", told)[1])  # type: ignore[index]
    assert parameter.name.startswith(layers[-1])
    assert value == pytest.approx(parameter.update_ratio, rel=6e-3)
