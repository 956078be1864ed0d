"""A penalty on the weights' squares in the loss: weight decay that no optimizer knows of.

The gradient at the output is that of the task alone, and tells its loss (`core/losses.py`). What
the loop says of the loss is more by the penalty. If that surplus is the same multiple of the sum of
the squared weights in all exams, though both change, it is nothing else.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median
from typing import Final

from gradwatch.core.answer import rows
from gradwatch.core.history import History
from gradwatch.core.losses import FITS
from gradwatch.core.record import Record

TASKS: Final = ("ce", "bce", "nll", "prob")
"""Losses that are known by their gradient alone, with their factor."""
EXAMS: Final = 4
"""Exams that have to agree ..."""
APART: Final = 1.5
"""... while the sum of squares changes by this factor ..."""
AGREE: Final = 0.05
"""... up to this relative difference from the typical one."""


def strength(history: History) -> float:
    """Return what the sum of squared weights is multiplied with in the loss; 0 for no penalty."""
    return history.once(_strength)


def as_decay(record: Record, strength: float) -> Record:
    """Return the record as if the penalty were a decay that is added to the gradient."""
    if not strength:
        return record
    groups = tuple(
        replace(group, kind="SGD", weight_decay=2 * strength + (group.weight_decay or 0.0))
        for group in record.groups
    )
    return replace(record, groups=groups)


def _strength(history: History) -> float:
    found = []
    for record in history:
        surplus = _surplus(record)
        squares = math.fsum(
            p.weight.squares for p in record.parameters if p.trainable and p.weight is not None
        )
        if surplus is not None and 0 < squares < math.inf:
            found.append((surplus / squares, squares))
    if len(found) < EXAMS:
        return 0.0
    typical = median(ratio for ratio, _ in found)
    sizes = [squares for ratio, squares in found if abs(ratio - typical) <= AGREE * abs(typical)]
    enough = len(sizes) >= max(EXAMS, len(found) / 2)
    return typical if typical > 0 and enough and max(sizes) > APART * min(sizes) else 0.0


def _surplus(record: Record) -> float | None:
    """Return by how much the loss that was told is more than that of the answers, where that is a
    part of it worth the name; None where it is not known."""
    if record.loss is None or not math.isfinite(record.loss) or not record.output:
        return None
    seen = rows(record.output)
    row = seen[-1]
    if len(seen) > 1 or not row["alone"] or row["part"] != 1:
        return None
    fitting = [name for name in TASKS if row[f"{name}_error"] < FITS]
    task = min(fitting, key=lambda name: row[f"{name}_error"], default="")
    if not task:
        return None
    surplus = record.loss - row[f"{task}_scale"] * row[f"{task}_loss"]
    return surplus if surplus > FITS * abs(record.loss) else None
