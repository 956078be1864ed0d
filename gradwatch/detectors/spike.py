"""Gradient spike: one step's gradient is far above what this run is used to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History, Pulse
from gradwatch.core.progress import progress
from gradwatch.detectors import _jumps

AFTER: Final = 8
"""Steps after a spike whose median loss tells whether it did harm."""

REMEDIES: Final = {
    "loss": "Clip the norm of the gradient, or hold the weight of the loss.",
    "data": "Look at that batch, and clip the norm of the gradient.",
    "learning-rate": "A lower learning rate or clipping bounds such steps.",
}
"""What to do, by the cause."""


@dataclass(frozen=True, slots=True)
class GradientSpike:
    """The total gradient norm jumps far out of its own history, and the loss with it.

    Compared with the median of the steps before, in units of their spread (median absolute
    deviation of the logarithm), so that no scale is assumed. Gradients have heavy tails: a spike
    that leaves no mark on the loss is no finding, and one that the training recovers from is a
    note. It is critical when the training does not find back.

    Where it came from is read from that very step. If the input of the first layer was out of size
    (in its own sum, and in the quotient of that layer's two gradients), it was the data; if only
    later outputs were, the step before has thrown the weights; if none was, it was the loss: a
    factor when loss and gradient are larger alike, a target when the loss is the more so.
    """

    name: ClassVar[str] = "gradient-spike"

    harm: float = 1.5
    """The loss after it over the loss before it, as medians, that counts as harm."""
    learnt: float = 0.1
    """Fall of the loss until then, as a part of it, that could be lost again ..."""
    all: float = 0.75
    """... and the part of it that has to be, where the loss rises by less than `harm`."""
    lost: float = 0.25
    """Part of that fall that has to stay lost, or the training has recovered."""
    collapse: float = 0.01
    """How much the answers still differ from sample to sample, as a part of what it was: less is
    harm, too."""
    lasting: int = 20
    """Steps after the last harmful one before it can be critical."""

    nothing: float = 1e-3
    """Part of the first loss under which all is learnt: whatever it rises to there does no harm."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge every step that is kept against those before it."""
        pulses = [p for p in history.pulses if p.loss_known]
        losses = np.asarray([p.loss for p in pulses], np.float64)
        spikes = _jumps.jumps(pulses)
        harmful = [i for i in spikes if self._harms(losses, i)]
        if not harmful and spikes and self._silenced(history, pulses[spikes[0]].step):
            harmful = spikes[:1]
        return (self._finding(history, pulses, losses, spikes, harmful),) if harmful else ()

    def _finding(
        self,
        history: History,
        pulses: list[Pulse],
        losses: NDArray[np.float64],
        spikes: list[int],
        harmful: list[int],
    ) -> Finding:
        first, last = harmful[0], harmful[-1]
        before = float(np.median(losses[max(0, first - AFTER) : first]))
        now = float(np.median(losses[-AFTER:]))
        usual = float(np.median([p.norm for p in pulses[max(0, first - AFTER) : first]]))
        severity, going = Severity.WARNING, progress(history)
        if self._recovered(float(losses[0]), before, now) and len(pulses) > last + AFTER:
            severity = Severity.NOTE
        elif going.moving is False and len(pulses) > first + self.lasting:
            severity = Severity.CRITICAL
        layer, share = _where(pulses[first])
        layers = (layer,) if layer is not None else ()
        found = _jumps.source(history, pulses, _jumps.onset(pulses, spikes, first))
        back = "; it came back" if severity == Severity.NOTE else f" to {now:.3g}"
        times = pulses[first].norm / usual
        return Finding(
            self.name,
            severity,
            f"the gradient jumps to {times:.3g} times its usual norm at step {pulses[first].step}, "
            f"and the loss rises from {before:.3g}{back}",
            layers,
            pulses[first].step,
            pulses[last].step,
            (Cause(found.cause, f"{found.text} {REMEDIES[found.cause]}", layers, share=1.0),),
            f"{len(harmful)} of {len(spikes)} spikes left a mark on the loss"
            + (f"; {share:.0%} of the first is in one parameter." if layers else "."),
            {"times": times, "spikes": float(len(harmful))},
        )

    def _harms(self, losses: NDArray[np.float64], i: int) -> bool:
        before = float(np.median(losses[max(0, i - AFTER) : i]))
        # The step after the spike is the first that its update can have harmed.
        after = losses[i + 1 : i + 1 + AFTER]
        if not after.size or before <= 0:
            return False
        middle, learnt = float(np.median(after)), float(losses[0]) - before
        if middle < self.nothing * losses[0]:
            return False
        if not middle <= self.harm * before:
            return True
        return learnt > self.learnt * before and middle > before + self.all * learnt

    def _silenced(self, history: History, step: int) -> bool:
        """Whether the answers are the same for every sample since, where the loss had not fallen
        far enough to show harm."""
        answers = [(record.step, answer) for record in history if (answer := record.answer)]
        before = [answer.varying for at, answer in answers if at < step]
        after = [answer.varying for at, answer in answers if at > step]
        return bool(before and after) and after[-1] < self.collapse * before[-1]

    def _recovered(self, begin: float, before: float, now: float) -> bool:
        learnt = begin - before
        return now <= before + self.lost * learnt if learnt > 0 else now < self.harm * before


def _where(pulse: Pulse) -> tuple[str | None, float]:
    """Return the layer with the largest part of a step's gradient, and that part."""
    squares = np.square(np.where(pulse.norms < 0, 0, pulse.norms).astype(np.float64))
    if not squares.size or not squares.sum():
        return None, 0.0
    i = int(squares.argmax())
    return pulse.columns.parameters[i].rpartition(".")[0], float(squares[i] / squares.sum())


DETECTORS = (GradientSpike(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "he-relu-mlp")
SICK = ("spike", "transient-outlier-input")
