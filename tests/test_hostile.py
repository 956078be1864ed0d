"""What users do that is hard to watch: the training stays the same, and the numbers are right."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from torch.utils.flop_counter import FlopCounterMode

import gradwatch
from gradwatch.instrument.examination import BEFORE_CLIPPING


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    loss: Tensor = model(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


class Selective(nn.Module):
    """Selective checkpointing that keeps the results of one operation."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.kept = kept
        self.inner = nn.Sequential(
            nn.Linear(8, 64, bias=False), nn.SiLU(), nn.Linear(64, 8, bias=False), nn.Tanh()
        )
        self.head = nn.Linear(8, 3)

    def policy(self, context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep, drop = CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE
        return keep if op == self.kept else drop

    def region(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y * torch.tanh(y.square().sum())  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        contexts = partial(create_selective_checkpoint_contexts, self.policy)
        return self.head(  # type: ignore[no-any-return]
            checkpoint(self.region, x, use_reentrant=False, context_fn=contexts)
        )


@pytest.mark.parametrize("kept", [torch.ops.aten.mm.default, torch.ops.aten.sum.default], ids=str)
def test_selective_checkpointing_never_gets_our_results_for_its_own(kept: Any) -> None:
    def train(*, watch: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Selective(kept)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        watcher = gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) if watch else None
        losses = [fit(model, optimizer, torch.randn(6, 8)) for _ in range(4)]
        if watcher is not None:
            watcher.close()
        return [*losses, *model.state_dict().values()]

    for plain, seen in zip(train(watch=False), train(watch=True), strict=True):
        assert torch.equal(plain, seen)


def test_a_flop_counter_counts_the_users_operations_only() -> None:
    def flops(*, watch: bool) -> int:
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        watcher = gradwatch.watch(model, optimizer, strict=True) if watch else None
        with FlopCounterMode(display=False) as counter:
            fit(model, optimizer, torch.randn(6, 8))
        if watcher is not None:
            watcher.close()
            assert watcher.history.latest is not None
            assert watcher.history.latest.calls[0].output is not None
        return counter.get_total_flops()

    assert flops(watch=True) == flops(watch=False) > 0


def test_a_discriminators_record_holds_nothing_of_the_generators_step() -> None:
    """Its backward goes through the discriminator too, and zero_grad throws that away."""
    generator, critic = mlp(), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    for_generator = torch.optim.SGD(generator.parameters(), 0.1)
    for_critic = torch.optim.SGD(critic.parameters(), 0.1)
    with gradwatch.watch(critic, for_critic, every_n_steps=1, strict=True) as watcher:
        for _ in range(3):
            for_critic.zero_grad()
            critic(torch.randn(6, 3)).mean().backward()
            for_critic.step()
            for_generator.zero_grad()
            (1000 * critic(generator(torch.randn(6, 8))).mean()).backward()
            for_generator.step()
    assert watcher.history.latest is not None
    (whole,) = (call for call in watcher.history.latest.calls if call.layer.name == "")
    assert whole.grad_output is not None
    assert whole.grad_output.count == 6
    assert whole.grad_output.squares == pytest.approx(6 * (1 / 6) ** 2)


def test_accumulated_micro_batches_are_all_kept() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) as watcher:
        for _ in range(2):
            optimizer.zero_grad()
            for _ in range(3):
                model(torch.randn(6, 8)).mean().backward()
            optimizer.step()
    assert watcher.history.latest is not None
    gradient = watcher.history.latest.calls[0].grad_output
    assert gradient is not None
    assert gradient.count == 3 * 6 * 3


def test_lazy_layers_are_watched_once_they_are_made() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) as watcher:
        for _ in range(4):
            fit(model, optimizer, torch.randn(6, 8))
    assert len(watcher.history.pulses) == 4
    assert watcher.history.latest is not None
    assert [call.layer.kind for call in watcher.history.latest.calls[:2]] == [
        "Sequential",
        "Linear",
    ]


def test_parameters_that_are_all_replaced_are_followed_and_not_read_stale() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    norms = []
    with gradwatch.watch(model, every_n_steps=50, strict=True) as watcher:
        for step in range(30):
            if step == 25:
                copied = {name: value.clone() for name, value in model.state_dict().items()}
                model.load_state_dict(copied, assign=True)
                optimizer = torch.optim.SGD(model.parameters(), 0.1)
            fit(model, optimizer, torch.randn(6, 8))
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            norms.append(float(nn.utils.get_total_norm(gradients)))
            watcher.step()
    assert [pulse.norm for pulse in watcher.history.pulses] == pytest.approx(norms)


