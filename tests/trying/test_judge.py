"""The judgement of a trial, on outcomes that are made up: who helped, and who comes first."""

from __future__ import annotations

import math

import pytest

from gradwatch.core.remedy import Prescription
from gradwatch.core.verdict import Outcome, Verdict
from gradwatch.trying import judge
from gradwatch.trying.race import Arm, key


def ended(*losses: float, skills: tuple[float | None, ...] = (), fell: bool = True) -> Outcome:
    """An outcome with these losses at the end, one per seed."""
    return Outcome(losses, skills or (None,) * len(losses), 100, fell=(fell,) * len(losses))


def arm(*names: str, changes_loss: bool = False) -> Arm:
    return Arm(tuple(Prescription(name, name, "", changes_loss=changes_loss) for name in names))


STUCK = ended(2.3, 2.3, 2.3, skills=(0.0, 0.01, -0.01))
GOOD = ended(0.1, 0.2, 0.1, skills=(0.95, 0.9, 0.95))
LUCKY = ended(2.3, 0.2, 2.3, skills=(0.0, 0.9, 0.0))
BROKEN = ended(math.inf, math.inf, math.inf)
MUTE = ended(1.0, 1.0, 1.0, fell=False)
UNKNOWN = ended(0.3, 0.3, 0.3)


@pytest.mark.parametrize(
    ("after", "before", "control", "changes", "helped", "said"),
    [
        (GOOD, STUCK, STUCK, False, True, "95% of the way"),
        (STUCK, STUCK, STUCK, False, False, "0% of the way"),
        (LUCKY, STUCK, STUCK, False, False, ""),  # one seed of three
        (GOOD, LUCKY, STUCK, False, False, ""),  # the untreated one may get there, too
        (GOOD, STUCK, None, False, True, ""),  # the control was not reached
        (GOOD, STUCK, GOOD, False, True, "the weights that it was born with are at fault"),
        (STUCK, STUCK, GOOD, False, False, ""),
        (GOOD, BROKEN, BROKEN, False, True, ""),
        (ended(0.1, 0.1, 0.1), ended(1.0, 1.0, 1.1), ended(1.0, 0.9, 1.0), False, True, "at 0.1"),
        (ended(0.95, 0.95, 0.95), ended(1.0, 1.0, 1.0), None, False, False, ""),  # within a tenth
        (GOOD, UNKNOWN, UNKNOWN, True, False, "in other units"),
        (GOOD, MUTE, MUTE, True, True, ""),  # a loss that stays is worth nothing in any unit
        (GOOD, BROKEN, UNKNOWN, True, True, ""),  # most of the untreated ones broke off
    ],
)
def test_what_helps(
    after: Outcome,
    before: Outcome,
    control: Outcome | None,
    changes: bool,
    helped: bool,
    said: str,
) -> None:
    found, reason = judge._helped(arm("x", changes_loss=changes), after, before, control)
    assert found == helped, reason
    assert said in reason


def test_new_weights_that_are_a_little_better_are_luck() -> None:
    little = ended(2.2, 2.2, 2.2, skills=(0.03, 0.03, 0.03))
    _, reason = judge._helped(arm("x"), GOOD, STUCK, little)
    assert "born with" not in reason


def verdict(name: str, skill: float | None, loss: float, *, helped: bool = True) -> Verdict:
    outcome = ended(loss, loss, loss, skills=(skill,) * 3)
    return Verdict(arm(*name.split("+")).prescriptions, helped, "", outcome, STUCK)


def test_the_smaller_of_two_changes_that_do_as_well_comes_first() -> None:
    found = [
        verdict("a+b", 0.97, 0.05),
        verdict("worse", 0.85, 0.2),
        verdict("a", 0.94, 0.1),
        verdict("nothing", 0.99, 0.01, helped=False),
        verdict("unknown", None, 0.001),
    ]
    names = [one.name for one in judge._ranked(found)]
    assert names[-1] == "nothing"
    assert names[0] == "unknown"  # all of the loss is gone
    assert names.index("a") < names.index("worse")


def test_a_loss_stands_for_the_skill_where_that_is_not_known() -> None:
    """What is gone of the usual loss, that of a constant answer."""
    assert key(None, 0.5, 2.0)[0] == -0.75
    assert key(0.75, 0.5, 2.0)[0] == -0.75
    assert key(None, 0.5, math.inf)[0] == 0
    assert key(None, 0.5, 2.0, comparable=False) == (0.0, math.inf)


def test_a_change_of_the_loss_that_answers_a_finding_speaks_for_itself() -> None:
    answering = Arm((Prescription("x", "x", "", changes_loss=True, answers="a-finding: loss"),))
    assert judge._helped(answering, GOOD, UNKNOWN, UNKNOWN)[0]
    assert not judge._helped(answering, STUCK, UNKNOWN, UNKNOWN)[0]
    assert not judge._helped(arm("x", changes_loss=True), GOOD, UNKNOWN, UNKNOWN)[0]
