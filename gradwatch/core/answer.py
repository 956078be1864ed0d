"""What a model answers, and what an answer that never looks at its input would be worth.

For the usual losses the gradient at the output tells the targets: softmax cross-entropy has
`softmax(y) - target`, the squared error `2 (y - target)`, each times a factor. So one examined step
knows the loss of the best constant answer on its own batch: a training that does not get below it
has learnt nothing, however far its loss has fallen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

CROSS_ENTROPY: Final = "cross-entropy"
NLL: Final = "negative log-likelihood"
BINARY: Final = "binary cross-entropy"
BINARY_OF_PROBABILITIES: Final = "binary cross-entropy of probabilities"
SQUARED_ERROR: Final = "squared error"
ABSOLUTE_ERROR: Final = "absolute error"

_KINDS: Final = {
    "ce": (CROSS_ENTROPY, ""),
    "nll": (NLL, ""),
    "bce": (BINARY, ""),
    "prob": (BINARY_OF_PROBABILITIES, ""),
    "twice": (CROSS_ENTROPY, "softmax"),
    "brier": (SQUARED_ERROR, "softmax"),
    "btwice": (BINARY, "sigmoid"),
    "bsquare": (SQUARED_ERROR, "sigmoid"),
    "flat": (CROSS_ENTROPY, "temperature"),
    "bflat": (BINARY, "temperature"),
}
"""Losses that can be read from the gradient alone: their names, and what stood between the model
and them."""
OUTSIDE: Final = ("twice", "brier", "btwice", "bsquare", "flat", "bflat")
"""Those with a function between the model and the loss: the last two with a division by so much
that the loss sees logits of almost nothing."""
MICRO_BATCHES: Final = 32
"""Largest number by which a loss is divided."""
EXACT: Final = 5e-3
"""Relative difference up to which the loss that was told is a factor times this one."""
CLEARLY: Final = 10.0
"""By how much better such a loss has to fit than those without: of logits near 0 all are alike."""

FIELDS: Final = (
    *("alone", "samples", "columns", "low", "high", "row_sums", "varying"),
    *("ce_error", "ce_loss", "ce_constant", "ce_scale", "soft_loss", "soft_constant"),
    *("nll_error", "nll_loss", "nll_constant", "nll_scale"),
    *("bce_error", "bce_loss", "bce_constant", "bce_scale"),
    *("prob_error", "prob_loss", "prob_constant", "prob_scale"),
    *("squares", "var_output", "covariance", "var_gradient"),
    *(f"{name}_{what}" for name in OUTSIDE for what in ("error", "loss", "constant", "scale")),
    *("part", "call", "outputs", "inside", "asked", "asked_columns"),
    *("square_output", "product", "total", "tilt"),
    *("uneven", "balance", "entropy", "classes", "prior", "minimax"),
    *("cool", "cool_loss", "bcool", "bcool_loss"),
)
"""What the device sends of one output, in this order; NaN for what does not apply. `alone` is 0
when there were several micro-batches, and it is not known which of them the loop tells the loss of.
`*_error` is the root mean square, relative, by which the gradient is not that of this loss;
`*_scale` the factor of the loss (its weight times a loss scale). `soft_*` are for a plain mean
cross-entropy with targets that are no single class.

