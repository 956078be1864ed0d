"""What is written to a run folder is what is read from it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import Columns, History, Pulse
from gradwatch.core.progress import Progress
from gradwatch.core.record import REASONS, Call, Group, Layer, Parameter, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.core.report import Report
from gradwatch.core.runfolder import Run, RunWriter, read
from gradwatch.core.stats import OCTAVES, Active, Stats
from gradwatch.sinks.runfolder import RunFolder


def plain(value: object) -> object:
    """The value as something that compares by its bits: NaN equals NaN."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, float):
        return value.hex()
    if is_dataclass(value):
        return type(value).__name__, [plain(getattr(value, f.name)) for f in fields(value)]
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
counts = st.integers(0, 2**50)
octaves = st.dictionaries(st.integers(0, OCTAVES - 1), st.integers(0, 2**34), max_size=4)


def to_octaves(found: dict[int, int]) -> object:
    values = np.zeros(OCTAVES, np.int64)
    for position, count in found.items():
        values[position] = count
    return values


# -0.0 + 0.0 is 0.0: an octave of over 2^32 elements, in two rows, may lose that sign.
floats = st.floats().map(lambda value: value + 0.0)
stats = st.none() | st.builds(
    Stats, counts, counts, counts, counts, floats, floats, octaves.map(to_octaves), st.floats(0)
)
actives = st.none() | st.builds(
    Active,
    counts,
    st.lists(st.integers(0, 2**33), max_size=3).map(lambda units: np.asarray(units, np.int64)),
)
layers = st.builds(Layer, texts, texts, st.booleans(), st.booleans(), shapes, st.booleans())
numbers = st.none() | st.floats()
groups = st.builds(Group, texts, numbers, numbers, numbers, numbers, numbers, st.booleans())
parameters = st.builds(
    Parameter,
    *(texts, shapes, st.booleans(), st.booleans(), stats, stats, stats, stats),
    held=st.none() | st.booleans(),
    group=st.none() | st.integers(0, 3),
    dtype=texts,
    common=numbers,
    descent=numbers,
    carried=numbers,
)


@st.composite
def records(draw: st.DrawFn, step: int = 0) -> Record:
    calls: list[Call] = []
    for position in range(draw(st.integers(0, 3))):
        calls.append(
            Call(
                draw(layers),
                draw(st.integers(0, 5)),
                draw(st.sampled_from([None, *range(position)])),
                draw(st.none() | st.floats()),
                draw(st.sampled_from(REASONS)),
                draw(st.booleans()),
                draw(stats),
                draw(stats),
                draw(actives),
                draw(numbers),
                draw(texts),
                draw(st.booleans()),
                tuple(draw(st.lists(st.floats(), max_size=3))),
            )
        )
    return Record(
        step,
        tuple(calls),
        tuple(draw(st.lists(parameters, max_size=2))),
        draw(st.none() | st.floats(allow_nan=False) | st.just(math.nan)),
        draw(st.none() | st.floats(allow_nan=False) | st.just(math.nan)),
        draw(texts),
        tuple(draw(st.lists(texts, max_size=2))),
        tuple(draw(st.lists(groups, max_size=2))),
        tuple(draw(st.lists(st.floats(), max_size=3))),
    )


COLUMNS = Columns(("a.weight", "a.bias"), ("a",))


def pulse(step: int, columns: Columns = COLUMNS, loss: float = math.nan) -> Pulse:
    norms = np.full(len(columns.parameters), step, np.float32)
    outputs = np.full(len(columns.taps), -step, np.float32)
    return Pulse(step, columns, norms, outputs, loss, loss_known=not math.isnan(loss))


def written(tmp_path: Path, *, records: Iterable[Record] = (), pulses: Iterable[Pulse] = ()) -> Run:
    writer = RunWriter(tmp_path)
    for record in records:
        writer.add_record(record)
    writer.add_pulses(pulses)
    writer.close()
    return read(tmp_path)


@given(records(0), records(1))
@settings(max_examples=60, deadline=None)
def test_exams_come_back_to_the_last_bit(first: Record, second: Record) -> None:
    """Every statistic, gain, reason, None, NaN and active count, whatever the model."""
    with tempfile.TemporaryDirectory() as folder:
        run = written(Path(folder), records=[first, second])
        assert run.problems == ()
        assert plain(run.history.records) == plain((first, second))


