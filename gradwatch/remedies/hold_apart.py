"""Hold apart: a loss that compares outputs of one net needs something against sameness."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading, _training


@dataclass(frozen=True)
class HoldApart:
    """Add to the loss what holds the outputs of different samples apart.

    If a loss only asks that two views of a sample agree, the same output for every sample is a
    perfect answer. Contrastive losses push other samples of the batch away; VICReg and Barlow Twins
    keep each feature's standard deviation at 1; BYOL and SimSiam take the gradient from one side.

    Helps when: a siamese, contrastive or self-supervised training collapses; the loss of triplets
    rests at its margin (or at 0, where the margin is 0 or its triplets are all easy).
    Does not help when: the outputs are the same since nothing gets through the layers.

    Hadsell, Chopra and LeCun 2006; van den Oord et al. 2018 (InfoNCE); Chen and He 2021 (SimSiam);
    Bardes, Ponce and LeCun 2022 (VICReg); Schroff et al. 2015 (semi-hard triplets).
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "hold-apart"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Hold the outputs of different samples apart"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("collapsed-output", "loss")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return losses to choose from; raises `CannotPrescribe` where nothing collapsed so."""
        if not _training.asked(finding, self):
            raise CannotPrescribe("no loss is known to compare outputs of the same net")
        return Prescription(
            self.name,
            self.title,
            "# With `a` and `b`, the outputs for two views of the samples [N, features]. Either\n"
            "#   a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))\n"
            "#   own = torch.arange(len(a), device=a.device)\n"
            "#   loss = torch.nn.functional.cross_entropy(a @ b.T / 0.1, own)  # InfoNCE\n"
            "# or keep each feature's deviation over the batch at 1:\n"
            "#   deviations = torch.cat([a.var(0), b.var(0)]).add(1e-4).sqrt()\n"
            "#   loss = loss + torch.relu(1 - deviations).mean()  # VICReg\n"
            "# For triplets: a margin above 0 (0.2 of outputs of length 1), and negatives that\n"
            "# are farther than the positive but within the margin.",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (HoldApart(),)
CURES = ()
DOES_NOT_CURE = ()
