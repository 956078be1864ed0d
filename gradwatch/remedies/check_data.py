"""Check the data: what no change of the model or of the training can repair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading, _training

_MISSING: Final = """\
# Before training: which samples hold a NaN or an infinity, and in which features?
#   bad = ~torch.isfinite(inputs)
#   print(bad.flatten(1).any(1).nonzero(), bad.sum(0))
# Leave these samples out, or put the median of the feature in place and add one that says so.
# Look at the targets in the same way."""
_OUTLIERS: Final = """\
# Look at the batch of that step: its largest input and target beside those of the others.
# A value that is wrong goes; a rare one that is right can be clipped to what is usual:
#   low, high = inputs.quantile(0.001, 0), inputs.quantile(0.999, 0)
#   inputs = inputs.clamp(low, high)
# or gets a loss that does not square it: torch.nn.HuberLoss()."""
_UNRELATED: Final = """\
# Do inputs and targets belong together? Three tests:
#   - Look at ten pairs as they go into the model, after all loading and augmentation.
#   - Train on one batch of ten samples again and again: it must be learnt by heart.
#   - Shuffle the targets: if the loss falls as far as before, it has learnt nothing of them.
# A shuffle of one of both, a sorted file, an index that is off by one, or targets that were
# normalised away are the usual reasons."""
_SAME: Final = """\
# Before training: how many samples of a batch are different ones, and since when?
#   print(inputs.flatten(1).unique(dim=0).shape[0], "of", len(inputs))
# Look at the raw data, then after each step of loading: one sample that is repeated, a cast to
# integers (0.3 becomes 0) or to float16 before an offset was taken off, a division by a wrong
# maximum, an augmentation that leaves nothing."""
_CODES: Final = """\
# Which values are no measurements? The largest and smallest targets, and the most frequent ones:
#   values, counts = targets.unique(return_counts=True)
#   print(values[:3], values[-3:], values[counts.topk(3).indices])
# -1, 999 or 99999 often stand for "missing". Leave them out of the loss:
#   known = targets != 99999
#   loss = loss_fn(output[known], targets[known])"""
_ONE_CLASS: Final = """\
# Count what the loss is given, in some batches as they go into it:
#   for inputs, targets in loader:
#       print(targets.shape, targets.dtype, targets.unique(return_counts=True))
# If all is one class: is it the right column, was a share cast to an integer (0.7 becomes 0), are
# the data sorted by class and not shuffled (shuffle=True)?"""
_TEXTS: Final = {
    "non-finite": ("Find the samples that are not finite", _MISSING),
    "gradient-spike": ("Look for outliers in the data", _OUTLIERS),
    "exploding-gradient": ("Look for outliers in the data", _OUTLIERS),
    "learns-nothing": ("Check that inputs and targets belong together", _UNRELATED),
    "signal-scale": ("Look why all samples of a batch are the same", _SAME),
    "unscaled-targets": ("Look for codes among the targets", _CODES),
    "constant-targets": ("Count the classes that the loss is given", _ONE_CLASS),
    "collapsed-output": ("Check that inputs and targets belong together", _UNRELATED),
}


@dataclass(frozen=True)
class CheckData:
    """Look at the data themselves: missing values, outliers, targets that do not belong to them.

    Helps when: the input of the model is not finite or the same for all samples, a single batch
    throws the training off, all targets are alike or some are codes and no numbers, or nothing is
    learnt although everything in the model works.
    Does not help when: the data are sound. Then the three tests for targets show that as well,
    within minutes.

    Karpathy 2019, "A Recipe for Training Neural Networks": become one with the data.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "check-data"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Check the data"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset((finding, "data") for finding in _TEXTS)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return what to look at: only the user can."""
        if not _training.asked(finding, self):
            raise CannotPrescribe("nothing speaks against the data")
        title, text = _TEXTS[finding.name]
        return Prescription(
            self.name, title, text, runnable=False, answers=_reading.answers(finding, self)
        )


REMEDIES = (CheckData(),)
CURES = ()
DOES_NOT_CURE = ()
