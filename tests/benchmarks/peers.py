"""The rules of other tools, read off gradwatch's records, to be measured on the same trainings.

Thresholds are those the tools ship; what a record lacks is approximated, each time in words. For
all: a step is an examined step; gradients are unscaled; mean magnitudes come from octaves (right to
within a third); updates from a sample of each weight. Left out: what needs accuracy, inputs,
validation data, ranks, noise or curvature, and what is not published (how SageMaker's
PoorWeightInitialization combines its parts): rules less that can hit, or raise a false alarm.
The corpus is labelled by the loss, so rules that only look at the loss are close to its labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import median
from typing import Final

import numpy as np

from gradwatch.core.record import Record
from gradwatch.core.stats import OCTAVE_LOW, Stats
from tests.benchmarks.readings import (
    ACTIVATIONS,
    BOUNDED,
    Seen,
    dead,
    dense,
    falls,
    flow,
    kernels,
    leaves,
    mean_magnitude,
    modules,
    nonfinite,
    of_kind,
    outside,
    ratios,
    share_above,
    trained,
    true_norm,
    true_std,
    unchanged,
)

Rule = Callable[[Seen], bool]

# --- SageMaker Debugger -----------------------------------------------------------------------


def _smd_saturated(seen: Seen) -> bool:
    """Input of tanh beyond 9.5, of sigmoid beyond -23 or 17, in half of a layer. Inputs are not
    recorded: in float32 the output is then 1, or under 2^-33; elements stand for units."""
    return any(
        out.octaves[-OCTAVE_LOW:].sum() > out.count / 2
        or (call.layer.kind == "Sigmoid" and out.octaves[: -33 - OCTAVE_LOW].sum() > out.count / 2)
        for call, out in of_kind(seen.now, BOUNDED)
    )


SAGEMAKER: Final[Mapping[str, Rule]] = {
    "VanishingGradient": lambda s: any(mean_magnitude(g) < 1e-7 for _, g in trained(s.now)),
    "ExplodingTensor": lambda s: nonfinite(s.now),
    "WeightUpdateRatio": lambda s: any(outside(r, 1e-8, 10) for r in ratios(s.now)),
    "UnchangedTensor": lambda s: unchanged(s, 3, 1e-5, 1e-8),
    "DeadRelu": lambda s: dead(s.now, 0.01, 0.5),
    "SaturatedActivation": _smd_saturated,
    "LossNotDecreasing": lambda s: not falls(s, 10, 0.001),
}

# --- AUTOTRAINER ------------------------------------------------------------------------------


def _unlearned(seen: Seen) -> bool:
    """Its gate, accuracy < 0.7. No record has that: here, a loss not yet half of the first one."""
    return not seen.losses[-1] < seen.losses[0] - abs(seen.losses[0]) / 2


def _kernel_norms(record: Record) -> tuple[float, float]:
    """Gradient norms of the first and the last kernel in registration order, as it reads them."""
    norms = [true_norm(g) for p, g in trained(record) if len(p.shape) >= 2]
    return (norms[0], norms[-1]) if norms else (1.0, 1.0)


def _at_vanish(seen: Seen) -> bool:
    """First / last kernel gradient under 1e-3 and the first under 1e-4. It looks every 3 epochs."""
    first, last = _kernel_norms(seen.now)
    return first < 1e-3 * last and first < 1e-4 and _unlearned(seen)


def _at_explode(seen: Seen) -> bool:
    """First / last kernel gradient over 70, or NaN."""
    first, last = _kernel_norms(seen.now)
    return (first > 70 * last or math.isnan(first + last)) and _unlearned(seen)


def _at_dying(seen: Seen) -> bool:
    """At least 70 % of all gradient entries are zero."""
    gradients = [g for _, g in trained(seen.now)]
    zeros, count = sum(g.zeros for g in gradients), sum(g.count for g in gradients)
    return zeros >= 0.7 * count > 0 and _unlearned(seen)


AUTOTRAINER: Final[Mapping[str, Rule]] = {
    "gradient vanish": _at_vanish,
    "gradient explode": _at_explode,
    "dying ReLU": _at_dying,
    "loss NaN or over 1e3": lambda s: not s.losses[-1] < 1e3,
}

# --- TheDeepChecker ---------------------------------------------------------------------------


def _successive(record: Record, test: Callable[[float], bool]) -> bool:
    """Whether four ratios in a row, going backward, pass the test; weights stand for layers."""
    gradients, run = kernels(record), 0
    for before, after in zip(gradients[-2::-1], gradients[:0:-1], strict=True):
        run = run + 1 if after and test(before / after) else 0
        if run == 4:
            return True
    return False


def _tdc_saturated(seen: Seen) -> bool:
    """rho_B > 0.85 in half of the units. Here: rms of the output on [-1, 1], over the layer."""
    for call, out in of_kind(seen.now, BOUNDED):
        square = out.rms**2
        square = 4 * square - 4 * out.mean + 1 if call.layer.kind == "Sigmoid" else square
        if math.sqrt(max(0.0, square)) > 0.85:
            return True
    return False


DEEPCHECKER: Final[Mapping[str, Rule]] = {
    "vanishing: mean|g| < 1e-6": lambda s: any(g < 1e-6 for g in kernels(s.now)),
    "vanishing: 4 ratios <= 0.5": lambda s: _successive(s.now, lambda r: r <= 0.5),
    "exploding: mean|g| > 1e6": lambda s: any(g > 1e6 for g in kernels(s.now)),
    "exploding: 4 ratios >= 2": lambda s: _successive(s.now, lambda r: r >= 2),
    "update ratio not in 1e-4..1e-1": lambda s: any(outside(r, 1e-4, 0.1) for r in ratios(s.now)),
    # Units whose 95th percentile is zero are those active in under 5 % of samples.
    "dead: over half of the units": lambda s: dead(s.now, 0.05, 0.5),
    "saturated: rho_B > 0.85": _tdc_saturated,
    # Without its F-test, whose samples are not recorded.
    "activation std not in 0.5..2": lambda s: any(
        outside(true_std(out), 0.5, 2) for _, out in of_kind(s.now, ACTIVATIONS)
    ),
    "weights dead or diverging": lambda s: any(
        (p.weight.quantile(0.95) < 1e-5 and not p.weight.nonfinite)
        or mean_magnitude(p.weight) > 1e8
        for p in s.now.parameters
        if p.weight is not None and len(p.shape) >= 2
    ),
    # Five of its checks, which are ten steps apart.
    "loss falls < 5 % in 50 steps": lambda s: not falls(s, 50, 0.05),
    "loss diverges: twice its lowest": lambda s: not s.losses[-1] < 2 * abs(np.nanmin(s.losses)),
    "not finite": lambda s: nonfinite(s.now),
}

# --- DeepDiagnosis ----------------------------------------------------------------------------


def _dd_saturated(seen: Seen) -> bool:
    """|pre-activation| >= 5 in half of the elements: read at the call before the activation."""
    calls = [c for c, _ in modules(seen.now)]
    return any(
        before.output is not None and share_above(before.output, 5.0) > 0.5
        for before, call in pairwise(calls)
        if call.layer.kind.lower() in BOUNDED
    )


def _dd_rate(seen: Seen) -> bool:
    """lr * |g| / |w| outside 1e-5..1e-1; the learning rate of the first group for all."""
    rates = seen.now.learning_rates
    return any(
        outside(rates[0] * true_norm(p.gradient) / true_norm(p.weight), 1e-5, 0.1)
        for p in dense(seen.now)
        if rates and p.gradient is not None and p.weight is not None and p.weight.norm
    )


DEEPDIAGNOSIS: Final[Mapping[str, Rule]] = {
    "vanishing: mean|g| < 1e-7": lambda s: any(
        p.gradient is not None and mean_magnitude(p.gradient) < 1e-7 for p in dense(s.now)
    ),
    "dead: 70 % of outputs are 0": lambda s: any(
        out.zeros >= 0.7 * out.count for _, out in of_kind(s.now, frozenset({"relu"}))
    ),
    "saturated: |input| >= 5": _dd_saturated,
    "weight variance not in 1e-5..10": lambda s: any(
        outside(true_std(p.weight) ** 2, 1e-5, 10) for p in dense(s.now) if p.weight is not None
    ),
    "lr*|g|/|w| not in 1e-5..1e-1": _dd_rate,
    "not finite": lambda s: nonfinite(s.now),
    "unchanged 5 times": lambda s: unchanged(s, 5, 0.0, 0.0),
}

# --- torchmortem ------------------------------------------------------------------------------


def _tmo_vanishing(seen: Seen) -> bool:
    """Last / first over 100, averaged over the second half; NaN counts, as its code has it."""
    norms = flow(seen.records)
    mean = norms[len(norms) // 2 :].mean(axis=0)
    if mean.size < 2:
        return False
    if mean[0] < 1e-30:
        return True
    return not mean[-1] < 1e-30 and not mean[-1] / mean[0] < 100


def _tmo_update(seen: Seen) -> bool:
    """Median update ratio of a weight, over the second half, outside 1e-5..1e-1."""
    by_name: dict[str, list[float]] = {}
    for p in (p for record in seen.late for p in record.parameters if len(p.shape) >= 2):
        if p.update_ratio:
            by_name.setdefault(p.name, []).append(p.update_ratio)
    return any(outside(median(some), 1e-5, 0.1) for some in by_name.values())


def _tmo_sustained(seen: Seen, test: Callable[[Stats], bool]) -> bool:
    """Whether the output of some activation or module with parameters passes in half of the late
    exams."""
    owned, counts = set(leaves(seen.now)), dict[str, int]()
    for record in seen.late:
        for call, out in modules(record):
            if call.layer.name in owned or call.layer.kind.lower() in ACTIVATIONS:
                counts[call.layer.name] = counts.get(call.layer.name, 0) + test(out)
    return max(counts.values(), default=0) >= len(seen.late) / 2


def _tmo_weights(seen: Seen) -> bool:
    """A norm that grew tenfold, or moved by under 1e-4 since the first exam, or 100 apart."""
    first, now = (
        {
            p.name: true_norm(p.weight)
            for p in r.parameters
            if p.weight is not None and len(p.shape) > 1
        }
        for r in (seen.records[0], seen.now)
    )
    pairs = [(first[name], norm) for name, norm in now.items() if first.get(name, 0) > 1e-30]
    apart = [norm for norm in now.values() if norm > 1e-30]
    return any(norm > 10 * born or abs(norm - born) < 1e-4 * born for born, norm in pairs) or max(
        apart, default=0.0
    ) >= 100 * min(apart, default=1.0)


TORCHMORTEM: Final[Mapping[str, Rule]] = {
    "vanishing: last/first > 100": _tmo_vanishing,
    "exploding: norm > 1000": lambda s: bool((flow(s.records) > 1000).any()),
    "stalling: < 1e-8 in 30 %": lambda s: bool(
        ((flow(s.records) < 1e-8).mean(axis=0) >= 0.3).any()
    ),
    "update ratio not in 1e-5..1e-1": _tmo_update,
    "dead: half of outputs < 1e-6": lambda s: _tmo_sustained(
        s, lambda out: out.zeros + out.octaves[: -20 - OCTAVE_LOW].sum() > out.count / 2
    ),
    "saturated: half of outputs > 0.95": lambda s: _tmo_sustained(
        s, lambda out: share_above(out, 0.95) > 0.5
    ),
    "weight norms": _tmo_weights,
}

PEERS: Final[Mapping[str, Mapping[str, Rule]]] = {
    "SageMaker Debugger": SAGEMAKER,
    "AUTOTRAINER": AUTOTRAINER,
    "TheDeepChecker": DEEPCHECKER,
    "DeepDiagnosis": DEEPDIAGNOSIS,
    "torchmortem": TORCHMORTEM,
}
