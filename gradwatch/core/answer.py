"""What a model answers, and what an answer that never looks at its input would be worth.

For the usual losses the gradient at the output tells the targets: softmax cross-entropy has
`softmax(y) - target`, the squared error `2 (y - target)`, each times a factor. So one examined step
knows the loss of the best constant answer on its own batch: a training that does not get below it
has learnt nothing, however far its loss has fallen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from gradwatch.core.losses import CROSS_ENTROPY, FIELDS, NLL, WIDTHS, tell

ROUNDED: Final = 1e-9
"""Entropy of the targets, in nats, that is none."""
TURNED: Final = 0.1
"""Relative error up to which a gradient is a policy's: a bonus for its entropy adds some."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The output of the model in one examined step, and its loss as the gradient tells it."""

    kind: str = ""
    """The loss that its gradient is that of; empty when it is none of the known ones."""
    loss: float = math.nan
    """That loss, as a mean, without weights and scales."""
    constant: float = math.nan
    """What the best answer that is the same for every sample would have: estimated from the batch
    without the advantage of knowing it."""
    low: float = math.nan
    """The smallest entry of the output."""
    high: float = math.nan
    """The largest."""
    row_sums: float = math.nan
    """Root mean square of (sum over the last axis - 1): 0 for probabilities."""
    varying: float = math.nan
    """Standard deviation of the output over the batch, about each column's mean."""
    samples: int = 0
    """Entries along the first axis."""
    columns: int = 0
    """Entries per sample."""
    target_varying: float = math.nan
    """For a squared error: standard deviation of the targets about each column's mean."""
    through: str = ""
    """What stood between the model and this loss: `softmax` or `sigmoid`, called outside of it."""
    rms: float = math.nan
    """Root mean square of the output, over the entries that the loss reads."""
    size: float = math.nan
    """Root mean square of the gradient there."""
    residual: float = math.nan
    """For a squared error: root mean square of (output - target); for an absolute error its mean
    magnitude."""
    target_rms: float = math.nan
    """For a squared error: root mean square of the targets."""
    target_mean: float = math.nan
    """For a squared error: mean of the targets."""
    pull: float = math.nan
    """Mean of the gradient over its root mean square: -1 where it says "larger" of every entry."""
    uneven: float = math.nan
    """Standard deviation of the gradient's magnitudes over their mean: 0 for an absolute error."""
    balance: float = math.nan
    """Root mean square of the gradient's sum over the classes, relative to the gradient: 0 where
    the loss goes through a softmax, whose gradient has no part along (1, ..., 1)."""
    entropy: float = math.nan
    """Mean entropy of the softmax over the classes, as a share of the largest possible."""
    classes: int = 0
    """Entries along the axis of the classes, as far as there is one."""
    cool: float = math.nan
    """For a cross-entropy: the factor, of `COOLING`, by which the logits are best multiplied."""
    cool_loss: float = math.nan
    """The loss that they would have then."""
    prior: float = math.nan
    """Relative error by which the gradient is not a pull to zero, as a Gaussian prior's is."""
    minimax: float = math.nan
    """Relative error by which it is not that of the first generator's loss, log(1 - D)."""
    assumed: bool = False
    """Whether its kind was not told by anything but the targets that it implies."""
    outputs: int = 1
    """How many outputs of the same call the loss reads."""
    turned: float = math.nan
    """Where each row of the gradient is that of the log-probability of one class times a number,
    as a policy gradient is: the share of rows whose number is negative. NaN elsewhere."""

    @property
    def skill(self) -> float | None:
        """Which part of the way from the best constant answer (0) to the perfect one (1) it has
        gone; negative when it is worse than constant; None when that cannot be told."""
        if not self.kind or not self.constant > 0 or not math.isfinite(self.loss):
            return None
        if self.kind == CROSS_ENTROPY and self.constant < ROUNDED:
            return None  # all targets are one class, and what is left is rounding
        if self.kind in (CROSS_ENTROPY, NLL) and self.samples * self.columns < self.classes**2:
            return None  # fewer rows than classes do not tell how often each occurs
        return 1 - self.loss / self.constant

    @property
    def probabilities(self) -> bool:
        """Whether each row of the output is a distribution: it went through a softmax."""
        return self.columns > 1 and self.row_sums < 1e-3 and self.low >= 0


