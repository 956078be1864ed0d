"""One shape for outputs and targets: each output is compared with its own target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading, _training

_CHECK: Final = """\
first = batches[0][1]
if not isinstance(output, torch.Tensor) or output.shape == first.shape:
    raise ValueError("outputs and targets have one shape already")
if output.numel() != first.numel():
    raise ValueError("there are more numbers in the one than in the other")
"""


@dataclass(frozen=True)
class MatchShapes:
    """Give the targets the shape of the output before the loss compares them.

    Outputs of shape [N, 1] and targets of shape [N] are broadcast to [N, N]: the loss is then the
    mean over all pairs of an output and a target, and its best answer is the mean of the targets.
    PyTorch warns of it once, on stderr, and only in its own losses.

    Helps when: a model with one output is trained on targets without that axis, or the other way
    round; all answers become the targets' mean.
    Does not help when: both have one shape already, which is refused, or broadcasting is meant, as
    with one return for all actions of an episode. The loss before was that of another question, so
    that the two cannot be compared.

    PyTorch's documentation, "Broadcasting semantics". Cost: none.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "match-shapes"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Give outputs and targets one shape"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("broadcast-targets", "loss")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change; raises `CannotPrescribe` where the shapes cannot be mixed up."""
        said = record.answer
        if not _training.asked(finding, self) and (said is None or said.columns != 1):
            raise CannotPrescribe("the output is not known to be a single number per sample")
        body = "loss_fn = MatchedShapes(loss_fn)"
        return Prescription(
            self.name,
            self.title,
            "# In the source: loss_fn(output, targets.view_as(output)). Or, with `loss_fn`:\n"
            + _code.definition("MatchedShapes")
            + body,
            runs=_training.RUN_OUTPUT + _training.RUN_TARGETS + _CHECK + body,
            changes_loss=True,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (MatchShapes(),)
CURES = ("targets-broadcast",)
DOES_NOT_CURE = ("low-learning-rate",)
