"""The network that gradwatch began with: its forward pass, its backward pass, its claims.

A text on vanishing gradients shows a 3-4-1 network in NumPy, fed with the exclusive or of two
bits, names the sigmoid as the culprit and lists remedies. It never trains the network. This does:

    python examples/documents_network.py [--log-dir DIR] [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

import gradwatch

Array = NDArray[np.float64]
Weights = tuple[Array, Array, Array, Array]
MakeOptimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]

X: Array = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], np.float64)
Y: Array = np.array([[0], [1], [1], [0]], np.float64)

THRESHOLD = 0.1  # of the cross-entropy, in nats: all four answers are right, with some certainty
WIDTH = 16  # of hidden layers in parts (c) and (d): of 4 ReLU units too often all die
DEPTHS = (1, 2, 5, 10, 20)
SICK = 20  # hidden sigmoid layers of the patient in part (d)

console = Console()


# --- (a) the forward pass -----------------------------------------------------------------------


def sigmoid(z: Array) -> Array:
    """Return the logistic function of each element."""
    return 1 / (1 + np.exp(-z))


def relu(z: Array) -> Array:
    """Return the positive part of each element."""
    return np.maximum(0, z)


def document_weights(seed: int) -> Weights:
    """Draw weights and biases as the text does: `np.random.rand`, uniform between 0 and 1."""
    rand = np.random.RandomState(seed).rand
    return rand(3, 4), rand(1, 4), rand(4, 1), rand(1, 1)


def forward(weights: Weights) -> tuple[Array, Array, Array]:
    """Return what the hidden units receive, what they give, and the four outputs."""
    w1, b1, w2, b2 = weights
    z1 = X @ w1 + b1
    a1 = relu(z1)
    return z1, a1, sigmoid(a1 @ w2 + b2)


def part_a(seeds: int) -> Array:
    """Show that the untrained outputs are near 1 whatever the seed, and why."""
    console.rule("(a) NumPy, forward: why all outputs are near 1")
    outputs = np.stack([forward(document_weights(seed))[2][:, 0] for seed in range(seeds)])
    # All weights, biases and inputs are at least 0, so ReLU changes nothing, and with E[rand] = 1/2
    # E[hidden] = (sum of x + 1)/2 and E[z] = 4 E[hidden]/2 + 1/2.
    expected = X.sum(1) + 1 + 0.5
    table = Table("input", "wanted", "seed 0", f"lowest of {seeds}", "median", "E[z]", "sigmoid")
    for i, x in enumerate(X):
        numbers = (outputs[0, i], outputs[:, i].min(), np.median(outputs[:, i]))
        closed = (f"{expected[i]:.1f}", f"{sigmoid(expected[i]):.3f}")
        table.add_row(str(x.astype(int)), f"{Y[i, 0]:.0f}", *map("{:.3f}".format, numbers), *closed)
    console.print(table)
    console.print(
        "Weights and biases from np.random.rand are positive and the inputs are not negative: what "
        "the output unit receives is a sum of positive numbers, E[z] on average, and never "
        "below 0. No output can be under 0.5, whatever was wanted. ReLU never cuts anything off.\n"
    )
    return outputs


# --- (b) the backward pass ----------------------------------------------------------------------


def sigmoid_derivative(a: Array) -> Array:
    """Return the sigmoid's slope from its output, as the text has it."""
    return a * (1 - a)


def relu_derivative(z: Array) -> Array:
    """Return ReLU's slope from its input, as the text has it: 1 above 0, else 0."""
    return np.where(z > 0, 1.0, 0.0)


def backward(weights: Weights) -> Weights:
    """Return the gradients of half the summed squared error, by hand."""
    z1, a1, output = forward(weights)
    at_z2 = (output - Y) * sigmoid_derivative(output)
    at_z1 = at_z2 @ weights[2].T * relu_derivative(z1)
    return X.T @ at_z1, at_z1.sum(0, keepdims=True), a1.T @ at_z2, at_z2.sum(0, keepdims=True)


