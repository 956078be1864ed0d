"""Forgotten parameters: they get gradients, and no optimizer holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import NO_GRAD_INPUT, NO_REASON, Call, Parameter, Record
from gradwatch.detectors import _connection, _depth, _outcome
from gradwatch.detectors._drawn import as_drawn


@dataclass(frozen=True, slots=True)
class ForgottenParameters:
    """Trainable parameters that get a gradient and that no watched optimizer steps.

    Known only where the optimizer was given to `watch`. In a training that learns it is a warning
    where it can hardly be meant: a layer between or behind those that are trained, a tenth of all
    elements, or an optimizer that holds biases only. It is a note where people do it on purpose: a
    head that is trained on a backbone (all that is forgotten comes before all that is held), thin
    adapters in a large model, a network that only judges (called with the targets, too), a copy of
    the trained one. Even then `requires_grad_(False)` would save the backward pass.

    Weights that the model uses and does not know (layers in a plain Python list, a layer made in
    `forward`) are in no optimizer either: said of a training that does not learn.
    """

    name: ClassVar[str] = "forgotten-parameters"

    share: float = 0.5
    """Share of all trainable elements from which on a training that is stuck is stuck for that."""
    patience: int = 30
    """Steps after which a training can be stuck for what may be meant."""
    part: float = 0.1
    """Share from which on the forgotten are no small matter though no whole layer is among them."""
    thin: float = 0.25
    """Share of elements that are held, up to which these are adapters and were picked."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams."""
        # Exams in which they got no gradient, as in the other half of a GAN's steps, say nothing.
        streak = [record for record in history if _forgotten(record)]
        latest = history.latest
        if latest is None or not _outcome.lasting(streak):
            return _foreign(history)
        record = streak[-1]
        taken = {p.name for p in latest.parameters if p.held} | _outcome.changed(history)
        forgotten = [p for p in _forgotten(record) if p.name not in taken]
        if not forgotten:
            return _foreign(history)
        sizes = {p.name: math.prod(p.shape) for p in record.parameters if p.trainable}
        share = sum(sizes[p.name] for p in forgotten) / sum(sizes.values())
        layers = _outcome.owners(forgotten)
        going = progress(history)
        harmless = self._harmless(record, forgotten, sizes)
        meant = harmless or self._meant(history, record, forgotten, sizes)
        if not taken and not going.moving:
            severity = Severity.CRITICAL
        elif not meant:
            grave = going.moving is False and share >= self.part
            severity = Severity.CRITICAL if grave else Severity.WARNING
        elif (
            going.moving is False
            and not harmless
            and share >= self.share
            and record.step >= self.patience
            and history.losses()[0].size  # without, who is done looks like one that is stuck
        ):
            severity = Severity.CRITICAL
        elif (
            not harmless
            and share >= self.part
            and (
                _outcome.worthless(going)
                or (as_drawn(forgotten) and _outcome.learns_little(history, going))
            )
        ):
            severity = Severity.WARNING  # perhaps meant so, and nothing (or little) comes of it
        else:
            severity = Severity.NOTE
        return (
            Finding(
                self.name,
                severity,
                f"no optimizer holds {len(forgotten)} parameters that get gradients ({share:.0%} "
                f"of all that is to be trained): those of {_depth.listed(layers)}",
                layers,
                streak[0].step,
                record.step,
                (
                    Cause(
                        "disconnection",
                        "They were not among the parameters that the optimizer was made with, or "
                        "they were replaced or added after it was made.",
                        layers,
                        share=1.0,
                    ),
                ),
                f"Known from the optimizer's param_groups{meant and f' ({meant})'}; {going.text}.",
                {"parameters": float(len(forgotten)), "share": share},
            ),
        )

    def _harmless(
        self, record: Record, forgotten: list[Parameter], sizes: Mapping[str, int]
    ) -> str:
        """Return why it does no harm; empty if it may."""
        kept = _weighted(p for p in record.parameters if p.held)
        whole = [name for name in _weighted(forgotten) if name not in kept]
        if not whole:
            few = sum(sizes[p.name] for p in forgotten) < self.part * sum(sizes.values())
            return "and they are few, and no whole layer" if few and kept else ""
        if all(_judges(record, name) for name in whole):
            return "as it is done with a network that only judges"
        shapes: dict[str, list[tuple[int, ...]]] = {}
        for parameter in record.parameters:
            shapes.setdefault(_outcome.owner(parameter), []).append(parameter.shape)
        copied = _connection.copied(tuple(whole), shapes, set(kept))
        return "and they are a copy of what is held" if copied else ""

    def _meant(
        self,
        history: History,
        record: Record,
        forgotten: list[Parameter],
        sizes: Mapping[str, int],
    ) -> str:
        """Return for what purpose this may have been done; empty if none is known."""
        held = [p for p in record.parameters if p.held and p.name in sizes]
        kept = _weighted(held)
        if kept and sum(sizes[p.name] for p in held) < self.thin * sum(sizes.values()):
            return "as it is done with adapters"
        order = {call.layer.name: i for i, call in reversed([*enumerate(record.calls)])}
        before = [order[name] for name in _weighted(forgotten) if name in order]
        behind = [order[name] for name in kept if name in order]
        if before and behind and max(before) < min(behind) and not _fed_by_data(history, kept):
            return "as it is done with a backbone that is to stay as it is"
        return ""