Sums are over the `asked` entries, those whose gradient is not 0: `squares` of the gradient,
`square_output`, their `product`, `total` of the output, `tilt` of the gradient; `var_*` and
`covariance` about the means of the `asked_columns`. `part` is the share of
a large output on which the losses were tried, `call` numbers the outermost calls of the step,
`outputs` counts what the loss reads of it; `inside` is 1 where it reads it inside the call. The
rest is explained at `Answer`."""

FITS: Final = 0.02
"""Relative error up to which a gradient is that of a loss: bfloat16 has 0.004."""
MATCHES: Final = 2e-3
"""Relative difference up to which two losses are the same: float32 sums over a batch have 1e-5."""
EVEN: Final = 0.2
"""Relative spread of the gradient's magnitudes up to which they are alike: for a Huber loss, of
which a few samples are near their targets."""
SCALES: Final = tuple(2.0**k for k in range(4, 25))
"""Loss scales of mixed precision: those of `GradScaler` begin at 2^16."""


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
    outputs: int = 1
    """How many outputs of the same call the loss reads."""

    @property
    def skill(self) -> float | None:
        """Which part of the way from the best constant answer (0) to the perfect one (1) it has
        gone; negative when it is worse than constant; None when that cannot be told."""
        if not self.kind or not self.constant > 0 or not math.isfinite(self.loss):
            return None
        return 1 - self.loss / self.constant

    @property
    def probabilities(self) -> bool:
        """Whether each row of the output is a distribution: it went through a softmax."""
        return self.columns > 1 and self.row_sums < 1e-3 and self.low >= 0


COOLING: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
"""Factors by which the logits are tried."""


def read(numbers: Sequence[float], loss: float | None, factor: float | None = None) -> Answer:
    """Make an answer of what the device sent; `loss` is what the loop said, where it did.

    Where the loss reads several outputs of the last call, it is not known whose loss it is: then
    the answer has no kind. `factor` is that of a squared error, if several exams agree on it.
    """
    rows = _rows(numbers)
    last = [row for row in rows if row["call"] == rows[-1]["call"]]
    outer = [row for row in last if not row["inside"]]
    if len(outer) == 1:
        return _one(outer[0], loss, factor)
    if outer:
        return replace(_one(outer[-1], None), kind="", loss=math.nan, constant=math.nan)
    found = [_one(row, loss, factor) for row in last]
    return next((one for one in found if one.kind), found[0]) if found else Answer()


def heads(numbers: Sequence[float]) -> tuple[Answer, ...]:
    """Make one answer of each output that some loss reads, as far as its gradient alone tells."""
    return tuple(_one(row, None) for row in _rows(numbers) if not row["inside"])


def factor_of(numbers: Sequence[float], loss: float) -> float:
    """Return by what a squared error would have to be multiplied to be the loss that was told: if
    it is always the same while the loss is not, then it is a squared error."""
    row = _rows(numbers)[-1]
    return row["asked"] * row["squares"] / (4 * loss)


def _rows(numbers: Sequence[float]) -> list[dict[str, float]]:
    # A single row that an older version wrote lacks the last fields.
    width = len(FIELDS) if len(numbers) % len(FIELDS) == 0 else len(numbers)
    rows = []
    for start in range(0, len(numbers), width):
        row = [float(value) for value in numbers[start : start + width]]
        row += [math.nan] * (len(FIELDS) - width)
        got = dict(zip(FIELDS, row, strict=True))
        if width < len(FIELDS):
            asked = got["samples"] * got["columns"]
            got |= {"part": 1, "call": 0, "outputs": 1, "inside": 0, "asked": asked}
            got["asked_columns"] = got["columns"]
        rows.append(got)
    return rows


def _one(got: dict[str, float], loss: float | None, factor: float | None = None) -> Answer:
    asked = got["asked"]
    return replace(
        _loss(got, loss if got["alone"] else None, factor),
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
    )


def _loss(got: dict[str, float], loss: float | None, factor: float | None) -> Answer:
    whole = loss if got["part"] == 1 else None  # of a part, the loss is not the one that was told
    name = _fitting(got, whole)
    if name and not got[f"{name}_constant"] > 0:
        # Of one and the same target for all many a loss is that of yes; a squared error is exact.
        square = _squared_error(got, loss, factor)
        name = name if square.kind != SQUARED_ERROR else ""
    if name:
        kind, through = _KINDS[name]
        cooling = {"ce": "cool", "bce": "bcool"}.get(name)
        return Answer(
            kind,
            got[f"{name}_loss"],
            got[f"{name}_constant"],
            through=through,
            cool=got[cooling] if cooling else math.nan,
            cool_loss=got[f"{cooling}_loss"] if cooling else math.nan,
        )
    told = math.nan if whole is None else whole
    if math.isfinite(told) and abs(got["soft_loss"] - told) <= MATCHES * abs(told):
        return Answer(CROSS_ENTROPY, told, got["soft_constant"])
    return _squared_error(got, loss, factor)


def _fitting(got: dict[str, float], loss: float | None) -> str:
    """Return the loss that fits best; nothing if none does, or if something else fits as well."""
    errors = {
        name: got[f"{name}_error"]
        for name in _KINDS
        if got[f"{name}_error"] < FITS
        and (
            _undecided(name, got, loss)
            if "flat" in name
            else _plausible(got[f"{name}_scale"], got[f"{name}_loss"], loss)
        )
    }
    inside = [error for name, error in errors.items() if name not in OUTSIDE]
    errors = {
        name: error
        for name, error in errors.items()
        if name not in OUTSIDE or error * CLEARLY < min(inside, default=1.0)
    }
    best = min(errors, key=errors.__getitem__, default="")
    return "" if best and got["minimax"] * CLEARLY < errors[best] else best


def _undecided(name: str, got: dict[str, float], told: float | None) -> bool:
    """Whether the loss that was told is that of logits of almost nothing. Many a loss of yes and no
    has a gradient of one size: there it has to be told."""
    if told is None:
        return name == "flat" and got["flat_scale"] > 0
    return abs(told / got[f"{name}_loss"] - 1) < FITS


def _plausible(scale: float, value: float, told: float | None) -> bool:
    """Whether the loss that was told is this one times its factor, but for a loss scale (a power of
    two) or the division by the number of micro-batches."""
    if not 0 < scale < math.inf:
        return False
    if not told or not math.isfinite(told) or value <= 0:
        return True
    ratio = scale * value / told
    if not 1e-9 < ratio < math.inf:
        return False
    parts = min(MICRO_BATCHES, max(1, round(1 / ratio)))
    return any(abs(ratio / one - 1) < EXACT for one in (2.0 ** round(math.log2(ratio)), 1 / parts))


def _squared_error(got: dict[str, float], loss: float | None, factor: float | None) -> Answer:
    """A squared error has no mark of its own, but for its value: c * mean(r^2) has a gradient of
    squares 4 c^2 mean(r^2) / count, and c must be that of one of the usual reductions."""
    count = got["asked"]
    if loss is None or not 0 < loss < math.inf or not 0 < got["squares"] < math.inf or not count:
        return Answer()
    found = count * got["squares"] / (4 * loss)
    scale = 1.0
    if factor is None or abs(found / factor - 1) > MATCHES:
        usual = next((c for c in _factors(got) if abs(found / c[0] - 1) < MATCHES), None)
        if usual is None:
            return _absolute_error(got, loss)
        scale = usual[1]
    factor = found / scale**2
    s = count / (2 * factor * scale)  # residual = s * gradient
    variance = got["var_output"] - 2 * s * got["covariance"] + s * s * got["var_gradient"]
    mean = max(0.0, variance) / count
    free = count - got["asked_columns"]
    square = got["square_output"] - 2 * s * got["product"] + s * s * got["squares"]
    return Answer(
        SQUARED_ERROR,
        loss / factor,
        mean * count / free if free > 0 else math.nan,
        target_varying=math.sqrt(mean),
        residual=s * math.sqrt(got["squares"] / count),
        target_rms=math.sqrt(max(0.0, square) / count),
        target_mean=(got["total"] - s * got["tilt"]) / count,
    )


def _absolute_error(got: dict[str, float], loss: float) -> Answer:
    """The gradient of an absolute error has one size everywhere, and so has that of Huber's loss
    far from the targets; so has a mean, which is its own loss."""
    linear = abs(got["product"] - loss) <= FITS * loss
    if not got["uneven"] < EVEN or linear:
        return Answer()
    sizes = math.sqrt(got["squares"] * got["asked"] / (1 + got["uneven"] ** 2))
    return Answer(ABSOLUTE_ERROR, loss / sizes, residual=loss / sizes)


def _factors(got: dict[str, float]) -> Iterator[tuple[float, float]]:
    """Yield the squares of the gradient, relative to those of a mean squared error, that the usual
    reductions give: the mean, the sum, the sum over one sample, the mean over the entries that are
    not asked for, too; and halves. With them, the loss scale."""
    count, samples = got["asked"], got["samples"]
    for factor in (1.0, count, count / samples, count / (samples * got["columns"])):
        yield from ((factor, 1.0), (factor / 2, 1.0))
    yield from ((c * scale**2, scale) for c in (1.0, 0.5) for scale in SCALES)
