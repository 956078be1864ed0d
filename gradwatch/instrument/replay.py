"""Through time: how the gradient at the input of a recurrent layer depends on the time step.

A recurrent layer of torch is one call (on most devices one kernel) for all its time steps, and its
input is often the data, which needs no gradient. So the layer alone is run once more on a copy of
its input, and the gradient that came to its output is sent through it. The module itself stays
untouched: a stand-in runs with its weights, for `forward` may compute them anew (a spectral norm
goes a step on each time) or move them in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils.rnn import PackedSequence

from gradwatch.core.record import MAX_TIMES
from gradwatch.instrument.graph import Place, tensors, version

_KINDS: Final = (nn.RNN, nn.LSTM, nn.GRU)
_OPTIONS: Final = (
    *("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first"),
    *("bidirectional", "proj_size", "training"),
)


class Replay:
    """One call of a recurrent layer, and the gradients at its outputs as they come in.

    Dropout between its layers is left out: it takes random numbers, and those of cuDNN's dropout
    cannot be put back. What it multiplies a unit with at one time step is 1 in the mean.
    """

    def __init__(
        self,
        module: nn.RNNBase,
        kind: type[nn.RNNBase],
        inputs: Tensor | PackedSequence,
        state: Any,
    ) -> None:
        self._module = module
        self._kind = kind
        self._packing = inputs[1:] if isinstance(inputs, PackedSequence) else None
        self._data = (inputs[0] if isinstance(inputs, PackedSequence) else inputs).detach()
        self._state = _each(state, Tensor.detach)
        self._versions = [version(one) for one in self._given()]
        self._before = {id(weight): version(weight) for weight in _weights(module)}
        self.outputs: dict[Place, int] = {}
        """Where the gradient of each output arrives, with its position among the outputs."""
        self.gradients: dict[int, Tensor] = {}

    @staticmethod
    def of(module: nn.Module, args: Any, kwargs: Any) -> Replay | None:
        """Prepare one before a call; None for what is no recurrent layer of torch, or one that
        computes in a way of its own."""
        kind = next((kind for kind in _KINDS if type(module).forward is kind.forward), None)
        if kind is None or "forward" in module.__dict__ or len(args) + len(kwargs) > 2:
            return None
        given = dict(zip(("input", "hx"), args, strict=False)) | kwargs
        inputs, state = given.get("input"), given.get("hx")
        if not isinstance(inputs, Tensor | PackedSequence):
            return None
        assert isinstance(module, nn.RNNBase)
        return Replay(module, kind, inputs, state)

    def run(self) -> Tensor | None:
        """Return the squares of the gradient at the input by time step (at most `MAX_TIMES` of
        them, the first and the last among them), as float64 on its device.

        None when no gradient came, or when the call cannot be repeated: something was overwritten
        since (by an optimizer that steps inside backward), the weights are sharded and not gathered
        any more, memory is short.
        """
        if not self.gradients or not self._as_it_was():
            return None
        try:
            gradient = self._gradient()
        except (RuntimeError, Warning):  # a warning, where the user made errors of them
            return None
        steps = _by_time(gradient, self._packing, self._module.batch_first)
        if len(steps) <= MAX_TIMES:
            return steps
        picked = torch.linspace(0, len(steps) - 1, MAX_TIMES, dtype=torch.float64)
        return steps[picked.round().long().to(steps.device)]

    def _gradient(self) -> Tensor:
        dtype = _weights(self._module)[0].dtype
        got = sorted(self.gradients)
        with (
            torch.autocast(self._data.device.type, enabled=False),
            torch.enable_grad(),
            saved_tensors_hooks(_unchanged, _unchanged),  # the user's are not for this
        ):
            data = self._data.to(dtype, copy=True).requires_grad_()
            inputs = data if self._packing is None else PackedSequence(data, *self._packing)
            state = _each(self._state, lambda part: part.to(dtype))
            outputs = list(tensors(self._stand_in().forward(inputs, state)))
            (gradient,) = torch.autograd.grad(
                [outputs[i] for i in got], [data], [self.gradients[i].to(dtype) for i in got]
            )
        return gradient

    def _stand_in(self) -> nn.RNNBase:
        module = object.__new__(self._kind)
        module.__dict__ |= {option: getattr(self._module, option) for option in _OPTIONS}
        module.__dict__ |= {
            "_flat_weights": [weight.detach() for weight in _weights(self._module)],
            "_update_flat_weights": _nothing,
            "dropout": 0.0,
        }
        return module

    def _given(self) -> list[Tensor]:
        return [self._data, *_parts(self._state)]

    def _as_it_was(self) -> bool:
        """Whether input and weights are still those of the call. Weights that `forward` computed
        (weight norm) are others than before it."""
        weights = _weights(self._module)
        return (
            [version(one) for one in self._given()] == self._versions
            and all(self._before.get(id(one), version(one)) == version(one) for one in weights)
            and all(map(_whole, weights))
        )


def _by_time(gradient: Tensor, packing: Any, batch_first: bool) -> Tensor:
    if gradient.device.type == "mps":  # it has no float64
        gradient = gradient.cpu()
    squares = gradient.double().square()
    if packing is not None:  # all first steps, then all second ones of those that have one, ...
        rows = squares.sum(1)
        return torch.stack([step.sum() for step in rows.split(packing[0].tolist())])
    if batch_first and squares.ndim == 3:
        squares = squares.movedim(1, 0)
    return squares.flatten(1).sum(1)


def _weights(module: nn.RNNBase) -> list[Tensor]:
    return [weight for weight in module._flat_weights if isinstance(weight, Tensor)]


def _whole(weight: Tensor) -> bool:
    """Whether all of it lies here: a sharded one (FSDP) is gathered only while it is used."""
    size = weight.numel() * weight.element_size()
    return not hasattr(weight, "to_local") and weight.untyped_storage().nbytes() >= size


def _each(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(state, tuple | list):
        return tuple(_each(part, change) for part in state)
    return change(state) if isinstance(state, Tensor) else None


def _parts(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else state or ()


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _nothing() -> None:
    """Stand in for what looks whether the weights have changed."""
