"""Posterior collapse: the code of a variational autoencoder says the same of every sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.answer import heads
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.losses import FITS
from gradwatch.core.progress import progress
from gradwatch.core.record import Call, Record
from gradwatch.detectors import _depth, _ending, _outcome

Code = tuple[str, float]
"""Name of the layer that gives a code's means, and their standard deviation over the batch."""


@dataclass(frozen=True, slots=True)
class PosteriorCollapse:
    """The means that an encoder gives no longer depend on the sample: the KL divergence has pulled
    them to the prior, and the decoder answers from noise alone.

    A latent variable counts as active when its mean varies over the data by more than 0.01 (Burda
    et al. 2016), in units in which the prior has a variance of 1. Which output is such a mean is
    read from its gradient: through the KL divergence it is proportional to the mean itself. Where
    the model computes its own loss, the layers are looked for before an exponential, a product and
    a sum, with a decoder after them.

    Codes are small in a net that is new, and grow as it learns. So it takes a spread that has
    become smaller since the beginning. The loss falls all the while (the KL divergence goes to 0
    and the decoder learns the mean): it becomes critical when it has lasted for half of the run.

    The cause is the loss: the KL divergence weighs too much beside the reconstruction, often
    because one is a mean over pixels and the other a sum.
    """

    name: ClassVar[str] = "posterior-collapse"

    inactive: float = 0.1
    """Standard deviation over the batch under which a latent variable is inactive."""
    fallen: float = 0.7
    """Part of its spread at birth that it must have fallen to."""
    steps: int = 50
    """Steps that it must have lasted to be critical, and half of the run."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams, against the first."""
        seen = [(record, codes) for record in history if (codes := dict(_codes(record)))]
        if not seen:
            return ()
        birth = seen[0][1]
        streak: list[tuple[Record, dict[str, float]]] = []
        for record, codes in reversed(seen):
            known = {name: spread for name, spread in codes.items() if birth.get(name)}
            if not known or not all(
                spread < self.inactive and spread < self.fallen * birth[name]
                for name, spread in known.items()
            ):
                break
            streak.insert(0, (record, known))
        records = tuple(record for record, _ in streak)
        if not _outcome.lasting(records):
            return ()
        going = progress(history)
        since, until = records[0].step, records[-1].step
        spreads = streak[-1][1]
        long = until - since >= max(self.steps, (history.last_step + 1) / 2)
        spread = max(spreads.values())
        nats = 0.5 * spread**2
        return (
            Finding(
                self.name,
                Severity.CRITICAL if long else Severity.WARNING,
                f"the code of {_depth.listed(tuple(spreads))} has collapsed: its means vary by "
                f"{spread:.2g} from sample to sample, where the prior has 1",
                tuple(spreads),
                since,
                until,
                (
                    Cause(
                        "loss",
                        "The KL divergence weighs too much beside the reconstruction: it leaves "
                        f"some {nats:.1g} nats in each latent variable.",
                        tuple(spreads),
                        share=1.0,
                    ),
                ),
                f"It was {max(birth[name] for name in spreads):.2g} at first; {going.text}.",
                {"spread": spread, "before": max(birth[name] for name in spreads)},
            ),
        )


def _codes(record: Record) -> Iterator[Code]:
    """Yield the codes of an exam: outputs that a prior pulls to zero, or what looks like one
    inside a model."""
    found = heads(record.output)
    for head in found if len(found) > 1 else ():
        if head.prior < FITS and head.columns > 1:
            call = _ending.source(record, head)
            yield ("" if call is None else call.layer.name), head.varying
            return
    yield from _inner(record.calls)


def _inner(calls: Sequence[Call]) -> Iterator[Code]:
    """Look for `mean + exp(...) * noise` with weights before and after it."""
    kinds = [call.layer.kind if call.layer.functional else "" for call in calls]
    at = next((i for i, kind in enumerate(kinds) if kind == "exp"), None)
    if at is None or "mul" not in kinds[at:] or "add" not in kinds[at:]:
        return
    before = [call for call in calls[:at] if call.layer.weighted]
    after = [call for call in calls[at:] if call.layer.weighted]
    if not before or not after:
        return
    shape = before[-1].layer.weight_shape
    for call in [c for c in before[-2:] if c.layer.weight_shape == shape]:
        if call.output is not None and call.spread is not None:
            yield call.layer.name, call.output.rms * math.sqrt(call.spread)


DETECTORS = (PosteriorCollapse(),)
HEALTHY = ("digits-mlp", "vae-standard")
SICK = ("vae-mean-of-pixels-sum-of-kl",)
