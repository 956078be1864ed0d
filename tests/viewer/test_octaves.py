"""What the page says of a layer's numbers: shares by powers of two, and how far a step moves."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradwatch.core import specimens
from gradwatch.core.history import History
from gradwatch.core.record import Call, Layer, Parameter, Record
from gradwatch.core.runfolder import RunWriter, read
from gradwatch.core.runfolder_stream import Stream
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Stats
from gradwatch.viewer import octaves, updates
from gradwatch.viewer.exams import MOST, evenly, some_exams
from gradwatch.viewer.octaves import QUANTITIES, octave_data
from gradwatch.viewer.updates import ratio, update_data


def stats(values: Sequence[float]) -> Stats:
    """The statistics of these values, computed as their definition says."""
    array = np.asarray(values, np.float64)
    finite = array[np.isfinite(array)]
    nonzero = np.abs(finite[finite != 0])
    places = np.clip(np.floor(np.log2(nonzero)).astype(int) - OCTAVE_LOW, 0, OCTAVES - 1)
    return Stats(
        *(array.size, int((array == 0).sum())),
        *(int(np.isnan(array).sum()), int(np.isinf(array).sum())),
        *(float(finite.sum()), float((finite**2).sum())),
        np.bincount(places, minlength=OCTAVES),
        float(np.abs(finite).max(initial=0)),
    )


def shares(data: dict[str, Any]) -> dict[tuple[str, str], tuple[int, NDArray[np.float32]]]:
    """The first octave and the block of shares (column by exam), by layer and quantity."""
    planes = np.frombuffer(gzip.decompress(base64.b64decode(data["shares"])), np.uint8)
    flat = np.ascontiguousarray(planes.reshape(4, -1).T).view("<f4").ravel()
    found, at, exams = {}, 0, len(data["steps"])
    for layer, quantity, low, width, _ in data["rows"]:
        size = (3 + width) * exams
        block = flat[at : at + size].reshape(-1, exams)
        found[data["layers"][layer], QUANTITIES[quantity]] = low, block
        at += size
    assert at == flat.size
    return found


def deep(steps: int, layers: int, size: int = 4096) -> list[Record]:
    """Exams of a chain of linear layers whose gradients shrink while it is trained."""
    random = np.random.default_rng(0)

    def normal(scale: float) -> Stats:
        return stats(random.normal(0, scale, size))

    records = []
    for step in range(steps):
        calls = [
            Call(Layer(f"body.{i}", "Linear"), output=normal(1 + i / layers)) for i in range(layers)
        ]
        parameters = [
            Parameter(
                *(f"body.{i}.weight", (size,)),
                gradient=normal(2.0 ** -(i + step) / 8),
                weight=normal(0.02),
                update=normal(1e-4),
                sample=normal(0.1),
            )
            for i in range(layers)
        ]
        records.append(Record(step * 10, tuple(calls), tuple(parameters)))
    return records


def test_shares_are_those_of_the_numbers() -> None:
    """One number in each octave of three, a zero, a NaN and two infinities: an eighth each."""
    values = [0.5, -1.5, 0.75, 4.0, 0.0, math.nan, math.inf, -math.inf]
    record = Record(7, (), (Parameter("a.weight", (8,), gradient=stats(values)),))
    data = octave_data([record])
    assert (data["steps"], data["made"], data["layers"]) == ([7], 1, ["a"])
    low, block = shares(data)["a", "gradient"]
    assert low == -1  # [1/2, 1)
    assert block[:, 0].tolist() == [1 / 8, 1 / 8, 2 / 8, 2 / 8, 1 / 8, 0.0, 1 / 8]
    assert data["rows"][0][4] == 8


def test_a_layer_is_all_its_parameters_and_all_its_calls() -> None:
    """Weight and bias together, two calls of a shared module together; a container's own output,
    which is its last part's, is left out unless it holds parameters."""
    one, two = stats([1.0] * 3), stats([8.0])
    calls = (
        Call(Layer("", "Net"), output=one),
        Call(Layer("body", "Sequential"), parent=0, output=one),
        Call(Layer("body.0", "Linear"), parent=1, output=one),
        Call(Layer("body.0", "Linear"), 1, parent=1, output=two),
        Call(Layer("body:relu#1", "relu", functional=True), parent=1, output=one),
    )
    parameters = (
        Parameter("body.0.weight", (3,), weight=one),
        Parameter("body.0.bias", (1,), weight=two),
        Parameter("head", (1,), weight=two),
    )
    data = octave_data([Record(0, calls, parameters)])
    assert data["layers"] == ["(model)", "body.0", "body:relu#1"]
    found = shares(data)
    assert set(found) == {
        *(("(model)", "weight"), ("(model)", "output"), ("body.0", "weight")),
        *(("body.0", "output"), ("body:relu#1", "output")),
    }
    for quantity in ("weight", "output"):
        low, block = found["body.0", quantity]
        assert low == 0 and block[3:, 0].tolist() == [0.75, 0, 0, 0.25]