@given(
    st.integers(0, 3),
    st.integers(0, 2),
    st.lists(
        st.tuples(st.floats(), st.booleans(), st.floats(), st.floats(width=32)),
        min_size=1,
        max_size=5,
    ),
)
@settings(max_examples=40, deadline=None)
def test_pulses_come_back_to_the_last_bit(
    parameters: int, taps: int, steps: list[tuple[float, bool, float, float]]
) -> None:
    """With NaN and infinity in every place, and with no parameter or no tap at all."""
    columns = Columns(
        tuple(f"p{n}" for n in range(parameters)), tuple(f"t{n}" for n in range(taps))
    )
    pulses = tuple(
        Pulse(
            step,
            columns,
            np.full(parameters, value, np.float32),
            np.full(taps, value, np.float32),
            loss,
            known,
            ratio,
        )
        for step, (loss, known, ratio, value) in enumerate(steps)
    )
    with tempfile.TemporaryDirectory() as folder:
        run = written(Path(folder), pulses=pulses)
        assert run.problems == ()
        assert plain(run.history.pulses) == plain(pulses)


def test_a_long_run_is_read_as_its_history_keeps_it(tmp_path: Path) -> None:
    """The reader keeps what a live history would have kept, also over several segments."""
    exams = [Record(step) for step in range(0, 5000, 50)]
    narrow = [pulse(step) for step in range(3000)]
    wide = [pulse(step, Columns(("b",), ())) for step in range(3000, 5000)]
    run = written(tmp_path, records=exams, pulses=[*narrow, *wide])
    live = History.of(exams, [*narrow, *wide])
    assert plain(run.history.records) == plain(live.records)
    assert [p.step for p in run.history.pulses] == [p.step for p in live.pulses]
    assert plain(run.history.pulses[-1]) == plain(wide[-1])


def test_a_model_that_changes_is_recorded_as_it_is(tmp_path: Path) -> None:
    """Other calls or parameters in a later step are no problem."""
    exams = [
        Record(0, (Call(Layer("a", "Linear")),)),
        Record(1, (Call(Layer("a", "Linear")), Call(Layer("a", "Linear"), index=1))),
        Record(2, (), (Parameter("w", (2,)),)),
    ]
    assert written(tmp_path, records=exams).history.records == tuple(exams)


def test_a_loss_that_becomes_known_later_is_added_to_its_exam(tmp_path: Path) -> None:
    """Its statistics are not written again."""
    writer = RunWriter(tmp_path)
    exam = Record(0, (Call(Layer("a", "Linear"), output=Stats.empty()),))
    writer.add_record(exam)
    size = (tmp_path / "gradwatch" / "seg-000.stats.bin").stat().st_size
    writer.add_record(replace(exam, loss=0.5))
    assert [record.loss for record in read(tmp_path).history] == [0.5]
    assert (tmp_path / "gradwatch" / "seg-000.stats.bin").stat().st_size == size


def test_what_is_measured_later_is_added_to_its_exam(tmp_path: Path) -> None:
    """The movement of the weights is known after the optimizer's step only."""
    exam = Record(3, (), (Parameter("w", (2,)),))
    done = replace(exam, parameters=(Parameter("w", (2,), update=Stats.empty()),))
    assert plain(written(tmp_path, records=[exam, done]).history.records) == plain((done,))


@pytest.mark.parametrize("start", [0, 3, 7, 20])
def test_a_resumed_run_overrides_later_steps(tmp_path: Path, start: int) -> None:
    """What a run that crashed wrote after its checkpoint is not mixed with what really happened."""
    for first, last, loss in ((0, 10, 1.0), (start, start + 4, 2.0)):
        with_loss = [Record(step, loss=loss) for step in range(first, last)]
        written(
            tmp_path, records=with_loss, pulses=[pulse(n, loss=loss) for n in range(first, last)]
        )
    run = read(tmp_path)
    expected = {step: 1.0 for step in range(min(start, 10))}
    expected |= {step: 2.0 for step in range(start, start + 4)}
    assert {record.step: record.loss for record in run.history} == expected
    assert {p.step: p.loss for p in run.history.pulses} == expected
    assert run.problems == ()


def test_a_resumed_run_overrides_later_findings(tmp_path: Path) -> None:
    """A finding from steps that were done again is gone."""
    for first, name in ((0, "old"), (1, "new")):
        sink = RunFolder(tmp_path)
        for step in range(first, 3):
            finding = Finding(name, Severity.NOTE, f"at {step}")
            sink.write(Report("Net", step, (finding,), record=Record(step)))
    found = read(tmp_path).findings_by_step
    assert {step: [f.name for f in at] for step, at in found.items()} == {
        0: ["old"],
        1: ["new"],
        2: ["new"],
    }