def read(numbers: Sequence[float], loss: float | None, factor: float | None = None) -> Answer:
    """Make an answer of what the device sent; `loss` is what the loop said, where it did.

    Where the loss reads several outputs of the last call, it is not known whose loss it is: then
    the answer has no kind. `factor` is that of a squared error, if several exams agree on it.
    """
    found = rows(numbers)
    last = [row for row in found if row["call"] == found[-1]["call"]]
    outer = [row for row in last if not row["inside"]]
    if len(outer) == 1:
        return _one(outer[0], loss, factor)
    if outer:
        return replace(_one(outer[-1], None), kind="", loss=math.nan, constant=math.nan)
    ones = [_one(row, loss, factor) for row in last]
    return next((one for one in ones if one.kind), ones[0]) if ones else Answer()


def heads(numbers: Sequence[float]) -> tuple[Answer, ...]:
    """Make one answer of each output that some loss reads, as far as its gradient alone tells."""
    return tuple(_one(row, None) for row in rows(numbers) if not row["inside"])


def factor_of(numbers: Sequence[float], loss: float) -> float:
    """Return by what a squared error would have to be multiplied to be the loss that was told: if
    it is always the same while the loss is not, then it is a squared error."""
    row = rows(numbers)[-1]
    return row["asked"] * row["squares"] / (4 * loss)


def usual(numbers: Sequence[float]) -> tuple[float, ...]:
    """Return the factors of a squared error that are worth an assumption: of the mean over all
    entries, of half of it, of the mean over samples of their sums, and of the sum."""
    row = rows(numbers)[-1]
    return (1.0, 0.5, row["asked"] / max(1.0, row["samples"]), row["asked"])


def assume(numbers: Sequence[float], factor: float) -> Answer:
    """Make an answer as if its loss were a squared error with this factor, which nobody told."""
    row = rows(numbers)[-1]
    loss = row["asked"] * row["squares"] / (4 * factor)
    return replace(_one({**row, "alone": 1.0, "part": 1.0}, loss, factor), assumed=True)


def rows(numbers: Sequence[float]) -> list[dict[str, float]]:
    """Return the fields of each output that some loss reads, by their names."""
    # Rows that an older version wrote lack the last fields; one of the oldest stands alone.
    width = next((width for width in WIDTHS if len(numbers) % width == 0), len(numbers))
    found = []
    for start in range(0, len(numbers), width):
        row = [float(value) for value in numbers[start : start + width]]
        row += [math.nan] * (len(FIELDS) - width)
        got = dict(zip(FIELDS, row, strict=True))
        if width not in WIDTHS:
            asked = got["samples"] * got["columns"]
            got |= {"part": 1, "call": 0, "outputs": 1, "inside": 0, "asked": asked}
            got["asked_columns"] = got["columns"]
        found.append(got)
    return found


def _one(got: dict[str, float], loss: float | None, factor: float | None = None) -> Answer:
    asked = got["asked"]
    told = tell(got, loss if got["alone"] else None, factor)
    return Answer(
        **asdict(told),
        low=got["low"],
        high=got["high"],
        row_sums=got["row_sums"],
        varying=got["varying"],
        samples=int(got["samples"]),
        columns=int(got["columns"]),
        rms=math.sqrt(got["square_output"] / asked) if asked else math.nan,
        size=math.sqrt(got["squares"] / asked) if asked else 0.0,
        pull=got["tilt"] / math.sqrt(got["squares"] * asked) if got["squares"] > 0 else math.nan,
        uneven=got["uneven"],
        balance=got["balance"],
        entropy=got["entropy"],
        classes=int(got["classes"]) if got["classes"] > 0 else 0,
        prior=got["prior"],
        minimax=got["minimax"],
        outputs=int(got["outputs"]),
        turned=got["turned"] if got["turned_error"] < TURNED else math.nan,
    )
