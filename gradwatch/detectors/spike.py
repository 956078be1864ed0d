"""Gradient spike: one step's gradient is far above what this run is used to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History

WINDOW: Final = 128
"""Steps that a step is compared with, as in OLMo-core's spike detection."""
AFTER: Final = 8
"""Steps after a spike whose median loss tells whether it did harm."""


@dataclass(frozen=True, slots=True)
class GradientSpike:
    """The total gradient norm jumps far out of its own history, and the loss with it.

    Compared with the median of the steps before, in units of their spread (median absolute
    deviation of the logarithm), so that no scale is assumed. Gradients have heavy tails, and a
    spike that leaves no mark on the loss is no finding.
    """

    name: ClassVar[str] = "gradient-spike"

    deviations: float = 6.0
    """How far out, in (robust) standard deviations of log10 of the norm."""
    times: float = 10.0
    """And how many times the median at least."""
    history_steps: int = 20
    """Steps that must be known before one is judged."""
    harm: float = 1.5
    """The loss after it over the loss before it, as medians, that counts as harm."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge every step that is kept against those before it."""
        pulses = [p for p in history.pulses if p.loss_known]
        norms = np.asarray([p.norm for p in pulses], np.float64)
        losses = np.asarray([p.loss for p in pulses], np.float64)
        spikes = [
            i
            for i in range(self.history_steps, len(pulses))
            if self._out(norms[max(0, i - WINDOW) : i], norms[i])
        ]
        harmful = [i for i in spikes if self._harms(losses, i)]
        if not harmful:
            return ()
        first, last = harmful[0], harmful[-1]
        before = float(np.median(losses[max(0, first - WINDOW) : first]))
        now = float(np.median(losses[-AFTER:]))
        usual = float(np.median(norms[max(0, first - WINDOW) : first]))
        recovered = now < self.harm * before and len(pulses) > last + AFTER
        severity = Severity.NOTE if recovered else Severity.CRITICAL
        if len(pulses) <= last + AFTER:
            severity = Severity.WARNING
        layer, share = _where(history, pulses[first].step)
        name = "data" if recovered and len(harmful) == 1 else "learning-rate"
        text = (
            "One batch, after which the training found back: an outlier in the data is likely."
            if name == "data"
            else "The steps that follow a large gradient are too large: clipping its norm or a "
            "lower learning rate bounds them."
        )
        return (
            Finding(
                self.name,
                severity,
                f"the gradient jumps to {norms[first] / usual:.3g} times its usual norm at step "
                f"{pulses[first].step}, and the loss rises from {before:.3g}"
                + (f" to {now:.3g}" if not recovered else "; it came back"),
                (layer,) if layer is not None else (),
                pulses[first].step,
                pulses[last].step,
                (Cause(name, text, (layer,) if layer is not None else (), share=1.0),),
                f"{len(harmful)} of {len(spikes)} spikes left a mark on the loss"
                + (f"; {share:.0%} of the first is in one parameter." if layer else "."),
                {"times": float(norms[first] / usual), "spikes": float(len(harmful))},
            ),
        )

    def _out(self, before: np.ndarray, norm: float) -> bool:
        before = before[np.isfinite(before) & (before > 0)]
        if before.size < self.history_steps or not np.isfinite(norm) or norm <= 0:
            return False
        if norm <= self.times * before.min():  # nearly every step: not worth two medians
            return False
        logs = np.log10(before)
        middle = float(np.median(logs))
        spread = 1.4826 * float(np.median(np.abs(logs - middle)))
        rise = float(np.log10(norm)) - middle
        return rise > max(self.deviations * spread, float(np.log10(self.times)))

    def _harms(self, losses: np.ndarray, i: int) -> bool:
        before = float(np.median(losses[max(0, i - AFTER) : i]))
        # The step after the spike is the first that its update can have harmed.
        after = losses[i + 1 : i + 1 + AFTER]
        after = after[np.isfinite(after)]
        return after.size > 0 and float(np.median(after)) > self.harm * before > 0


def _where(history: History, step: int) -> tuple[str | None, float]:
    """Return the layer with the largest part of a step's gradient, and that part."""
    pulse = next(p for p in history.pulses if p.step == step)
    squares = np.square(np.where(pulse.norms < 0, 0, pulse.norms).astype(np.float64))
    if not squares.size or not squares.sum():
        return None, 0.0
    i = int(squares.argmax())
    return pulse.columns.parameters[i].rpartition(".")[0], float(squares[i] / squares.sum())


DETECTORS = (GradientSpike(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "he-relu-mlp")
SICK = ("spike",)
