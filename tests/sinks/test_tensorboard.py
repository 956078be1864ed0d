from __future__ import annotations

import builtins
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard import data_compat
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import Columns, Pulse
from gradwatch.core.record import Call, Layer, Parameter, Record
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Stats
from gradwatch.sinks.tensorboard import (
    FINDINGS,
    GRADIENTS,
    MAX_LAYERS,
    OUTPUTS,
    WEIGHTS,
    TensorBoard,
    evenly,
)

COLUMNS = Columns(("a", "b"))
TEXT = f"{FINDINGS}/text_summary"


def stats(octaves: dict[int, int]) -> Stats:
    counts = np.zeros(OCTAVES, np.int64)
    for octave, count in octaves.items():
        counts[octave - OCTAVE_LOW] = count
    squares = float(sum(count * 4.0**octave for octave, count in octaves.items()))
    return Stats(int(counts.sum()), 0, 0, 0, 0.0, squares, counts, 1.0)


def record(step: int, gradient: Stats | None, layers: int = 1) -> Record:
    return Record(
        step,
        tuple(
            Call(Layer(f"layers.{i}", "Linear"), 0, None, -2.0, "", True, gradient, stats({-3: 9}))
            for i in range(layers)
        ),
        (
            Parameter("layers.0.bias", (3,), gradient=gradient),
            *(Parameter(f"layers.{i}.weight", (3, 3), gradient=gradient) for i in range(layers)),
        ),
    )


def pulse(step: int, norms: tuple[float, float], loss: float = math.nan) -> Pulse:
    outputs = np.zeros(0, np.float32)
    return Pulse(step, COLUMNS, np.array(norms, np.float32), outputs, loss, not math.isnan(loss))


def read(log_dir: Path) -> EventAccumulator:
    events = EventAccumulator(str(log_dir), size_guidance={"tensors": 0, "histograms": 0})
    events.Reload()
    return events


def scalars(log_dir: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(log_dir).Scalars(f"gradwatch/{tag}")]


def texts(log_dir: Path) -> list[tuple[int, str]]:
    return [
        (event.step, event.tensor_proto.string_val[0].decode())
        for event in read(log_dir).Tensors(TEXT)
    ]


def write(log_dir: Path, *reports: Report) -> None:
    sink = TensorBoard(log_dir)
    for report in reports:
        sink.write(report)
    sink.close()


def test_a_histogram_has_one_bucket_for_each_power_of_two(tmp_path: Path) -> None:
    """Counts stand at the exponent of the magnitude, in a window that never changes."""
    write(tmp_path, Report("M", 7, record=record(7, stats({-60: 4, -3: 5}))))
    event = read(tmp_path).Histograms(f"{GRADIENTS}/layers.0.weight")[0]
    histogram = event.histogram_value
    assert (event.step, histogram.min, histogram.max, histogram.num) == (7, -80, 10, 9)
    filled = {
        limit: count
        for limit, count in zip(histogram.bucket_limit, histogram.bucket, strict=True)
        if count >= 1
    }
    assert filled == {-59: 4, -2: 5}  # limits are upper ones


def test_the_hill_stays_in_place_in_tensorboard(tmp_path: Path) -> None:
    """TensorBoard cuts empty ends off and stretches the next bucket: it must find none to cut."""
    write(tmp_path, Report("M", 0, record=record(0, stats({-3: 5}))))
    histogram = read(tmp_path).Histograms(f"{OUTPUTS}/layers.0")[0].histogram_value
    fields = {name: getattr(histogram, name) for name in ("min", "max", "num", "bucket_limit")}
    proto = HistogramProto(**fields, bucket=histogram.bucket)
    shown = data_compat.migrate_value(Summary.Value(tag="t", histo=proto))
    buckets = tensor_util.make_ndarray(shown.tensor)
    assert set(buckets[:, 1] - buckets[:, 0]) == {1.0}
    assert buckets[buckets[:, 2] >= 1].tolist() == [[-3.0, -2.0, 5.0]]


def test_what_lies_outside_the_window_is_counted_at_its_edge(tmp_path: Path) -> None:
    """No count is lost."""
    write(tmp_path, Report("M", 0, record=record(0, stats({-80: 2, -30: 3, 15: 4}))))
    buckets = read(tmp_path).Histograms(f"{OUTPUTS}/layers.0")[0].histogram_value.bucket
    assert (len(buckets), buckets[0], buckets[-1]) == (30, 5, 4)


def test_only_matrices_have_histograms_of_parameters(tmp_path: Path) -> None:
    """Biases and scales would double the page and say little."""
    write(tmp_path, Report("M", 0, record=record(0, stats({-3: 5}))))
    assert sorted(read(tmp_path).Tags()["histograms"]) == [
        f"{GRADIENTS}/layers.0.weight",
        f"{OUTPUTS}/layers.0",
    ]


