"""A place behind which all samples are the same is found where it is; what only looks so is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Finding, Severity
from gradwatch.detectors.constant_output import ConstantOutput


def watched(model: nn.Module, steps: int = 45) -> tuple[Finding, ...]:
    """Train on clusters; what the detector alone says of it."""
    torch.manual_seed(0)
    centers = 2 * torch.randn(4, 8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with gradwatch.watch(model, optimizer, strict=True, detectors=[], every_n_steps=10) as watcher:
        for _ in range(steps):
            labels = torch.randint(0, 4, (32,))
            loss = F.cross_entropy(model(centers[labels] + torch.randn(32, 8)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    return ConstantOutput()(watcher.history)


class Divided(nn.Module):
    """Divides by a norm that overflows in float16: what comes out is 0 for all."""

    def forward(self, x: Tensor) -> Tensor:
        half = (600 * x).half()
        return (half / (half * half).sum(1, keepdim=True).sqrt()).float()


def net(*ends: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), *ends)


def norm_over_one() -> nn.Sequential:
    ends = nn.Linear(16, 4), nn.Unflatten(1, (4, 1)), nn.LayerNorm(1), nn.Flatten()
    return net(*ends)


def test_a_norm_over_one_value() -> None:
    (found,) = watched(norm_over_one())
    assert (found.severity, found.cause) == (Severity.CRITICAL, "normalisation")
    assert found.layers == ("4",)
    (found,) = watched(norm_over_one(), 15)
    assert found.severity == Severity.WARNING


def test_a_sum_that_overflows() -> None:
    (found,) = watched(net(Divided(), nn.Linear(16, 4)))
    assert (found.cause, found.layers) == ("precision", ("2:div#0",))


def test_what_steps_have_done_is_their_doing() -> None:
    model = net(nn.Hardtanh(-1e9, 1e9), nn.Linear(16, 4))
    calls = iter(range(1000))

    def flattened(module: nn.Hardtanh, _: object) -> None:
        if next(calls) == 12:
            module.min_val, module.max_val = -2e9, -1e9  # from now on it gives one number

    model[2].register_forward_pre_hook(flattened)
    (found,) = watched(model, 65)
    assert (found.cause, found.layers) == ("learning-rate", ("2",))


def zero_head() -> nn.Sequential:
    model = net(nn.Linear(16, 4))
    nn.init.zeros_(model[2].weight)
    return model


@pytest.mark.parametrize("model", [net(nn.Linear(16, 4)), zero_head()], ids=["usual", "zero-head"])
def test_what_differs_is_left_in_peace(model: nn.Module) -> None:
    assert watched(model) == ()


def test_a_norm_over_the_only_feature_of_the_input() -> None:
    """The first layer: none before it tells the samples apart, and none can behind it."""

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.rest = nn.LayerNorm(1), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.norm(x[..., None])[..., 0])  # type: ignore[no-any-return]

    (found,) = watched(First())
    assert (found.cause, found.layers) == ("normalisation", ("norm",))


def test_a_check_up_is_told_of_norms_only() -> None:
    x, y = torch.randn(32, 8), torch.randint(0, 4, (32,))
    names = {
        kind: {f.name for f in gradwatch.diagnose(model, F.cross_entropy, (x, y)).findings}
        for kind, model in (("norm", norm_over_one()), ("head", zero_head()))
    }
    assert "constant-output" in names["norm"]
    assert "constant-output" not in names["head"]
