"""What is not counted against a training, because it is zero as it should be: a `Waiver` each.

A healthy network is full of gradients that are zero or almost, parameters that are never reached,
and updates that do not happen. Those that its structure explains, and whose numbers agree with the
explanation, are told here with their reason; nobody should be alarmed by them.
"""

from __future__ import annotations

from typing import Final

from gradwatch.core import waivers_cancelled, waivers_faint, waivers_unreached
from gradwatch.core.history import History
from gradwatch.core.waiver import Evidence, Waiver

__all__ = ["Waiver", "waived", "waivers"]

_RULES: Final = (
    waivers_cancelled.cancelled,
    waivers_faint.zero_at_first,
    waivers_faint.scaled_down,
    waivers_unreached.kept_apart,
    waivers_unreached.now_and_then,
    waivers_unreached.frozen,
    waivers_faint.sparse_rows,
    waivers_faint.standing_still,
    waivers_cancelled.scale_invariant,
    waivers_faint.converged,
    waivers_unreached.skipped_steps,
    waivers_unreached.never_called,
)
"""In the order in which they are told."""


def waivers(history: History) -> tuple[Waiver, ...]:
    """Return what is not counted as of the latest exam, and why."""
    latest = history.latest
    if latest is None:
        return ()
    evidence = Evidence(history, latest)
    return tuple(waiver for rule in _RULES for waiver in rule(evidence))


def waived(history: History, *names: str) -> frozenset[str]:
    """Return the parameters that are not to be counted in the latest exam: by any waiver, or by
    those of some `Waiver.name`s."""
    latest = history.latest
    return frozenset(
        parameter
        for waiver in waivers(history)
        if latest is not None and (not waiver.steps or latest.step in waiver.steps)
        if not names or waiver.name in names
        for parameter in waiver.parameters
    )
