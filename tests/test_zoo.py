"""The corpus that detectors are judged on: that it is whole, and that its labels are true."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.zoo.case import FAMILIES, Case
from tests.zoo.corpus import collect
from tests.zoo.verify import Verdict, verify

CASES = collect()
CAUSES = {
    "activation",
    "init",
    "depth",
    "normalisation",
    "learning-rate",
    "data",
    "data-scale",
    "precision",
    "disconnection",
    "optimizer",
    "numerics",
    "loss",
    "time",
}
ALWAYS_HEALTHY = {"converged"}
"""Families that can not be sick: a training that has converged has reached its threshold."""


def case(*, sick: bool) -> Case:
    """A case that is never trained."""
    build = CASES["init-zeros"].build
    return Case("made-up", "init", build, threshold=1.0, cure=build if sick else None)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case_says_what_it_is(case: Case) -> None:
    """Each has a family, steps and a threshold; a sick one its finding and cause, no other has."""
    assert case.family in FAMILIES
    assert 0 <= case.onset < case.steps
    assert case.threshold > 0
    if case.sick:
        assert case.finding
        assert case.right_causes <= CAUSES
    else:
        assert (case.finding, case.cause, case.layers, case.onset) == ("", "", (), 0)


@pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.layers], ids=lambda case: str(case.name)
)
def test_the_layers_of_a_fault_exist(case: Case) -> None:
    """Where a case says that the fault is, its model has a module."""
    modules = {name for name, _ in case.build().model.named_modules()}
    assert set(case.layers) <= modules


def test_every_family_is_covered() -> None:
    """There are three sick and three healthy ones of each family that can be both."""
    sick = Counter(case.family for case in CASES.values() if case.sick)
    healthy = Counter(case.family for case in CASES.values() if not case.sick)
    few = {f: (sick[f], healthy[f]) for f in FAMILIES if min(sick[f], healthy[f]) < 3}
    assert set(few) <= ALWAYS_HEALTHY, few
    assert all(healthy[family] >= 3 and not sick[family] for family in ALWAYS_HEALTHY)


def test_there_are_enough_to_judge_by() -> None:
    """Sixty of each kind, so that a rate is known to within some percent."""
    sick = sum(case.sick for case in CASES.values())
    assert sick >= 60
    assert len(CASES) - sick >= 60


def test_both_halves_are_of_use() -> None:
    """The half that is held out, and the other, each have a third of the sick and the healthy."""
    for sick in (True, False):
        of_kind = [case for case in CASES.values() if case.sick is sick]
        held_out = sum(case.held_out for case in of_kind)
        assert len(of_kind) / 3 < held_out < len(of_kind) * 2 / 3


@pytest.mark.parametrize(
    ("sick", "scores", "cured", "verdict"),
    [
        (False, (0.5, 0.6), (), "ok"),
        (False, (0.5, 0.95), (), "close"),
        (False, (0.5, 1.0), (), "FAIL"),
        (True, (2.0, float("inf")), (0.1, 0.2), "ok"),
        (True, (2.0, 1.1), (0.1, 0.2), "close"),
        (True, (2.0, 0.9), (0.1, 0.2), "FAIL"),
        (True, (2.0, 2.0), (0.1, 1.2), "FAIL"),
    ],
)
def test_a_label_is_judged_by_every_seed(
    sick: bool, scores: tuple[float, ...], cured: tuple[float, ...], verdict: str
) -> None:
    """A label fails by one seed, and holds closely when a score is near the threshold."""
    assert str(Verdict(case(sick=sick), scores, cured)) == verdict


@pytest.mark.zoo
@pytest.mark.timeout(900)
def test_every_label_is_true() -> None:
    """Sick ones stay above their threshold, healthy ones and cures below, with three seeds."""
    verdicts = verify(CASES, (0, 1, 2))
    assert [verdict.case.name for verdict in verdicts if not verdict.holds] == []


@pytest.mark.zoo
def test_the_command_prints_a_table_and_exits_by_it() -> None:
    """`python -m tests.zoo verify --only` names the case, its label and what came out."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.zoo", "verify", "--seeds", "0", "--only", "init-zeros"],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "init-zeros" in done.stdout
    assert "1 sick, 0 healthy; 0 labels fail" in done.stdout
