"""A trial on the page, in a real browser: its numbers, beside its controls, in words and drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from gradwatch.core import catalog, specimens
from gradwatch.core.history import History
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import examine
from gradwatch.core.verdict import Outcome, Verdict, Verdicts
from gradwatch.viewer.trial_data import MAX_NAMES, MAX_VERDICTS, fate, trial_data

EVIL = "</script><img src=x onerror=alert(1)>"


def ended(*losses: float, skills: tuple[float, ...] = (), bits: float | None = None) -> Outcome:
    return Outcome(losses, skills or (None,) * len(losses), 200, (), bits, 1e-3, 1000)


def verdict(
    name: str, treated: Outcome, *, helps: bool = False, match: int | None = None
) -> Verdict:
    code = Prescription(name, f"Do {name}", f"do({name!r})")
    return Verdict((code,), helps, f"{name} it is", treated, UNTREATED, match)


UNTREATED = ended(2.3, 2.31, 2.35, skills=(0.0, 0.01, -0.02), bits=-26.0)
RESEEDED = ended(2.2, 2.3, 2.4, skills=(0.05, 0.0, -0.02))
SWAP = verdict(
    "swap-activation-relu",
    replace(ended(0.12, 0.1, 0.2, skills=(0.9, 0.97, 0.8), bits=-1.5), seconds=1.5e-3),
    helps=True,
    match=12,
)
INIT = verdict("he-init", ended(2.2, math.nan, 2.1, skills=(0.1, 0.2, 0.3)))
TRIAL = Verdicts(
    (SWAP, INIT),
    UNTREATED,
    RESEEDED,
    verdict("clip-gradients", UNTREATED),
    dropped=("xavier-init (loss 2.3 after 20 steps)",),
    not_reached=("batch-norm",),
    not_applied=("Use an LSTM: there is none",),
    summary="Do swap-activation-relu: 90% of the way.",
)
NOTHING = replace(
    TRIAL,
    verdicts=(INIT, verdict("other", ended(2.25))),
    summary="Nothing that was tried helps (1 more were not reached).",
)


def sick() -> tuple[Any, History]:
    past = specimens.load("sigmoid-mlp")
    return examine(past, catalog.detectors(), catalog.remedies()), past


def rows(page: Any) -> dict[str, list[str]]:
    """The cells of the table by the name of their row."""
    found = {}
    for row in page.locator("#trial tbody tr").all():
        cells = row.locator("th, td").all_inner_texts()
        found[cells[0].strip()] = [cell.strip() for cell in cells[2:]]
    return found


@pytest.mark.browser
def test_the_page_shows_what_was_measured(show: Any) -> None:
    """Loss, skill, bits, steps and cost of each remedy and control, to 3 digits."""
    report, past = sick()
    page = show(replace(report, trial=TRIAL), past)
    assert TRIAL.summary in page.locator("#trial").inner_text()
    shown = rows(page)
    assert shown["✓ swap-activation-relu"] == [
        *("90%", "0.120 ± 0.05", "+24.5", "12 steps", "+50% time, 0% weights")
    ]
    assert shown["untreated"][:2] == ["0%", "2.31 ± 0.03"]
    assert shown["new weights"][:2] == ["0%", "2.30 ± 0.1"]
    assert shown["at random: clip-gradients"][1] == "2.31 ± 0.03"
    assert shown["he-init"][3] == "never"
    assert "do('swap-activation-relu')" in page.locator("#trial pre").first.inner_text()
    for text in ("1 tried for fewer steps", "1 not reached", "1 cannot be applied"):
        page.get_by_text(text).click()
    assert "Use an LSTM: there is none" in page.locator("#trial").inner_text()


@pytest.mark.browser
def test_dot_line_and_band_stand_where_the_numbers_are(show: Any) -> None:
    """The axis of skill goes from the lowest to the perfect answer."""
    report, past = sick()
    page = show(replace(report, trial=TRIAL), past)
    row = page.locator("#trial tbody tr", has_text="swap-activation-relu")
    ground = row.locator(".plot > div").bounding_box()

    def share(kind: str) -> tuple[float, float]:
        box = row.locator(f".{kind}").bounding_box()
        left = (box["x"] - ground["x"]) / ground["width"]
        return left, left + box["width"] / ground["width"]

    def place(skill: float) -> float:
        return (skill + 0.02) / 1.02

    assert share("dot")[0] == pytest.approx(place(0.9), abs=0.01)
    assert share("range") == pytest.approx((place(0.8), place(0.97)), abs=0.01)
    assert share("band") == pytest.approx((0.0, place(0.05)), abs=0.02)


@pytest.mark.browser
def test_that_nothing_helps_is_an_answer(show: Any) -> None:
    """It is said, and no change is open as if it were advised."""
    report, past = sick()
    page = show(replace(report, trial=NOTHING), past)
    assert NOTHING.summary in page.locator("#trial").inner_text()
    assert page.locator("#trial details[open]").count() == 0
    assert page.locator("#trial summary", has_text="does not help").count() == 2


@pytest.mark.browser
def test_without_a_trial_it_says_that_nothing_was_measured(show: Any) -> None:
    """And the first prescription is open, as before."""
    page = show(*sick())
    assert page.locator("#trial").count() == 0
    assert "None of these was measured on this model" in page.locator("#try").inner_text()
    assert page.locator("#try details[open]").count() == 1


@pytest.mark.browser
def test_a_trial_of_losses_alone_draws_these(show: Any) -> None:
    """Over decades on a logarithmic axis; a copy that broke is said to have; other units are not
    compared; names are text; and it fits a telephone."""
    other = replace(SWAP.prescriptions[0], changes_loss=True)
    trial = Verdicts(
        (
            verdict(EVIL, ended(1e-4, 2e-4, 1e-3), helps=True),
            verdict("breaks", ended(math.inf, math.nan)),
            replace(verdict("x", ended(0.1)), prescriptions=(other,)),
        ),
        replace(UNTREATED, skills=(None,) * 3),
        None,
        summary=EVIL,
    )
    report, past = sick()
    page = show(replace(report, trial=trial), past)
    page.set_viewport_size({"width": 390, "height": 800})
    text = page.locator("#trial").inner_text()
    assert "loss (log)" in text and "not finite" in text and "other units" in text
    assert EVIL in page.locator("#trial summary").first.inner_text()
    assert page.locator("img").count() == 0
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_data_is_bounded_whatever_was_tried() -> None:
    """Names beyond some are counted."""
    many = replace(
        TRIAL,
        verdicts=(SWAP,) * 50,
        dropped=tuple(f"{i} (loss)" for i in range(300)),
    )
    data = trial_data(many)
    assert data is not None and len(data["verdicts"]) == MAX_VERDICTS
    assert [len(one["names"]) for one in data["rest"]] == [50 - MAX_VERDICTS, MAX_NAMES + 1, 1, 1]
    assert data["rest"][1]["what"].startswith("300 tried for fewer steps")
    assert data["rest"][1]["names"][-1] == "... and 260 more"


@pytest.mark.parametrize(
    ("remedy", "said"),
    [
        ("swap-activation-relu", "measured: it helps"),
        ("he-init", "measured: it does not help"),
        ("xavier-init", "dropped early in the trial"),
        ("batch-norm", "not reached in the trial"),
        ("residual", "not measured"),
    ],
)
def test_what_became_of_a_prescription(remedy: str, said: str) -> None:
    assert fate(TRIAL, remedy) == said
    assert fate(None, remedy) == ""
