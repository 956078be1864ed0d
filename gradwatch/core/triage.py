"""Which finding is the root, and which ones only follow from it.

One fault shows in several ways: weights that are too large make the gradient explode, and a step
later nothing is finite. All of it is true; one of it is to be repaired.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from gradwatch.core.finding import Finding

FOLLOWS: Final[dict[str, frozenset[str]]] = {
    "disconnected-parameters": frozenset({"stalled-updates"}),
    "forgotten-parameters": frozenset({"stalled-updates"}),
    "signal-scale": frozenset(
        {
            "vanishing-gradient",
            "exploding-gradient",
            "saturated-activation",
            "dead-units",
            "stalled-updates",
            "oversized-updates",
            "non-finite",
            "gradient-spike",
        }
    ),
    "oversized-updates": frozenset(
        {"exploding-gradient", "saturated-activation", "dead-units", "non-finite", "gradient-spike"}
    ),
    "saturated-activation": frozenset({"vanishing-gradient", "stalled-updates", "gradient-spike"}),
    "exploding-gradient": frozenset(
        {
            "saturated-activation",
            "dead-units",
            "stalled-updates",
            "vanishing-gradient",
            "non-finite",
            "gradient-spike",
        }
    ),
    "dead-units": frozenset({"vanishing-gradient", "stalled-updates"}),
    "vanishing-gradient": frozenset({"stalled-updates"}),
    "gradient-spike": frozenset({"dead-units", "stalled-updates", "non-finite"}),
}
"""What can follow from a finding, if it was not there before it. No pair stands here both ways."""


def triage(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings, each consequence under its root and marked with the root's name; roots
    come in the order of their severity, then of their first step."""
    findings = sorted(findings, key=lambda f: (-f.severity, f.since, f.name))
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
            if current.name in FOLLOWS.get(other.name, ())
            and other.since <= current.since
            and other.name not in seen
        ]
        if not above:
            return None if current is finding else current
        current = min(above, key=lambda other: (other.since, -other.severity, other.name))
        seen.add(current.name)
