"""Disconnected parameters: they could be trained, and no gradient ever reaches them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.detectors import _connection, _depth, _experts, _froze, _frozen, _outcome


@dataclass(frozen=True, slots=True)
class DisconnectedParameters:
    """Trainable parameters that backward has not reached in any step so far.

    A `.detach()`, a `no_grad`, a round trip through NumPy, an argmax, `sample()` where `rsample()`
    was meant, a weight used through `.data`, an expert that is picked and not weighted, or a module
    that `forward` does not call.

    It is certain to be a mistake, and a warning though the loss may fall, where something that is
    trained goes on from the output of a layer that is not, or a gradient comes to a layer's output
    and never to its weights. Where nothing goes on from it (an unused head, a pooler that is
    computed and thrown away), where no optimizer holds it or it is set between the steps (a target
    network), it is a note, unless the training is stuck and most of its parameters are cut off, or
    it learns little and what is trained is called after a tenth of them. An expert or a head that
    is only used now and then is reached now and then, and counts as connected.

    An optimizer of whose parameters none gets a gradient is certain, too. Where all are reached,
    and a training comes to nothing on a body whose weights require no gradient, that is said: they
    were frozen before they were trained, or never loaded.
    """

    name: ClassVar[str] = "disconnected-parameters"

    steps: int = 10
    """Steps in which they must have been missed."""
    share: float = 0.5
    """Share of all trainable elements from which on a training that is stuck is stuck for that,
    where it is not certain."""
    part: float = 0.1
    """Share from which on it is no small matter in a training whose answers are worth nothing."""
    patience: int = 30
    """Steps after which a training can be stuck for what is not certain to be a mistake."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Look at the pulses of all steps that are kept."""
        latest, pulses = history.latest, history.pulses
        pulses = tuple(p for p in pulses if p.columns.parameters == pulses[-1].columns.parameters)
        if len(pulses) < self.steps or latest is None:
            return ()
        flow = _connection.Flow(latest, pulses)
        wanted = {p.name for p in latest.parameters if p.held is not False}
        wanted -= _outcome.changed(history).intersection(flow.missed)
        cuts = _cuts(flow, history, wanted)
        certain = {name for _, names in cuts for name in names}
        going = progress(history)
        held = {p.name for p in latest.parameters if p.held and p.trainable}
        if held and held.issubset(flow.missed):  # whatever is trained, it is not by this optimizer
            certain = held & wanted
        names = [name for name in flow.missed if not certain or name in certain]
        names += sorted(certain.difference(names))
        if not names:
            frozen = _frozen.frozen(self.name, history, going)
            return frozen or _froze.froze(self.name, history, going)
        sizes = {p.name: math.prod(p.shape) for p in latest.parameters if p.trainable}
        share = sum(sizes.get(name, 0) for name in names) / max(1, sum(sizes.values()))
        layers = _outcome.layers_of(names)
        called = {call.layer.name for call in latest.calls} | flow.taps.keys()
        cut_off = tuple(layer for layer in layers if layer in called) or layers
        stuck = going.moving is False and _outcome.lasting(history)
        moves = any(p.update is not None and p.update.squares for p in latest.parameters)
        if share == 1 and going.moving and not held:
            severity = Severity.NOTE  # by gradients that are in no `.grad`: torch.autograd.grad()
        elif share == 1 and not (going.moving and moves):
            severity = Severity.CRITICAL
        elif certain:
            severity = Severity.CRITICAL if stuck else Severity.WARNING
        elif (
            stuck
            and len(pulses) >= self.patience
            and history.losses()[0].size  # without, who is done looks like one that is stuck
            and self._most(flow, wanted, sizes)
        ):
            severity = Severity.CRITICAL
        elif self._part(names, wanted, sizes) and (
            _outcome.worthless(going)
            or (_outcome.learns_little(history, going) and flow.amidst(layers))
        ):
            severity = Severity.WARNING  # perhaps meant so, and nothing (or little) comes of it
        else:
            severity = Severity.NOTE
        if cuts:
            text = cuts[0][0].text
        elif held and held.issubset(flow.missed):
            text = (
                "None of what the optimizer holds gets a gradient: what comes out of it is cut off "
                "from the loss (a `.detach()`, `.data`), or the loss is one of another model."
            )
        elif cut_off[0] in called:
            text = (
                f"{_depth.listed(cut_off)} are called, and nothing that is seen uses what they "
                "give; or the way back from the loss is cut after them (a `.detach()`, `.data`, or "
                "NumPy in between)."
            )
        else:
            text = f"{_depth.listed(layers)} are not called in a step, or only under `no_grad`."
        return (
            Finding(
                self.name,
                severity,
                f"no gradient has reached {len(names)} parameters ({share:.0%} of all that is to "
                f"be trained) in {len(pulses)} steps: those of {_depth.listed(layers)}",
                layers,
                pulses[0].step,
                pulses[-1].step,
                (Cause("disconnection", text, cut_off, share=1.0),),
                f"Counted in every step; {going.text}.",
                {"parameters": float(len(names)), "share": share},
            ),
        )

    def _part(self, names: list[str], wanted: set[str], sizes: Mapping[str, int]) -> bool:
        """Whether what is missed, of what is to be trained, is more than a few weights."""
        missed = sum(sizes.get(name, 0) for name in names if name in wanted)
        return missed >= self.part * sum(sizes.values())

    def _most(self, flow: _connection.Flow, wanted: set[str], sizes: Mapping[str, int]) -> bool:
        """Whether most of the elements are missed, copies of what is trained left out."""
        parts: dict[str, list[str]] = {}
        for name in flow.missed:
            parts.setdefault(name.partition(".")[0], []).append(name)
        missed = [
            name
            for names in parts.values()
            if not flow.copied(_outcome.layers_of(names))
            for name in names
            if name in wanted
        ]
        return sum(sizes.get(name, 0) for name in missed) >= self.share * sum(sizes.values())


def _cuts(
    flow: _connection.Flow, history: History, wanted: set[str]
) -> list[tuple[_connection.Cut, tuple[str, ...]]]:
    """Return what is certain to be cut off, with the parameters that are missed for it."""
    missed = frozenset(wanted.intersection(flow.missed))
    cuts = [
        (cut, tuple(name for name in flow.missed if name in missed and _in(cut, name)))
        for cut in (
            *flow.cuts(missed),
            *flow.bypassed(missed),
            *flow.tables(missed),
            *flow.unseen(missed),
        )
    ]
    learns = _outcome.learns(history, progress(history))
    for mixture, own in _experts.unheard(history.records):
        # Where each expert sees all, the router may be a head that is not used.
        chooses = mixture.sorts or (_experts.chooses(history.records[-1], mixture) and not learns)
        if wanted.issuperset(own) and chooses:
            text = (
                f"`{mixture.router.layer.name}` is to tell which of {len(mixture.experts)} experts "
                "counts for a sample, and their outputs are not multiplied with what it says (an "
                "argmax has no derivative)."
            )
            cuts.append((_connection.Cut((mixture.router.layer.name,), text), own))
    return cuts


def _in(cut: _connection.Cut, parameter: str) -> bool:
    return _outcome.layer_of(parameter) in cut.layers


DETECTORS = (DisconnectedParameters(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "mixture-of-experts")
SICK = ("detached",)
