"""A frozen body under a trained head, in a training of which nothing comes."""

from __future__ import annotations

import math
from typing import Final

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress
from gradwatch.core.record import NO_GRAD_INPUT, Record
from gradwatch.detectors import _depth, _outcome, _steps
from gradwatch.detectors._drawn import as_drawn

SHARE: Final = 0.5
"""Share of all elements that are frozen."""
DRAWN: Final = ", and are as they were drawn"
PROMISE: Final = 0.02
"""Relative fall of the loss that the steps must have promised: else they are to blame."""


def frozen(name: str, history: History, going: Progress) -> tuple[Finding, ...]:
    """Tell of a body whose weights require no gradient, if what is trained on it is worth nothing:
    features that were trained before are worth something."""
    latest = history.latest
    if latest is None or history.last_step < _outcome.LONG:
        return ()
    layers = _body(latest)
    drawn = as_drawn(p for p in history.records[0].parameters if not p.trainable)
    little = drawn and _narrows(latest, layers) and _outcome.learns_little(history, going)
    if not _outcome.worthless(going) and not little:
        return ()
    sizes = {p.name: math.prod(p.shape) for p in latest.parameters}
    frozen = [p.name for p in latest.parameters if not p.trainable]
    share = sum(sizes[one] for one in frozen) / max(1, sum(sizes.values()))
    walk = _steps.walk(history)
    if not layers or share < SHARE or walk is None or (walk.promise or 0.0) < PROMISE:
        return ()
    text = (
        f"{_depth.listed(layers)} require no gradient, and what they give is of no use to what is "
        "trained on it: were they frozen before they were trained, or their weights not loaded?"
    )
    return (
        Finding(
            name,
            Severity.WARNING,
            f"{len(frozen)} parameters ({share:.0%} of all) are frozen, and "
            f"{'little' if going.moving else 'nothing'} can be learnt from what they give: those "
            f"of {_depth.listed(layers)}",
            layers,
            history.records[0].step,
            latest.step,
            (Cause("disconnection", text, layers, share=1.0),),
            f"They have `requires_grad=False`{drawn * DRAWN}; {going.text}.",
            {"parameters": float(len(frozen)), "share": share},
        ),
    )


def _narrows(record: Record, layers: tuple[str, ...]) -> bool:
    """Whether the last of these layers gives fewer numbers than the first: random features that are
    meant are many (Rahimi & Recht 2007)."""
    outputs = {c.layer.name: c.output for c in record.calls if c.layer.name in layers}
    counts = [output.count for name in layers if (output := outputs.get(name)) is not None]
    return bool(counts) and counts[-1] < counts[0]


def _body(record: Record) -> tuple[str, ...]:
    """Return the frozen layers that all come before whatever is trained; none if some do not."""
    weights = {p.name.rpartition(".")[0]: p for p in record.parameters if len(p.shape) > 1}
    calls = [call for call in record.calls if call.layer.name in weights]
    trained = [i for i, call in enumerate(calls) if weights[call.layer.name].trainable]
    if not trained or calls[trained[0]].reason != NO_GRAD_INPUT:
        return ()
    after = calls[trained[0] :]
    if not all(weights[call.layer.name].trainable for call in after):
        return ()
    return tuple(dict.fromkeys(call.layer.name for call in calls[: trained[0]]))
