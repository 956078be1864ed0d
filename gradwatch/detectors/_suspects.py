"""What a training that learns nothing most likely suffers from, where nothing has been proved.

Circumstantial evidence, the strongest first: each is rare in trainings that learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import Final

from gradwatch.core.finding import Cause
from gradwatch.core.record import Group, Record
from gradwatch.detectors import _depth, _groups, _inputs, _norms, _outcome

SLOW: Final = 1e-5
"""Typical update-to-weight ratio under which the steps are too small ..."""
SMALL: Final = 2e-4
"""... may be, if nothing else is out of the ordinary (a thousandth is usual) ..."""
FAST: Final = 0.1
"""... and above which they are too large."""
HEAVY: Final = 0.99
"""Momentum of plain gradient descent from which on it adds up the steps of a hundred others."""
TINY: Final = 1e-3
"""Size of the inputs of a recurrent layer under which it does not see them."""
OVERSIZED: Final = 4.0
"""Times the size that keeps a signal from which on the typical weight is too large."""
HALVES: Final = ("float16", "bfloat16")


def suspect(born: Record, latest: Record) -> Cause:
    """Return what speaks loudest, in the exam of step 0 and the latest one."""
    ratios = [p.update_ratio for p in _outcome.weights(latest) if p.update_ratio is not None]
    typical = median(ratios) if ratios else None
    if typical is not None and typical <= SLOW:
        text = f"The steps are too small: the typical weight changes by {typical:.2g} in one."
        return Cause("learning-rate", text, share=1.0)
    if heavy := [g for g in latest.groups if _plain(g) and (g.momentum or 0.0) >= HEAVY]:
        text = (
            f"A momentum of {heavy[0].momentum:g} adds up the steps of {_steps(heavy[0])} others."
        )
        return Cause("optimizer", text, share=1.0)
    if unfit := _norms.unfit(_norms.norms(born)):
        return Cause("normalisation", unfit, share=1.0)
    if (off := _inputs.off_scale(born)) is not None:
        return Cause(off.cause, off.text, off.layers, share=1.0)
    if found := list(_read_by_recurrent(born)):
        layer, size = found[0]
        text = f"What goes into `{layer}` is of size {size:.2g}, and should be near 1."
        return Cause("data-scale", text, (layer,), share=1.0)
    if found := list(_oversized(born)):
        times = median(size for _, size in found)
        text = f"The weights are too large: {times:.3g} times what keeps a signal's size."
        return Cause("init", text, tuple(name for name, _ in found), share=1.0)
    if half := _halved(latest):
        text = f"{_depth.listed(half)} are worked out in half precision, and the rest is not."
        return Cause("precision", text, half, share=1.0)
    if strange := _strange(born):
        text = f"{_depth.listed(strange)} are no activations that are known to train."
        return Cause("activation", text, strange, share=1.0)
    if typical is not None and typical >= FAST:
        text = f"The steps are too large: the typical weight changes by {typical:.2g} in one."
        return Cause("learning-rate", text, share=1.0)
    if typical is not None and typical <= SMALL:
        text = f"The steps are small: the typical weight changes by {typical:.2g} in one."
        return Cause("learning-rate", text, share=1.0)
    return Cause(
        "data",
        "Weights, gradients and steps are of ordinary size: perhaps the labels do not belong to "
        "the inputs, or the inputs say nothing of them.",
        share=1.0,
    )


def _plain(group: Group) -> bool:
    """Whether its steps are as large as its momentum makes them: Adam's are not."""
    return group.second_momentum is None


def _steps(group: Group) -> int:
    return round(1 / max(1e-9, 1 - (group.momentum or 0.0)))


def _read_by_recurrent(record: Record) -> Iterator[tuple[str, float]]:
    """Yield recurrent layers that get data of a size that they cannot work with."""
    for layer, size in _inputs.sequences(record):
        if 0 < size < TINY or size > _inputs.LARGE:
            yield layer, size


def _oversized(record: Record) -> Iterator[tuple[str, float]]:
    """Yield the layers whose weights are too large, if most are."""
    tables = {c.layer.name for c in record.calls if c.layer.kind in ("Embedding", "EmbeddingBag")}
    used = {c.layer.weight_shape for c in record.calls if c.layer.functional and c.layer.weighted}
    sums = {c.layer.weight_shape for c in record.calls if c.layer.kind in ("add", "sub")}
    sizes = []
    for p in record.parameters:
        owner, kind = _outcome.owner(p), p.name.rpartition(".")[2]
        raw = not kind.startswith("weight")
        if len(p.shape) < 2 or owner in tables or p.weight is None or not p.trainable:
            continue
        if raw and (p.shape not in used or p.shape in sums):
            continue  # positions and tokens are added, and no weights
        fan_in = min(p.shape) if raw else math.prod(p.shape[1:])
        sizes.append((owner or p.name, p.weight.rms * math.sqrt(fan_in)))
    large = [one for one in sizes if one[1] >= OVERSIZED]
    if 2 * len(large) > len(sizes):
        yield from dict(large).items()


def _halved(record: Record) -> tuple[str, ...]:
    """Return operations in half precision beside others that are not."""
    half = [c for c in record.calls if c.dtype in HALVES]
    whole = [c for c in record.calls if c.dtype not in ("", *HALVES)]
    functional = [c.layer.name for c in half if c.layer.functional]
    return tuple(dict.fromkeys(functional)) if whole and len(half) == len(functional) else ()


def _strange(record: Record) -> tuple[str, ...]:
    """Return activations of one's own make that are more than a product with a gate."""
    holders = _groups.holding(record)
    kinds = {"exp", "sin", "cos", "pow", "reciprocal", "abs", "sign", "floor", "round", "log"}
    return tuple(
        dict.fromkeys(
            call.layer.name if call.parent is None else record.calls[call.parent].layer.name
            for call in record.calls
            if call.layer.functional
            and call.layer.kind in kinds
            and (call.parent is None or call.parent not in holders)
        )
    )
