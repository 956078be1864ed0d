"""Through time: how the gradient at the input of a recurrent layer depends on the time step.

A recurrent layer of torch is one call (on most devices one kernel) for all its time steps, and its
input is often the data, which needs no gradient. So the layer alone is run once more on a copy of
its input, and the gradient that came to its output is sent through it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.core.record import MAX_TIMES
from gradwatch.instrument.graph import Place


class Replay:
    """One call of a recurrent layer, and the gradients at its outputs as they come in."""

    def __init__(self, module: nn.RNNBase, inputs: Tensor, state: Any) -> None:
        self._module = module
        self._inputs = inputs.detach()
        self._state = _detached(state)
        self.outputs: dict[Place, int] = {}
        """Where the gradient of each output arrives, with its position among the outputs."""
        self.gradients: dict[int, Tensor] = {}

    @staticmethod
    def of(module: nn.Module, args: Any, kwargs: Any) -> Replay | None:
        """Prepare one; None for what is no recurrent layer on a plain batch of sequences."""
        if not isinstance(module, nn.RNNBase) or kwargs or not args:
            return None
        inputs = args[0]
        if not isinstance(inputs, Tensor) or inputs.ndim not in (2, 3):  # a packed sequence
            return None
        return Replay(module, inputs, args[1] if len(args) > 1 else None)

    def run(self) -> Tensor | None:
        """Return the squares of the gradient at the input by time step (at most `MAX_TIMES` of
        them), as float64 on its device; None when no gradient came."""
        if not self.gradients:
            return None
        module, device = self._module, self._inputs.device
        dtype = next(module.parameters()).dtype
        devices = [device] if device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            torch.autocast(device.type, enabled=False),
            torch.enable_grad(),
        ):
            inputs = self._inputs.to(dtype, copy=True).requires_grad_()
            state = _cast(self._state, dtype)
            outputs = list(_flat(module.forward(inputs, state)))
            got = sorted(self.gradients)
            (gradient,) = torch.autograd.grad(
                [outputs[i] for i in got],
                [inputs],
                [self.gradients[i].to(dtype).reshape(outputs[i].shape) for i in got],
            )
        axis = 1 if module.batch_first and gradient.ndim == 3 else 0
        steps = gradient.movedim(axis, 0)
        steps = steps[:: -(-len(steps) // MAX_TIMES)]
        return steps.reshape(len(steps), -1).double().square().sum(1)


def _flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for part in value for t in _flat(part)]


def _detached(state: Any) -> Any:
    if isinstance(state, tuple):
        return tuple(map(_detached, state))
    return state.detach() if isinstance(state, Tensor) else None


def _cast(state: Any, dtype: torch.dtype) -> Any:
    if isinstance(state, tuple):
        return tuple(_cast(part, dtype) for part in state)
    return state.to(dtype) if isinstance(state, Tensor) else None
