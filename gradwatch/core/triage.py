"""Which finding is the root, and which ones only follow from it.

One fault shows in several ways: weights that are too large make the gradient explode, and a step
later nothing is finite. All of it is true; one of it is to be repaired.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from gradwatch.core.finding import Finding, Severity

STUCK: Final = frozenset(
    {"stalled-updates", "vanishing-gradient", "vanishing-over-time", "dead-units"}
)
"""What a training shows that gets no gradient, or makes no use of it."""
THROWN: Final = frozenset(
    {
        "oversized-updates",
        "exploding-gradient",
        "gradient-spike",
        "saturated-activation",
        "saturated-output",
        "dead-units",
        "non-finite",
    }
)
"""What a training shows whose weights or signals have become too large."""
FOLLOWS: Final[dict[str, frozenset[str]]] = {
    # What is done with the gradients.
    "disconnected-parameters": STUCK | {"symmetric-units"},
    "disconnected-state": STUCK,
    "forgotten-parameters": STUCK | {"symmetric-units"},
    "zero-gradient": (STUCK - {"vanishing-over-time"}) | {"symmetric-units"},
    "accumulating-gradients": THROWN | STUCK | {"always-clipped"},
    "ascending-loss": THROWN | STUCK | {"always-clipped", "epsilon-dominates"},
    "weight-decay-dominates": STUCK
    | {"epsilon-dominates", "signal-scale", "oversized-updates", "symmetric-units"},
    "epsilon-dominates": STUCK,
    "lost-updates": STUCK,
    "flushed-gradients": STUCK | {"zero-gradient"},
    "always-clipped": STUCK,
    "collapsed-router": frozenset({"disconnected-parameters", "dead-units", "stalled-updates"}),
    "dropped-samples": frozenset({"disconnected-parameters", "stalled-updates"}),
    # What the loss makes of the output, and the data of both.
    "broadcast-targets": STUCK | {"always-clipped"},
    "unscaled-targets": THROWN | STUCK | {"drowned-task", "zero-gradient", "always-clipped"},
    "saturated-output": (THROWN | STUCK | {"zero-gradient", "epsilon-dominates"})
    - {"saturated-output", "non-finite"},
    "squashed-logits": STUCK | {"saturated-activation"},
    # What a model is born with.
    "signal-scale": THROWN | STUCK,
    "symmetric-units": STUCK,
    "saturated-activation": (STUCK | {"gradient-spike"}) - {"vanishing-over-time"},
    "vanishing-over-time": (STUCK - {"vanishing-over-time"}) | {"saturated-activation"},
    # What steps do that are too large.
    "oversized-updates": (THROWN | {"vanishing-gradient", "vanishing-over-time"})
    - {"oversized-updates", "saturated-output"},
    "exploding-gradient": (THROWN | STUCK)
    - {"exploding-gradient", "oversized-updates", "saturated-output", "gradient-spike"},
    "gradient-spike": frozenset(
        {
            *("dead-units", "stalled-updates", "non-finite"),
            *("exploding-gradient", "vanishing-gradient"),
        }
    ),
    "non-finite": frozenset({"stalled-updates", "dead-units"}),
    # What becomes of it.
    "dead-units": STUCK - {"dead-units", "vanishing-over-time"},
    "vanishing-gradient": frozenset({"stalled-updates"}),
    "posterior-collapse": STUCK | {"collapsed-output"},
    "collapsed-output": STUCK - {"dead-units"},
}
"""What can follow from a finding, if it was not there before it. No pair stands here both ways."""
BORN: Final = frozenset({"init", "depth", "activation", "normalisation", "data-scale"})
"""Causes that are there before the first step: steps that are too large follow from these, and
never the other way round."""
OVERSIZED: Final = "oversized-updates"
LAST_RESORTS: Final = ("constant-output", "learns-nothing")
"""Say that something is wrong, and hardly what: they follow from whatever else is found, and the
second from the first."""


def triage(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings, each consequence under its root and marked with the root's name; roots
    come in the order of their severity, then of their first step."""
    findings = sorted(findings, key=lambda f: (-f.severity, not _by_itself(f), f.since, f.name))
    roots = {finding.name: _root(finding, findings) for finding in findings}
    ordered: list[Finding] = []
    # A consequence is as bad as it is, and its root is looked at in its place.
    for finding in findings:
        root = roots[finding.name] or finding
        for one in (root, *(f for f in findings if roots[f.name] is root)):
            if one not in ordered and replace(one, because_of=root.name) not in ordered:
                ordered.append(one if one is root else replace(one, because_of=root.name))
    return tuple(ordered)


def _root(finding: Finding, findings: list[Finding]) -> Finding | None:
    """Follow a finding back to what caused it; None if it is a root itself."""
    seen = {finding.name}
    current = finding
    while True:
        above = [
            other
            for other in findings
            if _follows(current, other)
            and other.severity > Severity.NOTE
            and other.since <= current.since
            and other.name not in seen
        ]
        if not above:
            return None if current is finding else current
        current = min(above, key=lambda other: (other.since, -other.severity, other.name))
        seen.add(current.name)


def _by_itself(finding: Finding) -> bool:
    """Whether one operation broke, while the numbers around it were ordinary."""
    return finding.name == "non-finite" and finding.cause in {"numerics", "precision", "data"}


def _follows(finding: Finding, other: Finding) -> bool:
    """Whether one can follow from the other."""
    if finding.name in LAST_RESORTS:
        return other.name not in LAST_RESORTS[LAST_RESORTS.index(finding.name) :]
    if other.name == OVERSIZED and (finding.cause in BORN or _by_itself(finding)):
        return False
    if finding.name == OVERSIZED and other.cause in BORN:
        return True
    return finding.name in FOLLOWS.get(other.name, ())
