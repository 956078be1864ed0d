"""The stable loss: a loss of logits, in place of a logarithm of what was squashed before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core import losses
from gradwatch.core.answer import Answer
from gradwatch.core.finding import Finding
from gradwatch.core.record import Call, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _calls, _code, _ending, _reading, _training

_LOGITS: Final = {
    _ending.SOFTMAX: losses.CROSS_ENTROPY,
    _ending.SIGMOID: losses.BINARY,
}
_CLASSES: Final = """\
if not all((y.is_floating_point() and y.ndim > 1) or y.dtype == torch.long for y in several):
    raise TypeError("the targets are no classes")
"""
_SHARES: Final = """\
if not all(y.is_floating_point() and 0 <= y.min() and y.max() <= 1 for y in several):
    raise TypeError("the targets are not between 0 and 1")
"""
_INDICES: Final = """\
for y in several:
    if y.dtype != torch.long or y.shape != output.shape[:1] + output.shape[2:]:
        raise TypeError("the targets are no classes of this output")
    if y.max() >= output.shape[1]:
        raise ValueError("there are more classes in the targets than in the output")
"""


@dataclass(frozen=True)
class StableLoss:
    """Let the model end with logits, and leave softmax or sigmoid to the loss.

    `cross_entropy` and `binary_cross_entropy_with_logits` contain the softmax or sigmoid. A second
    one before them squashes the logits between 0 and 1: the loss cannot fall below 1.46 for ten
    classes, and the gradient is small everywhere. A squared error behind a sigmoid has the
    sigmoid's slope in its gradient, which is 0 where the answer is most wrong. And log(softmax(x))
    in two steps is 0 times -inf where a probability has become 0.

    What the model ends with, and which loss its gradient is that of, are read from an examined
    step. The model then answers logits: apply the softmax where probabilities are wanted.

    Helps when: softmax or sigmoid stands before a loss that has its own, or before a squared error,
    or a cross-entropy of one's own gives NaN.
    Does not help when: the output is logits and the loss is stable, which is refused. Class weights
    and label smoothing of a loss that is replaced have to be given to the new one.

    Nielsen 2015, "Neural Networks and Deep Learning", chapter 3; PyTorch's documentation of
    CrossEntropyLoss and BCEWithLogitsLoss.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "stable-loss"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Give logits to a loss that is made for them"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = ("squashed-logits", "saturated-output", "zero-gradient", "learns-nothing")
        return frozenset({(finding, "loss") for finding in findings} | {("non-finite", "numerics")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        said = record.answer
        if said is None:
            raise CannotPrescribe("what the model answers was not seen")
        end = _ending.calls(record)
        if [_ending.kind(call) for call in end[-2:]] == [_ending.SOFTMAX, "log"]:
            return self._log_softmax(finding, record, end[-2], end[-1])
        last = _ending.activation(record)
        if last is None or _ending.kind(last) not in _LOGITS:
            return self._cross_entropy(finding, said)
        return self._without(finding, record, last, said)

    def _without(self, finding: Finding, record: Record, last: Call, said: Answer) -> Prescription:
        kind = _ending.kind(last)
        squashing = {losses.CROSS_ENTROPY, _LOGITS[kind]}  # losses that do it a second time
        removal, swaps = _ending.removal(record, last)
        code = runs = removal
        if said.kind not in squashing:
            check, loss = (
                (_CLASSES, "CrossEntropyLoss")
                if kind == _ending.SOFTMAX
                else (_SHARES, "BCEWithLogitsLoss")
            )
            new = f"\nloss_fn = torch.nn.{loss}()  # it contains the {kind}"
            code, runs = removal + new, _training.RUN_TARGETS + check + removal + new
        return Prescription(
            self.name,
            f"Leave out the {kind} before the loss"
            if said.kind in squashing
            else f"Leave the {kind} to the loss",
            (_calls.CLASS if swaps else "") + code,
            runs=runs,
            changes_loss=said.kind not in squashing,
            answers=_reading.answers(finding, self),
        )

    def _log_softmax(
        self, finding: Finding, record: Record, softmax: Call, log: Call
    ) -> Prescription:
        removal, swaps = _ending.removal(record, softmax, log)
        weighted = _reading.places(record)[-1].layer
        axis = 1 if len(weighted.weight_shape) > 2 else -1  # the channels of a convolution
        body = f"{removal}\nmodel.register_forward_hook(LogSoftmax({axis}))"
        return Prescription(
            self.name,
            "Write log_softmax in place of the logarithm of a softmax",
            (_calls.CLASS if swaps else "") + _code.definition("LogSoftmax") + body,
            runs=body,
            answers=_reading.answers(finding, self),
        )

    def _cross_entropy(self, finding: Finding, said: Answer) -> Prescription:
        if said.kind:
            raise CannotPrescribe(f"the loss is {said.kind}, of an output that suits it")
        if said.columns < 2:
            raise CannotPrescribe("the output is a single number, and not one for each class")
        new = "loss_fn = torch.nn.CrossEntropyLoss()  # of logits, and targets that are classes"
        return Prescription(
            self.name,
            "Take torch's cross-entropy in place of one of your own",
            new,
            runs=_training.RUN_OUTPUT + _training.RUN_TARGETS + _INDICES + new,
            changes_loss=True,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (StableLoss(),)
CURES = ("output-sigmoid-mse-far-off", "numerics-log-of-softmax")
DOES_NOT_CURE = ()
