"""The patient: a stand-in for a model that can be examined and trained without leaving a trace.

Here, once, is also what a batch may look like; `diagnose`, `trainability` and `check` share it.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map_only

LossFn = Callable[..., Any]

SEED: Final = 0
"""Whatever is random in a check-up starts from here, so that its verdict is always the same."""

BATCHES: Final = (
    "a pair (inputs, targets), a mapping of the model's keyword arguments, or one input"
)


class StepFailed(RuntimeError):
    """A part of the step that is the user's own raised; the error itself is the cause."""


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


def check_arguments(model: object, loss_fn: object, batch: object) -> None:
    """Raise `TypeError` or `ValueError` for arguments that no step can be made with."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {described(model)}")
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError(f"model must have parameters, {type(model).__name__} has none")
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(
            f"model must have a parameter that requires grad, all {len(parameters)} of "
            f"{type(model).__name__} are frozen"
        )
    if lazy := [name for name, one in model.named_parameters() if is_lazy(one)]:
        raise ValueError(
            f"model must have initialised parameters, `{lazy[0]}` is lazy: call the model once "
            "on an input before"
        )
    if loss_fn is None and not isinstance(batch, Mapping):
        raise TypeError(
            f"loss_fn may be None only for a mapping as batch (then the model gives the loss), "
            f"batch is {described(batch)}"
        )
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(f"loss_fn must be callable, got {described(loss_fn)}")
    if type(batch) in (tuple, list) and len(batch) != 2:  # type: ignore[arg-type]
        raise ValueError(
            f"batch must be {BATCHES}, got {described(batch)} "
            "(several inputs go into a tuple of their own: ((a, b), targets))"
        )


def forward(model: nn.Module, batch: Any) -> Any:
    """Call the model on a batch: `model(**batch)` for a mapping, `model(inputs)` for a pair
    (`model(*inputs)` or `model(**inputs)` if its first is a tuple, a list or a mapping itself),
    else `model(batch)`."""
    inputs = batch[0] if _is_pair(batch) else batch
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if type(inputs) in (tuple, list) and _is_pair(batch):
            return model(*inputs)
        return model(inputs)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise StepFailed(f"the forward of {type(model).__name__} raised {said}") from error


def loss_of(loss_fn: LossFn | None, output: Any, batch: Any) -> Tensor:
    """Compute the loss: `loss_fn(output, targets)` for a pair, `loss_fn(output, batch)` for a
    mapping (without loss_fn the output's own `loss`), else `loss_fn(output)`."""
    if loss_fn is None:
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if loss is None:
            raise TypeError(
                "loss_fn may be None only for a model that gives its loss as output.loss or "
                f'output["loss"], the output is {described(output)}'
            )
        source = "the model's own loss"
    else:
        source = "the result of loss_fn"
        if _is_pair(batch):
            arguments: tuple[Any, ...] = output, batch[1]
        else:
            arguments = (output, batch) if isinstance(batch, Mapping) else (output,)
        try:
            loss = loss_fn(*arguments)
        except Exception as error:
            raise StepFailed(f"loss_fn raised {type(error).__name__}: {error}") from error
    if not isinstance(loss, Tensor):
        raise TypeError(f"{source} must be a scalar tensor, it is {described(loss)}")
    if loss.numel() != 1:
        raise ValueError(f"{source} must be a scalar tensor, it is {described(loss)}")
    if not loss.requires_grad:
        raise ValueError(
            f"{source} must require grad, it does not: no parameter that requires grad takes part "
            "in it, or it was detached"
        )
    return loss


def backward(loss: Tensor) -> None:
    """Run the backward pass."""
    try:
        loss.backward()
    except Exception as error:
        raise StepFailed(f"the backward pass raised {type(error).__name__}: {error}") from error


def fresh(batch: Any) -> Any:
    """Return a batch whose tensors are copies: a step may change them, or leave a gradient."""
    return tree_map_only(
        Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), batch
    )


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
        stack.enter_context(_own_randomness([*model.parameters(), *tree_leaves(batch)]))
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


def described(value: object) -> str:
    """Say what a value is, for an error message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        kinds = ", ".join(type(item).__name__ for item in value[:4])
        more = ", ..." if len(value) > 4 else ""
        return f"a {type(value).__name__} of {len(value)} ({kinds}{more})"
    return "None" if value is None else f"{value!r:.80} ({type(value).__name__})"


def _is_pair(batch: Any) -> bool:
    return type(batch) in (tuple, list) or (isinstance(batch, tuple) and len(batch) == 2)


@contextmanager
def _own_randomness(values: list[Any]) -> Iterator[None]:
    devices = sorted(
        {
            value.device.index
            for value in values
            if isinstance(value, Tensor) and value.device.type == "cuda"
        }
    )
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.random.default_generator.manual_seed(SEED)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)
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
    tensors = {id(v): v for v in [*model.parameters(), *model.buffers(), *values] if _has_data(v)}
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


def _has_data(value: object) -> bool:
    return isinstance(value, Tensor) and not is_lazy(value)
