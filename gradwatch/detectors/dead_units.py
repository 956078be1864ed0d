"""Dead units: rectifiers that are zero for every sample, and so never learn again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Record
from gradwatch.core.stats import Active
from gradwatch.detectors import _depth, _outcome


@dataclass(frozen=True, slots=True)
class DeadUnits:
    """A layer in which most units gave zero for every sample of several exams.

    Counted per unit over a window, and not as a share of zeros: half of a healthy ReLU's outputs
    are zero. A unit that gives zero for everything gets no gradient and stays as it is (Lu et al.
    2019); some such units are in many healthy nets, so that it takes a layer of which most are
    dead, and a training that gets nowhere.

    Dead from the start is the init's doing (a bias far below zero, weights of one sign); dying
    during training is that of steps that are too large.
    """

    name: ClassVar[str] = "dead-units"

    share: float = 0.8
    """Share of a layer's units that must be dead."""
    window: int = 3
    """Exams over which a unit must never have been active."""
    samples: int = 64
    """Values of each unit that must have been seen in that window."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest window of exams."""
        records = history.records
        dead = self._dead(records[-self.window :])
        if len(records) < self.window or not dead:
            return ()
        going = progress(history)
        if going.moving and not going.diverged:
            return ()
        since = records[-self.window].step
        for end in range(len(records) - 1, self.window - 1, -1):
            if not set(self._dead(records[end - self.window : end])) & set(dead):
                break
            since = records[end - self.window].step
        born = since == records[0].step
        layers = tuple(dead)
        worst = max(dead.values())
        cause = (
            Cause("init", "They were born dead: no sample ever reached them.", layers, share=1.0)
            if born
            else Cause(
                "learning-rate",
                f"They died by step {since}: a step was so large that it pushed them below zero "
                "for every sample.",
                layers,
                share=1.0,
            )
        )
        critical = going.moving is False and records[-1].step - since >= _outcome.LASTING_STEPS
        return (
            Finding(
                self.name,
                Severity.CRITICAL if critical else Severity.WARNING,
                f"up to {worst:.0%} of the units of {_depth.listed(layers)} are dead: zero for "
                "every sample",
                layers,
                since,
                records[-1].step,
                (cause,),
                f"Counted over {self.window} exams; {going.text}.",
                {"share": worst, "layers": float(len(layers))},
            ),
        )

    def _dead(self, records: tuple[Record, ...]) -> dict[str, float]:
        """Return the layers that are mostly dead, with their share of dead units."""
        total: dict[str, Active | None] = {}
        for record in records:
            for call in record.calls:
                if call.active is None:
                    continue
                before = total.get(call.layer.name)
                if call.layer.name in total and (
                    before is None or before.units.shape != call.active.units.shape
                ):
                    total[call.layer.name] = None  # used at several widths: not one set of units
                else:
                    total[call.layer.name] = call.active if before is None else before + call.active
        return {
            name: active.dead / active.units.size
            for name, active in total.items()
            if active is not None
            and active.samples >= self.samples
            and active.dead >= self.share * active.units.size
        }


DETECTORS = (DeadUnits(),)
HEALTHY = ("digits-mlp", "he-relu-mlp", "resnet", "default-relu-mlp-adam")
SICK = ("born-dead", "dying-relu", "high-learning-rate-adam")
