"""Unfreeze: let everything be trained that was frozen."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading


@dataclass(frozen=True)
class Unfreeze:
    """Set `requires_grad` for the frozen parameters, and give them to the optimizer.

    Helps when: the wrong part was frozen (a head that is used, with one that is not left to be
    trained), or frozen weights are no good for the task.
    Does not help when: a pretrained model is tuned on little data, and what it knows is to stay; or
    weights were quantised. Backward costs more, and the optimizer needs memory for all of them.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "unfreeze"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Train the frozen parameters too"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("disconnected-parameters", "disconnection")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        names = [p.name for p in record.parameters if not p.trainable]
        if not names:
            raise CannotPrescribe("no parameter is frozen")
        return Prescription(
            self.name,
            f"Train {_code.counted(len(names), 'frozen parameter')} too",
            "for parameter in model.parameters():\n"
            "    if parameter.is_floating_point():  # integers are quantised weights\n"
            "        parameter.requires_grad_(True)\n"
            "held = {id(p) for group in optimizer.param_groups for p in group['params']}\n"
            "new = [p for p in model.parameters() if p.requires_grad and id(p) not in held]\n"
            "first = optimizer.param_groups[0]\n"
            'options = {key: value for key, value in first.items() if key != "params"}\n'
            'optimizer.add_param_group({**options, "params": new})',
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (Unfreeze(),)
CURES = ("frozen-but-an-unused-head",)
DOES_NOT_CURE = ("low-learning-rate",)