class MadeAnew(nn.Module):
    """A layer whose parameter is another one in each forward pass, as by a mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        self.weight = nn.Parameter(self.weight * 1.0)
        return x @ self.weight.T


def test_parameters_that_are_replaced_in_every_forward_pass_are_examined_and_told() -> None:
    model = MadeAnew()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.watch(model, optimizer, every_n_steps=10, strict=True) as watcher:
        for _ in range(40):
            fit(model, optimizer, torch.randn(6, 8))
            watcher.step()
    assert [record.step for record in watcher.history][-2:] == [20, 30]
    (weight,) = watcher.history.records[-1].parameters
    assert weight.gradient is not None
    assert weight.held is False
    assert [finding.name for finding in watcher.report().findings] == ["forgotten-parameters"]


def test_with_lbfgs_gradients_are_read_at_the_end_of_backward() -> None:
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    x = torch.randn(6, 8)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss.item()

    with gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) as watcher:
        for _ in range(3):
            optimizer.step(closure)
    assert watcher.history.latest is not None
    assert watcher.history.latest.read_point == BEFORE_CLIPPING


def test_a_half_precision_gradient_beyond_its_own_range_has_a_finite_norm() -> None:
    layer = nn.Linear(4000, 2).half()
    with gradwatch.watch(layer, strict=True) as watcher:
        (layer(torch.full((1, 4000), 2000.0, dtype=torch.half))).float().sum().backward()
        watcher.step()
    (pulse,) = watcher.history.pulses
    assert pulse.norms[0] == pytest.approx(2000 * 8000**0.5, rel=1e-3)


def test_no_hook_stays_when_an_exam_fails_at_the_optimizers_step() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        watcher = gradwatch.watch(model, optimizer, every_n_steps=1)
        model(torch.randn(6, 8)).square().mean().backward()
        model[2].bias.data, model[2].bias.grad = torch.zeros(2), torch.zeros(2)  # shrinks in it
        optimizer.step()
    assert watcher.report().notes
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_an_inference_tensor_may_go_through_a_layer_in_training() -> None:
    class Gather(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Identity()
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.same(x).clone())  # type: ignore[no-any-return]

    model = Gather()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) as watcher:
        with torch.inference_mode():
            x = torch.randn(6, 8)
        fit(model, optimizer, x)
    assert not watcher.report().notes


@pytest.mark.parametrize(
    "loss", [np.float32(2.0), np.array(2.0), 2, torch.tensor([1.0, 3.0])], ids=repr
)
def test_a_loss_may_be_any_kind_of_number(loss: Any) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        for _ in range(2):
            fit(model, optimizer, torch.randn(6, 8))
            watcher.step(loss)
    assert [pulse.loss for pulse in watcher.history.pulses] == [2.0, 2.0]


def test_a_tracer_traces_the_users_operations_only() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    model = mlp()
    trace: Callable[[Tensor], Any] = make_fx(lambda x: model(x))
    x = torch.randn(6, 8)
    plain = trace(x)
    with gradwatch.watch(model, strict=True):
        watched = trace(x)
    assert str(plain.graph) == str(watched.graph)


def test_gradients_of_several_types_have_one_norm_each() -> None:
    model = nn.ModuleList([nn.Linear(8, 8).to(dtype) for dtype in (torch.float64, torch.bfloat16)])
    with gradwatch.watch(model, strict=True) as watcher:
        for layer in model:
            layer(torch.ones(1, 8, dtype=layer.weight.dtype)).float().sum().backward()
        watcher.step()
    (pulse,) = watcher.history.pulses
    assert pulse.norms == pytest.approx([8.0, 8**0.5, 8.0, 8**0.5])


def test_a_strict_export_traces_the_users_operations_only() -> None:
    model = mlp()
    x = torch.randn(6, 8)
    plain = torch.export.export(model, (x,), strict=True)
    with gradwatch.watch(model, strict=True):
        watched = torch.export.export(model, (x,), strict=True)
    assert [node.target for node in plain.graph.nodes] == [
        node.target for node in watched.graph.nodes
    ]
