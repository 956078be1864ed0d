"""Where the gradients are read: accumulated, unscaled and reduced, before anyone clips them.

That is the end of backward. Autograd tells it only to itself (a callback of its engine, as DDP and
FSDP use it): queued from within a callback it runs after DDP's own reduction.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradwatch.instrument.hooks import Hook

SAMPLE: Final = 4096
"""Elements of a parameter whose movement is measured; no copy of the model is kept."""


class Gradients:
    """Calls `done(owner)` at the end of every backward that reached a watched parameter."""

    def __init__(self, owner: Any, done: Callable[[Any], None]) -> None:
        self._hook = Hook(owner, lambda owner: done(owner))
        self._handles: list[RemovableHandle] = []
        self._waiting = False
        self.names: tuple[str, ...] = ()
        self.parameters: tuple[nn.Parameter, ...] = ()
        self.reached: set[int] = set()
        self._before: dict[int, weakref.ref[Tensor]] = {}

    def attach(self, parameters: dict[str, nn.Parameter]) -> None:
        """Watch these parameters, and no others."""
        self.detach()
        trainable = {name: p for name, p in parameters.items() if p.requires_grad}
        self.names = tuple(trainable)
        self.parameters = tuple(trainable.values())
        for i, parameter in enumerate(self.parameters):
            ready = Hook(self, lambda self, _, i=i: self._ready(i))
            self._handles.append(parameter.register_post_accumulate_grad_hook(ready))

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.parameters = ()
        self.names = ()
        self.reached.clear()
        self._before.clear()
        self._waiting = False

    def values(self) -> list[Tensor | None]:
        """Return the gradients; None for a parameter that this step's backward did not reach."""
        return [
            parameter.grad if i in self.reached else None
            for i, parameter in enumerate(self.parameters)
        ]

    def versions(self) -> list[int]:
        """Return how often each gradient was changed in place so far."""
        return [-1 if p.grad is None else p.grad._version for p in self.parameters]

    def renewed(self) -> bool:
        """Whether no gradient of the last backward is still there, accumulated into: they were
        thrown away before this one (a GAN's generator step goes through the discriminator)."""
        now = {
            i: gradient for i in self.reached if (gradient := self.parameters[i].grad) is not None
        }
        kept = any(
            self._before[i]() is gradient for i, gradient in now.items() if i in self._before
        )
        renewed = bool(self._before) and not kept
        self._before = {i: weakref.ref(gradient) for i, gradient in now.items()}
        return renewed

    def next_step(self) -> None:
        """Forget what the last step's backward reached."""
        self.reached.clear()
        self._waiting = False

    def _ready(self, i: int) -> None:
        self.reached.add(i)
        if not self._waiting:
            self._waiting = True
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(lambda: engine.queue_callback(self._backward_done))

    def _backward_done(self) -> None:
        self._waiting = False
        self._hook()


def sample(parameter: Tensor) -> Tensor:
    """Return a copy of at most `SAMPLE` elements of a parameter, evenly spread."""
    value = parameter.detach()
    if hasattr(value, "to_local"):
        value = value.to_local()
    value = value.reshape(-1)
    stride = max(1, -(-value.numel() // SAMPLE))
    return value[::stride].clone()
