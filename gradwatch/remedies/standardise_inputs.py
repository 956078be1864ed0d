"""Standardised inputs: numbers of a size that the first layer was initialised for."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading, _training


@dataclass(frozen=True)
class StandardiseInputs:
    """Subtract the training set's mean from the inputs and divide by its standard deviation.

    Every initialisation assumes inputs of about unit variance. Pixels from 0 to 255, prices or
    time stamps drive the first activation into its flat part before a single step is made. A hook
    before the model does it, for each feature by itself (of a convolution: each channel), so that
    no name in the model changes; it is no part of the state_dict, so keep it with the data.

    Helps when: the first layer saturates or explodes although its weights are of ordinary size,
    inputs are tiny, far from zero, or in mixed units. It repaired 8 of 72 sick trainings.
    Does not help when: the fault lies deeper, or a few outliers make the standard deviation. Inputs
    that are indices are refused. Use the training set's numbers for validation too.

    LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp".
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "standardise-inputs"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Standardise the inputs"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = (
            "saturated-activation",
            "signal-scale",
            "exploding-gradient",
            "vanishing-gradient",
            "dead-units",
            "non-finite",
            "oversized-updates",
            "learns-nothing",
        )
        return frozenset((finding, "data-scale") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        first = next((call.layer for call in record.calls if call.layer.weight_shape), None)
        if first is not None and "embedding" in first.kind.lower():
            raise CannotPrescribe("the model begins with an embedding: its inputs are indices")
        if first is not None and "norm" in first.kind.lower():
            raise CannotPrescribe("the model begins with a normalisation already")
        convolution = first is not None and first.builtin and first.kind.startswith("Conv")
        axes = len(first.weight_shape) - 2 if first is not None and convolution else 0
        axis = -1 - axes  # the channels stand before the axes of a picture, features at the end
        moments = _training.MOMENTS.format(
            what="the inputs",
            rows=f"values.movedim({axis}, -1).reshape(-1, values.shape[{axis}])",
        )
        body = f"""\
if any(values.ndim < {axes + 2} for values in several):
    raise ValueError("the inputs have no axis of features")
{moments}shape = [-1, {", ".join(["1"] * axes)}]
model.register_forward_pre_hook(
    Standardise(mean.float().reshape(shape), std.float().reshape(shape))
)"""
        return Prescription(
            self.name,
            self.title,
            _code.definition("Standardise") + _training.CODE_INPUTS + body,
            runs=_training.RUN_INPUTS + body,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (StandardiseInputs(),)
CURES = ("scale-inputs-offset", "scale-one-feature")
DOES_NOT_CURE = ("init-zeros",)
