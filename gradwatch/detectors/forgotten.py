"""Forgotten parameters: they get gradients, and no optimizer holds them."""

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
class ForgottenParameters:
    """Trainable parameters that get a gradient and that no watched optimizer steps.

    Known only where the optimizer was given to `watch`. Training a head alone is a thing that
    people do on purpose (and then `requires_grad_(False)` would save them the backward pass), so
    in a training that learns it is a note.
    """

    name: ClassVar[str] = "forgotten-parameters"

    share: float = 0.5
    """Share of all trainable elements from which on a training that is stuck is stuck for that."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams."""
        # Exams in which they got no gradient, as in the other half of a GAN's steps, say nothing.
        streak = [record for record in history if _forgotten(record)]
        latest = history.latest
        if latest is None or not _outcome.lasting(streak):
            return ()
        record = streak[-1]
        taken = {p.name for p in latest.parameters if p.held}
        names = [name for name in _forgotten(record) if name not in taken]
        if not names:
            return ()
        sizes = {p.name: math.prod(p.shape) for p in record.parameters if p.trainable}
        share = sum(sizes[name] for name in names) / sum(sizes.values())
        going = progress(history)
        severity = Severity.NOTE if going.moving else Severity.WARNING
        if going.moving is False and share >= self.share:
            severity = Severity.CRITICAL
        layers = tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))
        return (
            Finding(
                self.name,
                severity,
                f"no optimizer holds {len(names)} parameters that get gradients ({share:.0%} of "
                f"all that is to be trained): those of {_depth.listed(layers)}",
                layers,
                streak[0].step,
                record.step,
                (
                    Cause(
                        "optimizer",
                        "They were not among the parameters that the optimizer was made with, or "
                        "they were replaced or added after it was made.",
                        layers,
                        share=1.0,
                    ),
                ),
                f"Known from the optimizer's param_groups; {going.text}.",
                {"parameters": float(len(names)), "share": share},
            ),
        )


def _forgotten(record: Record) -> list[str]:
    return [p.name for p in record.parameters if p.trainable and p.reached and p.held is False]


DETECTORS = (ForgottenParameters(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer")
SICK = ("forgotten-by-the-optimizer",)
