"""Momentum: an average of the last ten gradients, and of the last thousand squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Group, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading, _training

_BETAS: Final = (0.9, 0.999)


@dataclass(frozen=True)
class UsualMomentum:
    """Set the momentum to 0.9, and Adam's betas to (0.9, 0.999).

    A momentum of m multiplies the length of a steady step by 1 / (1 - m): 10 for 0.9, 1000 for
    0.999, which also needs a thousand steps to turn round. A second beta near 0 divides each
    gradient by itself alone: every step is of full length, and a rare gradient is as long as any.

    Helps when: the loss swings, or grows over many steps, although single gradients are ordinary;
    or plain SGD crawls along a valley.
    Does not help when: they have these values already, which is refused; the learning rate itself
    is too high.

    Polyak 1964; Sutskever et al. 2013; Kingma and Ba 2015; Reddi, Kale and Kumar 2018 (a second
    beta that is too small).
    """

    usual: float = 0.9

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "usual-momentum"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Set the momentum to its usual value"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            (finding, "optimizer") for finding in ("oversized-updates", "exploding-gradient")
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change; raises `CannotPrescribe` where it would be none."""
        unusual = [group for group in record.groups if self._unusual(group)]
        if _training.asked(finding, self):  # steps that are too large get no longer by it
            unusual = [group for group in unusual if not self._small(group)]
        if not unusual:
            raise CannotPrescribe("no optimizer with another momentum is known")
        return Prescription(
            self.name,
            f"Set the momentum to {self.usual:g}",
            "for group in optimizer.param_groups:\n"
            '    if "momentum" in group:\n'
            f'        group["momentum"] = {self.usual!r}\n'
            '    if len(group.get("betas", ())) == 2:\n'
            f'        group["betas"] = {_BETAS!r}',
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )

    def _small(self, group: Group) -> bool:
        return group.second_momentum is None and (group.momentum or 0.0) < self.usual

    def _unusual(self, group: Group) -> bool:
        if group.momentum is None:
            return False
        if group.kind == "SGD" or group.second_momentum is None:
            return group.momentum != self.usual
        if group.kind == "RMSprop":  # its momentum is 0 by default, and its steps need none
            return group.momentum > self.usual
        return (group.momentum, group.second_momentum) != _BETAS


REMEDIES = (UsualMomentum(),)
CURES = ("momentum-too-high", "adam-without-second-moment")
DOES_NOT_CURE = ()
