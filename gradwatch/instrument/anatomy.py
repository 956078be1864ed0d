"""What a model consists of: which modules can be watched, and as what layers they are known."""

from __future__ import annotations

import re
from typing import Final

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gradwatch.core.record import Layer

_LOOKED_UP: Final = (nn.Embedding, nn.EmbeddingBag)
_SCALED: Final = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules whose calls can be watched, by name: none inside a compiled one.

    A module hook that is added after compilation is never called, and one that is there before
    breaks the graph.
    """
    found: dict[str, nn.Module] = {}
    compiled: list[str] = []
    for name, module in model.named_modules():
        if any(not above or name == above or name.startswith(above + ".") for above in compiled):
            continue
        if _compiled(module):
            compiled.append(name)
        elif not isinstance(module, torch.jit.ScriptModule):
            found[name] = module
    return found


def compiled(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the compiled parts of a model."""
    return tuple(name for name, module in model.named_modules() if _compiled(module))


def layers(modules: dict[str, nn.Module]) -> dict[str, Layer]:
    """Describe each module as a layer."""
    return {name: _layer(name, module) for name, module in modules.items()}


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the model's parameters by their clean names, each once; lazy ones are left out."""
    return {
        clean(name): parameter
        for name, parameter in model.named_parameters()
        if not is_lazy(parameter)
    }


def clean(name: str) -> str:
    """Return a parameter's name without the prefixes that wrappers add."""
    return re.sub(r"(^|\.)(_orig_mod|_fsdp_wrapped_module)(?=\.)\.", r"\1", name)


def _layer(name: str, module: nn.Module) -> Layer:
    own = {
        key: parameter
        for key, parameter in module._parameters.items()
        if parameter is not None and not is_lazy(parameter)
    }
    weight = own.get("weight")
    multiplies = any(parameter.ndim > 1 for parameter in own.values())
    # A parametrized weight (weight norm) is computed in a module below; reading it may change it.
    parametrized = module._modules.get("parametrizations")
    multiplies = multiplies or (parametrized is not None and "weight" in parametrized._modules)
    return Layer(
        name,
        type(module).__name__,
        weighted=multiplies and not isinstance(module, (*_LOOKED_UP, *_SCALED)),
        weight_shape=tuple(weight.shape) if weight is not None else (),
        builtin=type(module).__module__.startswith("torch.nn.modules"),
    )


def _compiled(module: nn.Module) -> bool:
    wrapped = type(module).__name__ == "OptimizedModule"  # to import the class takes seconds
    return wrapped or module._compiled_call_impl is not None
