"""Taps: where in the forward pass of a step the first non-finite number stands.

When a NaN arises in the forward pass every gradient of that step is NaN, and after the optimizer's
step so is every weight: which layer it came from can only be seen in that forward pass. So each
module's output is summed in every step, on the device; only whether the sum is finite means
anything. An input that is no other module's output is summed too, to tell where a value was born
from where it was received.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.instrument import graph
from gradwatch.instrument.hooks import ModuleHooks
from gradwatch.instrument.kernel import flat

INPUT = ":input"
"""Ends the name of a tap on a module's input."""


class Taps:
    """Sums the outputs of modules in the order in which they return."""

    def __init__(self, guard: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
        self._sums: dict[str, Tensor] = {}
        self.names: dict[str, None] = {}
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._hooks = ModuleHooks(self, guard(Taps._enter), guard(Taps._leave))
        self._depth = 0

    def install(self, modules: Mapping[str, nn.Module]) -> None:
        """Put the taps on these modules."""
        self._hooks.install(modules)

    def remove(self) -> None:
        """Take the taps off."""
        self._hooks.remove()

    def take(self) -> dict[str, Tensor]:
        """Return the sums since the last time, and begin anew."""
        sums, self._sums = self._sums, {}
        self._known.clear()
        return sums

    def _enter(self, name: str, args: Any, kwargs: Any) -> None:
        if self._depth == 0 and not torch.is_grad_enabled():
            self._hooks.suspend()
        self._depth += 1

    def _leave(self, name: str, args: Any, output: Any) -> None:
        self._depth = max(0, self._depth - 1)
        if graph.unobservable():
            if self._depth == 0:
                self._hooks.resume()
            return
        outputs = list(graph.tensors(output))
        for tensor in graph.tensors(args):
            if not self._is_known(tensor) and all(tensor is not other for other in outputs):
                self._add(name + INPUT, tensor)
        for tensor in outputs:
            if not self._is_known(tensor):  # a container returns what its last child returned
                self._add(name, tensor)
                self._known[id(tensor)] = weakref.ref(tensor), graph.version(tensor)

    def _is_known(self, tensor: Tensor) -> bool:
        reference, version = self._known.get(id(tensor), (None, 0))
        return reference is not None and reference() is tensor and version == graph.version(tensor)

    def _add(self, name: str, tensor: Tensor) -> None:
        with torch.no_grad():
            values, _ = flat(tensor)
            total = values.sum()
            if total.dtype is torch.float64:  # 0 or NaN: what float32 cannot hold may be finite
                total = (total - total).float()
            self.names[name] = None
            before = self._sums.get(name)
            self._sums[name] = total if before is None else before + total
