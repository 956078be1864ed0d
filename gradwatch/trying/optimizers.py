"""The optimizer of a copy: made as the user's was, for the parameters that stand in their place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradwatch.checking.batch import WrongType, WrongValue

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def factory_of(
    optimizer: torch.optim.Optimizer | Remade | OptimizerFactory | None, model: nn.Module
) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Return what makes the optimizer of a copy of the model.

    From an optimizer: one of its class, with its groups and options and, for weights that are
    still the same, its state. From a function of the parameters: what it returns. From None: Adam
    with a learning rate of 1e-3. Parameters that a remedy adds go into the first group.
    """
    if isinstance(optimizer, Remade):
        return optimizer
    if optimizer is None:
        return _called(lambda parameters: torch.optim.Adam(parameters, lr=1e-3))
    if not isinstance(optimizer, torch.optim.Optimizer):
        if not callable(optimizer):
            raise WrongType(
                "optimizer must be a torch optimizer or a function of the parameters, got "
                f"{optimizer!r:.80}"
            )
        return _called(optimizer)
    return remade(optimizer, model)


def remade(optimizer: torch.optim.Optimizer, model: nn.Module) -> Remade:
    """Note how an optimizer of the model is made; raises `ValueError` if it is none of its own."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key != "params"}
        if "initial_lr" in options:  # a schedule may have begun with almost nothing
            options["lr"] = options.pop("initial_lr")
        held = tuple(names[id(p)] for p in group["params"] if id(p) in names)
        groups.append((held, options))
    if not any(held for held, _ in groups):
        raise WrongValue("optimizer must hold parameters of the model, it holds none of them")
    state = {
        names[id(p)]: copy.deepcopy(kept) for p, kept in optimizer.state.items() if id(p) in names
    }
    known = {
        name: parameter.detach().clone() if name in state else None
        for name, parameter in model.named_parameters()
    }
    return Remade(type(optimizer), tuple(groups), state, known)


@dataclass(frozen=True)
class Remade:
    """Makes an optimizer like the user's for a copy of the model."""

    kind: type[torch.optim.Optimizer]
    groups: tuple[tuple[tuple[str, ...], Mapping[str, Any]], ...]
    state: Mapping[str, Mapping[str, Any]]
    known: Mapping[str, torch.Tensor | None]
    """The parameters of the model, with their values where there is a state for them."""

    def __call__(self, twin: nn.Module) -> torch.optim.Optimizer:
        """Make it for the parameters of a copy."""
        there = dict(twin.named_parameters())
        new = [p for name, p in there.items() if name not in self.known and p.requires_grad]
        described = []
        for i, (held, options) in enumerate(self.groups):
            parameters = [there[name] for name in held if name in there] + (new if i == 0 else [])
            if parameters:
                described.append({"params": parameters, **copy.deepcopy(dict(options))})
        made = self.kind(described)  # type: ignore[call-arg]
        for name in there.keys() & self.state.keys():
            parameter, before = there[name], self.known[name]
            assert before is not None
            same = parameter.shape == before.shape and parameter.dtype == before.dtype
            if same and torch.equal(parameter.detach(), before):
                made.state[parameter] = copy.deepcopy(dict(self.state[name]))
        return made


def _called(make: OptimizerFactory) -> Callable[[nn.Module], torch.optim.Optimizer]:
    def build(twin: nn.Module) -> torch.optim.Optimizer:
        made = make([p for p in twin.parameters() if p.requires_grad])
        if not isinstance(made, torch.optim.Optimizer):
            raise WrongType(f"optimizer must return a torch optimizer, it returned {made!r:.80}")
        return made

    return build
