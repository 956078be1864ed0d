"""Minimise: a step that goes down the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading, _training


@dataclass(frozen=True)
class Minimise:
    """Turn the sign of what the optimizer does, or of the loss.

    Helps when: the optimizer was made with `maximize=True`, its learning rate is negative, an
    update of one's own adds the gradient, or the loss has a minus too many.
    Does not help when: the objective is a reward that is maximised on purpose: then only the loss
    that is told has the wrong sign. Where all signs are right it is refused.

    Cauchy 1847: the gradient points upwards.
    """

    cosine: float = -0.1
    """Between a parameter's movement and its negative gradient, below which it goes up."""

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "minimise"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Go down the gradient, not up"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("ascending-loss", "optimizer"), ("ascending-loss", "loss")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for what goes up here; raises `CannotPrescribe` with the reason."""
        groups = record.groups
        flagged = any(group.maximize for group in groups)
        negative = any((group.learning_rate or 0.0) < 0 for group in groups)
        cosines = [p.descent for p in record.parameters if p.descent is not None]
        # One step of a healthy training may go up, by its momentum: only the finding has seen all.
        upwards = _training.asked(finding, self) and sum(
            c < self.cosine for c in cosines
        ) > 0.5 * len(cosines)
        if finding.name == "ascending-loss" and finding.cause == "loss":
            return self._by_hand(finding)
        if upwards and not groups:
            return self._of_ones_own(finding)
        if not flagged and not negative and not upwards:
            raise CannotPrescribe("the steps go down the gradient")
        lines = ["for group in optimizer.param_groups:"]
        if flagged:
            lines += ['    if group.get("maximize"):', '        group["maximize"] = False']
        if negative:
            lines.append('    group["lr"] = abs(group["lr"])')
        if not flagged and not negative:
            lines += [
                "    # Its update adds the gradient: better to subtract it there.",
                '    group["lr"] = -group["lr"]',
            ]
        return Prescription(
            self.name,
            self.title,
            "\n".join(lines),
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )

    def _of_ones_own(self, finding: Finding) -> Prescription:
        return Prescription(
            self.name,
            self.title,
            "# Where the weights are updated, subtract the gradient:\n"
            "#   with torch.no_grad():\n"
            "#       for p in model.parameters():\n"
            "#           p -= lr * p.grad  # and not +=, nor a negative lr",
            runnable=False,
            answers=_reading.answers(finding, self),
        )

    def _by_hand(self, finding: Finding) -> Prescription:
        return Prescription(
            self.name,
            "Take the minus away from the loss",
            "# The gradient is that of the negated loss, or of one without a lower bound.\n"
            "# Minimise the loss itself: loss.backward(), not (-loss).backward().\n"
            "# A log-likelihood gets a minus, a loss does not.",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (Minimise(),)
# The training that goes up does so at a rate that is too low to halve its loss the other way.
CURES = ()
DOES_NOT_CURE = ()
