"""Reading the autograd graph without touching it: sequence numbers, edges, operations, cuts.

Every node that autograd records gets the next sequence number of its thread, so the nodes of a
module call are exactly those numbered between its start and its end.
"""

from __future__ import annotations

import re
from collections import UserDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from gradwatch.instrument.kernel import observable

Edge = tuple[Node, int]
"""A node and the number of its output: what a gradient arrives at."""

Place = tuple[int, int]
"""The same by the node's number: it keeps no graph alive."""

LEAF: Final = 2**63
"""Sequence numbers from here on are leaves' (AccumulateGrad has 2^64 - 1): never inside a call."""

_PLUMBING = """
    alias clone copies detach expand_as flatten permute reshape reshape_alias select slice
    squeeze t to_copy transpose unsafe_view unsqueeze view
"""
PLUMBING: Final = frozenset(_PLUMBING.split())
"""Operations that move numbers about: the norm of a gradient does not change through them."""

_NAMES: Final = {
    "addmm": "linear",
    "mm": "linear",
    "convolution": "conv",
    "mkldnn_convolution": "conv",
    "native_layer_norm": "layer_norm",
    "native_batch_norm": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "native_group_norm": "group_norm",
}

MAX_CHAIN: Final = 32
"""Longest chain of operations from a parameter to where it is used (a weight norm, a cast)."""
MAX_DEPTH: Final = 4
MAX_TENSORS: Final = 64


def next_number() -> int:
    """Return the sequence number that the next recorded node of this thread will get."""
    peek = getattr(torch.autograd, "_get_sequence_nr", None)
    if peek is not None:
        return int(peek())
    # Without the private reader a node is spent: that shifts the numbers and keeps their order.
    with torch.enable_grad():
        node = torch.zeros((), requires_grad=True).view_as(torch.zeros(())).grad_fn
    assert node is not None
    return int(node._sequence_nr()) + 1


def unobservable() -> bool:
    """Whether a call that begins now records no graph that backward will walk."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    if torch._C._functorch.maybe_current_level() is not None:
        return True
    if torch._C._current_graph_task_id() == -1:
        return False
    # Inside backward: a reentrant checkpoint shows its calls for the first time, a non-reentrant
    # one repeats those that were seen in the forward pass.
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None and hooks[0].__qualname__.startswith("_recomputation_hook")


def tensors(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Yield the measurable tensors of arguments or outputs: in tuples, lists, mappings and
    dataclasses, at most `MAX_TENSORS` and `MAX_DEPTH` deep."""
    found = 0
    for tensor in _walk(value, depth):
        if observable(tensor):
            yield tensor
            found += 1
            if found == MAX_TENSORS:
                return


def _walk(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth < MAX_DEPTH:
        parts: Iterable[Any] = ()
        if isinstance(value, dict | UserDict):  # a mapping of the user's own may do anything
            parts = value.values()
        elif isinstance(value, list | tuple):
            parts = value
        elif is_dataclass(value) and not isinstance(value, type):
            parts = [getattr(value, field.name, None) for field in fields(value)]
        for part in parts:
            yield from _walk(part, depth + 1)


def edge(tensor: Tensor) -> Edge:
    """Return where the gradient of a tensor that requires one arrives."""
    node = tensor.grad_fn
    if node is None:
        return get_gradient_edge(tensor).node, 0
    return node, tensor.output_nr


def version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place; inference tensors do not count that."""
    return 0 if tensor.is_inference() else int(tensor._version)


MAX_VIEWS: Final = 16
"""Views of views that are followed."""


def base_edge(tensor: Tensor) -> Edge | None:
    """Return the edge of what this tensor is a whole view of; None where it is no such view.

    A view's own node is orphaned when the view is overwritten in place (a Linear on a 3-D input
    returns a view, and `ReLU(inplace=True)` follows): the gradient then arrives at its base.
    """
    base = tensor._base
    if base is None or base.grad_fn is None or base.numel() != tensor.numel():
        return None
    return base.grad_fn, base.output_nr


def way(edge: Edge, base: Edge) -> set[Node]:
    """Return the nodes of the views from an edge down to its base, the edge's own first."""
    found: set[Node] = set()
    at: Node | None = edge[0]
    while at is not None and at is not base[0] and len(found) < MAX_VIEWS:
        found.add(at)
        at = at.next_functions[0][0] if at.next_functions else None
    return found


