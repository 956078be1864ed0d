"""Symmetric units: all units of a layer are the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Parameter, Record
from gradwatch.detectors import _depth, _outcome


@dataclass(frozen=True, slots=True)
class SymmetricUnits:
    """All units of a hidden layer have the same weights, and go on having the same.

    Units that start alike and are used alike get the same gradient and stay alike for ever: a layer
    of a hundred is worth one (Goodfellow et al. 2016, Deep Learning, 8.4: breaking symmetry). That
    is what a constant initialisation does, and zeros most of all. A head or a branch that starts at
    zero is no such layer: its units are used differently, and differ after one step. So at the
    start it takes two such layers in a row for a prediction, and after that a layer whose units
    are still the same although steps were made.

    The cause is the initialisation: draw the weights at random.
    """

    name: ClassVar[str] = "symmetric-units"

    spread: float = 1e-10
    """Share of a weight's squares in which its units differ, under which they are the same: the
    rounding of float32 leaves 1e-13, any random draw 0.5 and more."""
    apart: float = 1e-4
    """The same share up to which units that were the same have stayed so, after ..."""
    rounded: int = 100
    """... so many steps: an optimizer that normalises makes rounding errors larger and larger."""
    exams: int = 3
    """Exams that must show it, and all there are of the layer, to be more than a prediction."""
    learnt: float = 0.8
    """Skill from which on the units that there are suffice: it is only a note."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge all exams: what was born the same and is no longer so has healed."""
        seen: dict[str, list[bool]] = {}
        for record in history:
            for parameter in _outcome.weights(record):
                known = seen.setdefault(parameter.name, [])
                known.append(
                    self._same(
                        parameter, self.apart if record.step >= self.rounded else self.spread
                    )
                )
        alike = [name for name, same in seen.items() if all(same)]
        if not alike:
            return ()
        if len(history) < self.exams:
            layers = _consecutive(history.records[0], _outcome.layers_of(alike))
        else:
            layers = _outcome.layers_of([name for name in alike if len(seen[name]) >= self.exams])
            layers = layers if _stepped(history.records[:-1]) else ()
        return (self._finding(layers, history),) if layers else ()

    def _same(self, parameter: Parameter, spread: float) -> bool:
        if parameter.spread is not None:
            return parameter.spread < spread
        weight = parameter.weight
        zero = weight is not None and weight.count > 0 and not weight.squares
        return zero and parameter.shape[0] > 1

    def _finding(self, layers: tuple[str, ...], history: History) -> Finding:
        going = progress(history)
        if len(history) < self.exams:
            severity, confidence = Severity.WARNING, "A prediction at initialisation."
        elif going.skill is not None and going.skill >= self.learnt:
            severity, confidence = Severity.NOTE, f"It learns in spite of it: {going.text}."
        else:
            severity, confidence = _outcome.verdict(history.records, going)
            severity = max(severity, Severity.WARNING)
        weights = _outcome.weights(history.records[-1]) or _outcome.weights(history.records[0])
        units = max((p.shape[0] for p in weights if _outcome.owner(p) in layers), default=0)
        cause = Cause(
            "init",
            "Their weights started the same, so that they get the same gradient in every step: "
            "draw them at random.",
            layers,
            share=1.0,
        )
        return Finding(
            self.name,
            severity,
            f"all units of {_depth.listed(layers)} are the same: up to {units} do the work of one",
            layers,
            history.records[0].step,
            history.records[-1].step,
            (cause,),
            confidence,
            {"units": float(units), "layers": float(len(layers))},
        )


def _consecutive(record: Record, layers: Sequence[str]) -> tuple[str, ...]:
    """Return those of the layers that are followed by another of them."""
    order = list(dict.fromkeys(c.layer.name for c in record.calls if c.layer.weighted))
    return tuple(a for a, b in pairwise(order) if a in layers and b in layers)


def _stepped(records: Sequence[Record]) -> bool:
    """Whether a step was made, as far as is known: then the units had their chance to differ."""
    updates = [p.update for record in records for p in record.parameters if p.trainable]
    known = [update for update in updates if update is not None]
    return not known or any(update.squares > 0 for update in known)


DETECTORS = (SymmetricUnits(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "mixture-of-experts")
SICK = ("init-constant-relu",)
