"""Every detector: silent on the healthy, its own and the others', and speaks on its sick."""

from __future__ import annotations

from typing import Any

import pytest

from gradwatch.core import catalog, specimens
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History

MODULES = [m for m in catalog.modules("gradwatch.detectors") if hasattr(m, "DETECTORS")]
HEALTHY = sorted({name for module in MODULES for name in module.HEALTHY})
DETECTORS = [
    pytest.param(detector, module, id=detector.name)
    for module in MODULES
    for detector in module.DETECTORS
]


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize(("detector", "module"), DETECTORS)
def test_a_healthy_training_hears_nothing(detector: Any, module: Any, name: str) -> None:
    assert detector(specimens.load(name)) == ()


@pytest.mark.parametrize(("detector", "module"), DETECTORS)
def test_a_sick_training_is_told_where_since_when_how_much_and_why(
    detector: Any, module: Any
) -> None:
    assert module.SICK
    for name in module.SICK:
        history = specimens.load(name)
        (finding,) = detector(history)
        assert finding.name == detector.name
        assert finding.severity == Severity.CRITICAL, (name, finding)
        assert finding.numbers
        assert finding.cause
        assert 0 <= finding.since <= finding.until <= history.last_step
        assert finding.causes[0].share is not None
        assert Finding.from_json(finding.to_json()) == finding


@pytest.mark.parametrize(("detector", "module"), DETECTORS)
def test_an_empty_history_is_no_reason_to_speak(detector: Any, module: Any) -> None:
    assert detector(History()) == ()


@pytest.mark.parametrize(("detector", "module"), DETECTORS)
def test_the_same_history_gets_the_same_verdict(detector: Any, module: Any) -> None:
    history = specimens.load(module.SICK[0])
    assert detector(history) == detector(history)


@pytest.mark.parametrize(("detector", "module"), DETECTORS)
def test_it_explains_itself(detector: Any, module: Any) -> None:
    assert len(catalog.explain(detector.name)) > 200