def test_big_models_have_a_bounded_number_of_histograms_and_it_is_said(tmp_path: Path) -> None:
    """Of 100 layers 40 are shown, the same in every step."""
    exams = (record(step, stats({-3: 5}), layers=100) for step in (0, 10))
    write(tmp_path, *(Report("M", exam.step, record=exam) for exam in exams))
    events = read(tmp_path)
    shown = [tag for tag in events.Tags()["histograms"] if tag.startswith(GRADIENTS)]
    assert len(shown) == MAX_LAYERS
    assert f"{GRADIENTS}/layers.99.weight" in shown
    assert all(len(events.Histograms(tag)) == 2 for tag in shown)
    assert f"{GRADIENTS}: 40 of 100 layers, evenly chosen." in texts(tmp_path)[-1][1]


def test_layers_are_chosen_evenly_with_both_ends() -> None:
    """No gap between chosen layers is more than one larger than another."""
    names = [str(i) for i in range(101)]
    chosen = sorted(int(name) for name in evenly(names, 40))
    assert (len(chosen), chosen[0], chosen[-1]) == (40, 0, 100)
    assert set(np.diff(chosen)) == {2, 3}
    assert evenly(names[:3], 40) == {"0", "1", "2"}


def test_every_step_has_its_scalars(tmp_path: Path) -> None:
    """Pulses become points at their own steps; an exam adds bits and the number of findings."""
    pulses = tuple(pulse(step, (3.0, 4.0), 2.5 - step) for step in range(3))
    first = Report("M", 2, record=record(2, stats({-3: 5})), pulses=pulses)
    write(tmp_path, first, replace(first, step=3, pulses=(pulse(3, (-1.0, 100.0)),)))
    assert scalars(tmp_path, "loss") == [(0, 2.5), (1, 1.5), (2, 0.5)]
    norms = scalars(tmp_path, "gradient norm, log10")
    assert [step for step, _ in norms] == [0, 1, 2, 3]
    assert norms[0][1] == pytest.approx(math.log10(5))
    assert norms[3][1] == pytest.approx(2)
    assert scalars(tmp_path, "bits from output to first layer") == [(2, -2.0)]
    assert scalars(tmp_path, "number of findings") == [(2, 0)]


class OtherWriter:
    """Has the methods of a SummaryWriter and nothing else, as writers of other packages do."""

    def __init__(self) -> None:
        self.points: list[tuple[Any, ...]] = []

    def add_scalar(self, *point: Any) -> None:
        self.points.append(point)

    def add_text(self, *text: Any) -> None:
        self.points.append(text[:1])

    def flush(self) -> None:
        self.points.append(("flushed",))


def test_a_writer_of_another_package_will_do() -> None:
    """What looks like a SummaryWriter is used by its public methods."""
    writer = OtherWriter()
    report = Report("M", 1, pulses=(pulse(1, (0.0, 10.0), 2.5),))
    TensorBoard(writer=writer).write(report)  # type: ignore[arg-type]
    norm = ("gradwatch/gradient norm, log10", 1.0, 1)
    assert writer.points == [("gradwatch/loss", 2.5, 1), norm, (FINDINGS,), ("flushed",)]


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    """Zero, NaN and infinite norms, losses and ratios have no point, and nothing fails."""
    norms = ((0.0, 0.0), (math.nan, 1.0), (math.inf, 1.0), (-1.0, -1.0))
    pulses = tuple(pulse(step, pair) for step, pair in enumerate(norms))
    pulses += (replace(pulses[0], step=4, loss=math.inf, loss_known=True),)
    broken = replace(stats({}), count=9, zeros=3, nans=3, infs=3)
    reports = [
        Report("M", -1),
        Report("M", 4, pulses=pulses),
        Report("M", 5, record=record(5, None)),
        Report("M", 6, record=record(6, Stats.empty())),
        Report("M", 7, record=record(7, broken)),
        Report("M", 8, record=record(8, replace(broken, squares=math.inf, total=math.nan))),
        Report("M", 9, record=Record(9)),
    ]
    write(tmp_path, *reports)
    tags = read(tmp_path).Tags()
    assert tags["histograms"] == []
    assert set(tags["scalars"]) <= {
        "gradwatch/bits from output to first layer",
        "gradwatch/number of findings",
    }


def test_calls_of_a_shared_layer_are_one_histogram(tmp_path: Path) -> None:
    """The second call of a layer in a step is added to the first; containers have none."""
    once = Call(Layer("cell", "RNNCell"), 0, 0, output=stats({-3: 5}))
    calls = (Call(Layer("", "Net"), output=stats({-3: 1})), once, replace(once, index=1))
    write(tmp_path, Report("M", 0, record=Record(0, calls)))
    events = read(tmp_path)
    assert events.Tags()["histograms"] == [f"{OUTPUTS}/cell"]
    assert events.Histograms(f"{OUTPUTS}/cell")[0].histogram_value.num == 10


EVIL = "a|b`c` <img src=x onerror=alert(1)> **bold** \n\n# head \x1b \u202e"
FINDING = Finding(
    "vanishing-gradient",
    Severity.CRITICAL,
    "57 bits are lost",
    since=3,
    causes=(Cause("activation", f"Sigmoids: {EVIL}"),),
)
SWAP = Prescription("swap", f"Use {EVIL}", f"f('{EVIL}')\n    g()")