def _foreign(history: History) -> tuple[Finding, ...]:
    """Tell of weights in the forward pass that the model itself does not know."""
    streak = _outcome.latest_streak(history, lambda record: bool(_strangers(record)))
    going = progress(history)
    if not _outcome.lasting(streak):
        return ()
    latest = streak[-1]
    names = tuple(call.layer.name for call in _strangers(latest))
    if _outcome.learns(history, going) and not _followed(latest, names):
        severity = Severity.NOTE  # a network that only judges may be hidden on purpose
    else:
        severity = Severity.CRITICAL if going.moving is False else Severity.WARNING
    text = (
        "They are not in `model.parameters()`: layers in a plain list or dict (use nn.ModuleList, "
        "nn.ModuleDict), or made anew in each forward pass."
    )
    return (
        Finding(
            ForgottenParameters.name,
            severity,
            f"{len(names)} operations multiply by weights that get gradients and belong to no "
            f"module of the model: {_depth.listed(names)}",
            names,
            streak[0].step,
            latest.step,
            (Cause("disconnection", text, names, share=1.0),),
            f"Seen in the autograd graph of {len(streak)} examined steps; {going.text}.",
            {"operations": float(len(names))},
        ),
    )


def _followed(record: Record, names: tuple[str, ...]) -> bool:
    """Whether layers that the model knows, and trains, come after these: then they are no judge."""
    order = [call.layer.name for call in record.calls]
    trained = set(_weighted(p for p in record.parameters if p.trainable and p.reached))
    return not trained.isdisjoint(order[order.index(names[0]) :])


def _strangers(record: Record) -> list[Call]:
    return [c for c in record.calls if c.layer.foreign and c.grad_output is not None]


def _weighted(parameters: Iterable[Parameter]) -> tuple[str, ...]:
    """Return the layers whose weights (not only biases and scales) are among these."""
    return _outcome.owners(p for p in parameters if len(p.shape) > 1)


def _forgotten(record: Record) -> list[Parameter]:
    return [p for p in record.parameters if p.trainable and p.reached and p.held is False]


def _fed_by_data(history: History, layers: tuple[str, ...]) -> bool:
    """Whether one of these layers is called with what comes from no other layer: a discriminator
    sees real samples, the head of a backbone only what the backbone gives."""
    return any(
        call.layer.name in layers and call.reason == NO_GRAD_INPUT and call.grad_output is not None
        for record in history
        for call in record.calls
    )


def _judges(record: Record, layer: str) -> bool:
    """Whether it is called with what the model gives and with what it should give."""
    above = {layer, *(layer[:i] for i, letter in enumerate(layer) if letter == ".")}
    reasons: dict[str, set[str]] = {}
    for call in record.calls:
        if call.layer.name in above:
            reasons.setdefault(call.layer.name, set()).add(call.reason)
    return any({NO_REASON} < found for found in reasons.values())


DETECTORS = (ForgottenParameters(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer")
SICK = ("forgotten-by-the-optimizer",)
