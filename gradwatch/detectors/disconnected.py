"""Disconnected parameters: they could be trained, and no gradient ever reaches them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.detectors import _depth


@dataclass(frozen=True, slots=True)
class DisconnectedParameters:
    """Trainable parameters that backward has not reached in any step so far.

    A `.detach()`, a `no_grad`, a round trip through NumPy, or a module that `forward` does not
    call. An expert or a head that is only used now and then is reached now and then, and counts
    as connected. In a training that learns it is a note: an unused head harms nobody.
    """

    name: ClassVar[str] = "disconnected-parameters"

    steps: int = 10
    """Steps in which they must have been missed."""
    share: float = 0.5
    """Share of all trainable elements from which on a training that is stuck is stuck for that."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Look at the pulses of all steps that are kept."""
        pulses = history.pulses
        latest = history.latest
        if len(pulses) < self.steps or latest is None:
            return ()
        columns = pulses[-1].columns
        alike = [pulse for pulse in pulses if pulse.columns.parameters == columns.parameters]
        if len(alike) < self.steps:
            return ()
        missed = np.stack([pulse.norms for pulse in alike]).max(0) < 0
        names = [
            name for name, is_missed in zip(columns.parameters, missed, strict=True) if is_missed
        ]
        if not names:
            return ()
        called = {call.layer.name for call in latest.calls}
        layers = tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))
        cut_off = [layer for layer in layers if layer in called]
        sizes = {p.name: int(np.prod(p.shape)) for p in latest.parameters if p.trainable}
        share = sum(sizes.get(name, 0) for name in names) / max(1, sum(sizes.values()))
        going = progress(history)
        if going.moving:
            severity = Severity.NOTE
        elif going.moving is False and share >= self.share:
            severity = Severity.CRITICAL
        else:
            severity = Severity.WARNING
        text = (
            f"{_depth.listed(cut_off)} are called, but the way back from the loss is cut after "
            "them (a `.detach()`, `no_grad`, `.data`, or NumPy in between)."
            if cut_off
            else f"{_depth.listed(layers)} are not called in a step."
        )
        return (
            Finding(
                self.name,
                severity,
                f"no gradient has reached {len(names)} parameters ({share:.0%} of all that is to "
                f"be trained) in {len(alike)} steps: those of {_depth.listed(layers)}",
                layers,
                alike[0].step,
                alike[-1].step,
                (Cause("disconnection", text, tuple(cut_off or layers), share=1.0),),
                f"Counted in every step; {going.text}.",
                {"parameters": float(len(names)), "share": share},
            ),
        )


DETECTORS = (DisconnectedParameters(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "mixture-of-experts")
SICK = ("detached",)
