"""Hold the parameters: give the optimizer what it was not given."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading


@dataclass(frozen=True)
class HoldParameters:
    """Add the forgotten parameters to the optimizer, or say that they are to stay as they are.

    Helps when: the optimizer was made before a layer was added or replaced, before the model was
    copied, or from a part of the model.
    Does not help when: they were left out on purpose: then `requires_grad_(False)` says so and
    saves their share of the backward pass.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "hold-parameters"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Add the forgotten parameters to the optimizer"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("forgotten-parameters", "disconnection")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        names = [p.name for p in record.parameters if p.trainable and p.held is False]
        if not names:
            raise CannotPrescribe("the optimizer holds every parameter by now")
        return Prescription(
            self.name,
            f"Add {_code.counted(len(names), 'parameter')} to the optimizer",
            "held = {id(p) for group in optimizer.param_groups for p in group['params']}\n"
            "forgotten = [p for p in model.parameters() if p.requires_grad and id(p) not in held]\n"
            "first = optimizer.param_groups[0]\n"
            'options = {key: value for key, value in first.items() if key != "params"}\n'
            'optimizer.add_param_group({**options, "params": forgotten})\n'
            "# If they are to stay as they are: for p in forgotten: p.requires_grad_(False)",
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (HoldParameters(),)
CURES = ("forgotten-by-the-optimizer",)
DOES_NOT_CURE = ("low-learning-rate",)
