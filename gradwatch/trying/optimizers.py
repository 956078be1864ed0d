"""The optimizer of a copy: made as the user's was, for the parameters that stand in their place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from gradwatch.checking.batch import WrongType, WrongValue

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def factory_of(
    optimizer: torch.optim.Optimizer | OptimizerFactory | None, model: nn.Module
) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Return what makes the optimizer of a copy of the model.

    From an optimizer: one of its class, with its groups and options and, for weights that are
    still the same, its state. From a function of the parameters: what it returns. From None: Adam
    with a learning rate of 1e-3. Parameters that a remedy adds go into the first group.
    """
    if optimizer is None:
        return _called(lambda parameters: torch.optim.Adam(parameters, lr=1e-3))
    if not isinstance(optimizer, torch.optim.Optimizer):
        if not callable(optimizer):
            raise WrongType(
                "optimizer must be a torch optimizer or a function of the parameters, got "
                f"{optimizer!r:.80}"
            )
        return _called(optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key != "params"}
        held = [names[id(p)] for p in group["params"] if id(p) in names]
        groups.append((held, options))
    if not any(held for held, _ in groups):
        raise WrongValue("optimizer must hold parameters of the model, it holds none of them")
    state = {
        names[id(p)]: copy.deepcopy(kept) for p, kept in optimizer.state.items() if id(p) in names
    }
    known = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    kind = type(optimizer)
    return lambda twin: _like(kind, groups, state, known, twin)


def _called(make: OptimizerFactory) -> Callable[[nn.Module], torch.optim.Optimizer]:
    def build(twin: nn.Module) -> torch.optim.Optimizer:
        made = make([p for p in twin.parameters() if p.requires_grad])
        if not isinstance(made, torch.optim.Optimizer):
            raise WrongType(f"optimizer must return a torch optimizer, it returned {made!r:.80}")
        return made

    return build


def _like(
    kind: type[torch.optim.Optimizer],
    groups: list[tuple[list[str], dict[str, Any]]],
    state: Mapping[str, Mapping[str, Any]],
    known: Mapping[str, torch.Tensor],
    twin: nn.Module,
) -> torch.optim.Optimizer:
    there = dict(twin.named_parameters())
    taken = {name for held, _ in groups for name in held}
    new = [p for name, p in there.items() if name not in known and p.requires_grad]
    described = []
    for i, (held, options) in enumerate(groups):
        parameters = [there[name] for name in held if name in there] + (new if i == 0 else [])
        if parameters:
            described.append({"params": parameters, **copy.deepcopy(options)})
    made = kind(described)  # type: ignore[call-arg]
    for name in taken & there.keys() & state.keys():
        parameter, before = there[name], known[name]
        same = parameter.shape == before.shape and parameter.dtype == before.dtype
        if same and torch.equal(parameter.detach(), before):
            made.state[parameter] = copy.deepcopy(dict(state[name]))
    return made
