"""A norm over a single value: left out, for what it gives is the same whatever comes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading

_SAME: Final = 1e-6
"""Share of squares in which samples differ under which they are the same."""


@dataclass(frozen=True)
class LeaveOutNorm:
    """Leave out normalisations that have but one value to take a mean and a deviation of.

    The mean of one value is that value: what such a norm gives is its bias, and no gradient comes
    through it. It happens with a layer norm over the last axis of an output of one column, and
    with an instance norm at one position.

    Helps when: a norm gives the same for every sample, though what comes in is not the same.
    Does not help when: a norm has several values, however few (see `group-norm`).

    Ba, Kiros and Hinton 2016, "Layer Normalization", section 3: the statistics are those of all
    units of a layer, of which there have to be several. Cost: none, it saves a little.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "leave-out-norm"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Leave out norms over a single value"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = ("constant-output", "zero-gradient", "vanishing-gradient")
        return frozenset((finding, "normalisation") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        empty = [
            call
            for call in record.calls
            if "norm" in _reading.canonical(call.layer.kind)
            and call.layer.weight_shape in ((), (1,))
            and call.spread is not None
            and call.spread < _SAME
        ]
        if not empty:
            raise CannotPrescribe("no norm over a single value is known")
        names = _reading.names(call for call in empty if _reading.replaceable(record, call))
        body = _code.replace_each(names, "model.set_submodule(name, torch.nn.Identity())")
        return Prescription(
            self.name,
            f"Leave out {_code.counted(len(empty), 'norm')} over a single value",
            f"{body}\n{_code.NEW_OPTIMIZER}"
            if names
            else f"# {_code.mention(_reading.names(empty))}: leave it out of the forward.",
            runs=body,
            runnable=bool(names),
            answers=_reading.answers(finding, self),
        )


REMEDIES = (LeaveOutNorm(),)
CURES = ("norm-over-one-value",)
DOES_NOT_CURE = ("small-tanh-mlp",)
