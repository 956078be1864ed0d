"""Law 5: every gain and every gradient against an independent slow computation, and closed forms.

The oracle runs a float64 copy in which every module gets clones of its inputs and gives clones
of its outputs: the gradient at such a clone is the one through that call only, resp. that of all
uses outside of it. (As a probe it would be no good: it changes the graph.)
"""

from __future__ import annotations

import copy
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import tree_map_only

from gradwatch.core.record import Call, Record
from gradwatch.instrument import anatomy
from gradwatch.instrument.examination import Examination
from tests.zoo.architectures import ARCHITECTURES, Architecture
from tests.zoo.trainings import mlp

BITS = 1e-4


def examine(model: nn.Module, *inputs: Any, architecture: Architecture | None = None) -> Record:
    """One examined forward and backward pass, without a watcher."""
    arch = architecture or Architecture(lambda: model, lambda: inputs)
    modules, parameters = anatomy.modules(model), anatomy.parameters(model)
    exam = Examination(modules, anatomy.layers(modules), parameters, lambda function: function)
    try:
        loss = arch.loss(arch.forward(model, *inputs))
        loss.backward()
        exam.read(list(parameters), [p.grad for p in parameters.values()], None)
        return exam.record(0, loss=loss, clip_ratio=None, notes=())
    finally:
        exam.close()


