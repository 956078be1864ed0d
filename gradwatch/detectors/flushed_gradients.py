"""Flushed gradients: too small for float16, they become zero on the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Call, Record
from gradwatch.core.stats import Stats
from gradwatch.detectors import _outcome, _steps

COARSE: Final = -21
"""Exponent under which a float16 has no more than three significant bits: its smallest number is
2^-24."""


@dataclass(frozen=True, slots=True)
class FlushedGradients:
    """In float16, everything under 2^-25 (3e-8) is zero, and little above it is left.

    Activation gradients are often that small, which is what a loss scale is for (Micikevicius et
    al. 2018, section 3.2). It is a finding when already the gradient that enters the float16 part
    from the loss is next to nothing there, when most of it is zero or has its last bits in most
    layers, when this is so from the beginning (a training that is done has small gradients, too),
    and as long as there is much left to learn.
    """

    name: ClassVar[str] = "flushed-gradients"

    peak: float = 2.0**-18
    """Largest entry of the gradient at the last float16 layer: 64 times the smallest number."""
    flushed: float = 0.95
    """Share of a layer's output gradient that is zero or under 2^-21."""
    share: float = 0.5
    """Share of the float16 layers of which this holds."""
    learnt: float = 0.9
    """Part of the way to the right answers after which gradients may be that small."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the exams from the first to the latest."""
        streak = _steps.since(history, self._flushes)
        if not streak or any(self._flushes(record) is False for record in history):
            return ()
        going = progress(history)
        if going.skill is not None and going.skill > self.learnt:
            return ()
        calls = _half(streak[-1])
        flushed = [call for call in calls if self._lost(call.grad_output)]
        certain = _outcome.lasting(streak) and not going.moving
        layers = tuple(dict.fromkeys(call.layer.name for call in flushed))
        cause = Cause(
            "precision",
            "The loss is not scaled, or not enough: a GradScaler multiplies it so that the "
            "gradients fit into float16, and divides them again.",
            layers,
            share=1.0,
        )
        peak = max(call.grad_output.peak for call in calls if call.grad_output is not None)
        return (
            Finding(
                self.name,
                Severity.CRITICAL if certain else Severity.WARNING,
                f"the gradients of {len(flushed)} of {len(calls)} float16 layers are zero or in "
                f"their last bits: the largest entry of all is {peak:.2g}",
                layers,
                streak[0].step,
                streak[-1].step,
                (cause,),
                f"Since the first exam; {going.text}.",
                {"peak": peak, "share": len(flushed) / len(calls)},
            ),
        )

    def _flushes(self, record: Record) -> bool | None:
        calls = _half(record)
        if not calls:
            return None
        last = calls[-1].grad_output
        assert last is not None
        if last.peak >= self.peak:
            return False
        if not last.squares and record.loss and abs(record.loss) / last.count >= self.peak:
            return False  # such a loss has gradients that fit: they are zero for another reason
        flushed = [call for call in calls if self._lost(call.grad_output)]
        return len(flushed) >= self.share * len(calls)

    def _lost(self, gradient: Stats | None) -> bool:
        if gradient is None:
            return False
        small = gradient.share_below(COARSE) * (gradient.finite - gradient.zeros)
        return gradient.zeros + small >= self.flushed * gradient.finite


def _half(record: Record) -> list[Call]:
    """Return the calls of weighted layers whose output is in float16, in execution order."""
    return [
        call
        for call in record.calls
        if call.dtype == "float16"
        and call.layer.weighted
        and call.grad_output is not None
        and call.grad_output.finite
    ]


DETECTORS = (FlushedGradients(),)
HEALTHY = ("half-autocast", "bfloat16-autocast", "digits-mlp", "resnet")
SICK = ("unscaled-half",)
