"""Collapsed output: a net that compares its outputs with one another gives the same for all."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Record
from gradwatch.detectors import _depth, _outcome


@dataclass(frozen=True, slots=True)
class CollapsedOutput:
    """The representations of a siamese or contrastive net have become the same for every sample.

    Its loss compares two outputs of the same net. If nothing holds them apart (no negatives, no
    stop of the gradient, no normalisation over the batch), the shortest way down is to give one
    output for all (Hadsell et al. 2006; Chen & He 2021): the loss goes to nothing, and so does what
    the net says. What is looked at is the share of the output in which the samples of a batch
    differ; it has to have been alive, and to have fallen to next to nothing for good.

    Only nets that are called two or three times in a step are judged: the output of a regression
    may well be the same for all samples but for little.
    """

    name: ClassVar[str] = "collapsed-output"

    alive: float = 0.1
    """Share of the output's squares in which the samples differed at first, at least ..."""
    share: float = 0.05
    """... and in the end, at most ..."""
    fallen: float = 0.2
    """... which is at most this part of the first."""
    steps: int = 50
    """Steps that it must have lasted to be critical, and half of the run."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams, against the first."""
        seen = [(record, _twins(record)) for record in history]
        birth = next((twins for _, twins in seen if twins), {})
        alive = {name: spread for name, spread in birth.items() if spread >= self.alive}
        going = progress(history)
        if not alive or (going.skill or 0.0) > 0.05:
            return ()
        streak: list[tuple[Record, str, float]] = []
        for record, twins in reversed(seen):
            fallen = [
                (spread, name)
                for name, spread in twins.items()
                if name in alive and spread <= min(self.share, self.fallen * alive[name])
            ]
            if not fallen:
                break
            streak.insert(0, (record, min(fallen)[1], min(fallen)[0]))
        records = tuple(record for record, _, _ in streak)
        if not _outcome.lasting(records):
            return ()
        _, name, spread = streak[-1]
        since, until = records[0].step, records[-1].step
        long = until - since >= max(self.steps, (history.last_step + 1) / 2)
        return (
            Finding(
                self.name,
                Severity.CRITICAL if long else Severity.WARNING,
                f"the outputs of {_depth.listed((name,))} have become the same for every sample: "
                f"they differ in {spread:.2%} of their squares, and did in {alive[name]:.0%}",
                (name,),
                since,
                until,
                (
                    Cause(
                        "loss",
                        "The loss compares outputs of the same net, and nothing in it holds those "
                        "of different samples apart.",
                        (name,),
                        share=1.0,
                    ),
                ),
                f"The loss does not show it: {going.text}.",
                {"spread": spread, "before": alive[name]},
            ),
        )


def _twins(record: Record) -> dict[str, float]:
    """Return the share in which samples differ, for each net with weights that is called two or
    three times, by the outermost or by the model itself."""
    holders = {call.parent for call in record.calls if call.layer.weighted}
    calls: defaultdict[str, list[float | None]] = defaultdict(list)
    for i, call in enumerate(record.calls):
        outer = call.parent is None or record.calls[call.parent].parent is None
        if outer and not call.layer.functional and (i in holders or call.layer.weighted):
            wide = call.output is not None and call.output.count > 0
            calls[call.layer.name].append(call.spread if wide else None)
    return {
        name: max(spread for spread in spreads if spread is not None)
        for name, spreads in calls.items()
        if 2 <= len(spreads) <= 3 and None not in spreads
    }


DETECTORS = (CollapsedOutput(),)
HEALTHY = ("digits-mlp", "multi-task-balanced")
SICK = ("siamese-without-negatives",)
