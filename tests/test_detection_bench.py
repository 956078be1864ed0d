"""The detection benchmark counts right: intervals, labels, delays, and the rules of other tools."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.record import Parameter, Record
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Stats
from tests.benchmarks.detection import Run, ask_peers, held, watch
from tests.benchmarks.detection_tables import rate, wilson
from tests.benchmarks.readings import mean_magnitude, share_above
from tests.zoo.case import Case
from tests.zoo.cases_activation import CASES

SIGMOIDS = next(case for case in CASES if case.name == "activation-one-sigmoid-stack")


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


def test_only_a_warning_of_the_labelled_name_counts_as_found() -> None:
    note, warning = finding(Severity.NOTE, "net.0"), finding(Severity.WARNING, "net.0")
    assert Run(sick_case(), ((30, (note,)),)).found is None
    assert Run(sick_case(), ((30, (replace(warning, name="other"),)),)).found is None
    run = Run(sick_case(), ((30, (warning,)),))
    assert run.found == warning and run.right_cause and run.right_layer


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
    assert held(run.fired["torchmortem", "vanishing: last/first > 100"])
