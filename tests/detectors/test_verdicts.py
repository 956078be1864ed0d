"""Right layer, right cause, right time: on recorded trainings and on what became of them."""

from __future__ import annotations

import pytest

from gradwatch.core import catalog, specimens
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.report import Report, examine
from gradwatch.detectors.vanishing import VanishingGradient


def examined(name: str) -> Report:
    return examine(specimens.load(name), catalog.detectors(), catalog.remedies())


def found(name: str, finding: str) -> Finding:
    result = examined(name).finding(finding)
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("specimen", "cause", "culprit"),
    [
        ("sigmoid-mlp", "activation", "1"),
        ("functional-sigmoid-mlp", "activation", ":sigmoid#0"),
        ("small-tanh-mlp", "init", "2"),
        ("default-relu-mlp", "depth", "2"),
        ("large-tanh-mlp", "init", "2"),
    ],
)
def test_vanishing_is_blamed_on_its_cause(specimen: str, cause: str, culprit: str) -> None:
    finding = found(specimen, "vanishing-gradient")
    assert finding.cause == cause
    assert culprit in finding.causes[0].layers
    assert finding.layers[0] in ("0", "first")


def test_sigmoids_lose_two_bits_each() -> None:
    finding = found("sigmoid-mlp", "vanishing-gradient")
    activation = finding.causes[0]
    assert activation.bits is not None
    assert -2.2 < activation.bits / len(activation.layers) < -2.0
    assert sum(cause.share or 0 for cause in finding.causes) == pytest.approx(1)


def test_weights_that_are_too_small_are_told_by_which_factor() -> None:
    """0.02 / (1 / sqrt(32)) = 1 / 8.8."""
    finding = found("small-tanh-mlp", "vanishing-gradient")
    assert "8.8" in finding.causes[0].text or "8.9" in finding.causes[0].text


def test_exploding_over_depth_is_blamed_on_the_weights_and_on_step_0() -> None:
    finding = found("large-relu-mlp", "exploding-gradient")
    assert (finding.cause, finding.since) == ("init", 0)
    assert "2" in finding.layers


def test_exploding_over_time_is_blamed_on_the_learning_rate() -> None:
    finding = found("high-learning-rate", "exploding-gradient")
    assert finding.cause == "learning-rate"
    assert 3 <= finding.since <= 10


@pytest.mark.parametrize("specimen", ["nan-forward", "nan-backward"])
def test_a_nan_is_found_at_its_step_and_layer_between_two_exams(specimen: str) -> None:
    history = specimens.load(specimen)
    assert 37 not in [record.step for record in history]
    finding = found(specimen, "non-finite")
    assert finding.since == 37
    assert finding.layers[0] == "4"
    assert finding.cause == "numerics"
    assert ("forward" if specimen == "nan-forward" else "backward") in finding.summary


def test_a_fault_at_birth_is_a_warning_until_the_training_shows_it() -> None:
    history = specimens.load("sigmoid-mlp")
    born = History.of(history.records[:1], history.pulses[:1])
    (finding,) = VanishingGradient()(born)
    assert finding.severity == Severity.WARNING
    assert "prediction" in finding.confidence


def test_what_is_prescribed_answers_the_main_cause_first() -> None:
    report = examined("sigmoid-mlp")
    assert report.prescriptions[0].remedy == "swap-activation-relu"
    report = examined("default-relu-mlp")
    assert report.prescriptions[0].remedy == "he-init"


@pytest.mark.parametrize(
    ("specimen", "root", "cause"),
    [
        ("sigmoid-mlp", "vanishing-gradient", "activation"),
        ("small-tanh-mlp", "signal-scale", "init"),
        ("default-relu-mlp", "vanishing-gradient", "depth"),
        ("large-tanh-mlp", "saturated-activation", "init"),
        ("large-relu-mlp", "signal-scale", "init"),
        ("high-learning-rate", "oversized-updates", "learning-rate"),
        ("unscaled-inputs", "saturated-activation", "data-scale"),
        ("born-dead", "dead-units", "init"),
        ("dying-relu", "oversized-updates", "learning-rate"),
        ("high-learning-rate-adam", "oversized-updates", "learning-rate"),
        ("low-learning-rate", "stalled-updates", "learning-rate"),
        ("oversized-steps", "oversized-updates", "learning-rate"),
        ("detached", "disconnected-parameters", "disconnection"),
        ("forgotten-by-the-optimizer", "forgotten-parameters", "disconnection"),
        ("spike", "gradient-spike", "loss"),
        ("nan-forward", "non-finite", "numerics"),
        ("nan-backward", "non-finite", "numerics"),
    ],
)
def test_one_fault_has_one_root_and_a_remedy(specimen: str, root: str, cause: str) -> None:
    report = examined(specimen)
    roots = [finding for finding in report.findings if not finding.because_of]
    assert [(finding.name, finding.cause) for finding in roots] == [(root, cause)]
    assert report.findings[0] == roots[0]
    assert all(f.because_of == root for f in report.findings[1:])
    if cause != "numerics":
        assert report.prescriptions
        assert report.prescriptions[0].answers == f"{root}: {cause}"


def test_inputs_that_were_not_scaled_are_told_from_weights_that_are_too_large() -> None:
    assert examined("unscaled-inputs").prescriptions[0].remedy == "standardise-inputs"
    assert examined("large-tanh-mlp").prescriptions[0].remedy == "xavier-init"
