"""From nodes to calls: which call a node belongs to, and which inner calls cut an outer one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch.autograd.graph import Node

from gradwatch.instrument import graph
from gradwatch.instrument.graph import Edge, Place
from gradwatch.instrument.seen import Pass, Seen


def arriving(edge: Edge, seen: Seen, sources: Mapping[Edge, set[Node]]) -> Edge:
    """Return the edge itself, or its base's where only that one gets the gradient."""
    base = seen.bases.get(edge)
    if base is None or edge in sources:
        return edge
    # A view of a view (`squeeze` on what a Linear gives of a 3-D input) reaches its base through
    # the other one: what is not on this way has taken the place of the orphaned view.
    return base if sources.get(base, set()) - graph.way(edge, base) else edge


def owners(nodes: list[Node], calls: list[Seen]) -> dict[Node, Seen | None]:
    """Find for each node (in ascending order) the innermost call that it was recorded in."""
    found: dict[Node, Seen | None] = {}
    waiting = iter(sorted(calls, key=lambda seen: seen.first))
    upcoming = next(waiting, None)
    open_calls: list[Seen] = []
    for node in nodes:
        at = graph.number(node)
        while upcoming is not None and upcoming.first <= at:
            open_calls.append(upcoming)
            upcoming = next(waiting, None)
        while open_calls and open_calls[-1].last <= at:
            open_calls.pop()
        found[node] = open_calls[-1] if open_calls else None
    return found


def mark_cuts(found: Iterable[Seen], below: Mapping[int, Sequence[Place]]) -> None:
    """Mark in each call the inner calls that all of its gradient passes through.

    `below` holds the nodes of the pass, the latest first.
    """
    children: dict[Seen, list[Seen]] = {}
    for seen in found:
        if seen.parent is not None:
            children.setdefault(seen.parent, []).append(seen)
    for call, inner in children.items():
        own = {at: places for at, places in below.items() if call.first <= at < call.last}
        cuts = graph.cuts(call.ends, own)
        for child in inner:
            child.cut = not cuts.isdisjoint(child.ends)


def mark_step_cuts(state: Pass) -> None:
    """The same for a step whose modules are called one by one, outside of any other."""
    if len(state.outermost) < 2:
        return
    sources = {place for seen in state.outermost for place in seen.ends} - state.used
    cuts = graph.cuts(sources, dict(sorted(state.below.items(), reverse=True)))
    for seen in state.outermost:
        seen.cut = not cuts.isdisjoint(seen.ends)
