"""Non-finite: a NaN or an infinity in the gradients, and where it was born."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.detectors import _broke, _origin


@dataclass(frozen=True, slots=True)
class NonFinite:
    """A gradient or the loss is NaN or infinite; one optimizer step later every weight is.

    The step is exact, from the pulse. The place is where the first non-finite number stands: in
    the forward pass the first module whose output is not finite while its input is; if all outputs
    are finite, the place in the backward pass behind which gradients are still finite; and in it
    the operation. Infinite *outputs* alone (an attention mask of -inf) are no finding: the
    gradients decide.

    The cause: what came in was not finite, or the targets were not (`data`); the numbers grew for
    steps before (`learning-rate`, or `data-scale` and `init` if they were born too large); float16
    could not hold them (`precision`); else one operation met the point where it has no value
    (`numerics`).

    A step that is skipped is a note when it is over: weights that stay finite are no harm done. A
    GradScaler skips some at the beginning; who skips all steps is stuck.
    """

    name: ClassVar[str] = "non-finite"

    patience: int = 30
    """Steps that may be skipped of three times as many: a loss scale of 2^30 is 1 by then."""
    recent: int = 10
    """Steps without it after which it is over."""
    often: float = 0.1
    """Share of all steps whose loss may have been NaN for it to be over: what has no value so often
    is not what should be minimised."""
    rare: int = 2
    """So many in `2 * patience` steps are rare, and over at the next step that is finite."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Find the first step with a non-finite gradient, and its origin there."""
        step = _onset(history)
        if step is None:
            return ()
        scene = _origin.Scene(history, step)
        origin = _origin.locate(scene)
        over = self._over(history)
        pulse = scene.pulse
        only_loss = pulse is not None and bool(np.isfinite(pulse.norms).all())
        what = ("the loss" if only_loss else "gradients") + (
            (" was" if only_loss else " were") if over else (" is" if only_loss else " are")
        )
        return (
            Finding(
                self.name,
                Severity.NOTE if over else self._severity(history, step),
                f"{what} not finite since step {step}: {origin.text}"
                if not over
                else f"{what} not finite at step {step}: {origin.text}; it is over",
                origin.layers,
                step,
                history.last_step,
                (_broke.why(scene, origin),),
                "The step is exact."
                + ("" if origin.layers else " The layer could not be seen in this step."),
                {"step": float(step)},
            ),
        )

    def _over(self, history: History) -> bool:
        bad, latest = _bad_steps(history), history.latest
        if not bad or (latest is not None and latest.step > history.pulses[-1].step):
            return latest is not None and not _origin.bad_gradients(latest)
        rare = not bad[-1] and sum(bad[-2 * self.patience :]) <= self.rare
        nans = sum(p.loss_known and math.isnan(p.loss) for p in history.pulses)
        often = nans >= max(5, self.often * len(bad))
        return not often and (rare or not any(bad[-self.recent :]))

    def _severity(self, history: History, step: int) -> Severity:
        """It is certain to be lost, unless somebody skips the steps in which this happens."""
        exams = [record for record in history if record.step >= step]
        halves = any(call.dtype == "float16" for record in history for call in record.calls)
        kept = all(
            not (stats is not None and stats.nonfinite)
            for record in exams
            for parameter in record.parameters
            for stats in (parameter.weight, parameter.update)
        )
        lasts = sum(_bad_steps(history)[-3 * self.patience :]) >= self.patience
        if lasts or not kept or not (exams or halves):
            return Severity.CRITICAL
        # What is told as the loss may be its exponential, which soon is infinite.
        pulse = history.pulses[-1] if history.pulses else None
        told = pulse is not None and np.isinf(pulse.loss) and np.isfinite(pulse.norms).all()
        return Severity.NOTE if halves or told else Severity.WARNING


def _bad_steps(history: History) -> list[bool]:
    """Return of each step whether something in it was not finite; an exam has the last word."""
    exams = {record.step: bool(_origin.bad_gradients(record)) for record in history}
    return [
        _origin.bad_pulse(pulse)
        or (bool(np.isinf(pulse.norms).any()) and exams.get(pulse.step, True))
        for pulse in history.pulses
    ]


def _onset(history: History) -> int | None:
    exams = {record.step: bool(_origin.bad_gradients(record)) for record in history}
    onset = next((step for step, bad in exams.items() if bad), None)
    infinite: int | None = None
    for pulse in history.pulses:
        if onset is not None and pulse.step >= onset:
            break
        if _origin.bad_pulse(pulse):
            return pulse.step if infinite is None else infinite
        # An infinite norm may only be float32's square that overflowed, unless NaNs follow it
        # without a break; an exam of that very step has the last word.
        overflowed = bool(np.isinf(pulse.norms).any()) and exams.get(pulse.step, True)
        infinite = (pulse.step if infinite is None else infinite) if overflowed else None
    return onset


DETECTORS = (NonFinite(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "masked-attention")
SICK = (
    "nan-forward",
    "nan-backward",
    "half-adam-epsilon-is-zero",
    "vae-log-variance-explodes",
)
