"""Running statistics of batch norms: the divergence against torch's own, and nothing changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

import gradwatch
from gradwatch.core.record import Record
from gradwatch.instrument.running import drift


def test_it_is_the_divergence_of_two_normal_distributions() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5)
    norm.running_mean = torch.randn(5)
    norm.running_var = torch.rand(5) + 0.5
    batch = 3 * torch.randn(64, 5) + 1
    own = Normal(batch.mean(0), (batch.var(0, correction=0) + norm.eps).sqrt())
    running = Normal(norm.running_mean, (norm.running_var + norm.eps).sqrt())
    found = drift(norm, (batch,))
    assert found is not None
    assert float(found) == pytest.approx(float(kl_divergence(own, running).median()), rel=1e-4)


def test_a_channel_that_is_constant_tells_nothing() -> None:
    found = drift(nn.BatchNorm2d(1), (torch.full((4, 1, 3, 3), 7.0),))
    assert found is not None and float(found) == 0


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm1d(5).eval(),
        nn.BatchNorm1d(5, track_running_stats=False),
        nn.LazyBatchNorm1d(),
        nn.LayerNorm(5),
        nn.BatchNorm1d(4),
    ],
)
def test_what_has_no_running_statistics_of_the_batch_is_left_alone(module: nn.Module) -> None:
    assert drift(module, (torch.randn(8, 5),)) is None
    assert drift(module, ()) is None


def test_an_exam_measures_it_and_changes_no_statistics() -> None:
    found: list[Record] = []
    buffers = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watcher = gradwatch.watch(model, optimizer, strict=True) if watched else None
        for _ in range(3):
            loss = model(torch.randn(16, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if watcher is not None:
            watcher.close()
            found += watcher.history.records
        buffers.append(torch.cat([b.float().reshape(-1) for b in model.buffers()]))
    assert torch.equal(*buffers)
    drifts = [{c.layer.name: c.drift for c in record.calls} for record in found]
    assert all(one["1"] is not None and one["0"] is None and one["2"] is None for one in drifts)
    assert (drifts[0]["1"] or 0) > (drifts[2]["1"] or 0)
