"""Remedies that change the training and not the model: executed on what they were written for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gradwatch.core import catalog
from gradwatch.core.report import Report
from tests.zoo.trainings import SICK, mlp, run

SCOPE = {"torch": torch}


def report(name: str) -> Report:
    watcher, _ = run(SICK[name])
    return watcher.report()


def test_the_learning_rate_is_divided_by_ten() -> None:
    prescription = report("oversized-steps").prescriptions[0]
    assert prescription.remedy == "lower-learning-rate"
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.5)
    exec(prescription.code, SCOPE | {"optimizer": optimizer})
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_the_learning_rate_is_raised_by_what_was_measured() -> None:
    """1e-8 instead of 0.1: seven decades; the ratio aimed at asks for about as many."""
    prescription = report("low-learning-rate").prescriptions[0]
    assert prescription.remedy == "raise-learning-rate"
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1e-8)
    exec(prescription.code, SCOPE | {"optimizer": optimizer})
    assert 1e-3 <= optimizer.param_groups[0]["lr"] <= 1.0


def test_forgotten_parameters_are_added_once() -> None:
    prescription = report("forgotten-by-the-optimizer").prescriptions[0]
    assert prescription.remedy == "hold-parameters"
    model = mlp(2, nn.ReLU)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    exec(prescription.code, SCOPE | {"optimizer": optimizer, "model": model})
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert len(held) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("specimen", "remedy", "says"),
    [("detached", "reconnect", ".detach()")],
)
def test_what_only_the_user_can_change_is_said_and_runs_as_a_comment(
    specimen: str, remedy: str, says: str
) -> None:
    prescription = report(specimen).prescriptions[0]
    assert prescription.remedy == remedy
    assert not prescription.runnable
    assert says in prescription.code
    exec(prescription.code, dict(SCOPE))


def test_the_place_to_look_is_the_last_layer_that_is_called() -> None:
    assert "after 'encoder." in report("detached").prescriptions[0].code


def test_every_remedy_has_something_to_treat_and_explains_when_it_does_not_help() -> None:
    detected = {detector.name for detector in catalog.detectors()}
    for remedy in catalog.remedies():
        assert {finding for finding, _ in remedy.treats} <= detected
        text = catalog.explain(remedy.name)
        assert "Does not help" in text
        assert "Helps when" in text
        assert copy.copy(remedy) == remedy
