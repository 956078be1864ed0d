"""What the probe sees of one call, and the gradient that flows into it along the graph's edges."""

from __future__ import annotations

from torch import Tensor

from gradwatch.core.record import NO_GRAD_INPUT, Layer
from gradwatch.instrument.graph import LEAF, Edge, Place, number
from gradwatch.instrument.kernel import common, measure, squares
from gradwatch.instrument.replay import Replay
from gradwatch.instrument.transfer import Transfer


class Flow:
    """The gradient along one or several edges into the same place: summed, then squared."""

    __slots__ = ("_keep", "_waiting", "ticket", "total")

    def __init__(self, edges: int, keep: bool = False) -> None:
        self._waiting = edges
        self._keep = keep
        self.total: Tensor | None = None
        self.ticket: int | None = None

    def add(self, gradient: Tensor | None, transfer: Transfer) -> None:
        """Take what came along one edge; None is a zero."""
        if self._waiting == 0:  # a second backward over a retained graph
            return
        self._waiting -= 1
        if gradient is not None:
            gradient = gradient.detach()
            self.total = gradient if self.total is None else self.total + gradient
        if self._waiting == 0:
            self.finish(transfer)

    def finish(self, transfer: Transfer) -> bool:
        """Square what arrived so far. Returns whether an edge is still missing."""
        partial = self._waiting > 0
        self._waiting = 0
        if self.total is not None and not self._keep:
            if self.ticket is None:
                self.ticket = transfer.add(squares(self.total))
            self.total = None
        return partial


class Seen:
    """One call of a layer as it was seen in one pass; turned into a `Call` at the end."""

    __slots__ = (
        "active",
        "answered",
        "answers",
        "bases",
        "children",
        "common",
        "cut",
        "drifts",
        "dtype",
        "ends",
        "entered",
        "first",
        "flows",
        "grad_outputs",
        "index",
        "ins",
        "last",
        "layer",
        "outputs",
        "outs",
        "parent",
        "reason",
        "replay",
        "times",
        "touched",
        "training",
    )

    def __init__(self, layer: Layer, index: int, parent: Seen | None) -> None:
        self.layer = layer
        self.index = index
        self.parent = parent
        self.children = 0
        self.first = self.last = 0
        self.ins: set[Edge] = set()
        self.outs: set[Edge] = set()
        self.bases: dict[Edge, Edge] = {}
        self.flows: list[Flow] = []
        self.outputs: list[int] = []
        self.grad_outputs: list[int] = []
        self.active: list[int] = []
        self.cut = False
        self.entered = False
        self.ends: set[Place] = set()
        self.reason = NO_GRAD_INPUT
        self.touched = 0
        self.common: list[int] = []
        self.dtype = ""
        self.training = True
        self.answers: dict[Place, tuple[int, Tensor]] = {}
        """The outputs of an outermost call with their positions, until their gradients come."""
        self.answered: dict[int, int] = {}
        self.replay: Replay | None = None
        self.times: list[int] = []
        self.drifts: list[int] = []

    def forget(self) -> None:
        """Let go of the graph: a forward pass that no backward follows must not stay alive."""
        self.entered = bool(self.ins)
        self.ins, self.outs, self.bases = set(), set(), {}

    @property
    def top(self) -> Seen:
        """The outermost call around it."""
        return self if self.parent is None else self.parent.top

    @property
    def reached(self) -> bool:
        """Whether any gradient came to it."""
        return bool(self.grad_outputs) or any(flow.ticket is not None for flow in self.flows)


class Pass:
    """The forward pass that a thread is in: sequence numbers mean nothing across threads."""

    def __init__(self) -> None:
        self.stack: list[tuple[str, Seen | None]] = []
        self.calls: list[Seen] = []
        self.outermost: list[Seen] = []
        self.below: dict[int, list[Place]] = {}
        self.used: set[Place] = set()
        self.visited: set[int] = set()
        self.indices: dict[str, int] = {}
        self.operations: dict[tuple[str, Seen | None], int] = {}
        self.rows: dict[tuple[Place, int], tuple[int, int | None]] = {}
        self.low = LEAF
        self.channel = -1

    def measured(
        self, tensor: Tensor, edge: Edge | None, transfer: Transfer
    ) -> tuple[int, int | None]:
        """Measure an output once, though a module and the containers around it all give it:
        its statistics, and what its samples have in common."""
        if edge is None or tensor.grad_fn is None:
            return _measured(tensor, transfer)
        key = ((number(edge[0]), edge[1]), tensor._version)
        if key not in self.rows:
            self.rows[key] = _measured(tensor, transfer)
        return self.rows[key]


def _measured(tensor: Tensor, transfer: Transfer) -> tuple[int, int | None]:
    shared = common(tensor)
    return transfer.add(measure(tensor)), None if shared is None else transfer.add(shared)
