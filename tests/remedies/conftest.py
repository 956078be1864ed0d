"""Records of real models, written by plain hooks: what a remedy would get from the probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.record import Call, Layer, Record
from gradwatch.core.remedy import Prescription
from gradwatch.core.stats import Stats

Examine = Callable[..., Record]
Complain = Callable[..., Finding]
Run = Callable[[Prescription, torch.nn.Module], None]


@pytest.fixture
def examine() -> Examine:
    """Return `examine(model, x, operations={})`, which gives the record of one forward pass.

    `operations` says which functions a module's forward calls right after which child:
    `{"fc1": ":sigmoid#0"}`.
    """

    def examine(
        model: torch.nn.Module, x: torch.Tensor, operations: dict[str, str] | None = None
    ) -> Record:
        names = {module: name for name, module in model.named_modules()}
        calls: list[Call] = []
        stack: list[int] = []

        def before(module: torch.nn.Module, _: Any) -> None:
            weight = getattr(module, "weight", None)
            shape = tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()
            layer = Layer(
                names[module],
                type(module).__name__,
                weighted=len(shape) > 1 and not isinstance(module, torch.nn.Embedding),
                weight_shape=shape,
                builtin=type(module).__module__.startswith("torch.nn"),
            )
            index = sum(call.layer == layer for call in calls)
            calls.append(Call(layer, index, stack[-1] if stack else None, cut=bool(stack)))
            stack.append(len(calls) - 1)

        def after(module: torch.nn.Module, _: Any, output: Any) -> None:
            position = stack.pop()
            if isinstance(output, torch.Tensor):
                stats = replace(Stats.empty(), count=output.numel())
                calls[position] = replace(calls[position], output=stats)
            if operation := (operations or {}).get(names[module]):
                kind = operation.partition(":")[2].partition("#")[0]
                layer = Layer(operation, kind, functional=True)
                calls.append(Call(layer, parent=stack[-1] if stack else None, cut=True))

        handles = [module.register_forward_pre_hook(before) for module in names]
        handles += [module.register_forward_hook(after) for module in names]
        model(x)
        for handle in handles:
            handle.remove()
        return Record(0, tuple(calls))

    return examine


@pytest.fixture
def complain() -> Complain:
    """Return `complain(cause, *layers, finding="vanishing-gradient")`."""

    def complain(cause: str, *layers: str, finding: str = "vanishing-gradient") -> Finding:
        return Finding(finding, Severity.CRITICAL, "", causes=(Cause(cause, "", layers),))

    return complain


@pytest.fixture
def run() -> Run:
    """Return a function that executes a prescription as a user would who pastes it."""

    def run(prescription: Prescription, model: torch.nn.Module) -> None:
        scope: dict[str, Any] = {"torch": torch, "model": model}
        exec(prescription.code, scope)

    return run


@pytest.fixture
def train() -> Callable[[torch.nn.Module, torch.Tensor], bool]:
    """Return a function that makes one step and says if it reached all parameters."""

    def train(model: torch.nn.Module, x: torch.Tensor) -> bool:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = [p.detach().clone() for p in model.parameters()]
        model(x).square().mean().backward()
        optimizer.step()
        moved = [not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]
        return any(moved) and all(p.grad is not None for p in model.parameters())

    return train
