"""Dropped samples: the experts have no room for most of what is sent to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Record
from gradwatch.detectors import _experts, _outcome


@dataclass(frozen=True, slots=True)
class DroppedSamples:
    """All experts together see less than half of the samples that their router sees.

    An expert that takes a fixed number of samples drops the rest: they get a zero, or what a
    residual connection passes by, and teach nobody anything. Switch Transformers have room for 1 to
    1.25 times an even share and drop less than 1 % (Fedus, Zoph & Shazeer 2022, section 2.2).
    Counted where each expert is called with its own samples; one that is called with an empty row
    for each that is missing hides it. With a router that picks k experts for each sample, k times
    as many rows are due.
    """

    name: ClassVar[str] = "dropped-samples"

    share: float = 0.5
    """Share of the samples that get to an expert, under which most are lost."""

    patience: int = 30
    """Steps after which a training is held back by it, if it gets nowhere."""
    learnt: float = 0.8
    """Skill from which on a training does without them."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the exams at the end of the run."""
        streak = _outcome.latest_streak(history, lambda record: self._lost(record) is not None)
        if not _outcome.lasting(streak):
            return ()
        mixture = self._lost(streak[-1])
        assert mixture is not None
        kept = [sum(one.rows) / one.samples for r in streak if (one := self._lost(r)) is not None]
        median = float(np.median(kept))
        going = progress(history)
        severity = Severity.WARNING
        if going.skill is not None and going.skill >= self.learnt:
            severity = Severity.NOTE
        elif going.moving is False and history.last_step >= self.patience:
            severity = Severity.CRITICAL
        return (
            Finding(
                self.name,
                severity,
                f"only {median:.0%} of the samples get to one of the {len(mixture.experts)} "
                f"experts behind `{mixture.router.layer.label}`: the rest is dropped",
                mixture.experts,
                streak[0].step,
                streak[-1].step,
                (
                    Cause(
                        "disconnection",
                        f"The router sees {mixture.samples:.0f} samples in a step, and the experts "
                        f"together {sum(mixture.rows):.0f}: their capacity is too small.",
                        mixture.experts,
                        share=1.0,
                    ),
                ),
                f"Counted in {len(streak)} exams; {going.text}.",
                {"kept": median, "experts": float(len(mixture.experts))},
            ),
        )

    def _lost(self, record: Record) -> _experts.Mixture | None:
        return next(
            (
                mixture
                for mixture in _experts.mixtures(record)
                if sum(row > 0 for row in mixture.rows) > 1
                and sum(mixture.rows) < self.share * mixture.samples
            ),
            None,
        )


DETECTORS = (DroppedSamples(),)
HEALTHY = ("mixture-of-experts", "digits-mlp", "resnet", "pre-norm-transformer")
SICK = ("dropped-samples",)
