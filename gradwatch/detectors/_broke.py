"""Why numbers stopped being finite: they ran away, they did not fit their format, they came in so,
or one operation met the point where it has no value."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from gradwatch.core.finding import Cause
from gradwatch.core.losses import BINARY, CROSS_ENTROPY, SQUARED_ERROR
from gradwatch.core.record import Record
from gradwatch.detectors import _depth, _inputs
from gradwatch.detectors._origin import Origin, Scene

GROWTH: Final = 1000.0
"""A norm grown by so much over that of the first steps: the numbers ran away before they broke."""
EARLY: Final = 5
"""The first steps."""
EXPLODES: Final = 3.0
"""Decades over depth, at the first exam."""
DEEP: Final = 6
"""Weighted layers over which outputs that grow are the weights' doing, and not one operation's."""
MONOTONOUS: Final = 0.8
"""Kendall's tau from which on they grow from layer to layer."""
OVERFLOWS: Final = 256.0
"""A number whose square float16 does not hold (its largest is 65504)."""
ROUNDS_TO_ZERO: Final = 2.0**-25
"""... and under which it holds none (half of its smallest)."""
GROWING: Final = frozenset(
    ("pow", "mul", "add", "sub", "sum", "matmul", "bmm", "linear", "einsum", "exp", "prod", "mean")
)
"""Operations whose results are larger than what they are given."""
FEW: Final = 0.1
"""Share of the entries of the output whose gradient is NaN for a few bad targets. A mask or a
softmax that underflows takes whole rows."""
SAFE: Final = {SQUARED_ERROR: math.inf, CROSS_ENTROPY: 40.0, BINARY: 8.0}
"""Range of the outputs within which no way of writing a loss leaves float32: a softmax rounds to 0
beyond 88, a sigmoid to 1 beyond 17; half of that, for they may have moved since the exam."""


def why(scene: Scene, origin: Origin) -> Cause:
    """Name the cause; `numerics` is what is left when nothing else is seen."""
    name, text = _why(scene, origin)
    return Cause(name, text, origin.layers, share=1.0)


def _why(scene: Scene, origin: Origin) -> tuple[str, str]:
    if origin.way == "input":
        return "data", "What goes into the model is not finite."
    if origin.way == "weights" and (found := _of_weights(scene)):
        return found
    if origin.way in ("", "loss", "backward", "forward") and (found := _ran_away(scene)):
        return found
    if found := _too_large(scene, origin):
        return found
    if origin.way == "loss" and _bad_targets(scene):
        return "data", (
            "The outputs are ordinary, and this loss is finite for all of them: so it is the "
            "targets that are not."
        )
    return "numerics", (
        "The gradients before were ordinary: one operation left the range of its numbers (a "
        "logarithm or root of 0, a division by 0, 0 times infinity, an overflow)."
    )


def _of_weights(scene: Scene) -> tuple[str, str] | None:
    """What a step did to weights whose gradients were finite."""
    if scene.step == 0:
        return "init", "The weights were not finite when the training began."
    record = scene.before or scene.record
    for parameter in record.parameters if record is not None else ():
        if record is None or parameter.group is None or parameter.group >= len(record.groups):
            if parameter.dtype == "float16" and parameter.held is None:
                return (
                    "precision",
                    "A step in float16 made them so from gradients that were finite.",
                )
            continue
        group = record.groups[parameter.group]
        rate, epsilon = group.learning_rate, group.epsilon
        if rate is not None and not math.isfinite(rate):
            return "learning-rate", f"The learning rate is {rate}."
        if epsilon == 0:
            return (
                "optimizer",
                f"The eps of {group.kind} is 0: where a gradient is 0, it gives 0/0.",
            )
        if epsilon is not None and parameter.dtype == "float16" and epsilon < ROUNDS_TO_ZERO:
            return "precision", (
                f"{group.kind} adds eps = {epsilon:g} to a root that is 0 in float16 for small "
                "gradients, and that eps is 0 in float16, too: it gives 0/0."
            )
    return None