def oracle(
    model: nn.Module, inputs: tuple[Any, ...], architecture: Architecture
) -> dict[tuple[str, int], tuple[float | None, float | None]]:
    """Return (gain in bits, gradient norm at the output) of every call, by name and index."""
    model = copy.deepcopy(model)
    counts: dict[str, int] = {}
    open_calls: list[tuple[str, int]] = []
    ins: dict[tuple[str, int], list[GradientEdge]] = {}
    outs: dict[tuple[str, int], list[GradientEdge]] = {}
    originals: dict[tuple[str, int], dict[int, Tensor]] = {}

    def enter(name: str, args: Any, kwargs: Any) -> Any:
        key = name, counts.get(name, 0)
        counts[name] = key[1] + 1
        open_calls.append(key)
        ins[key], outs[key], originals[key] = [], [], {}

        aliases: dict[int, Tensor] = {}  # a tensor that is given twice is one input

        def alias(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            if id(tensor) not in aliases:
                aliases[id(tensor)] = tensor.clone()
                ins[key].append(get_gradient_edge(aliases[id(tensor)]))
                originals[key][id(aliases[id(tensor)].grad_fn)] = tensor
            return aliases[id(tensor)]

        return tree_map_only(Tensor, alias, (args, kwargs))

    def leave(args: Any, output: Any) -> Any:
        key = open_calls.pop()

        def alias(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            if id(tensor.grad_fn) in originals[key]:  # passed on: not through this call
                return originals[key][id(tensor.grad_fn)]
            tensor = tensor.clone()
            outs[key].append(get_gradient_edge(tensor))
            return tensor

        if isinstance(output, Tensor | tuple | list | dict):
            return tree_map_only(Tensor, alias, output)
        for field, value in vars(output).items():
            setattr(output, field, tree_map_only(Tensor, alias, value))
        return output

    for name, module in model.named_modules():
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: enter(name, args, kwargs), with_kwargs=True
        )
        module.register_forward_hook(lambda _, args, output: leave(args, output))
    loss = architecture.loss(architecture.forward(model, *inputs))
    edges = list(dict.fromkeys(edge for part in (ins, outs) for e in part.values() for edge in e))
    found = dict(zip(edges, torch.autograd.grad(loss, edges, allow_unused=True), strict=True))

    def norm(edges: list[GradientEdge]) -> float | None:
        gradients = [found[edge] for edge in edges if found[edge] is not None]
        return math.sqrt(sum(float(g.square().sum()) for g in gradients)) if gradients else None

    result = {}
    for key in ins:
        before, after = norm(ins[key]), norm(outs[key])
        gain = math.log2(before / after) if before and after else None
        result[key] = gain, after
    return result


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_gain_and_output_gradient_equals_the_oracles(name: str) -> None:
    architecture = ARCHITECTURES[name]
    torch.manual_seed(5)
    model = architecture.model().double()
    inputs = architecture.inputs()
    inputs = tuple(
        x.detach().double().requires_grad_() if x.is_floating_point() else x for x in inputs
    )
    plain = copy.deepcopy(model)
    torch.manual_seed(6)
    record = examine(model, *inputs, architecture=architecture)
    plain.checkpointing = False
    torch.manual_seed(6)
    expected = oracle(plain, inputs, architecture)
    calls = {(c.layer.name, c.index): c for c in record.calls if not c.layer.functional}
    assert set(calls) == set(expected)
    compared = 0
    for key, (gain, output) in expected.items():
        call = calls[key]
        if output is not None:
            assert call.grad_output is not None, key
            assert math.isclose(call.grad_output.norm, output, rel_tol=1e-6), key
        if gain is None:
            assert call.gain is None, key
            assert call.reason, key
        else:
            assert call.gain is not None, (key, call.reason)
            assert abs(call.gain - gain) < BITS, key
            compared += 1
    assert compared >= 1
    for parameter in record.parameters:
        truth = model.get_parameter(parameter.name).grad
        if truth is not None:
            assert parameter.gradient is not None
            expected_norm = float(torch.linalg.vector_norm(truth.to_dense()))
            assert math.isclose(parameter.gradient.norm, expected_norm, rel_tol=1e-12)


def call(record: Record, name: str) -> Call:
    return next(call for call in record.calls if call.layer.name == name)


def test_an_orthogonal_linear_layer_has_a_gain_of_zero_bits() -> None:
    layer = nn.Linear(32, 32, bias=False)
    nn.init.orthogonal_(layer.weight)
    record = examine(nn.Sequential(layer), torch.randn(8, 32, requires_grad=True))
    assert call(record, "0").gain == pytest.approx(0, abs=BITS)


def test_a_sigmoid_at_zero_loses_two_bits() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    record = examine(model, torch.randn(3, 4))
    assert call(record, "1").gain == pytest.approx(-2, abs=BITS)


def test_a_functional_sigmoid_at_zero_loses_two_bits_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(x * self.scale)

    record = examine(Net(), torch.zeros(3, 4, requires_grad=True))
    assert call(record, ":sigmoid#0").gain == pytest.approx(-2, abs=BITS)
    assert call(record, ":mul#0").gain == pytest.approx(0, abs=BITS)


def test_scaling_by_two_gains_one_bit() -> None:
    layer = nn.Linear(8, 8, bias=False)
    nn.init.eye_(layer.weight)
    layer.weight.data *= 2
    record = examine(nn.Sequential(layer), torch.randn(3, 8, requires_grad=True))
    assert call(record, "0").gain == pytest.approx(1, abs=BITS)


def test_the_ledger_of_a_chain_adds_up_to_the_whole() -> None:
    torch.manual_seed(0)
    record = examine(mlp(10, nn.Sigmoid).double(), torch.randn(16, 64).double())
    from gradwatch.core.ledger import ledger

    first, last = call(record, "0").grad_output, call(record, "").grad_output
    assert first is not None and last is not None
    assert ledger(record).total == pytest.approx(math.log2(first.norm / last.norm), abs=BITS)
    assert len(ledger(record).entries) == 20


def test_a_residual_net_is_not_blamed_for_its_branches_and_a_broken_block_is_found() -> None:
    class Residual(nn.Module):
        def __init__(self, *, broken: bool) -> None:
            super().__init__()
            self.f = nn.Sequential(nn.Linear(16, 16), nn.Sigmoid())
            self.broken = broken

        def forward(self, x: Tensor) -> Tensor:
            return self.f(x) if self.broken else x + self.f(x)

    from gradwatch.core.ledger import ledger

    torch.manual_seed(0)
    blocks = [Residual(broken=i == 6) for i in range(12)]
    record = examine(nn.Sequential(nn.Linear(16, 16), *blocks), torch.randn(8, 16))
    entries = ledger(record).entries
    worst = sorted(entries, key=lambda entry: entry.bits)[:2]
    assert {entry.layers for entry in worst} == {("7.f.0",), ("7.f.1",)} | set()
    others = [e.bits for e in entries if e not in worst]
    assert all(abs(bits) < 0.6 for bits in others)


def test_calls_of_a_shared_module_are_told_apart() -> None:
    architecture = ARCHITECTURES["shared"]
    record = examine(architecture.model(), *architecture.inputs())
    assert [c.index for c in record.calls if c.layer.name == "layer"] == [0, 1, 2]
    assert [c.index for c in record.calls if c.layer.name == "act"] == [0, 1, 2, 3]


def test_a_call_without_a_number_says_why() -> None:
    record = examine(
        nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 2)), torch.randn(3, 4)
    )
    assert call(record, "0").reason == "its input needs no gradient"
    assert call(record, "1").reason == "passes its input on unchanged"
    assert all((c.gain is None) == bool(c.reason) for c in record.calls)


def test_a_forward_pass_that_no_backward_follows_is_not_kept_alive() -> None:
    """A validation batch with gradients on, while an exam waits for its backward."""
    model = mlp(3, nn.ReLU)
    modules, parameters = anatomy.modules(model), anatomy.parameters(model)
    exam = Examination(modules, anatomy.layers(modules), parameters, lambda function: function)
    saved: list[weakref.ref[Any]] = []

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def pack(tensor: Tensor) -> Kept:
        kept = Kept(tensor.detach())  # or the test itself would tie a knot
        saved.append(weakref.ref(kept))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        output = model(torch.randn(4, 64))
    assert any(reference() is not None for reference in saved)
    del output
    assert all(reference() is None for reference in saved)
    exam.close()