def number(node: Node) -> int:
    """Return the sequence number of a node."""
    return int(node._sequence_nr())


@cache
def operation(name: str) -> str:
    """Return the operation of a node's name: `SigmoidBackward0` is `sigmoid`."""
    name = re.sub(r"Backward\d*$", "", name.rsplit("::", 1)[-1])
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().lstrip("_")
    return _NAMES.get(name, name)


def foreign(node: Node | None, known: frozenset[int]) -> bool:
    """Whether this edge leads straight to an `nn.Parameter` of at least two dimensions that is none
    of these. What is made of several (a hypernetwork's weights) is not looked into."""
    while node is not None and operation(node.name()) in PLUMBING:
        inputs = [m for m, _ in node.next_functions if m is not None]
        node = inputs[0] if len(inputs) == 1 else None
    variable = getattr(node, "variable", None)
    return isinstance(variable, nn.Parameter) and variable.ndim > 1 and id(variable) not in known


class Signal:
    """Tells edges that carry the signal from edges that lead only to parameters."""

    def __init__(self, parameters: frozenset[int]) -> None:
        self._parameters = parameters
        self._derived: dict[Node, Tensor | None] = {}

    def parameter(self, node: Node | None, depth: int = 0) -> Tensor | None:
        """Return a parameter if the node depends on parameters alone, else None."""
        if node is None or depth > MAX_CHAIN:
            return None
        if node in self._derived:
            return self._derived[node]
        found: Tensor | None = None
        variable = getattr(node, "variable", None)
        if variable is not None:
            found = variable if id(variable) in self._parameters else None
        elif "Embedding" not in node.name():  # its other input, the indices, is not in the graph
            for m, _ in node.next_functions:
                # An input without a gradient is None: data, or a constant.
                below = self.parameter(m, depth + 1)
                if below is None:
                    found = None
                    break
                found = below if found is None or below.ndim > found.ndim else found
        self._derived[node] = found
        return found

    def edges(self, node: Node) -> list[tuple[int, Edge]]:
        """Return the node's signal edges, each with its position."""
        return [
            (i, (m, nr))
            for i, (m, nr) in enumerate(node.next_functions)
            if m is not None and self.parameter(m) is None
        ]


def descend(starts: Iterable[Node], low: int, seen: set[int]) -> list[Node]:
    """Return the nodes under `starts` with a number of at least `low` that is not in `seen` yet."""
    stack = list(starts)
    nodes = []
    while stack:
        node = stack.pop()
        at = number(node)
        if low <= at < LEAF and at not in seen:
            seen.add(at)
            nodes.append(node)
            stack.extend(m for m, _ in node.next_functions if m is not None)
    return nodes


def cuts(sources: Iterable[Place], below: Mapping[int, Sequence[Place]]) -> set[Place]:
    """Return the places that all of the signal's gradient passes through, below `sources`.

    `below` holds for each node of one call, the latest first, where its gradients arrive. One
    sweep: a place is a cut when it is all that is still waiting for its gradient.
    """
    waiting = set(sources)
    found: set[Place] = set()
    arriving: dict[int, set[int]] = {}
    for node, nr in waiting:
        arriving.setdefault(node, set()).add(nr)
    if len(waiting) == 1:
        found |= waiting
    for node, targets in below.items():
        arrived = arriving.pop(node, None)
        if arrived is None:
            continue
        waiting -= {(node, nr) for nr in arrived}
        for target, nr in targets:
            waiting.add((target, nr))
            if target in below:
                arriving.setdefault(target, set()).add(nr)
        if len(waiting) == 1:
            found |= {place for place in waiting if place[0] in below}
    return found
