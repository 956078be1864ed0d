"""Dead units: rectifiers that are zero for every sample, and so never learn again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Call, Record
from gradwatch.core.stats import Active
from gradwatch.detectors import _depth, _drawn, _groups, _inputs, _inquest, _norms, _outcome


@dataclass(frozen=True, slots=True)
class DeadUnits:
    """A layer in which most units gave zero for every sample of several exams.

    Counted per unit over a window, and not as a share of zeros: half of a healthy ReLU's outputs
    are zero. A unit that gives zero for everything gets no gradient and stays as it is (Lu et al.
    2019); some such units are in many healthy nets, so that it takes a layer of which most are
    dead, and a training that does not learn.

    Dead from the start is the init's doing (a bias far below zero, weights of one sign), or that of
    a function before the rectifier that is never positive, or of a rectifier where the answer comes
    out (activation). Dying during training is that of steps that are too large (learning-rate), or
    of inputs or targets in units of their own (data-scale); where no step was large it is a deep
    net in which all samples look alike, and a unit is zero for all or for none (depth).
    """

    name: ClassVar[str] = "dead-units"

    share: float = 0.8
    """Share of a layer's units that must be dead."""
    window: int = 3
    """Exams over which a unit must never have been active."""
    steps: int = 20
    """Steps after which it is critical: some units come back within the first few."""
    samples: int = 64
    """Values of each unit that must have been seen in that window."""
    moved: float = 0.05
    """Update-to-weight ratio of the typical weight from which on a step is large."""
    jump: float = 10.0
    """... or a gradient norm that is so many times the usual one before."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest window of exams."""
        records = history.records
        window = 1 if history.checkup else self.window
        dead = self._dead(records[-window:])
        if len(records) < window or not dead:
            return ()
        going = progress(history)
        if _outcome.learns(history, going):
            return ()
        since = records[-window].step
        for end in range(len(records) - 1, window - 1, -1):
            if not set(self._dead(records[end - window : end])) & set(dead):
                break
            since = records[end - window].step
        layers = tuple(dead)
        worst = max(dead.values())
        critical = going.moving is False and records[-1].step - since >= self.steps
        return (
            Finding(
                self.name,
                Severity.CRITICAL if critical else Severity.WARNING,
                f"up to {worst:.0%} of the units of {_depth.listed(layers)} are dead: zero for "
                "every sample",
                layers,
                since,
                records[-1].step,
                (self._cause(history, layers, since),),
                "A prediction at initialisation."
                if history.checkup
                else f"Counted over {window} exams; {going.text}.",
                {"share": worst, "layers": float(len(layers))},
            ),
        )

    def _cause(self, history: History, layers: tuple[str, ...], since: int) -> Cause:
        born = history.records[0]
        ends = [i for i, call in enumerate(born.calls) if call.layer.name in layers]
        if ends and not any(call.layer.weighted for call in born.calls[ends[-1] + 1 :]):
            text = "It stands where the answer comes out: a rectifier passes nothing on below zero."
            return Cause("activation", text, layers, share=1.0)
        if ends and (empty := _norms.empty(born, ends[0])):
            text = f"What {_depth.listed(empty)} normalises has no spread: it gives nothing."
            return Cause("normalisation", text, empty, share=1.0)
        if since == born.step:
            before = _groups.before(born, ends[0]) if ends else None
            if before is not None and not _initialised(before):
                text = f"`{before.layer.label}` before it is never positive."
                return Cause("activation", text, layers, share=1.0)
            weighted = tuple(c.layer.name for c in born.calls[: ends[-1]] if c.layer.weighted)
            if len(weighted) >= _inquest.SEVERAL and _drawn.as_torch_draws(born, weighted):
                text = (
                    f"They were born dead behind {len(weighted)} layers with weights as torch "
                    "draws them: what is left of the signal is smaller than their biases."
                )
                return Cause("depth", text, layers, share=1.0)
            text = "They were born dead: no sample ever reached them."
            return Cause("init", text, layers, share=1.0)
        if not self._thrown(history, since):
            text = (
                f"They died by step {since} though no step was large: all samples look alike so "
                "deep in the net, and a unit is zero for all or for none."
            )
            return Cause("depth", text, layers, share=1.0)
        off = _inputs.off_scale(born)
        if off is not None and off.large:
            text = f"They died by step {since}, of large steps. {off.text}"
            return Cause("data-scale", text, layers, share=1.0)
        text = (
            f"They died by step {since}: a step was so large that it pushed them below zero for "
            "every sample."
        )
        return Cause("learning-rate", text, layers, share=1.0)

    def _thrown(self, history: History, since: int) -> bool:
        """Whether a step up to then was large, as far as is known."""
        ratios = [
            parameter.update_ratio
            for record in history
            if record.step <= since
            for parameter in _outcome.weights(record)
            if parameter.update_ratio is not None
        ]
        if not ratios or max(ratios) > self.moved:
            return True
        norms = np.asarray([p.norm for p in history.pulses if p.step <= since])
        return bool(norms.size > 2 and norms.max() > self.jump * np.median(norms))

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


def _initialised(call: Call) -> bool:
    return call.layer.weighted or _groups.is_norm(call.layer.kind)


DETECTORS = (DeadUnits(),)
HEALTHY = ("digits-mlp", "he-relu-mlp", "resnet", "default-relu-mlp-adam")
SICK = ("born-dead", "dying-relu", "high-learning-rate-adam")
