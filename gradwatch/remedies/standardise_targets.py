"""Standardised targets: a regression whose loss is of the size that a learning rate expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core import losses
from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _ending, _reading, _training

_OF_CLASSES: Final = frozenset(
    {losses.CROSS_ENTROPY, losses.NLL, losses.BINARY, losses.BINARY_OF_PROBABILITIES}
)


@dataclass(frozen=True)
class StandardiseTargets:
    """Let the model learn (target - mean) / std instead of the target.

    A squared error grows with the square of the unit: with prices in the hundred thousands its
    first gradient throws the weights away, with shares of a thousandth it hardly moves them, and
    the bias of the last layer alone needs thousands of steps of Adam to get to a mean far from 0.
    The model itself does not change: what it answers has to be scaled back.

    Helps when: it is a regression, and the targets' standard deviation is far from 1, or small
    beside their mean.
    Does not help when: the targets are classes or probabilities, or the last activation cannot give
    negative numbers: then it is refused. The loss before and after are in different units.

    LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.5.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "standardise-targets"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Standardise the targets"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = (
            "unscaled-targets",
            "exploding-gradient",
            "oversized-updates",
            "saturated-output",
            "non-finite",
            "dead-units",
        )
        return frozenset((finding, "data-scale") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        said = record.answer
        if said is not None and said.kind in _OF_CLASSES:
            raise CannotPrescribe(f"the loss is {said.kind}: its targets are classes")
        end = _ending.activation(record)
        if end is not None and _ending.bounds(end)[0] >= 0:
            raise CannotPrescribe(f"the model ends with {end.layer.kind}, which is never negative")
        body = (
            _training.MOMENTS.format(
                what="the targets",
                # Columns are quantities of their own; of a picture or a sequence, all are one.
                rows="(values if values.ndim == 2 else values.reshape(-1, 1))",
            )
            + "loss_fn = StandardisedTargets(loss_fn, mean.float(), std.float())\n"
            + "# An answer in the old units is mean + std * model(inputs)."
        )
        return Prescription(
            self.name,
            self.title,
            _code.definition("StandardisedTargets") + _training.CODE_TARGETS + body,
            runs=_training.RUN_TARGETS + body,
            changes_loss=True,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (StandardiseTargets(),)
CURES = ("scale-targets-prices-adam", "scale-targets-tiny")
DOES_NOT_CURE = ()
