"""Temperature: logits of a size at which a softmax can be sure, and can still learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core import losses
from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading, _training

_OF_LOGITS: Final = frozenset({losses.CROSS_ENTROPY, losses.BINARY})


@dataclass(frozen=True)
class Temperature:
    """Multiply the logits by a factor that is learnt, and begins where they vary by about one.

    Logits that a temperature, or cosines that nothing scales, keep under a tenth give nearly equal
    probabilities whatever the weights do: the loss cannot fall, and the gradient is divided by the
    temperature as well. Logits of hundreds are sure before anything is learnt, and each step is too
    large. The factor is the exponential of one parameter of the model, as in CLIP.

    Helps when: logits are divided by a large constant, or are cosines, or are multiplied by one.
    Does not help when: the answers hardly differ between samples because nothing gets through the
    layers before: that is refused, as are logits of ordinary size.

    Wang et al. 2017, "NormFace"; Agarwala et al. 2020, "Temperature check"; Radford et al. 2021
    (CLIP). Cost: one parameter.
    """

    low: float = 0.5
    """Standard deviation of the logits over a batch, from which on they are of ordinary size."""
    high: float = 20.0
    """... and up to which: e^20 is beyond the odds that a softmax has to give."""
    spread: float = 1e-4
    """Share of the logits' squares in which samples differ, under which they are all the same."""

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "temperature"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Scale the logits, by a factor that is learnt"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("squashed-logits", "loss"), ("saturated-output", "loss")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        try:
            return self._learnt(finding, record)
        except CannotPrescribe:
            # By now the logits may be of any size: what was made of them at birth is to blame.
            blamed = _reading.blamed(finding, self)
            made = [c.layer for c in record.calls if c.layer.name in blamed and c.layer.functional]
            if finding.name != "saturated-output" or not made:
                raise
            return self._by_hand(finding, [layer.name for layer in made])

    def _learnt(self, finding: Finding, record: Record) -> Prescription:
        said = record.answer
        if said is None or said.kind not in _OF_LOGITS or said.probabilities:
            raise CannotPrescribe("the output is not known to be logits")
        if self.low < said.varying < self.high:
            raise CannotPrescribe(f"the logits vary by {said.varying:.2g}: an ordinary size")
        whole = next((c for c in record.calls if c.output is not None and c.parent is None), None)
        if not said.varying or (whole is not None and (whole.spread or 0.0) < self.spread):
            raise CannotPrescribe("the answers are the same for all samples: the fault lies before")
        body = """\
with torch.no_grad():
    deviation = (output - output.mean(0)).float().square().mean().sqrt()
    start = -deviation.clamp(1e-6, 1e6).log().to(output)
model.register_parameter("log_of_scale", torch.nn.Parameter(start))
model.register_forward_hook(LearntScale())
"""
        return Prescription(
            self.name,
            f"Scale the logits, which vary by {said.varying:.2g}, by a factor that is learnt",
            _code.definition("LearntScale")
            + _training.CODE_OUTPUT
            + body
            + _code.NEW_OPTIMIZER.replace("are not the same ones as before", "are one more"),
            runs=_training.RUN_OUTPUT + body,
            answers=_reading.answers(finding, self),
        )

    def _by_hand(self, finding: Finding, made: list[str]) -> Prescription:
        return Prescription(
            self.name,
            "Leave the factor of the logits out, and begin anew",
            f"# {_code.mention(made)} makes the logits large. Leave it out, or learn it:\n"
            "#   self.log_scale = torch.nn.Parameter(torch.zeros(()))\n"
            "#   return logits * self.log_scale.exp()\n"
            "# Begin with fresh weights: these have been trained on answers that were too sure.",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (Temperature(),)
CURES = ("output-temperature-too-high",)
DOES_NOT_CURE = ("scale-inputs-thousands-tanh",)
