from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gradwatch.core.comparison import Comparison, NotJudged, Pair, compare
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.record import Call, Layer, Parameter, Record
from gradwatch.core.report import Report
from gradwatch.core.runfolder import RunWriter, read
from gradwatch.core.stats import OCTAVES, Stats


def stats(rms: float, nans: int = 0) -> Stats:
    return Stats(4 + nans, 0, nans, 0, 0.0, 4 * rms * rms, np.zeros(OCTAVES, np.int64), rms)


def finding(name: str, severity: Severity = Severity.CRITICAL) -> Finding:
    return Finding(name, severity, f"{name} is there")


def record(step: int, gradients: dict[str, Stats | None], update: float = 1e-3) -> Record:
    """An exam of layers that are called in the reverse order of their parameters."""
    parameters = tuple(
        Parameter(f"{layer}.weight", (2, 2), gradient=one, update=stats(update), sample=stats(1.0))
        for layer, one in gradients.items()
    )
    calls = tuple(Call(Layer(layer, "Linear")) for layer in reversed(gradients))
    return Record(step, calls, parameters)


def recorded(path: Path, *findings: Finding, records: tuple[Record, ...] = ()) -> Path:
    writer = RunWriter(path, model="Net")
    for one in records:
        writer.add_record(one)
    last = records[-1].step if records else 7
    writer.add_report(Report("Net", last, findings, record=records[-1] if records else None))
    return path


def compared(a: Path, b: Path) -> Comparison:
    return compare(read(a), read(b))


WARNING = Severity.WARNING


@pytest.mark.parametrize(
    ("before", "after", "kinds", "worse"),
    [
        ((), (), [], False),
        ((finding("x"),), (finding("x"),), ["same"], False),
        ((), (finding("x"),), ["new"], True),
        ((finding("x"),), (), ["gone"], False),
        ((finding("x", WARNING),), (finding("x"),), ["worse"], True),
        ((finding("x"),), (finding("x", WARNING),), ["better"], False),
        ((), (finding("x", WARNING),), ["new"], False),
        ((), (finding("x"), finding("x", WARNING)), ["new"], True),
        ((finding("x", WARNING), finding("x")), (finding("x"),), ["same"], False),
        ((finding("x"), finding("z")), (finding("y"), finding("z")), ["new", "same", "gone"], True),
    ],
)
def test_a_run_is_worse_if_something_is_critical_that_was_not(
    tmp_path: Path,
    before: tuple[Finding, ...],
    after: tuple[Finding, ...],
    kinds: list[str],
    worse: bool,
) -> None:
    """Also where something else has gone; a new warning alone is not enough."""
    found = compared(recorded(tmp_path / "a", *before), recorded(tmp_path / "b", *after))
    assert [change.kind for change in found.changes] == kinds
    assert found.worse == worse


def test_layers_differ_in_bits(tmp_path: Path) -> None:
    """log2 of how many times larger it is in the second run, in execution order."""
    a = recorded(tmp_path / "a", records=(record(0, {"x": stats(1.0), "y": stats(8.0)}),))
    b = recorded(tmp_path / "b", records=(record(0, {"x": stats(4.0), "y": stats(1.0)}, 2e-3),))
    layers = compared(a, b).layers
    assert [layer.layer for layer in layers] == ["y", "x"]
    assert [layer.gradient.bits for layer in layers] == [-3, 2]
    assert [layer.update_ratio.bits for layer in layers] == pytest.approx([1, 1])
    assert [layer.size for layer in layers] == [3, 2]


def test_runs_of_different_lengths_are_compared_at_the_same_step(tmp_path: Path) -> None:
    """A run that has just begun beside one that is done: both as of the steps that both have."""
    long = tuple(record(step, {"x": stats(1.0 + step)}) for step in range(0, 1000, 10))
    short = tuple(record(step, {"x": stats(2 * (1.0 + step))}) for step in range(0, 50, 10))
    a, b = recorded(tmp_path / "a", records=long), recorded(tmp_path / "b", records=short)
    found = compared(a, b)
    assert found.step == 40
    assert found.layers[0].gradient == Pair(21.0, 42.0)
    assert compared(b, a).step == 40


def test_one_batch_does_not_decide(tmp_path: Path) -> None:
    """The median of the latest exams: an outlier among them changes nothing."""
    ordinary = [record(step, {"x": stats(1.0)}) for step in range(4)]
    a = recorded(tmp_path / "a", records=(*ordinary, record(4, {"x": stats(1.0)})))
    b = recorded(tmp_path / "b", records=(*ordinary, record(4, {"x": stats(1e6)})))
    assert compared(a, b).layers[0].size == 0


def test_what_has_no_bits_is_not_hidden(tmp_path: Path) -> None:
    """Zero, missing or not finite in one run only: that differs without end."""
    values = {"zero": stats(0.0), "nan": stats(1.0, 2), "none": None, "fine": stats(1.0)}
    fine = dict.fromkeys(values, stats(1.0))
    a = recorded(tmp_path / "a", records=(record(0, fine),))
    b = recorded(tmp_path / "b", records=(record(0, values),))
    layers = {layer.layer: layer for layer in compared(a, b).layers}
    sizes = {name: layer.size for name, layer in layers.items()}
    assert sizes == {"zero": math.inf, "nan": math.inf, "none": math.inf, "fine": 0}
    assert [layers[name].gradient.bits for name in ("zero", "nan", "none")] == [None] * 3
    assert all(layer.size == 0 for layer in compared(b, b).layers)


def test_layers_of_one_run_only_are_named(tmp_path: Path) -> None:
    a = recorded(tmp_path / "a", records=(record(0, {"x": stats(1.0), "old": stats(1.0)}),))
    b = recorded(tmp_path / "b", records=(record(0, {"x": stats(1.0), "new": stats(1.0)}),))
    found = compared(a, b)
    assert (found.only_before, found.only_after) == (("old",), ("new",))


def test_a_run_without_a_verdict_cannot_be_compared(tmp_path: Path) -> None:
    """No finding because nobody looked is not no finding."""
    RunWriter(tmp_path / "a").add_record(Record(0))
    with pytest.raises(NotJudged, match="ended before its first report"):
        compared(recorded(tmp_path / "b"), tmp_path / "a")
