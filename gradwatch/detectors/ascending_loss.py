"""Ascending loss: the steps go up the gradient, or the loss has the wrong sign."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from gradwatch.core.answer import rows
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.losses import CLEARLY, FITS, MATCHES
from gradwatch.core.progress import Progress, progress, takes_turns
from gradwatch.core.record import Record
from gradwatch.detectors import _ending, _outcome, _steps

MINUS: Final = (
    ("against", "ce_error", "cross-entropy"),
    ("nagainst", "nll_error", "negative log-likelihood"),
    ("bagainst", "bce_error", "binary cross-entropy"),
    ("pagainst", "prob_error", "binary cross-entropy"),
)
"""Losses whose gradient tells its sign: the fields of `core.losses` for minus and plus."""
WORSE: Final = 1.2
"""Times the loss of guessing that such a loss has in the end: what is driven up gets there, and
what a policy does has at most the loss of guessing, whatever its rewards."""
LATE: Final = 3
"""A loss is compared between the thirds of the run."""


@dataclass(frozen=True, slots=True)
class AscendingLoss:
    """The loss is driven up, or down to minus infinity: there is a wrong sign somewhere.

    A step that goes up the gradient (`maximize=True`, `+=` in a loop of one's own) has a negative
    cosine with the negative gradient: -1 for plain descent, -0.3 or less for Adam. Momentum makes
    that happen now and then in a healthy training, but never in every step from the first on.

    Where the steps go down, the gradient may be that of the negated loss: that of cross-entropy or
    of the squared error can be recognised exactly. For any other loss it takes a run to minus
    infinity, faster and faster, with answers that grow and grow: a likelihood of continuous values
    may be negative, but it comes to rest.
    """

    name: ClassVar[str] = "ascending-loss"

    cosine: float = -0.1
    """Cosine between the whole step and the negative gradient, in each exam."""
    exams: int = 2
    """Exams that must show it, all of them."""
    steps: int = 40
    """Losses that must be known to judge where a loss runs to."""
    times: float = 10.0
    """How many times its beginning the loss has to be below zero, and the answers have to grow."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge all exams: a sign does not change during a run."""
        going = progress(history)
        found = self._upwards(history) or self._negated(history)
        found = found or self._maximised(history) or self._endless(history)
        if found is None or (going.skill is not None and going.skill > 0.5):
            return ()
        cause, records, summary = found
        return (self._finding(cause, records, summary, going),)

    def _upwards(self, history: History) -> tuple[Cause, tuple[Record, ...], str] | None:
        up: list[tuple[Record, float]] = []
        for record in history:
            cosine = _steps.direction(record)
            if cosine is not None and cosine >= self.cosine:
                return None
            if cosine is not None:
                up.append((record, cosine))
        if len(up) < self.exams:
            return None
        flagged = any(group.maximize for record in history for group in record.groups)
        mean = float(np.mean([cosine for _, cosine in up]))
        text = "The optimizer's steps go up the gradient" + (
            ": it was made with maximize=True." if flagged else ": its learning rate has a minus."
        )
        return (
            Cause("optimizer", text, share=1.0),
            tuple(r for r, _ in up),
            f"each step goes up the gradient: its cosine with the descent is {mean:.2f}",
        )

    def _negated(self, history: History) -> tuple[Cause, tuple[Record, ...], str] | None:
        known = [(r, found) for r in history if (found := _negated(r)) is not None]
        contrary = sum(record.answer is not None and bool(record.answer.kind) for record in history)
        early = known and known[0][0] in history.records[: self.exams]
        if not early or len(known) < self.exams or contrary >= len(known):
            return None
        (kind, times), latest = known[0][1], known[-1][1][1]
        if not latest > max(WORSE, times):  # a squared error is known by its sign
            return None
        return (
            Cause("loss", f"The gradient is that of minus the {kind}: drop the minus.", share=1.0),
            tuple(r for r, _ in known),
            f"what is minimised is minus the {kind}",
        )

    def _maximised(self, history: History) -> tuple[Cause, tuple[Record, ...], str] | None:
        """An absolute error with a minus has a gradient of one size from the first exam on, and in
        the end, far from all targets, is what its gradient makes of the outputs."""
        found = [(r, rows(r.output)) for r in history if r.output and r.loss is not None]
        if len(found) < 2 * LATE or takes_turns(history):
            return None
        if any(len(got) != 1 or not got[0]["uneven"] < FITS for _, got in found):
            return None
        (first, (birth,)), (last, (latest,)) = found[0], found[-1]
        loss, mixed = last.loss or 0.0, birth["tilt"] ** 2 < 0.9 * birth["squares"] * birth["asked"]
        if not mixed or any((record.loss or 0.0) >= 0 for record, _ in found):
            return None
        grown = latest["square_output"] > self.times**2 * birth["square_output"]
        if not grown or abs(latest["product"] - loss) > 0.2 * abs(loss) or not _moves(last):
            return None
        return (
            Cause("loss", "The gradient is that of minus an absolute error.", share=1.0),
            tuple(record for record, _ in found),
            f"what is minimised is minus an error: {first.loss:.3g} at first, {loss:.3g} now",
        )

    def _endless(self, history: History) -> tuple[Cause, tuple[Record, ...], str] | None:
        _, told = history.losses()
        losses = told[np.isfinite(told)]
        sizes = [
            (record, max(abs(answer.low), abs(answer.high)))
            for record in history
            if (answer := record.answer) is not None
        ]
        if losses.size < self.steps or len(sizes) < 2 * LATE:
            return None
        thirds = np.array_split(losses, LATE)
        parts = [float(np.median(part)) for part in thirds]
        faster = parts[1] - parts[2] > parts[0] - parts[1] > 0
        far = parts[2] < -self.times * float(np.median(np.abs(thirds[0])))
        first, middle, last = (sizes[i][1] for i in (0, len(sizes) // 2, -1))
        grows = last > self.times * first and last > 1.2 * middle
        if not (faster and far and grows):
            return None
        return (
            Cause(
                "loss",
                "The loss has no lower bound, and what makes it fall is that the answers grow: it "
                "has the wrong sign, or lacks a term that holds them.",
                share=1.0,
            ),
            tuple(record for record, _ in sizes),
            f"the loss runs to minus infinity: {losses[0]:.3g} at first, {parts[2]:.3g} now",
        )

    def _finding(
        self, cause: Cause, records: tuple[Record, ...], summary: str, going: Progress
    ) -> Finding:
        certain = _outcome.lasting(records)
        return Finding(
            self.name,
            Severity.CRITICAL if certain else Severity.WARNING,
            summary,
            (),
            records[0].step,
            records[-1].step,
            (cause,),
            f"Seen in {len(records)} exams since step {records[0].step}; {going.text}.",
            {"exams": float(len(records))},
        )


def _negated(record: Record) -> tuple[str, float] | None:
    """Return the loss that the gradient at the output is the negative of, and how many times that
    of guessing it is; None if there is none."""
    found = rows(record.output)
    if len(found) != 1 or not _moves(record):
        return None
    got = found[0]
    for name, usual, kind in MINUS:
        error, otherwise = got[f"{name}_error"], got[usual]
        # Of answers that are all alike, the gradient fits either sign.
        if error < FITS and not otherwise < CLEARLY * error:
            classes = got["classes"] if name in ("against", "nagainst") else 2.0
            return kind, got[f"{name}_loss"] / math.log(classes)
    count, squares = got["asked"], got["squares"]
    if record.loss is not None and record.loss < 0 < squares * count and got["alone"]:
        factor = count * squares / (-4 * record.loss)
        if any(abs(factor / usual - 1) < MATCHES for usual in _reductions(count, got["samples"])):
            return "squared error", math.inf if record.step else 0.0
    return None


def _moves(record: Record) -> bool:
    """Whether the step moves what gives the output: the weights of an adversary that is to be
    deceived stay."""
    last = _ending.last_weighted(record)
    moved = {p.name: p.update for p in record.parameters}
    update = None if last is None else moved.get(f"{last.layer.name}.weight")
    return update is None or update.squares > 0


def _reductions(count: float, samples: float) -> Iterator[float]:
    """Yield by what the mean of the squares is multiplied: a mean, a sum, a sum over a sample."""
    for factor in (1.0, count, count / samples):
        yield from (factor, factor / 2)


DETECTORS = (AscendingLoss(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "reinforce-bandit")
SICK = ("maximised",)
