"""Weight decay: less than what the gradient does."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Group, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading, _training


@dataclass(frozen=True)
class LowerWeightDecay:
    """Lower the weight decay to a usual value.

    Decay pulls every weight to 0 in each step. Where that is more than what the gradient does, the
    weights shrink until the signal is gone. In SGD and Adam it is added to the gradient (1e-4 is
    usual); in AdamW and Lion it is multiplied with the learning rate alone (0.01 is usual).

    Helps when: the weights get smaller and smaller and the answers become constant.
    Does not help when: the decay is at its usual value, which is refused; regularisation that is
    wanted but for norms and biases belongs into a group of its own.

    Krogh and Hertz 1991; He et al. 2016 (1e-4); Loshchilov and Hutter 2019 (decoupled, 0.01).
    """

    coupled: float = 1e-4
    """For a decay that is added to the gradient."""
    decoupled: float = 1e-2
    """For one that is multiplied with the learning rate alone."""

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "lower-weight-decay"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Lower the weight decay"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("weight-decay-dominates", "optimizer")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change; raises `CannotPrescribe` where the decay is an ordinary one."""
        known = [group for group in record.groups if group.weight_decay is not None]
        large = [group for group in known if (group.weight_decay or 0.0) > self._usual(group)]
        if (
            not large
            and _training.asked(finding, self)
            and not any(group.weight_decay for group in known)
        ):
            return self._penalty(finding)
        if not large:
            raise CannotPrescribe("no weight decay above the usual is known")
        usual = min(map(self._usual, large))
        return Prescription(
            self.name,
            f"Lower the weight decay to {usual:g}",
            "for group in optimizer.param_groups:\n"
            f'    group["weight_decay"] = min(group.get("weight_decay", 0.0), {usual!r})',
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )

    def _penalty(self, finding: Finding) -> Prescription:
        """Where no optimizer decays anything, it is the loss that does."""
        return Prescription(
            self.name,
            "Lower the penalty on the weights in the loss",
            "# Instead of a sum of squared weights in the loss, or an update that shrinks them:\n"
            f"#   optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, "
            f"weight_decay={self.decoupled!r})\n"
            f"# or a factor of {self.coupled / 2!r} before the sum of the squares of the weight\n"
            f"# matrices: that is a weight_decay of {self.coupled!r}. Biases and norms need none.",
            runnable=False,
            answers=_reading.answers(finding, self),
        )

    def _usual(self, group: Group) -> float:
        apart = group.kind.endswith("W") or group.kind in ("Lion", "Muon")
        return self.decoupled if apart else self.coupled


REMEDIES = (LowerWeightDecay(),)
CURES = ("weight-decay-decoupled-too-large",)
DOES_NOT_CURE = ()
