"""Which loss the numbers are that the device sends of an output, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
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
    *("against_error", "against_loss", "bagainst_error", "bagainst_loss"),
    *("nagainst_error", "nagainst_loss", "pagainst_error", "pagainst_loss"),
    *("turned_error", "turned", "backwards"),
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
`*against_*` are for minus a cross-entropy, a binary one, a log-likelihood and a binary one of
probabilities. The rest is explained at `Answer`."""
WIDTHS: Final = (len(FIELDS), FIELDS.index("against_error"))
"""How many of the fields a row has: now, and as earlier versions wrote it."""

FITS: Final = 0.02
"""Relative error up to which a gradient is that of a loss: bfloat16 has 0.004."""
MATCHES: Final = 2e-3
"""Relative difference up to which two losses are the same: float32 sums over a batch have 1e-5."""
EVEN: Final = 0.2
"""Relative spread of the gradient's magnitudes up to which they are alike: for a Huber loss, of
which a few samples are near their targets."""
ONE_SIZE: Final = 1e-3
"""The same up to which they are one size."""
SCALES: Final = tuple(2.0**k for k in range(4, 25))
"""Loss scales of mixed precision: those of `GradScaler` begin at 2^16."""


COOLING: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
"""Factors by which the logits are tried."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a loss; the fields are those of `answer.Answer`."""

    kind: str = ""
    loss: float = math.nan
    constant: float = math.nan
    target_varying: float = math.nan
    through: str = ""
    residual: float = math.nan
    target_rms: float = math.nan
    target_mean: float = math.nan
    cool: float = math.nan
    cool_loss: float = math.nan


def tell(got: dict[str, float], loss: float | None, factor: float | None) -> Told:
    """Say which loss a row is that of; `loss` and `factor` are what is known of it, if anything."""
    whole = loss if got["part"] == 1 else None  # of a part, the loss is not the one that was told
    name = _fitting(got, whole)
    if name and not got[f"{name}_constant"] > 0:
        # Of one and the same target for all many a loss is that of yes; a squared error is exact.
        square = _squared_error(got, loss, factor)
        other = square.kind == SQUARED_ERROR or (square.kind and got["uneven"] < ONE_SIZE)
        name = "" if other else name
    if name:
        kind, through = _KINDS[name]
        cooling = {"ce": "cool", "bce": "bcool"}.get(name)
        return Told(
            kind,
            got[f"{name}_loss"],
            got[f"{name}_constant"],
            through=through,
            cool=got[cooling] if cooling else math.nan,
            cool_loss=got[f"{cooling}_loss"] if cooling else math.nan,
        )
    told = math.nan if whole is None else whole
    if 0 < told < math.inf and abs(got["soft_loss"] - told) <= MATCHES * abs(told):
        return Told(CROSS_ENTROPY, told, got["soft_constant"])
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
            or _penalised(name, got, loss)
        )
    }
    inside = [error for name, error in errors.items() if name not in OUTSIDE]
    errors = {
        name: error
        for name, error in errors.items()
        if name not in OUTSIDE
        # A gradient of one size has no shape that a sigmoid or softmax could have given it.
        or (
            ("flat" in name or not got["uneven"] <= ONE_SIZE)
            and error * CLEARLY < min(inside, default=1.0)
        )
    }
    best = min(errors, key=errors.__getitem__, default="")
    return "" if best and got["minimax"] * CLEARLY < errors[best] else best


def _undecided(name: str, got: dict[str, float], told: float | None) -> bool:
    """Whether the loss that was told is that of logits of almost nothing. Many a loss of yes and no
    has a gradient of one size: there it has to be told."""
    if told is None:
        return name == "flat" and got["flat_scale"] > 0
    return abs(told / got[f"{name}_loss"] - 1) < FITS


def _penalised(name: str, got: dict[str, float], told: float | None) -> bool:
    """Whether the loss that was told may be the plain mean of this one, and something more that
    does not come from the only output."""
    only = got["call"] == 0 and got["outputs"] == 1
    mean = abs(got[f"{name}_scale"] - 1) < EXACT
    return only and mean and told is not None and got[f"{name}_loss"] < told < math.inf


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


def _squared_error(got: dict[str, float], loss: float | None, factor: float | None) -> Told:
    """A squared error has no mark of its own, but for its value: c * mean(r^2) has a gradient of
    squares 4 c^2 mean(r^2) / count, and c must be that of one of the usual reductions."""
    count = got["asked"]
    if loss is None or not 0 < loss < math.inf or not 0 < got["squares"] < math.inf or not count:
        return Told()
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
    return Told(
        SQUARED_ERROR,
        loss / factor,
        mean * count / free if free > 0 else math.nan,
        target_varying=math.sqrt(mean),
        residual=s * math.sqrt(got["squares"] / count),
        target_rms=math.sqrt(max(0.0, square) / count),
        target_mean=(got["total"] - s * got["tilt"]) / count,
    )


def _absolute_error(got: dict[str, float], loss: float) -> Told:
    """The gradient of an absolute error has one size everywhere, and so has that of Huber's loss
    far from the targets; so has a mean, which is its own loss."""
    linear = abs(got["product"] - loss) <= FITS * loss
    # Where all samples have one target, its size goes with the output.
    shared = got["backwards"] < FITS and got["uneven"] > FITS
    if not got["uneven"] < EVEN or linear or shared:
        return Told()
    sizes = math.sqrt(got["squares"] * got["asked"] / (1 + got["uneven"] ** 2))
    return Told(ABSOLUTE_ERROR, loss / sizes, residual=loss / sizes)


def _factors(got: dict[str, float]) -> Iterator[tuple[float, float]]:
    """Yield the squares of the gradient, relative to those of a mean squared error, that the usual
    reductions give: the mean, the sum, the sum over one sample, the mean over the entries that are
    not asked for, too; and halves. With them, the loss scale."""
    count, samples = got["asked"], got["samples"]
    for factor in (1.0, count, count / samples, count / (samples * got["columns"])):
        yield from ((factor, 1.0), (factor / 2, 1.0))
    yield from ((c * scale**2, scale) for c in (1.0, 0.5) for scale in SCALES)
