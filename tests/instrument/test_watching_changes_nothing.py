"""Law 1: losses, gradients, weights, buffers, optimizer state and RNG, bit by bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradwatch
from tests.zoo.architectures import ARCHITECTURES, Architecture

STEPS = 20


def train(architecture: Architecture, *, watch: bool, steps: int = STEPS, **options: Any) -> Any:
    """Return everything that a training leaves behind."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    model = architecture.model()
    trainable = [p for p in model.parameters() if p.requires_grad]
    sparse = any(isinstance(m, nn.Embedding) and m.sparse for m in model.modules())
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(trainable, lr=0.01) if sparse else torch.optim.AdamW(trainable, lr=1e-3)
    )
    watcher = (
        gradwatch.watch(model, optimizer, every_n_steps=1, strict=True, **options)
        if watch
        else None
    )
    trace: list[Tensor] = []
    for step in range(steps):
        loss = architecture.loss(architecture.forward(model, *architecture.inputs()))
        optimizer.zero_grad()
        loss.backward()
        trace += [p.grad.to_dense().clone() for p in trainable if p.grad is not None]
        if step % 3 == 2:
            nn.utils.clip_grad_norm_([p for p in trainable if not sparse], 0.5)
        optimizer.step()
        trace.append(loss.detach().clone())
        if step % 5 == 4:
            model.eval()
            with torch.no_grad():
                output = architecture.forward(model, *architecture.inputs())
                trace.append(architecture.loss(output).clone())
            model.train()
    if watcher is not None:
        watcher.close()
        assert watcher.history.latest is not None
        assert len(watcher.history) == min(steps, STEPS)
        assert not watcher.report().notes
    state = [value for s in optimizer.state.values() for value in s.values()]
    trace += [value for value in state if isinstance(value, Tensor)]
    trace += [*model.state_dict().values(), torch.get_rng_state()]
    return trace, list(model.state_dict()), random.random(), float(np.random.rand())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_watched_training_is_bit_identical(name: str) -> None:
    plain, plain_keys, *plain_random = train(ARCHITECTURES[name], watch=False)
    seen, keys, *seen_random = train(ARCHITECTURES[name], watch=True)
    assert plain_keys == keys
    assert plain_random == seen_random
    assert len(plain) == len(seen)
    for before, after in zip(plain, seen, strict=True):
        assert torch.equal(before.nan_to_num(), after.nan_to_num())
        assert before.dtype == after.dtype


def test_the_comparison_can_fail() -> None:
    """Full backward hooks, as other monitors use them, do change a training."""
    architecture = ARCHITECTURES["rms-norm-residual"]

    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = architecture.model()
            for module in list(self.inner.modules())[1:]:
                module.register_full_backward_hook(lambda *_: None)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.requires_grad_())  # type: ignore[no-any-return]

    plain, *_ = train(architecture, watch=False, steps=200)
    changed, *_ = train(Architecture(Aliased, architecture.inputs), watch=False, steps=200)
    assert any(not torch.equal(a, b) for a, b in zip(plain, changed, strict=True))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_autocast_and_accumulation_are_bit_identical(accumulate: int) -> None:
    def steps(*, watch: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = ARCHITECTURES["transformer-encoder"].model()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        watcher = gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) if watch else None
        losses = []
        for _ in range(6):
            optimizer.zero_grad()
            for _ in range(accumulate):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(torch.randn(3, 8, 8)).square().mean() / accumulate
                loss.backward()
                losses.append(loss.detach())
            optimizer.step()
        if watcher is not None:
            watcher.close()
        return [*losses, *model.state_dict().values()]

    for before, after in zip(steps(watch=False), steps(watch=True), strict=True):
        assert torch.equal(before, after)
