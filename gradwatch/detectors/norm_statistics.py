"""Norm statistics: what a batch norm has learnt of its batches does not describe them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Call, Record
from gradwatch.detectors import _depth, _outcome


@dataclass(frozen=True, slots=True)
class NormStatistics:
    """A batch norm's running mean and variance are far from those of the batches, and stay so.

    In training each batch is normalised by its own statistics, in evaluation all are by the running
    ones (Ioffe & Szegedy 2015). If these do not follow (a momentum of 0 or next to it), or if
    batches are so small that no two of them are alike (two samples are always normalised to -1 and
    1: Wu & He 2018), the loss may fall as it should, and the model that is evaluated is another
    one. So this is told whatever the loss does.

    Measured before each examined forward pass: the divergence of the two as normal distributions,
    in nats, of the median channel. In healthy trainings it falls under 0.04 within 40 steps.

    Silent while it falls (a low momentum takes its time), where a layer is called several times in
    a step (with other data each time), and where several optimizers take turns (the discriminator
    of a GAN sees real and generated batches in turn).
    """

    name: ClassVar[str] = "norm-statistics"

    settled: int = 10
    """Steps after which running statistics should have begun to follow: with a momentum of 0.1 they
    forget two thirds of what they began with in ten steps."""
    far: float = 0.2
    """Divergence in the typical exam of the later half, in nats (measured: at most 0.11 in any late
    exam of a healthy training, 0.25 and more in the typical one of the sick)."""
    latest: int = 3
    """Latest exams, each of which must show at least half of that."""
    lost: float = 1.0
    """Divergence from which on the running statistics describe nothing."""
    falls: float = 0.7
    """It falls when its later half is under this part of its earlier half, as medians."""
    few: int = 4
    """Values per channel in a batch that are too few for a mean and a variance: their divergence
    does not fall to nothing."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the exams after the first steps."""
        records = tuple(r for r in history if r.step >= self.settled and any(_norms(r)))
        if not _outcome.lasting(records) or any(map(_turns, history)):
            return ()
        found = {name: drift for name, drift in self._far(records)}
        if not found:
            return ()
        layers = tuple(found)
        worst = max(found.values())
        values = min(_values(call) for call in _norms(records[-1]) if call.layer.name in found)
        going = progress(history)
        if values <= self.few:
            text = (
                f"A batch has {values:.0f} values for each channel: no mean and no variance of so "
                "few is that of the next batch (larger batches, or a norm over the features)."
            )
        else:
            text = (
                "They do not follow the batches: the momentum is 0 or nearly so, or each batch is "
                "of another kind (not shuffled)."
            )
        return (
            Finding(
                self.name,
                Severity.CRITICAL if worst >= self.lost else Severity.WARNING,
                f"the running statistics of {_depth.listed(layers)} are {worst:.2g} nats from "
                "those of the batches: in evaluation the model is another one",
                layers,
                records[0].step,
                records[-1].step,
                (Cause("normalisation", text, layers, share=1.0),),
                f"Measured in each of {len(records)} exams since step {records[0].step}; "
                f"{going.text}.",
                {"drift": worst, "values": values},
            ),
        )

    def _far(self, records: tuple[Record, ...]) -> Iterator[tuple[str, float]]:
        """Yield the layers whose running statistics are far from the batches, and by how much."""
        drifts: dict[str, list[float]] = {}
        for record in records:
            for call in _norms(record):
                drifts.setdefault(call.layer.name, []).append(call.drift or 0.0)
        again = {c.layer.name for r in records for c in _norms(r) if c.index}
        tiny = {c.layer.name for c in _norms(records[-1]) if _values(c) <= self.few}
        for name, seen in drifts.items():
            late = seen[-max(self.latest, len(seen) // 2) :]
            half = len(seen) // 2
            falls = median(seen[-half:]) < self.falls * median(seen[:half])
            if name in again or len(seen) < len(records) or (falls and name not in tiny):
                continue
            if median(late) >= self.far and min(late[-self.latest :]) >= self.far / 2:
                yield name, median(late)


def _norms(record: Record) -> Iterator[Call]:
    return (call for call in record.calls if call.drift is not None)


def _values(call: Call) -> float:
    """Return how many values a batch has for each channel; infinite when not known."""
    channels = call.layer.weight_shape
    return call.output.count / channels[0] if call.output is not None and channels else float("inf")


def _turns(record: Record) -> bool:
    """Whether a norm got a gradient and was not stepped: another optimizer's step."""
    names = {call.layer.name for call in _norms(record)}
    own = [p for p in record.parameters if _outcome.owner(p) in names and p.held is not False]
    reached = [p for p in own if p.gradient is not None and p.gradient.squares and p.update]
    others = any(p.update is not None and p.update.squares for p in record.parameters)
    return bool(reached) and others and not any(p.update and p.update.squares for p in reached)


DETECTORS = (NormStatistics(),)
HEALTHY = ("resnet", "scale-inputs-hundreds-batch-norm")
SICK = ("running-statistics-fixed",)
