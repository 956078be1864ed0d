"""The router's init: experts that have the same chance at first."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading


@dataclass(frozen=True)
class RouterInit:
    """Draw the router's weights small and set its bias to 0.

    A router that favours one expert by tens of units of logits is sure of it: the others get no
    sample, and the softmax is flat there, so that nothing moves it. With small weights all experts
    get about equally many samples of the first batches.

    Helps when: from the first step on some experts have got nothing.
    Does not help when: the router collapses in training (`loss-weights`).

    Fedus, Zoph and Shazeer 2021, "Switch Transformers", section 2.4: a tenth of the usual variance;
    Shazeer et al. 2017 begin with zeros and noise. Cost: none.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "router-init"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Draw the router's weights small, without a bias"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("collapsed-router", "init")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change; raises `CannotPrescribe` where no router is known."""
        blamed = _reading.blamed(finding, self)
        own = _reading.names(_reading.own_weights(record))
        routers = [name for name in blamed if name in own]
        if not routers:
            raise CannotPrescribe("no Linear or Conv layer is known to be a sick router")
        return Prescription(
            self.name,
            self.title,
            _code.redraw(routers, "torch.nn.init.xavier_normal_(layer.weight, gain=0.1**0.5)"),
            answers=_reading.answers(finding, self),
        )


REMEDIES = (RouterInit(),)
CURES = ("collapsed-router",)
DOES_NOT_CURE = ("dropped-samples",)