def test_a_training_that_goes_back_in_one_process_overrides_too(tmp_path: Path) -> None:
    """Loading a checkpoint within a script is a resume like any other."""
    exams = [Record(0, loss=1.0), Record(5, loss=1.0), Record(2, loss=2.0)]
    assert [(r.step, r.loss) for r in written(tmp_path, records=exams).history] == [
        (0, 1.0),
        (2, 2.0),
    ]


def test_two_writers_never_share_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with one folder by mistake do not tear each other's rows."""
    first, second = RunWriter(tmp_path), RunWriter(tmp_path)
    for step in range(3):
        first.add_record(Record(step))
        with monkeypatch.context() as patch:  # the second one looked before the first one wrote
            patch.setattr("gradwatch.core.runfolder_writer.segments", lambda path: {})
            second.add_record(Record(step))
    assert read(tmp_path).problems == ()
    assert sorted(p.name for p in (tmp_path / "gradwatch").glob("*.records.jsonl")) == [
        "seg-000.records.jsonl",
        "seg-001.records.jsonl",
    ]


CAUSES = (Cause("init", "t", ("a",), -math.inf, math.nan), Cause("depth", "u", (), None, 0.5))
FINDING = Finding(
    *("vanishing-gradient", Severity.CRITICAL, "s", ("a",), 1, 2, CAUSES, "sure"),
    {"drop": math.inf, "layers": 3.0, "nan": math.nan},
)
REPORT = Report(
    *("Net", 2, (FINDING,), ()),
    *(Record(2, notes=("not seen",)), (pulse(1), pulse(2))),
    *(Progress(None, "nan", math.nan), ("a note",)),
)


class Remedy:
    """Answers one pair, and abstains from nothing but `weary`."""

    name = "he-init"
    title = "Use He initialisation"
    treats = frozenset({("vanishing-gradient", "init")})

    def __init__(self, weary: bool = False) -> None:
        self.weary = weary

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        if self.weary:
            raise CannotPrescribe("there is nothing to initialise")
        return Prescription(self.name, self.title, f"# {finding.name} at {record.step}")


def test_a_report_is_rebuilt_from_the_folder(tmp_path: Path) -> None:
    """Findings, progress and notes as they were judged then, and the remedies of today."""
    sink = RunFolder(tmp_path)
    sink.write(REPORT)
    sink.close()
    report = read(tmp_path).report([Remedy()])
    assert (report.model, report.step, report.verdict) == ("Net", 2, "Critical: s")
    assert plain(report.findings[0].causes) == plain(CAUSES)
    assert plain(sorted(report.findings[0].numbers.items())) == plain(
        sorted(FINDING.numbers.items())
    )
    assert plain(report.progress) == plain(REPORT.progress)
    assert report.notes == ("a note", "not seen")
    assert [p.code for p in report.prescriptions] == ["# vanishing-gradient at 2"]
    assert report.run_folder == str(tmp_path / "gradwatch")
    assert plain(report.record) == plain(REPORT.record)


def test_a_remedy_that_abstains_says_why(tmp_path: Path) -> None:
    """No prescription, and the reason among the notes."""
    RunFolder(tmp_path).write(REPORT)
    report = read(tmp_path).report([Remedy(weary=True)])
    assert report.prescriptions == ()
    assert report.notes[-1] == (
        "Not prescribed: Use He initialisation, because there is nothing to initialise."
    )


def test_a_run_that_was_never_judged_says_so(tmp_path: Path) -> None:
    """A run that ended before its first report is not called healthy in silence."""
    report = written(tmp_path, records=[Record(0)]).report()
    assert report.notes == ("This run was never judged: it ended before its first report.",)


def test_the_sink_writes_nothing_twice(tmp_path: Path) -> None:
    """Asking for a report twice leaves the files as they are; closing twice is allowed."""
    sink = RunFolder(tmp_path)
    sink.write(REPORT)
    before = {file: file.read_bytes() for file in sink.path.iterdir()}
    sink.write(REPORT)
    sink.close()
    sink.close()
    assert {file: file.read_bytes() for file in sink.path.iterdir()} == before


def test_the_sink_takes_an_empty_report(tmp_path: Path) -> None:
    """A run that ended before its first step is a run, too."""
    RunFolder(tmp_path).write(Report("Net", -1))
    assert read(tmp_path).report().verdict.startswith("Nothing was seen yet")


def test_the_run_and_its_folder_are_both_understood(tmp_path: Path) -> None:
    """`gradwatch report runs/a` and `gradwatch report runs/a/gradwatch` are the same."""
    written(tmp_path, records=[Record(4)])
    assert read(tmp_path).history.last_step == read(tmp_path / "gradwatch").history.last_step == 4
