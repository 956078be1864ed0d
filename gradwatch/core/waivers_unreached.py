"""Parameters that get no gradient, or none in most steps, and should not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np

from gradwatch.core.record import Parameter
from gradwatch.core.waiver import Evidence, Waiver, between, owner

RECENT: Final = 1 / 3
"""What is reached now and then must have been reached in this last part of the steps, too: an
expert that is chosen no more is no structure."""
FEW: Final = 0.5
"""Share of the steps that may be skipped by way of exception."""


def frozen(evidence: Evidence) -> Iterator[Waiver]:
    """Yield the parameters that have required no gradient in any exam."""
    names = dict.fromkeys(p.name for p in evidence.latest.parameters if not p.trainable)
    for exam in evidence.exams:
        for name in [name for name in names if name in exam and exam[name].trainable]:
            del names[name]
    if names:
        yield Waiver("frozen", "frozen: they require no gradient", tuple(names))


def now_and_then(evidence: Evidence) -> Iterator[Waiver]:
    """Yield the parameters that only some steps reach: experts, branches, halves of a GAN."""
    steps = evidence.complete
    reached = evidence.reached[steps]
    times = reached.sum(0)
    recent = reached[-max(1, round(len(steps) * RECENT)) :].any(0)
    found = np.flatnonzero((times > 0) & (times < len(steps)) & recent)
    if found.size:
        often = between(int(times[found].min()), int(times[found].max()), "d")
        yield Waiver(
            "reached-now-and-then",
            f"reached in {often} of {len(steps)} steps: a branch, an expert, another optimizer's "
            "turn",
            _names(evidence, found),
        )


def skipped_steps(evidence: Evidence) -> Iterator[Waiver]:
    """Yield the steps without any gradient of a training in float16: those in which one was
    infinite, which a GradScaler skips. (Where it steps no fused optimizer, they are not even
    steps.)"""
    skipped = np.flatnonzero(~evidence.reached.any(1))
    halves = any(call.dtype == "float16" for call in evidence.latest.calls)
    if halves and 0 < skipped.size <= FEW * len(evidence.steps):
        yield Waiver(
            "skipped-steps",
            f"{skipped.size} of {len(evidence.steps)} steps have no gradient: a GradScaler skips "
            "those in which one is infinite",
            (),
            tuple(evidence.steps[skipped].tolist()),
        )


def kept_apart(evidence: Evidence) -> Iterator[Waiver]:
    """Yield copies that are not trained, but set: target networks, running averages.

    No gradient has ever reached them, and either no optimizer holds them while it does hold a twin
    of the same shape that gets gradients; or no step of an optimizer moves them, and they have
    moved all the same.
    """
    never = _names(evidence, np.flatnonzero(~evidence.reached.any(0)))
    trained = _names(evidence, np.flatnonzero(evidence.reached.any(0)))
    twins = {
        _form(evidence.parameters[name])
        for name in trained
        if name in evidence.parameters and evidence.parameters[name].held
    }
    untrained = [evidence.parameters[name] for name in never if name in evidence.parameters]
    apart = [
        parameter.name
        for parameter in untrained
        if (parameter.held is False and _form(parameter) in twins)
        or _set_from_outside(evidence.exams, parameter.name)
    ]
    if apart and trained:
        yield Waiver(
            "not-to-be-trained",
            "no gradient is wanted: a copy that no optimizer holds, or that is set between steps",
            tuple(apart),
        )


def _form(parameter: Parameter) -> tuple[object, ...]:
    return (*parameter.name.split(".")[-2:], parameter.shape)


def _set_from_outside(exams: Iterable[Mapping[str, Parameter]], name: str) -> bool:
    """Whether it changed between exams and never in the step of one."""
    found = [exam[name] for exam in exams if name in exam]
    if any(p.update is not None and p.update.squares != 0 for p in found):
        return False
    weights = [p.weight for p in found if p.weight is not None and not p.weight.nonfinite]
    return len({(weight.squares, weight.total) for weight in weights}) > 1


def never_called(evidence: Evidence) -> Iterator[Waiver]:
    """Yield the parameters with gradients whose module is not called itself: another one uses
    them, as `nn.MultiheadAttention` does with those of its `out_proj`."""
    if any("compiled" in note for record in evidence.records for note in record.notes):
        return  # the calls in there are not seen
    layers = {
        call.layer.name: call.layer
        for record in evidence.records
        for call in record.calls
        if not call.layer.functional
    }
    if not layers:
        return
    # A layer without a weight of its own shares that of another one, which need not be called.
    shared = {
        layer.weight_shape
        for name, layer in layers.items()
        if layer.weight_shape and f"{name}.weight" not in evidence.parameters
    }
    names = [
        name
        for name in _names(evidence, np.flatnonzero(evidence.reached.any(0)))
        if owner(name)
        and owner(name) not in layers
        and name in evidence.parameters
        and evidence.parameters[name].shape not in shared
        # A number for a name is a `ParameterList`, which nobody calls.
        and not name.rpartition(".")[2].isdigit()
    ]
    if names:
        yield Waiver(
            "module-not-called",
            "used without a call of their module (no activations are seen)",
            tuple(names),
        )


def _names(evidence: Evidence, positions: np.ndarray) -> tuple[str, ...]:
    return tuple(evidence.names[i] for i in positions)