def _ran_away(scene: Scene) -> tuple[str, str] | None:
    history = scene.history
    first = next(iter(history), None)
    grown = _growth(scene)
    born = next((found for r in history if (found := _depth.trend(r)) is not None), None)
    if born is not None and born.drop <= -EXPLODES and born.witnessed:
        return "init", (
            f"The numbers ran away: at its first exam the gradient grew by {-born.drop:.1f} "
            "decades over depth."
        )
    signal = _depth.signal(first) if first is not None and scene.step <= EARLY else None
    deep = signal is not None and len(signal.layers) >= DEEP and signal.monotony >= MONOTONOUS
    if signal is not None and deep and signal.decades >= 2 * EXPLODES:
        return "init", f"At the first exam the outputs grew by {signal.decades:.1f} decades."
    if grown is None or first is None:
        return None
    if (off := _inputs.off_scale(first)) is not None and off.large:
        return "data-scale", f"The numbers ran away: {grown}. {off.text}"
    if (size := _inputs.targets_off(first)) is not None:
        return "data-scale", (
            f"The numbers ran away: {grown}. The targets have a standard deviation of {size:.3g}, "
            "and should be near 1."
        )
    return "learning-rate", f"The numbers ran away: {grown}."


def _growth(scene: Scene) -> str | None:
    """Say by how much they grew before they broke; None if they did not."""
    pulses = [p for p in scene.history.pulses if p.step < scene.step]
    norms = [p.norm for p in pulses if math.isfinite(p.norm) and p.norm > 0]
    if len(norms) > 1 and max(norms[-3:]) > GROWTH * min(norms[:EARLY]):
        before, after = min(norms[:EARLY]), max(norms[-3:])
        return f"the gradient norm grew from {before:.3g} to {after:.3g} before"
    if pulses and np.isinf(pulses[-1].norms).any() and len(norms) > 1:
        return "the gradient norm grew beyond what float32 can square"
    losses = [abs(p.loss) for p in pulses if p.loss_known and math.isfinite(p.loss)]
    if len(losses) > 1 and max(losses[-3:]) > GROWTH * max(losses[0], 1e-30):
        return f"the loss grew from {losses[0]:.3g} to {max(losses[-3:]):.3g} before"
    if scene.before is not None and scene.step - scene.before.step == 1:
        ratios = [
            p.update_ratio
            for p in scene.before.parameters
            if len(p.shape) > 1 and p.update_ratio is not None
        ]
        if ratios and float(np.median(ratios)) > 1:
            return f"the step before changed the typical weight by {np.median(ratios):.0%}"
    return None


def _too_large(scene: Scene, origin: Origin) -> tuple[str, str] | None:
    """float16, and numbers near its end."""
    record = scene.record or scene.before
    if record is None:
        return None
    text = "float16 ends at 65504, and {} `{}` {}."
    for call in record.calls:
        if call.dtype != "float16":
            continue
        label = call.layer.label
        if call.layer.name in origin.layers and call.layer.kind in GROWING:
            return "precision", f"float16 ends at 65504, and `{label}` is worked out in it."
        if (output := call.output) is not None and (output.peak >= OVERFLOWS or output.infs):
            size = "is infinite" if output.infs else f"goes up to {output.peak:.3g}"
            return "precision", text.format("the output of", label, size)
        gradient = None if origin.way == "forward" else call.grad_output
        if gradient is not None and (gradient.peak >= OVERFLOWS or gradient.infs):
            size = "is infinite" if gradient.infs else f"goes up to {gradient.peak:.3g}"
            return "precision", text.format("the gradient at", label, size)
    return None


def _bad_targets(scene: Scene) -> bool:
    """Whether the loss can only have come from targets that are not finite."""
    pulse = scene.pulse
    if pulse is not None and pulse.loss_known and not math.isnan(pulse.loss):
        return False  # a logarithm of 0 makes it infinite, or its gradient NaN behind a finite loss
    known = [r for r in scene.history if r.step < scene.step and r.answer is not None]
    kinds = [answer for r in known if (answer := r.answer) is not None and answer.kind in SAFE]
    if kinds:
        last = kinds[-1]
        size = last.high - last.low if last.kind == CROSS_ENTROPY else max(last.high, -last.low)
        return size <= SAFE[last.kind]
    return not known and scene.record is not None and _few(scene.record)


def _few(record: Record) -> bool:
    """Whether a few entries of the output have a gradient of NaN, and the rest an ordinary one."""
    calls = [c for c in record.calls if c.parent is None and c.grad_output is not None]
    gradient = calls[-1].grad_output if calls else None
    return gradient is not None and 0 < gradient.nans <= FEW * gradient.count and gradient.rms > 0
