"""What a model's answers are worth is known in whatever shape it returns them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch

SHAPES: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "as it is": ((24, 8), lambda y: y),
    "view": ((24, 8), lambda y: y.view(24, 5)),
    "flatten": ((4, 6, 8), lambda y: y.flatten(0, 1)),
    "view of more": ((4, 6, 8), lambda y: y.view(-1, 5)),
    "squeeze": ((24, 1, 8), lambda y: y.squeeze(1)),
    "view of a view": ((4, 6, 8), lambda y: y.unsqueeze(0).flatten(0, 2)),
    "reshape": ((2, 3, 4, 8), lambda y: y.reshape(24, 5)),
    "slice": ((24, 3, 8), lambda y: y[:, 0]),
    "transpose": ((2, 12, 8), lambda y: y.transpose(0, 1).reshape(24, 5)),
    "in place": ((4, 6, 8), lambda y: torch.relu_(y).flatten(0, 1)),
}


class Shaped(nn.Module):
    def __init__(self, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.shape = nn.Linear(8, 5), shape

    def forward(self, x: Tensor) -> Tensor:
        return self.shape(self.head(x))


@pytest.mark.parametrize("name", SHAPES)
def test_every_view(name: str) -> None:
    torch.manual_seed(0)
    size, shape = SHAPES[name]
    model, x, labels = Shaped(shape), torch.randn(size), torch.randint(0, 5, (24,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.watch(model, optimizer, strict=True, detectors=[]) as watcher:
        y = model(x)
        loss = F.cross_entropy(y, labels)
        loss.backward()
        optimizer.step()
        watcher.step(loss)
    answer = watcher.history.records[0].answer
    assert answer is not None
    assert answer.kind == "cross-entropy"
    assert answer.loss == pytest.approx(loss.item(), rel=1e-4)
    outermost = watcher.history.records[0].calls[0]
    assert outermost.grad_output is not None
    (gradient,) = torch.autograd.grad(
        F.cross_entropy(leaf := y.detach().requires_grad_(), labels), leaf
    )
    assert outermost.grad_output.norm == pytest.approx(gradient.norm().item(), rel=1e-4)
