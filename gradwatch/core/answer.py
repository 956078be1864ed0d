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
from operator import itemgetter
from typing import Final

CROSS_ENTROPY: Final = "cross-entropy"
NLL: Final = "negative log-likelihood"
BINARY: Final = "binary cross-entropy"
BINARY_OF_PROBABILITIES: Final = "binary cross-entropy of probabilities"
SQUARED_ERROR: Final = "squared error"

FIELDS: Final = (
    *("alone", "samples", "columns", "low", "high", "row_sums", "varying"),
    *("ce_error", "ce_loss", "ce_constant", "ce_scale", "soft_loss", "soft_constant"),
    *("nll_error", "nll_loss", "nll_constant", "nll_scale"),
    *("bce_error", "bce_loss", "bce_constant", "bce_scale"),
    *("prob_error", "prob_loss", "prob_constant", "prob_scale"),
    *("squares", "var_output", "covariance", "var_gradient"),
)
"""What the device sends, in this order; NaN for what does not apply. `alone` is 0 when there were
several micro-batches, and it is not known which of them the loop tells the loss of. `*_error` is
the root mean square, relative, by which the gradient is not that of this loss; `*_scale` the factor
of the loss (its weight times a loss scale). `soft_*` are for a plain mean cross-entropy with
targets that are no single class. The last four are sums over all entries, the three of variances
about each column's mean over the batch."""

_KINDS: Final = {"ce": CROSS_ENTROPY, "nll": NLL, "bce": BINARY, "prob": BINARY_OF_PROBABILITIES}
FITS: Final = 0.02
"""Relative error up to which a gradient is that of a loss: bfloat16 has 0.004."""
MATCHES: Final = 2e-3
"""Relative difference up to which two losses are the same: float32 sums over a batch have 1e-5."""


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


def read(row: Sequence[float], loss: float | None) -> Answer:
    """Make an answer of what the device sent; `loss` is what the loop said, where it did."""
    got = dict(zip(FIELDS, (float(value) for value in row), strict=True))
    loss = loss if got["alone"] else None
    return replace(
        _loss(got, loss),
        low=got["low"],
        high=got["high"],
        row_sums=got["row_sums"],
        varying=got["varying"],
        samples=int(got["samples"]),
        columns=int(got["columns"]),
    )


def _loss(got: dict[str, float], loss: float | None) -> Answer:
    fitting = [
        (got[f"{name}_error"], Answer(kind, got[f"{name}_loss"], got[f"{name}_constant"]))
        for name, kind in _KINDS.items()
        if got[f"{name}_error"] < FITS
        and _plausible(got[f"{name}_scale"], got[f"{name}_loss"], loss)
    ]
    if fitting:
        return min(fitting, key=itemgetter(0))[1]
    if loss is not None and abs(got["soft_loss"] - loss) <= MATCHES * abs(loss):
        return Answer(CROSS_ENTROPY, loss, got["soft_constant"])
    return _squared_error(got, int(got["samples"]), int(got["columns"]), loss)


def _plausible(scale: float, value: float, told: float | None) -> bool:
    """Whether the loss that was told is this one times its factor, but for a loss scale (a power of
    two) or the division by the number of micro-batches."""
    if not 0 < scale < math.inf:
        return False
    if told is None or not math.isfinite(told) or value <= 0:
        return True
    ratio = scale * value / told
    if ratio <= 0:
        return False
    usual = 2.0 ** round(math.log2(ratio)), 1 / max(1, round(1 / ratio))
    return any(abs(ratio / one - 1) < FITS for one in usual)


def _squared_error(got: dict[str, float], samples: int, columns: int, loss: float | None) -> Answer:
    """A squared error has no mark of its own, but for its value: c * mean(r^2) has a gradient of
    squares 4 c^2 mean(r^2) / count, and c must be that of one of the usual reductions."""
    count = samples * columns
    if loss is None or not 0 < loss < math.inf or not 0 < got["squares"] < math.inf or not count:
        return Answer()
    factor = count * got["squares"] / (4 * loss)
    if not any(abs(factor / usual - 1) < MATCHES for usual in _reductions(samples, columns)):
        return Answer()
    s = count / (2 * factor)  # residual = s * gradient
    variance = got["var_output"] - 2 * s * got["covariance"] + s * s * got["var_gradient"]
    mean = max(0.0, variance) / count
    constant = mean * samples / (samples - 1)
    return Answer(SQUARED_ERROR, loss / factor, constant, target_varying=math.sqrt(mean))


def _reductions(samples: int, columns: int) -> Iterator[float]:
    """Yield the factors of mean(r^2): of the mean, the sum, the sum over one sample, and halves."""
    for factor in (1.0, samples * columns, columns):
        yield from (factor, factor / 2)