def part_b(seed: int = 0, rate: float = 0.1) -> dict[str, float]:
    """Compare gradients, a training step and predictions with PyTorch's autograd, in float64."""
    console.rule("(b) NumPy, backward: the same as autograd")
    # Weights around 0, so that ReLU has something to cut off.
    weights: Weights = tuple(w - 0.5 for w in document_weights(seed))  # type: ignore[assignment]
    by_hand = backward(weights)
    stepped: Weights = tuple(  # type: ignore[assignment]
        w - rate * g for w, g in zip(weights, by_hand, strict=True)
    )

    tensors = [torch.tensor(w, requires_grad=True) for w in weights]
    x, y = torch.tensor(X), torch.tensor(Y)

    def predict() -> torch.Tensor:
        w1, b1, w2, b2 = tensors
        return torch.sigmoid(torch.relu(x @ w1 + b1) @ w2 + b2)

    before = predict()
    (0.5 * (before - y).square().sum()).backward()
    torch.optim.SGD(tensors, lr=rate).step()

    def largest(ours: tuple[Array, ...], theirs: list[torch.Tensor]) -> float:
        pairs = zip(ours, theirs, strict=True)
        return max(float(np.abs(a - b.detach().numpy()).max()) for a, b in pairs)

    differences = {
        "predictions": largest((forward(weights)[2],), [before]),
        "gradients": largest(by_hand, [t.grad for t in tensors if t.grad is not None]),
        "weights after a step": largest(stepped, tensors),
        "predictions after it": largest((forward(stepped)[2],), [predict()]),
    }
    table = Table("NumPy against PyTorch", "largest difference")
    for what, difference in differences.items():
        assert difference < 1e-10, f"{what} differ by {difference}"
        table.add_row(what, f"{difference:.1e}")
    console.print(table, "")
    return differences


# --- (c) what the text claims: sigmoid against ReLU ---------------------------------------------


@dataclass(frozen=True)
class Training:
    """What became of one training."""

    steps: int | None
    """Steps until the loss was under the threshold; None for never."""
    loss: float
    first: gradwatch.Report
    """After the first step."""
    last: gradwatch.Report

    @property
    def bits(self) -> float:
        """Bits that the gradient gains (loses, below 0) from the output to the first layer."""
        return self.first.ledger.total

    @property
    def outcome(self) -> str:
        """Steps to the threshold, or never and where the loss stands."""
        return str(self.steps) if self.steps is not None else f"never ({self.loss:.2f})"


def network(depth: int, hidden: type[nn.Module], width: int = WIDTH) -> nn.Sequential:
    """Return 3 inputs, `depth` hidden layers and a sigmoid output, always from the same seed."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else 3, width), hidden()]
    return nn.Sequential(*layers, nn.Linear(width, 1), nn.Sigmoid())


def descent(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Plain gradient descent, the text's method."""
    return torch.optim.SGD(parameters, lr=0.5)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, log_dir: Path | None
) -> Training:
    """Train on the four rows until the loss is under the threshold, watched."""
    x, y = torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32)
    loss_fn = nn.BCELoss()
    reached, first = None, None
    with gradwatch.watch(
        model, optimizer, loss_fn=loss_fn, log_dir=log_dir, every_n_steps=200, trace_forward=False
    ) as watcher:
        for step in range(steps):
            loss = loss_fn(model(x), y)
            if loss.item() < THRESHOLD:
                reached = step
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            first = first or watcher.report()
    last = watcher.report()
    return Training(reached, loss.item(), first or last, last)


def part_c(steps: int, log_dir: Path | None, depths: tuple[int, ...] = DEPTHS) -> dict[str, Any]:
    """Train with sigmoid and with ReLU hidden layers at several depths; compare."""
    console.rule("(c) Sigmoid against ReLU, at several depths")
    trainings: dict[str, Training] = {}
    table = Table("hidden layers", title=f"Steps until the loss is under {THRESHOLD}")
    for kind in ("Sigmoid", "ReLU"):
        table.add_column(f"{kind}: bits", justify="right")
        table.add_column("steps", justify="right")
        table.add_column("gradwatch says")
    for depth in depths:
        row = [str(depth)]
        for kind in (nn.Sigmoid, nn.ReLU):
            name = f"{kind.__name__}-{depth}"
            model = network(depth, kind)
            folder = log_dir / name if log_dir else None
            training = train(model, descent(model.parameters()), steps, folder)
            trainings[name] = training
            row += [f"{training.bits:+.1f}", training.outcome, _says(training.last)]
        table.add_row(*row)
    console.print(table)
    deepest = depths[-1]
    bars = gradients(Sigmoid=trainings[f"Sigmoid-{deepest}"], ReLU=trainings[f"ReLU-{deepest}"])
    console.print(bars, "")
    return trainings


