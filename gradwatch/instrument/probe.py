"""The probe: what the gradient goes through in one examined step, without changing the graph.

Module full-backward hooks and `view_as` aliases put nodes of their own into the graph, which
changes the order in which gradients are summed, and so the training. The probe only reads:
forward hooks note which edges a call got and gave, and which autograd nodes were recorded
meanwhile; when an outermost call returns, one walk down the graph finds the nodes whose gradients
are wanted, and hooks on those nodes look at them as they pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from gradwatch.core.record import (
    NO_GRAD_OUTPUT,
    PARTIAL,
    PASS_THROUGH,
    Layer,
)
from gradwatch.instrument import graph, walk
from gradwatch.instrument.answer import read_targets, readable
from gradwatch.instrument.graph import Edge, Place
from gradwatch.instrument.hooks import Hook, ModuleHooks
from gradwatch.instrument.kernel import count_active, measure, observable
from gradwatch.instrument.replay import Replay
from gradwatch.instrument.running import drift
from gradwatch.instrument.seen import Flow, Pass, Seen
from gradwatch.instrument.transfer import Transfer

MAX_OPERATIONS: Final = 4096
"""Operations outside modules that are followed in one forward pass."""

MAX_ANSWERS: Final = 8
"""Outputs of an outermost call whose targets are read."""

COUNTED: Final = frozenset({"ReLU", "ReLU6", "Threshold"})
"""Activations that can be exactly zero for ever: their units are counted."""


class Probe:
    """Watches the calls of a model's modules while it is installed; see `Seen` for the result."""

    def __init__(
        self,
        layers: Mapping[str, Layer],
        parameters: frozenset[int],
        guard: Callable[[Callable[..., None]], Callable[..., None]],
        begun: Callable[[], None] = lambda: None,
        held: frozenset[int] | None = frozenset(),
    ) -> None:
        """`begun` is called when the first gradient of the step arrives anywhere; `held` are the
        ids of the parameters that an optimizer holds, or None where the forward pass uses others in
        their stead."""
        self.transfer = Transfer()
        self.seen: list[Seen] = []
        self.operations_left_out = 0
        self.backwards = 1
        self._layers = layers
        self._parameters = parameters
        self._known = None if held is None else parameters | held
        self._threads = threading.local()
        self._hooks = ModuleHooks(self, guard(Probe._enter), guard(Probe._leave))
        self._modules: Mapping[str, nn.Module] = {}
        self._checkpoint: Seen | None = None
        self._places: list[list[Any]] = []
        self._guard = guard
        self._begun: Callable[[], None] | None = begun
        self._closed = False
        self._backward = False

    def install(self, modules: Mapping[str, nn.Module]) -> None:
        """Put forward hooks on these modules; they are taken away by `remove`."""
        self._hooks.install(modules)
        self._modules = modules

    def remove(self) -> None:
        """Take every module hook away. Hooks on graph nodes go with the graph."""
        self._hooks.remove()

    def close(self) -> None:
        """Stop looking and forget the graph."""
        self._closed = True
        self.remove()
        self._threads = threading.local()
        self._places.clear()
        self._checkpoint = None
        self._modules = {}
        self.seen = []

    # --- forward -----------------------------------------------------------------------------

    @property
    def _state(self) -> Pass:
        state = getattr(self._threads, "state", None)
        if state is None:
            state = self._threads.state = Pass()
        return state

    def _next_micro_batch(self) -> Pass:
        """Count calls from 0 again: those of the next forward pass are merged into these later."""
        walk.mark_step_cuts(self._state)
        self._threads.state = Pass()
        return self._state

    def backward_ended(self, *, renewed: bool) -> None:
        """If the gradients were begun anew, keep only the calls that this backward came through:
        the optimizer will not see what those before it gave."""
        for seen in self.seen:
            replay, seen.replay = seen.replay, None if seen.touched else seen.replay
            if replay is not None and seen.touched and (times := replay.run()) is not None:
                seen.times.append(self.transfer.add(times))
        if renewed:
            kept = {seen.top for seen in self.seen if seen.touched == self.backwards}
            self.seen = [seen for seen in self.seen if seen.top in kept]
        self.backwards += 1

    def finish(self) -> None:
        """End the step: no gradient comes any more. What is still waiting has no number."""
        self._next_micro_batch()
        for seen in self.seen:
            for flow in seen.flows:
                if flow.finish(self.transfer) and flow.ticket is not None:
                    seen.reason = PARTIAL

    def _enter(self, name: str, args: Any, kwargs: Any) -> None:
        state = self._state
        if self._closed or graph.unobservable():
            if not state.stack and not torch.is_grad_enabled():
                self._hooks.suspend()
            state.stack.append((name, None))
            return
        if self._backward and not state.stack and torch._C._current_graph_task_id() == -1:
            self._backward = False
            state = self._next_micro_batch()
        parent = next((seen for _, seen in reversed(state.stack) if seen is not None), None)
        index = state.indices.get(name, 0)
        state.indices[name] = index + 1
        if parent is None and torch._C._current_graph_task_id() != -1:
            parent = self._checkpoint  # its forward pass comes only now, inside backward
        seen = Seen(self._layers[name], index, parent)
        if parent is not None:
            parent.children += 1
        for tensor in graph.tensors((args, kwargs)):
            if tensor.requires_grad:
                edge = graph.edge(tensor)
                seen.ins.add(edge)
                if (base := graph.base_edge(tensor)) is not None:
                    seen.bases[edge] = base
        seen.training = self._modules[name].training
        if (off := drift(self._modules[name], args)) is not None:
            seen.drifts.append(self.transfer.add(off))
        seen.replay = Replay.of(self._modules[name], args, kwargs)
        seen.first = graph.next_number()
        state.low = min(state.low, seen.first)
        state.stack.append((name, seen))
        state.calls.append(seen)

    def _leave(self, name: str, args: Any, output: Any) -> None:
        state = self._state
        seen: Seen | None = None
        while state.stack:  # an exception inside may have left calls open
            top, seen = state.stack.pop()
            if top == name:
                break
        if seen is None:
            if not state.stack:
                self._hooks.resume()
            return
        seen.last = graph.next_number()
        passed_on = False
        tensors = list(graph.tensors(output))
        for i, tensor in enumerate(tensors):
            edge = graph.edge(tensor) if tensor.requires_grad else None
            row, shared = state.measured(tensor, edge, self.transfer)
            seen.outputs.append(row)
            seen.dtype = seen.dtype or str(tensor.dtype).removeprefix("torch.")
            if shared is not None and len(tensors) == 1:
                seen.common.append(shared)
            if edge is not None and seen.replay is not None:
                seen.replay.outputs[graph.number(edge[0]), edge[1]] = i
            if edge is None:
                continue
            if edge in seen.ins:  # no output of its own, though it may be used inside as well
                passed_on = True
                continue
            if tensor.grad_fn is None:  # a parameter: a hook would stay on it
                continue
            seen.outs.add(edge)
            if seen.parent is None and len(seen.answers) < MAX_ANSWERS:
                seen.answers[graph.number(edge[0]), edge[1]] = i, tensor.detach()
            if (base := graph.base_edge(tensor)) is not None:
                seen.bases[edge] = base
        if not seen.outs:
            seen.reason = PASS_THROUGH if passed_on else NO_GRAD_OUTPUT
        if seen.layer.weighted:
            state.channel = 1 if "Conv" in seen.layer.kind else -1
        if (
            seen.layer.kind in COUNTED
            and isinstance(output, Tensor)
            and observable(output)
            and output.ndim > 1
        ):
            seen.active.append(self.transfer.add(count_active(output, state.channel)))
        if not any(call is not None for _, call in state.stack):
            self._outermost_returned(state)

    # --- the walk ----------------------------------------------------------------------------

    def _outermost_returned(self, state: Pass) -> None:
        calls = [seen for seen in state.calls if seen.last]
        state.calls = []
        starts = [node for seen in calls for node, _ in seen.outs]
        nodes = graph.descend(starts, state.low, state.visited)
        nodes.sort(key=graph.number)
        signal = graph.Signal(self._parameters)
        for node in nodes:  # from the leaves up, so that no search below a node is ever long
            signal.parameter(node)
        sources: dict[Edge, set[Node]] = {}
        for node in nodes:
            for m, nr in node.next_functions:
                if m is not None:
                    sources.setdefault((m, nr), set()).add(node)
        for seen in calls:
            seen.ins = {walk.arriving(edge, seen, sources) for edge in seen.ins}
            seen.outs = {walk.arriving(edge, seen, sources) for edge in seen.outs}
        owners = walk.owners(nodes, calls)
        operations = self._operations(state, nodes, owners, signal)
        for m, nr in sources:
            if m in operations:
                operations[m].outs.add((m, nr))
        self._follow(nodes, owners, operations)
        found = sorted([*calls, *operations.values()], key=lambda seen: seen.first)
        for seen in found:
            seen.ends = {(graph.number(m), nr) for m, nr in seen.outs}
        below = {
            graph.number(node): [(graph.number(m), nr) for _, (m, nr) in signal.edges(node)]
            for node in reversed(nodes)
        }
        walk.mark_cuts(found, below)
        state.below |= below
        state.used |= {(graph.number(m), nr) for m, nr in sources}
        state.outermost += [seen for seen in found if seen.parent is None]
        for seen in found:
            seen.forget()
        self.seen += found

    def _operations(
        self,
        state: Pass,
        nodes: list[Node],
        owners: dict[Node, Seen | None],
        signal: graph.Signal,
    ) -> dict[Node, Seen]:
        """Name the nodes that are no module's inner workings: `torch.sigmoid` in a forward."""
        found: dict[Node, Seen] = {}
        for node in nodes:
            owner = owners[node]
            if owner is not None and owner.layer.builtin and not owner.children:
                continue
            kind = graph.operation(node.name())
            if kind in graph.PLUMBING or signal.parameter(node) is not None:
                continue
            if len(found) == MAX_OPERATIONS:
                self.operations_left_out += 1
                continue
            place = owner.layer.name if owner is not None else ""
            counted = f"{place}:{kind}"
            index = state.operations.get((counted, owner), 0)
            state.operations[counted, owner] = index + 1
            shapes = [
                tuple(parameter.shape)
                for m, _ in node.next_functions
                if (parameter := signal.parameter(m)) is not None and parameter.ndim > 1
            ]
            given = owner.ins if owner is not None else frozenset()
            foreign = self._known is not None and any(
                graph.foreign(edge[0], self._known)
                for edge in node.next_functions
                if edge not in given
            )
            layer = Layer(
                *(f"{counted}#{index}", kind, True, bool(shapes), (shapes or [()])[0]),
                foreign=foreign,
            )
            seen = Seen(layer, owner.index if owner is not None else 0, owner)
            seen.first = graph.number(node)
            seen.last = seen.first + 1
            seen.ins = {edge for _, edge in signal.edges(node)}
            seen.outs = {(node, 0)}
            found[node] = seen
        return found

    def _follow(
        self, nodes: list[Node], owners: dict[Node, Seen | None], operations: dict[Node, Seen]
    ) -> None:
        """Hook the nodes whose gradients are wanted."""
        entering: dict[tuple[int, Edge], list[tuple[Node, int]]] = {}
        within: dict[tuple[int, Edge], list[tuple[Node, int]]] = {}
        calls: dict[int, Seen] = {}
        for node in nodes:
            for i, (m, nr) in enumerate(node.next_functions):
                if m is None:
                    continue
                edge = (m, nr)
                call = operations.get(node)
                if call is not None and edge in call.ins:
                    calls[id(call)] = call
                    entering.setdefault((id(call), edge), []).append((node, i))
                owner = owners[node]
                while owner is not None:
                    calls[id(owner)] = owner
                    if edge in owner.ins:
                        entering.setdefault((id(owner), edge), []).append((node, i))
                    elif edge in owner.outs:
                        within.setdefault((id(owner), edge), []).append((node, i))
                    owner = owner.parent
        wanted: dict[Node, list[tuple[int, Flow]]] = {}
        shared: dict[frozenset[tuple[Node, int]], Flow] = {}
        for (key, _), places in entering.items():
            flow = shared.get(frozenset(places))
            if flow is None:
                flow = shared[frozenset(places)] = Flow(len(places))
                for node, i in places:
                    wanted.setdefault(node, []).append((i, flow))
            calls[key].flows.append(flow)
        internal: dict[tuple[int, Edge], Flow] = {}
        for where, places in within.items():
            flow = internal[where] = Flow(len(places), keep=True)
            for node, i in places:
                wanted.setdefault(node, []).append((i, flow))
        for node, flows in wanted.items():
            self._look(node.register_hook, Probe._passed, flows)
        outputs: dict[Node, list[tuple[int, Seen, Flow | None]]] = {}
        for call in {*calls.values(), *(c for c in owners.values() if c), *operations.values()}:
            for node, nr in call.outs:
                own = internal.get((id(call), (node, nr)))
                outputs.setdefault(node, []).append((nr, call, own))
        for node, arriving in outputs.items():
            number = graph.number(node)

            def look(
                probe: Probe,
                gradients: Any,
                calls: list[tuple[int, Seen, Flow | None]],
                number: int = number,
            ) -> None:
                probe._arrived(number, gradients, calls)

            self._look(node.register_prehook, look, arriving)

    def _look(
        self, register: Callable[..., object], look: Callable[..., None], at: list[Any]
    ) -> None:
        """Hook a node. The hook holds nothing but a number: what it held could hold nodes, and a
        cycle through a node's hook is one that the garbage collector does not see."""
        key = len(self._places)
        self._places.append(at)
        guarded = self._guard(look)

        def hook(probe: Probe, gradients: Any, *_: Any) -> None:
            if not probe._closed:
                guarded(probe, gradients, probe._places[key])

        register(Hook(self, hook))

    # --- backward ----------------------------------------------------------------------------

    def _begin(self) -> None:
        self._backward = True
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun()

    def _passed(self, gradients: Any, flows: list[tuple[int, Flow]]) -> None:
        self._begin()
        with torch.no_grad():
            for i, flow in flows:
                flow.add(gradients[i], self.transfer)

    def _arrived(
        self, node: int, gradients: Any, calls: list[tuple[int, Seen, Flow | None]]
    ) -> None:
        self._begin()
        rows: dict[int, int] = {}
        self._checkpoint = next(
            (call for _, call, _ in calls if call.layer.kind == "checkpoint_function"), None
        )
        with torch.no_grad():
            for nr, call, own in calls:
                gradient = gradients[nr]
                call.touched = self.backwards
                if gradient is None:
                    continue
                call.dtype = call.dtype or str(gradient.dtype).removeprefix("torch.")
                if own is not None and own.total is not None:
                    whole, gradient = gradient, gradient - own.total
                    own.total = None
                    call.grad_outputs.append(self.transfer.add(measure(gradient)))
                    self._keep(call, (node, nr), gradient, whole)
                    continue
                self._keep(call, (node, nr), gradient)
                if nr not in rows:
                    rows[nr] = self.transfer.add(measure(gradient))
                call.grad_outputs.append(rows[nr])

    def _keep(
        self, call: Seen, place: Place, gradient: Tensor, whole: Tensor | None = None
    ) -> None:
        """Look at what needs the gradient itself and not only its statistics; `whole` is the
        gradient with that of the uses inside the call."""
        i, answer = call.answers.pop(place, (0, None))
        if answer is not None and readable(answer, gradient):
            call.answered[i] = self.transfer.add(read_targets(answer, gradient, whole))
        replay = call.replay
        if replay is not None and place in replay.outputs:
            replay.gradients[replay.outputs[place]] = gradient.detach()
