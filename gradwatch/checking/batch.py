"""What a batch may look like, and how one step is made of it: said once, for every check-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

LossFn = Callable[..., Any]

BATCHES: Final = (
    "a pair (inputs, targets), a mapping of the model's keyword arguments, or one input"
)


TrainingStep = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, slots=True)
class Whole:
    """A batch for a training step that calls the model and computes the loss by itself."""

    step: TrainingStep
    batch: Any


class CannotStep(Exception):
    """No step can be made with this model, loss function and batch; the message says why."""


class WrongType(CannotStep, TypeError):
    """Something is of the wrong type."""


class WrongValue(CannotStep, ValueError):
    """Something has the wrong value."""


class StepFailed(CannotStep, RuntimeError):
    """A part of the step that is the user's own raised; the error itself is the cause."""


def check_arguments(model: object, loss_fn: object, batch: object) -> None:
    """Raise `TypeError` or `ValueError` for arguments that no step can be made with."""
    if not isinstance(model, nn.Module):
        raise WrongType(f"model must be a torch.nn.Module, got {described(model)}")
    parameters = list(model.parameters())
    if not parameters:
        raise WrongValue(f"model must have parameters, {type(model).__name__} has none")
    if not any(parameter.requires_grad for parameter in parameters):
        raise WrongValue(
            f"model must have a parameter that requires grad, all {len(parameters)} of "
            f"{type(model).__name__} are frozen"
        )
    if lazy := [name for name, one in model.named_parameters() if is_lazy(one)]:
        raise WrongValue(
            f"model must have initialised parameters, `{lazy[0]}` is lazy: call the model once "
            "on an input before"
        )
    if isinstance(batch, Whole):
        return
    if loss_fn is None and not isinstance(batch, Mapping):
        raise WrongType(
            f"loss_fn may be None only for a mapping as batch (then the model gives the loss), "
            f"batch is {described(batch)}"
        )
    if loss_fn is not None and not callable(loss_fn):
        raise WrongType(f"loss_fn must be callable, got {described(loss_fn)}")
    if type(batch) in (tuple, list) and len(batch) != 2:  # type: ignore[arg-type]
        raise WrongValue(
            f"batch must be {BATCHES}, got {described(batch)} "
            "(several inputs go into a tuple of their own: ((a, b), targets))"
        )


def forward(model: nn.Module, batch: Any) -> Any:
    """Call the model on a batch: `model(**batch)` for a mapping, `model(inputs)` for a pair
    (`model(*inputs)` or `model(**inputs)` if its first is a tuple, a list or a mapping itself),
    else `model(batch)`. The output of a training step of its own is its loss."""
    if isinstance(batch, Whole):
        try:
            return batch.step(model, batch.batch)
        except Exception as error:
            raise StepFailed(f"training_step raised {type(error).__name__}: {error}") from error
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
    if isinstance(batch, Whole):
        loss, source = output, "the result of training_step"
    elif loss_fn is None:
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if loss is None:
            raise WrongType(
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
        raise WrongType(f"{source} must be a scalar tensor, it is {described(loss)}")
    if loss.numel() != 1:
        raise WrongValue(f"{source} must be a scalar tensor, it is {described(loss)}")
    if not loss.requires_grad:
        raise WrongValue(
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
    if isinstance(batch, Whole):
        return Whole(batch.step, fresh(batch.batch))
    return tree_map_only(
        Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), batch
    )


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