def test_shares_add_up_to_one_and_are_the_records() -> None:
    """In every exam of a real run, to 3 digits; what an exam did not measure is not made up."""
    past = specimens.load("nan-forward")
    data = octave_data(past.records)
    assert data["steps"] == [record.step for record in past.records]
    found = shares(data)
    for low, block in found.values():
        measured = ~np.isnan(block[0])
        assert (measured == ~np.isnan(block).any(0)).all()
        np.testing.assert_allclose(block[:, measured].sum(0), 1, rtol=4e-3)
        assert low >= OCTAVE_LOW
    record = past.records[-1]
    parameter = record.parameters[0]
    assert parameter.weight is not None
    layer = parameter.name.rpartition(".")[0]
    parts = [p.weight for p in record.parameters if p.name.rpartition(".")[0] == layer]
    whole = sum((part for part in parts if part is not None), Stats.empty())
    low, block = found[layer, "weight"]
    exact = whole.octaves[low - OCTAVE_LOW :][: len(block) - 3] / whole.count
    np.testing.assert_allclose(block[3:, -1], exact, rtol=4e-3)


def test_nothing_but_zeros_has_an_octave_to_draw() -> None:
    """A layer that is all zero, and one without a single number."""
    zero = Parameter("a.weight", (2,), gradient=stats([0.0, 0.0]))
    empty = Parameter("b.weight", (0,), gradient=stats([]))
    data = octave_data([Record(0, (), (zero, empty))])
    ((_, block),) = shares(data).values()
    assert block[:, 0].tolist() == [1, 0, 0, 0] and data["layers"] == ["a", "b"]
    assert octave_data([])["steps"] == []


def test_exams_are_spread_over_the_whole_run(tmp_path: Path) -> None:
    """Also over the middle that a history forgets, and the first and the last are among them."""
    steps = range(0, 3000, 10)
    writer = RunWriter(tmp_path / "a", model="Net")
    for step in steps:
        writer.add_record(Record(step, (), (Parameter("a.weight", (1,), weight=stats([1.0])),)))
    history, stream = read(tmp_path / "a").history, Stream(tmp_path / "a")
    exams, made = some_exams(history, stream)
    shown = [exam.step for exam in exams]
    assert (made, len(shown), shown[0], shown[-1]) == (300, MOST, 0, 2990)
    assert max(np.diff(shown)) <= 100 and min(np.diff(shown)) >= 90
    assert octave_data(exams, made)["steps"] == shown
    kept, made = some_exams(history)
    assert made == len(history) and kept[-1].step == 2990


@pytest.mark.parametrize("count", [0, 1, 2, 5, 31, 32, 33, 63, 64, 1000])
def test_a_choice_is_even_and_has_both_ends(count: int) -> None:
    chosen = evenly(range(count), 32)
    assert len(set(chosen)) == len(chosen) == min(count, 32)
    assert chosen[:1] == list(range(count))[:1] and chosen[-1:] == list(range(count))[-1:]


def test_data_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 layers and as many exams as are ever given take 300 kB; of more, exams are left out
    first, then layers, and it is said how many."""
    once = deep(9, 400, 1024)
    exams = [once[i % 9] for i in range(MOST)]
    data = octave_data(exams)
    assert len(json.dumps(data, separators=(",", ":"))) < 300_000
    assert octaves.FEWEST <= len(data["steps"]) < MOST and data["left_out"] == 0
    monkeypatch.setattr(octaves, "MAX_NUMBERS", 15_000)
    data = octave_data(exams)
    assert len(data["steps"]) == octaves.FEWEST
    assert len(data["layers"]) == 400 - data["left_out"] < 100
    assert data["layers"][0] == "body.0" and data["layers"][-1] == "body.399"


def test_the_ratio_is_the_norm_of_the_step_over_that_of_the_weights() -> None:
    """3-4-5 over 1-0-0 is 5; what has none says which kind of none."""
    three, one, zero = stats([3, 4]), stats([1, 0]), stats([0, 0])
    cases = [
        (three, one, 5.0),
        (zero, one, 0.0),
        (zero, zero, 0.0),
        (one, zero, math.inf),
        (stats([math.nan, 1]), one, math.nan),
        (None, one, -2.0),
        (stats([1e-30, 0]), stats([1e30, 0]), float(np.finfo(np.float32).tiny)),
    ]
    for update, sample, expected in cases:
        found = ratio(Parameter("a", (2,), update=update, sample=sample))
        assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_ratios_are_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each parameter and exam, to 3 digits; of too many parameters some, from first to last."""
    past = specimens.load("digits-mlp")
    data = update_data(past.records)
    planes = np.frombuffer(gzip.decompress(base64.b64decode(data["ratios"])), np.uint8)
    found = np.ascontiguousarray(planes.reshape(4, -1).T).view("<f4").reshape(-1, len(past.records))
    for record, column in zip(past.records, found.T, strict=True):
        exact = {p.name: p.update_ratio for p in record.parameters}
        for name, value in zip(data["parameters"], column, strict=True):
            assert value == pytest.approx(exact[name], rel=1e-3)
    assert data["layers"] == [name.rpartition(".")[0] for name in data["parameters"]]
    monkeypatch.setattr(updates, "MAX_NUMBERS", 3 * len(past.records))
    few = update_data(past.records)
    assert len(few["parameters"]) == 3 and few["left_out"] == len(data["parameters"]) - 3
    assert update_data(())["parameters"] == []


def test_a_page_of_no_exam_has_no_layers() -> None:
    """And asks nothing of what is not there."""
    assert some_exams(History()) == ([], 0)
