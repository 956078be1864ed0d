"""The output activation: none, where the targets are out of its range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from gradwatch.core import losses
from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _calls, _ending, _reading, _training

_FLAT: Final = frozenset({"relu", "relu6"})
"""Functions that can die: no target brings back an output that is 0 for every sample."""
_OF_LOGITS: Final = frozenset({losses.CROSS_ENTROPY, losses.BINARY})


@dataclass(frozen=True)
class OutputActivation:
    """Leave out the activation after the last layer, so that the model can answer every number.

    A tanh gives -1 to 1, a ReLU nothing below 0: towards a target beyond that the output only
    saturates, where it has no gradient, and a ReLU that is 0 for every sample stays so. Logits have
    to be free as well.

    Helps when: a regression ends with an activation that cannot reach its targets, or with a ReLU
    that died, or logits pass an activation before their loss.
    Does not help when: the targets lie within its range: a tanh for actions or a sigmoid for
    probabilities belongs where it is, and is not touched. Softmax and sigmoid before their own
    losses are the remedy stable-loss.

    Bishop 1995, "Neural Networks for Pattern Recognition", section 6.6: outputs and their losses.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "output-activation"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Leave out the activation after the last layer"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = ("saturated-output", "squashed-logits")
        return frozenset(
            {(finding, cause) for finding in findings for cause in ("loss", "activation")}
            | {("dead-units", "activation"), ("zero-gradient", "activation")}
            | {("unscaled-targets", "data-scale")}
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        last = _ending.activation(record)
        if last is None:
            raise CannotPrescribe("no bounded activation makes the model's output")
        kind, said = _ending.kind(last), record.answer
        loss = "" if said is None else said.kind
        if kind in (_ending.SOFTMAX, "logsoftmax", "logsigmoid", "exp"):
            raise CannotPrescribe(f"the {kind} at its end is a part of the loss")
        if loss in (losses.BINARY_OF_PROBABILITIES, losses.NLL):
            raise CannotPrescribe(f"the loss is {loss}, which the {kind} at its end is for")
        removal, swaps = _ending.removal(record, last)
        check = ""
        if kind not in _FLAT and loss not in _OF_LOGITS:
            low, high = (
                f'float("{x}")' if math.isinf(x) else repr(x) for x in _ending.bounds(last)
            )
            check = _training.RUN_TARGETS + (
                f"if all({low} <= y.min() and y.max() <= {high} for y in several):\n"
                f'    raise ValueError("the targets are in the range of {kind}")\n'
            )
        return Prescription(
            self.name,
            f"Leave out the {last.layer.kind} after the last layer",
            (_calls.CLASS if swaps else "") + removal,
            runs=check + removal,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (OutputActivation(),)
CURES = ("output-relu-at-end",)
DOES_NOT_CURE = ()
