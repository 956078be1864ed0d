"""A finding survives its way through JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.core.finding import Cause, Finding, Severity

texts = st.text(max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.lists(texts, max_size=3).map(tuple)
causes = st.builds(Cause, texts, texts, names, st.none() | numbers, st.none() | st.floats(0, 1))
findings = st.builds(
    Finding,
    name=texts,
    severity=st.sampled_from(Severity),
    summary=texts,
    layers=names,
    since=st.integers(-1, 10**9),
    until=st.integers(-1, 10**9),
    causes=st.lists(causes, max_size=3).map(tuple),
    confidence=texts,
    numbers=st.dictionaries(texts, numbers, max_size=3),
)


@given(findings)
@settings(max_examples=60)
def test_a_finding_comes_back_from_json_as_it_was(finding: Finding) -> None:
    """Every field, to the last bit."""
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


def test_keys_of_a_later_version_are_ignored() -> None:
    """An older gradwatch reads what a newer one added to."""
    finding = Finding("x", Severity.NOTE, "y")
    assert Finding.from_json({**finding.to_json(), "colour": "red"}) == finding


def test_what_is_no_finding_is_refused() -> None:
    """A severity that does not exist is an error and no default."""
    data = {**Finding("x", Severity.NOTE, "y").to_json(), "severity": "terrible"}
    with pytest.raises(KeyError):
        Finding.from_json(data)


def test_the_worst_severity_is_the_largest() -> None:
    """`max` gives the worst, and its text is for people."""
    assert max(Severity.WARNING, Severity.CRITICAL, Severity.NOTE) is Severity.CRITICAL
    assert str(Severity.CRITICAL) == "critical"


def test_the_main_cause_is_the_first() -> None:
    """A finding without a cause says so by an empty name."""
    assert Finding("x", Severity.NOTE, "y").cause == ""
    assert Finding(
        "x", Severity.NOTE, "y", causes=(Cause("init", ""), Cause("depth", ""))
    ).cause == ("init")
