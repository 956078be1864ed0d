"""A consequence stands under its root."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.triage import FOLLOWS, triage


def finding(name: str, since: int = 0, severity: Severity = Severity.CRITICAL) -> Finding:
    return Finding(name, severity, name, since=since)


def names(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(f.name, f.because_of) for f in findings]


def test_a_chain_of_consequences_has_one_root_whatever_the_order() -> None:
    found = [finding("non-finite", 9), finding("exploding-gradient", 5), finding("signal-scale")]
    for order in permutations(found):
        assert names(triage(order)) == [
            ("signal-scale", ""),
            ("exploding-gradient", "signal-scale"),
            ("non-finite", "signal-scale"),
        ]


def test_what_was_there_first_is_no_consequence() -> None:
    assert names(triage([finding("non-finite", 3), finding("exploding-gradient", 5)])) == [
        ("non-finite", ""),
        ("exploding-gradient", ""),
    ]


def test_an_operation_that_broke_by_itself_is_no_consequence_of_large_steps() -> None:
    for cause, first in (("numerics", "non-finite"), ("learning-rate", "oversized-updates")):
        broke = replace(finding("non-finite", 9), causes=(Cause(cause, "", share=1.0),))
        found = triage([finding("oversized-updates", 2), broke])
        assert found[0].name == first
        assert bool(found[-1].because_of) == (cause != "numerics")


def test_a_root_is_looked_at_in_the_place_of_its_worst_consequence() -> None:
    found = triage(
        [
            finding("vanishing-gradient", 2, Severity.WARNING),
            finding("stalled-updates", 4),
            finding("forgotten-parameters", 6, Severity.WARNING),
        ]
    )
    assert names(found) == [
        ("vanishing-gradient", ""),
        ("stalled-updates", "vanishing-gradient"),
        ("forgotten-parameters", ""),
    ]


def test_nothing_is_lost_and_nothing_doubled() -> None:
    every = sorted({*FOLLOWS, *(name for follows in FOLLOWS.values() for name in follows)})
    found = triage(finding(name) for name in every)
    assert sorted(f.name for f in found) == every


def test_no_pair_stands_in_the_table_both_ways() -> None:
    for root, follows in FOLLOWS.items():
        for name in follows:
            assert root not in FOLLOWS.get(name, ())
