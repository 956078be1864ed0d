"""Softmaxes inside of a model that were born decided: attention, and routers of experts."""

from __future__ import annotations

from typing import Final

from gradwatch.core.record import ZERO_GRADIENT, Call, Record
from gradwatch.detectors import _sizes

KINDS: Final = ("Softmax", "softmax")
BITS: Final = 4.5
"""Bits of the gradient that a decided softmax takes: undecided over 16 it takes 4, over 4 only 2,
which those that are decided over so few are far above on average."""
LOUD: Final = 8.0
"""Size of what the layers before it give from which on its choice is made: a softmax of logits of
8 gives the second one next to nothing."""
LARGE: Final = 4.0
"""Weights that are so many times larger than what keeps a signal's size made it so."""


def decided(record: Record) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the softmaxes that pass next to nothing on because the layers before them have weights
    that are too large, and those layers."""
    last = max((i for i, call in enumerate(record.calls) if call.layer.weighted), default=-1)
    softmaxes: list[str] = []
    layers: list[str] = []
    for i, call in enumerate(record.calls[:last]):
        if call.layer.kind not in KINDS or not _flat(call):
            continue
        loud = [
            before.layer.name
            for before in record.calls[_previous(record, i) : i]
            if before.layer.weighted
            and before.output is not None
            and before.output.rms > LOUD
            and (_sizes.size(record, before) or 0.0) > LARGE
        ]
        if loud:
            softmaxes.append(call.layer.name)
            layers += loud
    return tuple(softmaxes), tuple(dict.fromkeys(layers))


def _flat(call: Call) -> bool:
    lost = call.gain is not None and call.gain < -BITS
    return lost or call.reason == ZERO_GRADIENT


def _previous(record: Record, position: int) -> int:
    """Return where the calls that feed a softmax begin: after the last one, or in its parent."""
    parent = record.calls[position].parent
    start = 0 if parent is None else parent + 1
    before = [i for i in range(start, position) if record.calls[i].layer.kind in KINDS]
    return before[-1] + 1 if before else start
