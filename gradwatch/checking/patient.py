"""The patient: a stand-in for a model that can be examined and trained without leaving a trace."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gradwatch.checking.batch import LossFn

SEED: Final = 0
"""Whatever is random in a check-up starts from here, so that its verdict is always the same."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside of what `torch.compile` or data parallelism put around it.

    The eager module on one device computes the same, and can be observed whole.
    """
    while True:
        if "_orig_mod" in model._modules:
            model = cast(nn.Module, model._modules["_orig_mod"])
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


@contextmanager
def patient(
    model: nn.Module, loss_fn: LossFn | None, batch: Any
) -> Iterator[tuple[nn.Module, LossFn | None]]:
    """Lend a stand-in for the model and its loss function, without gradients and ready to train.

    It is a copy; where the model cannot be copied it is the model itself, put back afterwards.
    Either way parameters, gradients, buffers, modes, hooks and random generators are then what
    they were. A model in training mode is taken as it is, parts in eval mode included.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(seeded([*model.parameters(), *tree_leaves(batch)]))
        # Also beside a copy: the loss function may reach the parameters of the original.
        stack.enter_context(_gradients_aside(model))
        try:
            # Together: a loss function that is a method of the model becomes one of the copy.
            model, loss_fn = copy.deepcopy((model, loss_fn))
        except Exception:
            stack.enter_context(_restored(model))
            if isinstance(loss_fn, nn.Module):
                stack.enter_context(_gradients_aside(loss_fn))
                stack.enter_context(_restored(loss_fn))
        for module in model.modules():
            if module._compiled_call_impl is not None:  # from `module.compile()`
                module._compiled_call_impl = None
        if not model.training:
            model.train()
        yield model, loss_fn


@contextmanager
def seeded(values: Iterable[Any] = (), seed: int = SEED) -> Iterator[None]:
    """Seed the random generators (those of Python, numpy, torch, and of the devices that hold the
    values), and put them back to where they were afterwards."""
    devices = sorted(
        {
            value.device.index
            for value in values
            if isinstance(value, Tensor) and value.device.type == "cuda"
        }
    )
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _gradients_aside(module: nn.Module) -> Iterator[None]:
    kept = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put back every attribute of every module, the values of tensors included."""
    attributes = [(module.__dict__, dict(module.__dict__)) for module in model.modules()]
    values = [value for _, kept in attributes for value in kept.values()]
    containers = [(v, copy.copy(v)) for v in values if type(v) in (dict, OrderedDict, set, list)]
    tensors = {
        id(v): v for v in [*model.parameters(), *model.buffers(), *values] if isinstance(v, Tensor)
    }
    kept_data = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
    try:
        yield
    finally:
        for own, kept in [*attributes, *containers]:
            if isinstance(own, list):
                own[:] = kept
            else:
                own.clear()
                own.update(kept)
        for tensor, data in kept_data:
            tensor.data.copy_(data)  # unseen by autograd: a graph of the user's stays valid