def _says(report: gradwatch.Report) -> str:
    worst = report.findings[0] if report.findings else None
    return "healthy" if worst is None else f"{worst.severity}: {worst.name} ({worst.cause})"


def gradients(**trainings: Training) -> Table:
    """Return the norms of the weights' gradients at the first step, layer by layer, as bars."""
    table = Table("weight", title="Gradient of each layer's weights at the first step, as 2^n")
    columns: list[list[str]] = []
    for name, training in trainings.items():
        record = training.first.record
        assert record is not None
        weights = [p for p in record.parameters if p.gradient and p.name.endswith("weight")]
        levels = [np.log2(w.gradient.norm) if w.gradient else -np.inf for w in weights]
        table.add_column(f"{name}: n", justify="right")
        table.add_column(f"{name} (a block is 3 bits, the longest bar 2^0)")
        columns = columns or [[w.name for w in weights]]
        columns += [[f"{n:.1f}" for n in levels], ["█" * round(21 + n / 3) for n in levels]]
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


# --- (d) the remedies, as gradwatch prescribes them ---------------------------------------------

PAIRS = (
    ("swap-activation-relu", "he-init"),
    ("swap-activation-prelu", "he-init"),
    ("swap-activation-relu", "batch-norm"),
    ("swap-activation-relu", "residual"),
    ("batch-norm", "residual"),
)
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "gradient descent": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}


def treated(report: gradwatch.Report, remedies: tuple[str, ...], depth: int) -> nn.Sequential:
    """Return a new sick network after the code that the report prescribes was executed on it."""
    model = network(depth, nn.Sigmoid)
    for remedy in remedies:
        [code] = [p.code for p in report.prescriptions if p.remedy == remedy]
        exec(code, {"torch": torch, "model": model})
    return model


def part_d(
    sick: gradwatch.Report, depth: int, steps: int, log_dir: Path | None
) -> dict[str, dict[str, Training]]:
    """Apply each prescription to the sick network, and the usual pairs; train, and compare."""
    console.rule(f"(d) What gradwatch prescribes for {depth} sigmoid layers, tried")
    prescribed = [p.remedy for p in sick.prescriptions if p.runnable and not p.per_step]
    arms: list[tuple[str, ...]] = [(), *((remedy,) for remedy in prescribed)]
    arms += [pair for pair in PAIRS if set(pair) <= set(prescribed)]
    table = Table("remedy", title=f"Steps until the loss is under {THRESHOLD}, of {steps}")
    table.add_column("bits", justify="right")
    for name in OPTIMIZERS:
        table.add_column(name, justify="right")
        table.add_column("loss", justify="right")
    results: dict[str, dict[str, Training]] = {}
    for arm in arms:
        title = " + ".join(arm) or "(none)"
        results[title] = {}
        for name, make in OPTIMIZERS.items():
            model = treated(sick, arm, depth)
            folder = log_dir / f"{title} {name}".replace(" ", "_") if log_dir else None
            results[title][name] = train(model, make(model.parameters()), steps, folder)
        row = [f"{next(iter(results[title].values())).bits:+.1f}"]
        for training in results[title].values():
            row += ["never" if training.steps is None else str(training.steps)]
            row += [f"{training.loss:.3f}"]
        table.add_row(title, *row)
    console.print(table)
    for note in sick.notes:
        console.print(note, markup=False)
    return results


def main() -> None:
    part_a(1000)
    part_b()
    c = part_c(1000, None)
    part_d(c["Sigmoid-20"].last, 20, 500, None)

if __name__ == "__main__":
    main()
