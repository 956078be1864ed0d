"""Unscaled targets: the targets are in units that the outputs are not made for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from gradwatch.core.answer import Answer, heads
from gradwatch.core.answers import answers
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.losses import ABSOLUTE_ERROR, SQUARED_ERROR
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _ending, _outcome

FEW: Final = 0.1
"""Part of a batch's targets that are its outliers, at most ..."""
GAP: Final = 8
"""... and how many octaves under the largest the others end: a factor of 32 with nothing in it."""

Seen = tuple[Record, Answer]


@dataclass(frozen=True, slots=True)
class UnscaledTargets:
    """A regression whose targets are very much larger than what the net gives, or very much
    smaller, and that does not get there.

    A net with ordinary weights gives outputs of about size one. Targets of thousands (prices,
    returns that were not scaled) make the first steps of plain gradient descent too large by as
    much, and are thousands of steps away for an optimizer whose steps have a size of their own, or
    for clipped gradients. Targets of a ten-thousandth are lost in the noise of the outputs, and the
    loss looks excellent all the while. What is compared are sizes and spreads, known from the
    squared error and its gradient; of an absolute error, the size of the error.

    A net that learns is left in peace: targets of tens are often reached. The rewards of a policy
    are targets in this sense: a first step that makes the policy certain is their doing if they are
    large.
    """

    name: ClassVar[str] = "unscaled-targets"

    large: float = 30.0
    """Size of the targets over that of the outputs of a net as it was born, at least 1."""
    far: float = 100.0
    """The same with which a check-up, which sees no step, says that they will not be reached."""
    early: int = 5
    """Last step at which the outputs are those of a net as it was born."""
    steps: int = 50
    """Steps that it must have lasted to be critical."""
    off: float = 0.3
    """Size of the error over that of the targets with which they are not reached ..."""
    spread: float = 0.1
    """... or the spread of the outputs over that of the targets."""
    apart: float = 3.0
    """Size of the error over the spread of the targets with which the outputs are not there yet,
    however near to the targets' size."""
    tiny: float = 10.0
    """Spread of the outputs over that of the targets, at birth and for good."""
    halves: float = 4.0
    """Times half of the run that the spread of the outputs needs to come down, at its pace."""
    rewards: float = 30.0
    """Size of a policy's advantages, which are usually of size one."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the exams in which the targets are known."""
        seen = answers(history)
        going = progress(history)
        if rewarded := self._rewards(seen, going):
            return rewarded
        known = [one for one in seen if one[1].kind in (SQUARED_ERROR, ABSOLUTE_ERROR)]
        if not known or known[0][1].through or known[0][0].step > self.early:
            return ()
        if going.diverged:
            return self._thrown(known, history, going)
        records = tuple(record for record, _ in known)
        if history.checkup:
            return self._born(*known[0])
        if going.moving or (going.skill or 0.0) > 0.05 or not _outcome.lasting(records):
            return ()
        return self._far(known, going) or self._lost(known, going)

    def _born(self, record: Record, birth: Answer) -> tuple[Finding, ...]:
        """What a check-up can tell: the first steps will be as large as the targets are."""
        times = self._times(birth)
        tiny = _real(birth) and birth.target_varying * self.tiny**2 < min(1.0, birth.rms)
        if _ending.bounded(record) is not None or (times < self.far and not tiny):
            return ()
        size = f"{times:.3g} times larger" if times >= self.far else "far smaller"
        return self._finding(
            Severity.WARNING,
            f"the targets are {size} than the first outputs",
            (record.step, record.step),
            "A prediction at initialisation.",
            {"times": times},
        )

    def _thrown(
        self, known: Sequence[Seen], history: History, going: Progress
    ) -> tuple[Finding, ...]:
        born = self._times(known[0][1])
        if born < self.large or _ending.bounded(known[0][0]) is not None:
            return ()
        return self._finding(
            Severity.CRITICAL,
            f"the targets are {born:.3g} times larger than the first outputs, and so were the "
            "first steps",
            (known[0][0].step, history.last_step),
            f"Diverged: {going.text}.",
            {"times": born},
            few=_few(known[0][0]),
        )

    def _far(self, known: Sequence[Seen], going: Progress) -> tuple[Finding, ...]:
        """The outputs have not come near the size of the targets."""
        (first, birth), (last, latest) = known[0], known[-1]
        born = self._times(birth)
        if born < self.large or _ending.bounded(last) is not None:
            return ()
        if latest.kind == SQUARED_ERROR:
            size, off = (
                latest.rms / latest.target_rms,
                latest.residual / latest.target_rms,
            )
            spread = latest.varying / latest.target_varying if _real(latest) else 1.0
            away = last.step >= _outcome.LONG and _real(latest)
            away &= latest.residual > self.apart * latest.target_varying
        else:  # of an absolute error only its own size is known
            size = spread = latest.rms / latest.residual
            off = latest.residual / birth.residual
            away = False
        if off < self.off and spread > self.spread and not away:
            return ()
        severity, confidence = self._verdict(known, going)
        return self._finding(
            severity,
            f"the targets are {born:.3g} times larger than the first outputs, and after "
            f"{last.step} steps these have {size:.2g} of their size",
            (first.step, last.step),
            confidence,
            {"times": born, "size": size, "error": off},
            few=_few(first),
        )

    def _lost(self, known: Sequence[Seen], going: Progress) -> tuple[Finding, ...]:
        """The outputs differ from sample to sample by much more than the targets do."""
        (first, birth), (last, latest) = known[0], known[-1]
        ratios = [answer.varying / answer.target_varying for _, answer in known if _real(answer)]
        if len(ratios) < len(known) or not birth.target_varying * self.tiny < min(1.0, birth.rms):
            return ()
        middle = next(answer for record, answer in known if record.step >= last.step / 2)
        pace = math.log(max(middle.varying, latest.varying) / latest.varying)
        if min(ratios) < self.tiny or math.log(ratios[-1]) < self.halves * pace:
            return ()
        severity, confidence = self._verdict(known, going, certain=True)
        return self._finding(
            severity,
            f"the targets differ by {latest.target_varying:.2g} from sample to sample, and the "
            f"outputs by {ratios[-1]:.3g} times as much, however small the loss is",
            (first.step, last.step),
            confidence,
            {"times": 1 / ratios[-1], "spread": latest.target_varying},
        )

    def _rewards(self, seen: Sequence[Seen], going: Progress) -> tuple[Finding, ...]:
        """The first steps made a policy certain, for its rewards are large."""
        policies = [
            (record, head)
            for record, _ in seen
            for head in heads(record.output)[:1]
            if not head.kind and head.classes > 1
        ]
        if not policies or going.moving:
            return ()
        (first, birth), later = policies[0], policies[1:]
        advantage = birth.size * math.sqrt(birth.classes) * birth.samples
        soon = [head for record, head in later if record.step <= self.early]
        certain = any(head.size == 0 or head.entropy < 0.05 for head in soon)
        if first.step or not (birth.balance < 0.02 and birth.entropy > 0.5 and certain):
            return ()
        if advantage < self.rewards or not _outcome.lasting([r for r, _ in policies]):
            return ()
        critical = going.moving is False and policies[-1][1].entropy < 0.2
        return self._finding(
            Severity.CRITICAL if critical else Severity.WARNING,
            f"rewards of size {advantage:.3g} made the policy certain in its first steps",
            (first.step, policies[-1][0].step),
            f"The entropy of the policy fell from {birth.entropy:.0%} of the largest to "
            f"{min(head.entropy for head in soon):.1%}; {going.text}.",
            {"times": advantage},
        )

    def _verdict(
        self, known: Sequence[Seen], going: Progress, *, certain: bool = False
    ) -> tuple[Severity, str]:
        """`certain` is for what the loss does not show."""
        severity, confidence = _outcome.verdict(tuple(record for record, _ in known), going)
        long = known[-1][0].step - known[0][0].step >= self.steps
        if certain and long:
            severity = Severity.CRITICAL
        return (severity if long else min(severity, Severity.WARNING)), confidence

    def _times(self, birth: Answer) -> float:
        size = birth.target_rms if birth.kind == SQUARED_ERROR else birth.residual
        return size / max(1.0, birth.rms)

    def _finding(
        self,
        severity: Severity,
        summary: str,
        steps: tuple[int, int],
        confidence: str,
        numbers: dict[str, float],
        few: int = 0,
    ) -> tuple[Finding, ...]:
        why = "The targets are not scaled to what a net gives, which is of about size one."
        cause = Cause("data-scale", why, share=1.0)
        if few:
            why = f"All that is {few} targets of a batch: a code for missing values, or a mistake."
            cause = Cause("data", why, share=1.0)
        return (Finding(self.name, severity, summary, (), *steps, (cause,), confidence, numbers),)


def _few(record: Record) -> int:
    """Return how many targets of the batch are out of all proportion, if they are few: the gradient
    of a squared error is the error of each answer."""
    gradients = [c.grad_output for c in record.calls if c.parent is None and c.grad_output]
    if not gradients or not gradients[-1].peak:
        return 0
    octaves = gradients[-1].octaves
    top = int(np.flatnonzero(octaves)[-1])
    above, gap = (
        int(octaves[max(0, top - 2) :].sum()),
        octaves[max(0, top - GAP) : max(0, top - 2)],
    )
    return above if above <= FEW * octaves.sum() and not gap.any() else 0


def _real(answer: Answer) -> bool:
    """Whether the targets differ by more than rounding, and by more than a trace of their size."""
    return answer.target_varying > 1e-6 * answer.rms and answer.target_varying > 0


DETECTORS = (UnscaledTargets(),)
HEALTHY = ("digits-mlp", "scale-targets-tens", "scale-targets-huber", "dqn-huber-loss")
SICK = ("scale-targets-prices-adam", "scale-targets-tiny")
