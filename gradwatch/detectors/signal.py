"""Signal scale: on its way forward the signal fades or grows from layer to layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Record
from gradwatch.detectors import _depth, _outcome


@dataclass(frozen=True, slots=True)
class SignalScale:
    """The size of the outputs changes by decades over the weighted layers.

    The forward side of vanishing and exploding: with weights that are too small or too large for
    their fan-in every layer scales the signal by the same factor (Glorot & Bengio 2010, He et al.
    2015, Mishkin & Matas 2016). At the start it is a prediction; it is critical when it lasts and
    the loss stays where it is. The factor by which the weights miss the size that keeps the signal
    is in the cause.
    """

    name: ClassVar[str] = "signal-scale"

    decades: float = 1.5
    """Change of the outputs' root mean square from the first weighted layer to the last."""
    layers: int = 4
    """Fewer weighted layers are no trend: one layer with large inputs looks the same."""
    factor: float = 1.3
    """The weights must miss the size that keeps the signal by this factor, where it is known."""
    monotony: float = 0.6
    """Kendall's tau of that size against depth."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge what the model was born with, in the light of what became of it: weights that
        move later, biases first, hide the trend long before they repair it."""
        born = next(iter(history.records), None)
        if born is None or not self._off_scale(born):
            return ()
        fitted = _depth.signal(born)
        assert fitted is not None
        growth, layers = fitted.decades, fitted.layers
        severity, confidence = _outcome.verdict(history.records, progress(history))
        if severity == Severity.NOTE:
            return ()
        found = _depth.blame(born)
        weighted = [entry for entry in found.weighted if entry.bits * growth > 0]
        gain = math.sqrt(2) if found.rectifiers else 1.0
        factor = _depth.init_factor(born, weighted, gain)
        if factor is not None and (factor if growth > 0 else 1 / factor) < self.factor:
            return ()  # the weights are as they should be: it is what comes in that fades
        size = "small" if growth < 0 else "large"
        text = f"The weights are too {size}"
        if factor is not None:
            text += f": {max(factor, 1 / factor):.3g} times too {size} to keep the signal's size"
        return (
            Finding(
                self.name,
                severity,
                f"the signal {'fades' if growth < 0 else 'grows'} by {abs(growth):.1f} decades "
                f"from `{layers[0] or '(model)'}` to `{layers[-1] or '(model)'}` at the start",
                layers,
                born.step,
                history.last_step,
                (Cause("init", text + ".", _depth.names(weighted) or layers, share=1.0),),
                confidence,
                {"decades": growth} | ({} if factor is None else {"factor": factor}),
            ),
        )

    def _off_scale(self, record: Record) -> bool:
        fitted = _depth.signal(record)
        return (
            fitted is not None
            and len(fitted.layers) >= self.layers
            and abs(fitted.decades) >= self.decades
            and fitted.decades * fitted.monotony >= self.monotony * abs(fitted.decades)
        )


DETECTORS = (SignalScale(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "he-relu-mlp", "tanh-mlp")
SICK = ("small-tanh-mlp", "large-relu-mlp")