def shown_html(text: str) -> str:
    """Return what TensorBoard's Text page makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own copy of html5lib is deprecated
        from tensorboard.plugin_util import markdown_to_safe_html
    return str(markdown_to_safe_html(text))


def test_findings_are_one_table_that_shows_names_as_they_are(tmp_path: Path) -> None:
    """Four columns, every cell in its place; what a model is called is text, never markup."""
    write(tmp_path, Report("M", 5, (FINDING,), (SWAP,)))
    ((step, text),) = texts(tmp_path)
    html = shown_html(text)
    assert step == 5
    assert html.count("<th>") == 4
    assert [html.count(f"<{tag}") for tag in ("td", "img", "em", "h1")] == [4, 0, 0, 0]
    assert "<td>critical</td>\n<td>vanishing-gradient</td>\n<td>3</td>\n<td>57 bits" in html
    assert "a|b`c` &lt;img" in html
    assert "\n    g()" in html
    assert not set(text) & set("\x1b\u202e")


def test_the_table_is_written_anew_only_when_it_changes(tmp_path: Path) -> None:
    """A healthy run of a thousand exams has one text."""
    healthy = [Report("M", step, record=Record(step)) for step in range(3)]
    sick = [Report("M", step, (replace(FINDING, until=step),)) for step in (3, 4)]
    write(tmp_path, *healthy, *sick, Report("M", 5))
    assert [step for step, _ in texts(tmp_path)] == [0, 3, 5]
    assert "Nothing was found so far" in texts(tmp_path)[0][1]


def test_a_given_writer_is_used_and_never_closed(tmp_path: Path) -> None:
    """The training's writer still works after our close, and there is no second event file."""
    writer = SummaryWriter(str(tmp_path))
    sink = TensorBoard(writer=writer)
    sink.write(Report("M", 0, record=record(0, stats({-3: 5}))))
    assert f"{GRADIENTS}/layers.0.weight" in read(tmp_path).Tags()["histograms"]  # flushed
    sink.close()
    sink.close()
    writer.add_scalar("mine", 1.0, 0)
    writer.close()
    assert "mine" in read(tmp_path).Tags()["scalars"]
    assert len(os.listdir(tmp_path)) == 1


def test_an_own_file_appears_with_the_first_report_and_can_be_told(tmp_path: Path) -> None:
    """Nothing is created before there is something to write, and a run can be resumed."""
    sink = TensorBoard(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    sink.close()
    write(tmp_path / "run", Report("M", 0))
    write(tmp_path / "run", Report("M", 1))
    assert all(name.endswith(".gradwatch") for name in os.listdir(tmp_path / "run"))


@pytest.mark.parametrize("writes_before", [0, 1])
def test_no_second_writer_beside_a_foreign_one(tmp_path: Path, writes_before: int) -> None:
    """TensorBoard would stop following the training's own file, whichever of the two was first."""
    threads = threading.active_count()
    sink = TensorBoard(tmp_path)
    for step in range(writes_before):
        sink.write(Report("M", step))
    SummaryWriter(str(tmp_path)).close()
    before = sorted(os.listdir(tmp_path))
    for step in (1, 2):
        with pytest.raises(RuntimeError, match="pass writer="):
            sink.write(Report("M", step))
    assert threading.active_count() == threads  # our own writer has gone
    sink.close()
    assert sorted(os.listdir(tmp_path)) == before


def test_exactly_one_place_must_be_given(tmp_path: Path) -> None:
    """Neither and both are refused with what was given."""
    with pytest.raises(ValueError, match="log_dir=None and writer=None"):
        TensorBoard()
    with SummaryWriter(str(tmp_path)) as writer, pytest.raises(ValueError, match="exactly one"):
        TensorBoard(tmp_path, writer=writer)


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    original: Callable[..., Any] = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch.utils.tensorboard":
            raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    yield


@pytest.mark.usefixtures("no_tensorboard")
def test_without_the_package_the_error_says_what_to_install(tmp_path: Path) -> None:
    """The sentence names who needs what, and the command."""
    with pytest.raises(ImportError, match="needs the package tensorboard: pip install tensorboard"):
        TensorBoard(tmp_path).write(Report("M", 0))


def test_weights_have_their_own_group(tmp_path: Path) -> None:
    """Gradients, layer outputs and weights fold and unfold apart, in this order."""
    parameter = Parameter("w", (2, 2), gradient=stats({-3: 4}), weight=stats({-1: 4}))
    write(tmp_path, Report("M", 0, record=Record(0, (), (parameter,))))
    assert sorted(read(tmp_path).Tags()["histograms"]) == [f"{GRADIENTS}/w", f"{WEIGHTS}/w"]
    assert sorted([WEIGHTS, OUTPUTS, GRADIENTS]) == [GRADIENTS, OUTPUTS, WEIGHTS]
