"""The initialisation that the layers come with, in place of one that was made by hand."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading


@dataclass(frozen=True)
class DefaultInit:
    """Draw all weights anew, each as its layer does when it is made.

    PyTorch's layers draw weights and biases uniformly within 1 / sqrt(fan-in). That is too small
    for deep stacks of rectifiers (`he-init`), and right for most shallow nets: better than zeros,
    copies, constants or a size that was chosen by hand.

    Helps when: the weights that a model was born with are at fault, and it is not deep.
    Does not help when: it is deep without norms or residual connections; the weights are trained
    ones, which would be lost.

    LeCun et al. 1998, "Efficient BackProp", section 4.6. Cost: none.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "default-init"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Draw all weights anew, as their layers do by default"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("symmetric-units", "init"), ("constant-output", "init")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        if not any(call.layer.weighted and not call.layer.functional for call in record.calls):
            raise CannotPrescribe("no layer with weights of its own is called")
        body = (
            "for module in model.modules():\n"
            '    if callable(getattr(module, "reset_parameters", None)):\n'
            "        module.reset_parameters()"
        )
        return Prescription(
            self.name,
            self.title,
            f"{_code.BEFORE_TRAINING}\n{body}",
            runs=body,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (DefaultInit(),)
CURES = ("init-constant-relu",)
DOES_NOT_CURE = ("sigmoid-mlp",)
