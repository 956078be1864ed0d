"""Capacity: room for all samples that a router sends to its experts."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading, _training


@dataclass(frozen=True)
class ExpertCapacity:
    """Give each expert room for somewhat more than its equal share of the samples.

    What does not fit is dropped: the layer answers 0 for it, and neither it nor what came before
    gets a gradient from it. 1.25 times samples / experts is usual in training, 2 in evaluation.

    Helps when: the experts together see fewer samples than the router.
    Does not help when: the router sends nearly all to one expert: no room is enough then
    (`loss-weights`). Memory and time of the experts grow with it.

    Lepikhin et al. 2021 (GShard); Fedus, Zoph and Shazeer 2021, "Switch Transformers", section 2.2.
    """

    factor: float = 1.25
    """Room for each expert, in equal shares."""

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "expert-capacity"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Give the experts more room"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("dropped-samples", "disconnection")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the numbers: where samples are dropped is the user's code; raises
        `CannotPrescribe` where none is known to be."""
        if not _training.asked(finding, self):
            raise CannotPrescribe("no samples are known to be dropped")
        experts = len(_reading.blamed(finding, self))
        return Prescription(
            self.name,
            self.title,
            "# Where samples are given to the experts:\n"
            f"#   experts = {experts or 'len(self.experts)'}\n"
            f"#   capacity = math.ceil({self.factor!r} * samples * top_k / experts)\n"
            "# What is over passes the layer by a skip connection, and does not become 0:\n"
            "#   output = x.clone()\n"
            "#   output[mine] = x[mine] + weight[mine, None] * expert(x[mine])\n"
            "# A loss that balances the experts makes it rare: gradwatch explain loss-weights.",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (ExpertCapacity(),)
CURES = ()
DOES_NOT_CURE = ()
