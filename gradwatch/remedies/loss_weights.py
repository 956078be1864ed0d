"""Loss weights: no term of a sum that drowns the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading, _training

_TASKS: Final = """\
# Weigh the terms so that the gradients that they send into the shared layers are of one size:
#   shared = [p for p in trunk.parameters()]
#   for term in terms:
#       grads = torch.autograd.grad(term, shared, retain_graph=True)
#       print(torch.nn.utils.get_total_norm(grads))
# and divide each term by its norm in the first steps, or standardise its targets: a squared error
# grows with the square of their unit. To learn the weights: sum(exp(-s) * term + s), with one
# parameter s for each term."""
_POSTERIOR: Final = """\
# Take the sums of both terms over the same axes: a mean over pixels beside a sum over the latents
# makes the divergence some hundred times too heavy.
#   reconstruction = loss(output, x, reduction="none").flatten(1).sum(1).mean()
#   divergence = (-0.5 * (1 + log_var - mean**2 - log_var.exp())).sum(1).mean()
# Then let its weight grow from 0 to 1 over the first thousand steps, or leave each latent some free
# bits: divergence.clamp(min=0.5), by latent, before the sum."""
_ROUTER: Final = """\
# Add the balancing term of each router to the loss, with a weight of 0.01. Of its logits, of shape
# [samples, experts], with some noise where it picks (Shazeer et al. 2017):
#   probabilities = logits.softmax(-1)
#   share = one_hot(probabilities.argmax(-1), experts).float().mean(0)
#   loss = loss + 0.01 * experts * (share * probabilities.mean(0)).sum()"""
_TEXTS: Final = {
    "drowned-task": ("Weigh the terms of the loss by their gradients", _TASKS),
    "posterior-collapse": ("Weigh the divergence and let it grow slowly", _POSTERIOR),
    "collapsed-router": ("Add a balancing term to the loss", _ROUTER),
}


@dataclass(frozen=True)
class LossWeights:
    """Weigh the terms of a loss so that each has a say.

    A sum of terms follows the one whose gradient is the largest, which may only be the one in the
    smallest unit: a task then learns nothing, a posterior becomes the prior, a router sends
    everything to one expert. Where the terms are made is the user's code: it is said what to write.

    Helps when: one term's gradient is ten times another's where they meet.
    Does not help when: the tasks contradict each other, which no weight settles; or there is but
    one term, for which nothing is prescribed.

    Chen et al. 2018 (GradNorm); Kendall, Gal and Cipolla 2018 (learnt weights); Bowman et al. 2016
    (annealing) and Kingma et al. 2016 (free bits); Shazeer et al. 2017 and Fedus et al. 2022
    (balancing experts).
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "loss-weights"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Weigh the terms of the loss"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        # A router that was born sick stays well by its balancing term only.
        return frozenset({(finding, "loss") for finding in _TEXTS} | {("collapsed-router", "init")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return what to write; the terms are made in the user's code."""
        if not _training.asked(finding, self):
            raise CannotPrescribe("the loss is not known to have several terms")
        title, text = _TEXTS[finding.name]
        return Prescription(
            self.name, title, text, runnable=False, answers=_reading.answers(finding, self)
        )


REMEDIES = (LossWeights(),)
CURES = ()
DOES_NOT_CURE = ()
