"""A loss with a slope: one that says in which direction an answer gets better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core import losses
from gradwatch.core.finding import Finding
from gradwatch.core.record import Call, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _ending, _reading, _training

_ONE_UNIT: Final = (
    "Take a sigmoid for one unit",
    """\
# A softmax over one unit is 1 whatever comes in. Leave it out, and let the model give a logit:
#   loss_fn = torch.nn.BCEWithLogitsLoss()
#   loss = loss_fn(model(inputs).squeeze(-1), targets.float())
# or give two units to torch.nn.CrossEntropyLoss(). Look at the axis, too: softmax(dim=0) of a
# batch of one sample is 1 in every entry.""",
)
_FLAT: Final = (
    "Take a loss that has a slope",
    """\
# The loss is constant around these answers. Look in it for what counts or cuts off:
#   (y > 0), argmax, round, sign, ==       ->  cross_entropy, or binary_cross_entropy_with_logits
#   y.clamp(eps, 1 - eps), then a log      ->  logits to a loss that is made for them
#   a hinge or a margin that all fulfil    ->  harder negatives, or a larger margin
#   a loss of x and x.detach(), or of two things that are the same
# How far it is from the right answer must show in it: print(torch.autograd.grad(loss, output)).""",
)
_SQUARED: Final = (
    "Take a cross-entropy in place of a squared error of probabilities",
    """\
# A squared error of sigmoid(y) or softmax(y) has their slope in its gradient, which is 0 where the
# answer is most wrong. A cross-entropy of the logits has not:
#   loss = binary_cross_entropy_with_logits(model(inputs), targets.float())  # no sigmoid before it
#   loss = cross_entropy(model(inputs), labels)                              # no softmax before it
# Begin with fresh weights, and small ones in the last layer: it is unsure then.""",
)
_RANGE: Final = (
    "Let the last function reach the targets, and not rest at its ends",
    """\
# Print both: (output.min(), output.max()) and (targets.min(), targets.max()).
#   - Targets beyond the range of the last function: leave it out, or scale the targets into it.
#   - Targets at its very ends (0 and 1, -1 and 1): a cross-entropy, or targets of 0.1 and 0.9.
#   - All answers at one end: fresh weights, small ones in the last layer.""",
)


@dataclass(frozen=True)
class SlopedLoss:
    """Replace a loss, or its last function, that is flat where the answers are.

    What is counted, rounded, cut off or saturated has a derivative of 0, and no optimizer can do
    anything with it: a surrogate is trained on, and the count is only reported.

    Helps when: the gradient is 0 where it leaves the loss, or a squared error stands behind a
    sigmoid, a softmax or another bounded function that is saturated.
    Does not help when: the gradient is lost inside of the model.

    Solla, Levin and Fleisher 1988 (squared error and cross-entropy); Bartlett, Jordan and McAuliffe
    2006 (surrogates of a count of errors).
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "sloped-loss"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Take a loss that has a slope where the answers are"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("zero-gradient", "loss"), ("saturated-output", "loss")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return what to look for: the loss is the user's; raises `CannotPrescribe`."""
        if not _training.asked(finding, self):
            raise CannotPrescribe("the loss is not known to be flat")
        said = record.answer
        if finding.name == "zero-gradient":
            title, text = _ONE_UNIT if self._one_unit(finding, record) else _FLAT
        elif said is not None and said.kind == losses.SQUARED_ERROR and said.through:
            title, text = _SQUARED
        elif any(map(_ending.bounded, _end(record))):
            title, text = _RANGE
        else:
            raise CannotPrescribe("no squared error behind a sigmoid or a softmax was seen")
        return Prescription(
            self.name, title, text, runnable=False, answers=_reading.answers(finding, self)
        )

    def _one_unit(self, finding: Finding, record: Record) -> bool:
        blamed = _reading.blamed(finding, self)
        named = [call for call in record.calls if call.layer.name in blamed]
        return any(_ending.kind(call) == _ending.SOFTMAX for call in [*named, *_end(record)])


def _end(record: Record) -> tuple[Call, ...]:
    return _ending.calls(record)[-1:]


REMEDIES = (SlopedLoss(),)
CURES = ()
DOES_NOT_CURE = ()
