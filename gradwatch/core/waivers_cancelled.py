"""Biases whose gradient cancels, and weights whose size says nothing, because of what follows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from gradwatch.core.record import Call, Parameter, Record, around
from gradwatch.core.stats import OCTAVE_LOW, Stats
from gradwatch.core.waiver import Evidence, Waiver, between, owner, size

EXAMS: Final = 3
"""What cancels does so in every step: it must in each of so many latest exams."""
NORMALISATION: Final = "cancelled-by-normalisation"
SOFTMAX: Final = "cancelled-by-softmax"
PACKED: Final = "partly-cancelled-by-softmax"
OTHER: Final = "cancelled"
NOISE: Final = {NORMALISATION: 1e-3, SOFTMAX: 1e-3, OTHER: 1e-4}
"""Largest gradient of a bias that cancels, over its weight's and over the output's. In float32 it
was 1e-8 to 1e-5, and that of any other bias at least 4.5e-2 (the last exams of 302 trainings)."""
NOISE_OF_HALVES: Final = {NORMALISATION: 2.0**-4, SOFTMAX: 2.0**-6, OTHER: 0.0}
"""The same where numbers have 8 or 11 bits, and numbers alone prove nothing: 5e-4 to 3e-2 before a
norm, 8e-4 to 6e-3 before a softmax (measured in bfloat16)."""
HALVES: Final = frozenset({"float16", "bfloat16"})
SAME: Final = 1e-6
"""Bits by which the same gradient, measured at an output and at the next input, may differ."""
GAP: Final = 8
"""Empty octaves between the entries of a packed bias that cancel and the others; at least 10 in
float32 (measured)."""
GROWN: Final = 2.0
"""Growth of a scale-invariant weight ..."""
SHRUNK: Final = 0.1
"""... and what is left of its gradient, from which on one would wonder about it."""

_CENTRED: Final = ("batchnorm", "batch_norm", "instancenorm", "instance_norm")
_SCALED: Final = (*_CENTRED, "layernorm", "layer_norm", "groupnorm", "group_norm", "rmsnorm")
_SHIFTED: Final = ("softmax", "attention", "attn", "scaled_dot_product")


def cancelled(evidence: Evidence) -> Iterator[Waiver]:
    """Yield the biases that cancel: to add the same to every sample (or to every key, and so to
    every score of a row) changes nothing after a normalisation over samples (or a softmax)."""
    exams = [_biases(record) for record in evidence.records[-EXAMS:]]
    found: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for name in dict.fromkeys(name for exam in exams for name in exam):
        judged = [exam[name] for exam in exams if name in exam]
        if all(judged):
            last = judged[-1]
            assert last is not None
            found[last.kind, last.by][name] = last.ratio
    for (kind, by), ratios in found.items():
        form = ".0%" if kind == PACKED else ".0e"
        of = between(min(ratios.values()), max(ratios.values()), form)
        yield Waiver(kind, _REASONS[kind].format(by=by, ratio=of), tuple(ratios))


_REASONS: Final = {
    NORMALISATION: "cancelled by the {by} after it ({ratio} of its weight's gradient)",
    SOFTMAX: "cancelled by the softmax after it ({ratio} of its weight's gradient)",
    PACKED: "the keys' part, {ratio} of its entries, is cancelled by the softmax after it",
    OTHER: "nothing after it notices a constant ({ratio} of its weight's gradient)",
}


@dataclass(frozen=True, slots=True)
class _Cancelled:
    kind: str
    by: str
    ratio: float


def _biases(record: Record) -> dict[str, _Cancelled | None]:
    """Return what cancels each bias of an exam; None where nothing does."""
    calls: defaultdict[str, list[int]] = defaultdict(list)
    containers = {call.parent for call in record.calls if not call.layer.functional}
    for position, call in enumerate(record.calls):
        weighted = call.layer.weighted and not call.layer.functional
        if weighted and call.grad_output is not None and position not in containers:
            calls[call.layer.name].append(position)
    owned: defaultdict[str, list[Parameter]] = defaultdict(list)
    for parameter in record.parameters:
        if parameter.gradient is not None and owner(parameter.name) in calls:
            owned[owner(parameter.name)].append(parameter)
    layers = _Layers(record)
    found: dict[str, _Cancelled | None] = {}
    for name, positions in calls.items():
        weight = max((size(p.gradient) for p in owned[name] if len(p.shape) > 1), default=0.0)
        if not 0 < weight < math.inf:
            continue
        for bias in owned[name]:
            if len(bias.shape) == 1 and bias.gradient is not None and not bias.gradient.nonfinite:
                found[bias.name] = _judged(layers, positions, bias.gradient, weight)
    return found


def _judged(layers: _Layers, positions: list[int], bias: Stats, weight: float) -> _Cancelled | None:
    calls = [layers.calls[position] for position in positions]
    output = math.sqrt(sum(size(call.grad_output, mean=False) ** 2 for call in calls))
    ratio = size(bias) / weight
    if not output > 0:
        return None
    noise = NOISE_OF_HALVES if any(call.dtype in HALVES for call in calls) else NOISE
    # Two witnesses: inputs that are large make any bias small beside its weight, and a loss scale
    # is in the output's gradient alone.
    witness = max(ratio, size(bias, mean=False) / output)
    norms = [layers.follower(position, _CENTRED) for position in positions]
    kinds = {norm.layer.kind if norm is not None and norm.training else "" for norm in norms}
    if len(kinds) == 1 and "" not in kinds and witness <= noise[NORMALISATION]:
        return _Cancelled(NORMALISATION, kinds.pop(), ratio)
    softmax = all(layers.softmax_follows(position) for position in positions)
    if softmax and witness <= noise[SOFTMAX]:
        return _Cancelled(SOFTMAX, "", ratio)
    if witness <= noise[OTHER]:
        return _Cancelled(OTHER, "", ratio)
    packed = softmax or all("attention" in call.layer.kind.lower() for call in calls)
    share = _below_the_gap(bias, NOISE[SOFTMAX] * weight) if packed else None
    return _Cancelled(PACKED, "", share) if share is not None else None


def _below_the_gap(bias: Stats, noise: float) -> float | None:
    """Return the share of the entries that cancel, if they are a block of keys: a third, or less
    where several queries share a key."""
    filled = np.flatnonzero(bias.octaves)
    if filled.size < 2:
        return None
    jumps = np.diff(filled) - 1
    at = int(jumps.argmax())
    if jumps[at] < GAP or math.ldexp(1, OCTAVE_LOW + int(filled[at]) + 1) > noise:
        return None
    keys = bias.zeros + int(bias.octaves[: filled[at] + 1].sum())
    whole = keys > 0 and bias.count % keys == 0 and bias.count // keys >= 3
    return keys / bias.count if whole else None


def scale_invariant(evidence: Evidence) -> Iterator[Waiver]:
    """Yield weights before a normalisation that have grown so much that their gradient, which goes
    with one over their size, has become small (van Laarhoven 2017)."""
    layers = _Layers(evidence.latest)
    before = evidence.exams[0]
    names: list[str] = []
    changes: list[tuple[float, float]] = []
    for position, call in enumerate(layers.calls):
        name = f"{call.layer.name}.weight" if call.layer.name else "weight"
        now, then = evidence.parameters.get(name), before.get(name)
        if not call.layer.weighted or now is None or then is None or name in names:
            continue
        if not (size(then.weight) and size(then.gradient) and size(now.gradient)):
            continue
        change = size(now.weight) / size(then.weight), size(now.gradient) / size(then.gradient)
        # Only as far as the growth accounts for it: what is left of their product tells the rest.
        explained = change[0] >= GROWN and change[1] <= SHRUNK <= change[0] * change[1]
        if explained and layers.follower(position, _SCALED) is not None:
            names.append(name)
            changes.append(change)
    if names:
        growth, rest = zip(*changes, strict=True)
        yield Waiver(
            "scale-invariant",
            "scale-invariant before a normalisation: its gradient is "
            f"{between(min(rest), max(rest), '.0e')} of what it was, at "
            f"{between(min(growth), max(growth), '.1f')} times the size",
            tuple(names),
        )


class _Layers:
    """What follows what in an exam."""

    def __init__(self, record: Record) -> None:
        self.calls = record.calls
        self._softmax: dict[int | None, int] = {}
        inputs: list[float] = []
        for position, call in enumerate(record.calls):
            level = _level(call)
            known = level is not None and call.gain is not None
            inputs.append(level + call.gain if known else math.nan)  # type: ignore[operator]
            if _is(call, _SHIFTED):
                self._mark(position)
        self._inputs = np.asarray(inputs, np.float64)

    def _mark(self, position: int) -> None:
        for above in (*around(self.calls, self.calls[position]), None):
            self._softmax[above] = position

    def softmax_follows(self, position: int) -> bool:
        """Whether a softmax comes after this call in the module that calls it."""
        return self._softmax.get(self.calls[position].parent, -1) > position

    def follower(self, position: int, kinds: tuple[str, ...]) -> Call | None:
        """Return the call of one of these kinds that its output goes to, and to nothing else: the
        gradient at its output is then, to the last bits, what comes through that call."""
        level = _level(self.calls[position])
        if level is None:
            return None
        same = np.flatnonzero(np.abs(self._inputs[position + 1 :] - level) < SAME)
        after = (self.calls[position + 1 + i] for i in same)
        return next((call for call in after if _is(call, kinds)), None)


def _is(call: Call, kinds: tuple[str, ...]) -> bool:
    return any(kind in call.layer.kind.lower() for kind in kinds)


def _level(call: Call) -> float | None:
    norm = size(call.grad_output, mean=False)
    return math.log2(norm) if 0 < norm < math.inf else None
