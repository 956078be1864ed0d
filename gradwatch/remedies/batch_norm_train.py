"""Training mode: batch normalisations that were left in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading

_NORMS: Final = ("batchnorm", "syncbatchnorm", "instancenorm")


@dataclass(frozen=True)
class BatchNormTrain:
    """Put the model back in training mode: call `model.train()` before each training step.

    In evaluation mode a batch normalisation divides by running statistics, that stay what they
    were: at first 1, so that it does nothing, and later those of weights that are long gone.

    Helps when: `model.eval()` was called for a validation, and `model.train()` never again.
    Does not help when: layers are in evaluation mode on purpose, as the batch normalisations of a
    pretrained model that is tuned on small batches.

    Ioffe and Szegedy 2015; the notes on evaluation mode in PyTorch's "Autograd mechanics".
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "batch-norm-train"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Put the batch normalisations back in training mode"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            (finding, "normalisation")
            for finding in (
                "vanishing-gradient",
                "exploding-gradient",
                "signal-scale",
                "saturated-activation",
                "non-finite",
            )
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        resting = [call for call in record.calls if not call.training]
        norms = _reading.names(
            call for call in resting if _reading.canonical(call.layer.kind).startswith(_NORMS)
        )
        if not norms:
            raise CannotPrescribe("no batch normalisation is in evaluation mode")
        whole = any(call.layer.name == "" for call in resting)
        return Prescription(
            self.name,
            f"Put {_code.counted(len(norms), 'normalisation')} back in training mode",
            "\n".join(
                [
                    "# Before each training step: look for a model.eval() that no train() follows.",
                    *(["model.train()"] if whole else _each(norms)),
                ]
            ),
            answers=_reading.answers(finding, self),
        )


def _each(names: Sequence[str]) -> list[str]:
    return [f"for name in {_code.listing(names)}:", "    model.get_submodule(name).train()"]


REMEDIES = (BatchNormTrain(),)
CURES = ()
# Once is not enough where the loop itself calls eval() again before each step.
DOES_NOT_CURE = ("norm-train-forgotten",)
