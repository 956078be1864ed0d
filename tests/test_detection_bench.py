"""The detection benchmark counts right: intervals, labels, delays, and the rules of other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from gradwatch.core import catalog
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.record import Parameter, Record
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Stats
from tests.benchmarks import detection_readme
from tests.benchmarks.__main__ import README
from tests.benchmarks.detection import Run, ask_peers, held, load, predict, watch
from tests.benchmarks.detection_measures import FALSE, SICK, rate, wilson
from tests.benchmarks.detection_tables import render
from tests.benchmarks.peers import PEERS
from tests.benchmarks.readings import mean_magnitude, share_above
from tests.zoo.case import Case
from tests.zoo.corpus import collect

CORPUS = collect()
SIGMOIDS = CORPUS["activation-deep-sigmoid"]


def stats(values: list[float]) -> Stats:
    """Return the statistics of a few numbers."""
    x = np.asarray(values, np.float64)
    octaves = np.zeros(OCTAVES, np.int64)
    for value in np.abs(x[x != 0]):
        octaves[int(np.floor(np.log2(value))) - OCTAVE_LOW] += 1
    peak, zeros = float(np.abs(x).max()), int((x == 0).sum())
    return Stats(x.size, zeros, 0, 0, float(x.sum()), float((x * x).sum()), octaves, peak)


def sick_case() -> Case:
    """Return a label to compare findings with; it is never trained."""
    return replace(SIGMOIDS, finding="vanishing-gradient", cause="init", layers=("net",), onset=20)


def finding(severity: Severity, *layers: str, because_of: str = "") -> Finding:
    """Return a finding of the labelled name, with the labelled cause."""
    causes = (Cause("init", "", layers),)
    return Finding(
        "vanishing-gradient", severity, "", ("far",), 0, 0, causes, because_of=because_of
    )


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(0, 10, 0, 0.2775), (5, 10, 0.2366, 0.7634), (0, 0, 0, 1)]
)
def test_intervals_are_those_of_wilson(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_a_rate_shows_its_counts_and_interval() -> None:
    assert rate([True, False] * 5) == "5/10 50% [24%-76%]"
    assert rate([]) == "-"
    with pytest.raises(ValueError, match="hits must be from 0 to count = 1"):
        wilson(2, 1)


def test_only_a_warning_of_a_right_name_counts_as_found() -> None:
    note, warning = finding(Severity.NOTE, "net.0"), finding(Severity.WARNING, "net.0")
    other = replace(warning, name="other")
    assert Run(sick_case(), ((30, (note,)),)).found is None
    assert Run(sick_case(), ((30, (other,)),)).found is None
    also = replace(sick_case(), also=frozenset({"other"}))
    assert Run(also, ((30, (other,)),)).found == other
    run = Run(sick_case(), ((30, (warning,)),))
    assert run.found == warning and run.right_cause and run.right_layer


def test_the_cause_is_that_of_what_is_read_first() -> None:
    """A root, and of a report that says anything; another cause counts where the label has it."""
    warning = finding(Severity.WARNING)
    other = replace(warning, name="other", causes=(Cause("depth", ""),))
    assert not Run(sick_case(), ((30, (other, warning)),)).right_cause
    assert Run(sick_case(), ((30, (replace(other, because_of="root"), warning)),)).right_cause
    assert not Run(sick_case(), ((30, (finding(Severity.NOTE),)),)).right_cause
    assert not Run(sick_case(), ((30, ()),)).right_cause
    also = replace(sick_case(), causes=frozenset({"depth"}))
    assert Run(also, ((30, (other,)),)).right_cause


def test_a_layer_is_right_inside_the_labelled_one_only() -> None:
    for layer, right in (("net", True), ("net:relu#0", True), ("network", False), ("", False)):
        run = Run(sick_case(), ((30, (finding(Severity.WARNING, layer),)),))
        assert run.right_layer == right


def test_delay_counts_from_the_onset() -> None:
    warning, critical = finding(Severity.WARNING), finding(Severity.CRITICAL)
    run = Run(sick_case(), ((10, (warning,)), (20, ()), (40, (warning,)), (60, (critical,))))
    assert run.delay(Severity.WARNING) == 20
    assert run.delay(Severity.CRITICAL) == 40
    assert Run(sick_case(), ((10, (warning,)),)).delay(Severity.WARNING) is None


@pytest.mark.parametrize(
    ("onset", "steps", "warning", "critical"),
    [
        (0, 100, 20, 50),  # a fifth of the steps
        (0, 8, 2, 4),  # exams at 0, 1 and 2
        (40, 120, 40, 40),  # at 40, 60 and 80
        (50, 60, 2, 5),  # none is left: a fifth of ten steps
    ],
)
def test_in_time_is_a_share_of_the_steps_or_three_exams(
    onset: int, steps: int, warning: int, critical: int
) -> None:
    case = replace(sick_case(), onset=onset, steps=steps)
    run = Run(case, ((onset + warning, (finding(Severity.WARNING),)),), steps=steps)
    assert run.limit(Severity.WARNING) == warning and run.in_time(Severity.WARNING)
    assert run.limit(Severity.CRITICAL) == critical and not run.in_time(Severity.CRITICAL)
    late = Run(case, ((onset + warning + 1, (finding(Severity.WARNING),)),), steps=steps)
    assert not late.in_time(Severity.WARNING)


def test_a_non_finite_number_is_held_to_its_step_and_its_first_layer() -> None:
    broken = replace(finding(Severity.CRITICAL), name="non-finite", since=7, layers=("net", "x"))
    run = Run(sick_case(), ((30, (broken,)),), broke=7)
    assert run.exact_step and run.exact_layer
    assert not replace(run, broke=6).exact_step
    elsewhere = replace(broken, layers=("x", "net"))
    assert not replace(run, reports=((30, (elsewhere,)),)).exact_layer
    assert not replace(run, reports=((30, ()),)).exact_step


def test_a_fault_is_born_unless_it_comes_later() -> None:
    assert SIGMOIDS.born
    assert not replace(SIGMOIDS, onset=1).born
    assert not replace(SIGMOIDS, at_init=False).born
    assert not replace(SIGMOIDS, cause="learning-rate").born
    assert replace(SIGMOIDS, cause="learning-rate", at_init=True).born
    assert not replace(SIGMOIDS, cure=None).born


def test_alternatives_are_of_a_sick_case_and_differ_from_its_label() -> None:
    for case in CORPUS.values():
        assert case.sick or not (case.also or case.causes or case.at_init), case.name
        assert case.finding not in case.also and case.cause not in case.causes, case.name
        assert not (case.onset and case.at_init), f"{case.name}: what comes later is not born"


def runs() -> list[Run]:
    """Return what could have been said of some trainings: found, missed, healthy, repaired."""
    rules = {(peer, name): (False, True) for peer, some in PEERS.items() for name in some}
    warning = finding(Severity.WARNING, "net")
    healthy = replace(SIGMOIDS, name="healthy", cure=None, finding="", cause="", layers=())
    sick, missed = replace(sick_case(), name="found"), replace(sick_case(), name="missed")
    said = ((0, ()), (20, (warning,)), (40, (warning,)))
    other = replace(warning, name="other")
    return [
        Run(replace(sick, onset=0), said, rules, steps=60, predicted=(warning,)),
        Run(missed, ((40, ()),), rules, steps=60),
        Run(healthy, ((40, ()),), rules, steps=60),
        Run(sick, ((40, (other,)),), rules, cured=True, steps=60),
    ]


def test_a_repaired_twin_counts_as_healthy() -> None:
    counts = {measure.title: rate(measure(runs())).split()[0] for measure in (*SICK, *FALSE)}
    assert counts["named right"] == counts["right cause on top"] == "1/2"
    assert counts["warning in time"] == "0/2", "the third exam and a fifth of 60 steps are over"
    assert counts["of those born so: warned of at step 0"] == "1/1"
    assert counts["healthy: warning or worse, at the end"] == "0/1"
    assert counts["repaired: warning or worse, at the end"] == "1/1"
    assert counts["healthy or repaired: warning or worse, at the end"] == "1/2"
    assert counts["healthy or repaired: critical, ever"] == "0/2"


def printed(some: Sequence[Run], *, halves: bool) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        for part in render(some, halves=halves):
            console.print(part)
    return captured.get()


def test_only_cases_of_the_development_half_are_named() -> None:
    """The others are never looked at one by one, and another corpus has no halves at all."""
    lost = Run(replace(sick_case(), name="lost"), ((40, ()),), runs()[0].fired, steps=60)
    assert runs()[1].case.held_out and not lost.case.held_out
    text = printed([*runs(), lost], halves=True)
    assert "lost" in text and "missed" not in text and "development" in text
    text = printed([*runs(), lost], halves=False)
    assert "lost" not in text and "development" not in text
    assert printed([], halves=True), "no run at all is no error"


def test_a_run_is_written_as_json_can_hold_it() -> None:
    found, _, healthy, repaired = (json.loads(json.dumps(run.to_json())) for run in runs())
    assert found["label"]["names"] == ["vanishing-gradient"] and found["named"]
    assert found["delays"] == {"warning": 20, "critical": None}
    assert found["limits"] == {"warning": 12, "critical": 30}
    assert found["final"][0]["name"] == "vanishing-gradient" and found["half"] == "development"
    assert healthy["label"] is None and not repaired["sick"] and repaired["cured"]


def test_the_readme_gets_two_tables_between_its_markers() -> None:
    section = detection_readme.section(runs(), date(2024, 2, 29))
    assert "2 sick trainings, 1 healthy ones, and 1 that are" in section
    assert "2024-02-29" in section
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {3}, "three columns each, at any row"
    titles = [row[0].strip("| ") for row in rows]
    assert set(titles) >= {*detection_readme.MEASURES, *PEERS}
    assert "1 of 1: 100% (21%-100%)" in section


def test_only_what_is_between_the_markers_is_replaced() -> None:
    begin, end = detection_readme.BEGIN, detection_readme.END
    text = f"before\n{begin}\nold\n{end}\nafter\n"
    new = detection_readme.replaced(text, "new\n")
    assert new == f"before\n{begin}\nnew\n{end}\nafter\n"
    assert detection_readme.replaced(new, "new") == new
    for broken in ("", f"{end}\n{begin}", begin, f"{text}{text}"):
        with pytest.raises(ValueError, match="must have one"):
            detection_readme.replaced(broken, "new")


def test_the_readme_is_ready_to_be_written(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(README.read_text("utf-8"), "utf-8")
    detection_readme.write(copy, runs())
    assert "2 sick trainings" in copy.read_text("utf-8")


def test_another_corpus_is_loaded_by_path_or_name(tmp_path: Path) -> None:
    path = tmp_path / "unseen.py"
    path.write_text("from tests.zoo.cases_depth import CASES\n", "utf-8")
    assert list(load(str(path))) == list(load("tests.zoo.cases_depth"))
    path.write_text("from tests.zoo.cases_depth import CASES\nCASES += CASES\n", "utf-8")
    with pytest.raises(ValueError, match="names have to be unique"):
        load(str(path))
    with pytest.raises(FileNotFoundError):
        load(str(tmp_path / "none.py"))


def test_a_rule_has_to_fire_in_half_of_the_exams() -> None:
    assert held([True, False])
    assert not held([True, False, False])
    assert not held([])


def test_readings_of_a_tensor_are_right_within_their_octave() -> None:
    values = np.linspace(-8, 8, 1001).tolist()
    assert mean_magnitude(stats(values)) == pytest.approx(4, rel=0.1)
    assert share_above(stats(values), 5.0) == pytest.approx(3 / 8, abs=0.01)


def test_the_rules_of_peers_hold_to_their_thresholds() -> None:
    def ask(gradient: float, update: float) -> dict[tuple[str, str], tuple[bool, ...]]:
        some = Parameter(
            *("0.weight", (2, 2)),
            gradient=stats([gradient, -gradient, gradient, gradient]),
            weight=stats([1.0, -1.0, 1.0, 0.5]),
            update=stats([update] * 4),
            sample=stats([1.0] * 4),
        )
        return ask_peers(History.of(Record(n, (), (some,), 1.0 / (n + 1)) for n in (0, 12, 24, 36)))

    usual, tiny, huge = ask(1e-2, 1e-3), ask(4e-8, 1e-9), ask(1e-2, 20.0)
    others = ("SageMaker Debugger", "AUTOTRAINER", "TheDeepChecker", "DeepDiagnosis")
    assert not [rule for rule, fired in usual.items() if rule[0] in others and any(fired)]
    assert tiny["SageMaker Debugger", "VanishingGradient"] == (True, True, True)
    assert tiny["TheDeepChecker", "vanishing: mean|g| < 1e-6"] == (True, True, True)
    assert tiny["SageMaker Debugger", "UnchangedTensor"] == (False, True, True)  # three exams
    assert huge["SageMaker Debugger", "WeightUpdateRatio"] == (True, True, True)
    assert not any(huge["SageMaker Debugger", "VanishingGradient"])


def test_a_case_is_watched_and_judged() -> None:
    run = watch(SIGMOIDS)
    assert run.found is not None and run.right_cause
    assert run.final == run.reports[-1][1] and run.reports[0][0] == 0
    assert run.steps == SIGMOIDS.steps and run.predicted and run.broke is None
    assert held(run.fired["torchmortem", "vanishing: last/first > 100"])


def test_a_twin_is_trained_with_the_cure() -> None:
    run = watch(replace(SIGMOIDS, steps=20), cured=True)
    assert run.cured and not run.sick
    assert not [f for _, findings in run.reports for f in findings if f.name == SIGMOIDS.finding]


def test_the_step_that_breaks_is_known_from_torch_alone() -> None:
    case = CORPUS["numerics-nan-in-data"]
    assert watch(replace(case, steps=45)).broke == case.onset


def test_a_prediction_knows_nothing_of_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`diagnose` sees no step, so that what a step did may not count as predicted."""

    def moved(history: History) -> list[Finding]:
        known = [p for record in history for p in record.parameters if p.update or p.held]
        return [finding(Severity.WARNING)] if known else []

    monkeypatch.setattr(catalog, "detectors", lambda: (moved,))
    record = Record(0, (), (Parameter("0.weight", (1,), update=stats([1.0]), held=True),))
    assert moved(History.of([record]))
    assert predict((record,)) == ()


def test_a_prediction_is_of_step_0_only() -> None:
    assert predict(()) == ()
    assert predict((Record(1),)) == ()
