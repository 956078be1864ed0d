"""What is added to the loss and does not come from the output: a penalty on weights or on values
inside of the net. The gradient at the output tells the loss of the answers; the rest is added."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Final

from gradwatch.core.answers import answers
from gradwatch.core.history import History
from gradwatch.core.losses import FITS
from gradwatch.core.record import Record
from gradwatch.detectors import _outcome

SHARE: Final = 0.5
"""Part of the first losses that it has to be, at least."""
FELL: Final = 0.5
"""Part of it that the steps have taken away: they have followed it."""


@dataclass(frozen=True, slots=True)
class Surplus:
    """What is added, in the exams that tell."""

    records: tuple[Record, ...]
    first: float
    """Part of the loss that it was at the beginning."""
    fell: float
    """Part of it that is gone."""


def surplus(history: History) -> Surplus | None:
    """Return what is added to the loss, if it was most of it and the steps have followed it."""
    seen = [(r, a) for r, a in answers(history) if r.loss is not None]
    if not seen or any(not a.kind or a.outputs > 1 or a.through for _, a in seen):
        return None
    records = tuple(record for record, _ in seen)
    extra = [(record.loss or 0.0) - answer.loss for record, answer in seen]
    more = all(e > FITS * abs(r.loss or 0.0) for e, r in zip(extra, records, strict=True))
    if not more or not _outcome.lasting(records):
        return None
    few = _outcome.LASTING_EXAMS
    begin, end = median(extra[:few]), median(extra[-few:])
    first = begin / median(record.loss or 0.0 for record in records[:few])
    fell = 1 - end / begin
    return Surplus(records, first, fell) if first >= SHARE and fell >= FELL else None
