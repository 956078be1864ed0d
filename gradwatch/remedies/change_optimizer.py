"""Another optimizer, with the learning rate that usually suits it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Group, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading

_HELD: Final = 'held = [p for group in optimizer.param_groups for p in group["params"]]\n'
_ADAM: Final = frozenset({"Adam", "AdamW", "NAdam", "RAdam", "Adamax"})


@dataclass(frozen=True)
class UseAdamW:
    """Train with AdamW at a learning rate of 1e-3 and its usual options.

    It divides each gradient by its own size: layers whose gradients differ by decades, losses in
    odd units and rare features get steps of the same length, and one learning rate suits most
    networks.

    Helps when: the optimizer or its options do not suit the gradients: their size differs between
    layers, or the loss is scaled.
    Does not help when: no gradient arrives at all, or the direction is noise: a gradient that
    vanished over 20 layers has the right length after it, and still says nothing. In 77 sick
    trainings Adam at 1e-3 repaired 8.

    Kingma and Ba 2015 (Adam); Loshchilov and Hutter 2019 (AdamW).
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "use-adamw"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Train with AdamW at a learning rate of 1e-3"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            {
                ("stalled-updates", "learning-rate"),
                ("stalled-updates", "optimizer"),
                ("oversized-updates", "optimizer"),
                ("epsilon-dominates", "optimizer"),
                ("learns-nothing", "learning-rate"),
                ("learns-nothing", "optimizer"),
            }
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change; raises `CannotPrescribe` where it would be none."""
        if record.groups and all(map(_usual_adam, record.groups)):
            raise CannotPrescribe("the optimizer is Adam with these options already")
        return Prescription(
            self.name,
            self.title,
            _HELD + "optimizer = torch.optim.AdamW(held, lr=1e-3)",
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


@dataclass(frozen=True)
class UseSGD:
    """Train with SGD at a learning rate of 0.01 and a momentum of 0.9.

    Its steps shrink with the gradient, so that it comes to rest where an optimizer that normalises
    keeps jumping, and nothing is divided by a root that may be 0.

    Helps when: Adam or its kin make steps that are too large for what they have seen: a second
    moment that forgets at once, gradients that are mostly zero, an epsilon that rounds to zero.
    Does not help when: layers differ by decades in the size of their gradients, or the loss is in
    odd units: then its rate has to be found first.

    Robbins and Monro 1951; Sutskever et al. 2013 (momentum); Wilson et al. 2017.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "use-sgd"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Train with SGD and momentum"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("oversized-updates", "optimizer"), ("non-finite", "optimizer")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change; raises `CannotPrescribe` where it would be none."""
        if record.groups and all(group.kind == "SGD" for group in record.groups):
            raise CannotPrescribe("the optimizer is SGD already")
        return Prescription(
            self.name,
            self.title,
            _HELD + "optimizer = torch.optim.SGD(held, lr=0.01, momentum=0.9)",
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


def _usual_adam(group: Group) -> bool:
    return (
        group.kind in _ADAM
        and group.learning_rate == 1e-3
        and (group.momentum, group.second_momentum) == (0.9, 0.999)
        and group.epsilon == 1e-8
        and not group.maximize
        and (group.weight_decay or 0.0) <= 0.01
    )


REMEDIES = (UseAdamW(), UseSGD())
CURES = ("momentum-too-high", "adam-without-second-moment")
DOES_NOT_CURE = ("half-norm-overflows",)
