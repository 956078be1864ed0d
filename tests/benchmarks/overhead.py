"""What watching costs, as a share of the plain step.

Machines are shared and noisy, so nothing is compared across runs: the time spent inside gradwatch
is taken out of the very step that it is divided by (process time, one thread), and what others do
with the same gradients is measured in turn in the same steps. The floor is one read of all
gradients, `torch._foreach_norm`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from gradwatch.watcher import Watcher
from tests.zoo.trainings import resnet

CLOCK = time.process_time


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 8, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


def workloads(*, quick: bool) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield the models: a worst case (few operations a gradient byte) and two typical ones."""
    width, depth = (128, 8) if quick else (512, 20)
    layers = [module for _ in range(depth) for module in (nn.Linear(width, width), nn.ReLU())]
    yield f"MLP {depth} x {width}, batch 128", nn.Sequential(*layers), torch.randn(128, width)
    width, depth, length = (64, 2, 32) if quick else (512, 6, 128)
    blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
    yield f"GPT {depth} x {width}, 4 x {length}", blocks, torch.randn(4, length, width)
    width = 8 if quick else 64
    yield f"ResNet-18 width {width}, batch 32", resnet(width), torch.randn(32, 1, 8, 8)


class Stopwatch:
    """Adds up the time spent in gradwatch, the outermost of nested calls only."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._inside = False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            if self._inside:
                return function(*args)
            self._inside = True
            began = CLOCK()
            try:
                return function(*args)
            finally:
                self.spent += CLOCK() - began
                self._inside = False

        return wrapper


@contextmanager
def timing(stopwatch: Stopwatch) -> Iterator[None]:
    """Have every entry of a new watcher timed."""
    guarded = Watcher._guarded
    Watcher._guarded = lambda self, function: stopwatch.timed(guarded(self, function))  # type: ignore[method-assign]
    try:
        yield
    finally:
        Watcher._guarded = guarded  # type: ignore[method-assign]


def naive(model: nn.Module, writer: SummaryWriter, step: int) -> None:
    """What is written by hand first: six numbers of each gradient, each fetched by itself."""
    for parameter in model.parameters():
        g = parameter.grad
        assert g is not None
        for value in (g.norm(), g.mean(), g.std(), g.abs().max(), g.isnan().any(), (g == 0).sum()):
            value.item()


def histograms(model: nn.Module, writer: SummaryWriter, step: int) -> None:
    """TensorBoard's own histogram of each gradient."""
    for name, parameter in model.named_parameters():
        writer.add_histogram(name, parameter.grad, step)


def floor(model: nn.Module, writer: SummaryWriter, step: int) -> None:
    """One read of all gradients."""
    torch._foreach_norm([p.grad for p in model.parameters()])


def measure(model: nn.Module, inputs: Tensor, rounds: int) -> dict[str, list[float]]:
    """Return each contestant's share of the plain step, round by round."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    shares: dict[str, list[float]] = {}

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).square().mean().backward()

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        for i in range(rounds):
            for name, peer in (("floor", floor), ("naive", naive), ("add_histogram", histograms)):
                began = CLOCK()
                step()
                middle = CLOCK()
                peer(model, writer, i)
                extra = CLOCK() - middle
                optimizer.step()
                shares.setdefault(name, []).append(extra / (CLOCK() - began - extra))
            for name, examined, traced in (
                ("pulse, gradients only", False, False),
                ("pulse", False, True),
                ("exam", True, True),
            ):
                stopwatch = Stopwatch()
                with timing(stopwatch):
                    watcher = Watcher(
                        model, optimizer, detectors=(), trace_forward=traced, strict=True
                    )
                if not examined:
                    watcher._examination.close()  # type: ignore[union-attr]
                    watcher._examination = None
                watcher._step = 3  # after this step no exam is due
                began = CLOCK()
                step()
                optimizer.step()
                whole = CLOCK() - began
                shares.setdefault(name, []).append(stopwatch.spent / (whole - stopwatch.spent))
                watcher.close()
    return shares


def main(*, quick: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table(title="Time in addition to the plain step: median [quartiles]")
    table.add_column("model")
    for model_name, model, inputs in workloads(quick=quick):
        shares = measure(model, inputs, 5 if quick else 11)
        cells = []
        for values in shares.values():
            low, median, high = statistics.quantiles(values, n=4)
            cells.append(f"{median:.1%} [{low:.1%} {high:.1%}]")
        if len(table.columns) == 1:
            for name in shares:
                table.add_column(name)
        table.add_row(model_name, *cells)
    Console(width=140).print(table)
    Console().print(
        "An exam is due at steps 0, 1, 2, 5, 10, 20 and every 50th: a fiftieth of its share is "
        "what it costs a long run. The parts not timed are the calls of Python's hooks themselves."
    )
