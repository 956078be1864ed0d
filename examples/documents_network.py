"""The network that gradwatch began with: its forward pass, its backward pass, its claims.

A text on vanishing gradients shows a 3-4-1 network in NumPy, fed with the exclusive or of two
bits, names the sigmoid as the culprit and lists remedies. It never trains the network. This does:

    python examples/documents_network.py [--log-dir DIR] [--quick]
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

import gradwatch
from gradwatch.core import catalog

Array = NDArray[np.float64]
Weights = tuple[Array, ...]  # of the hidden layer: weights, biases; of the output: the same
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

X: Array = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], np.float64)
Y: Array = np.array([[0], [1], [1], [0]], np.float64)

THRESHOLD = 0.1  # of the cross-entropy, in nats: all four answers are right, with some certainty
STEPS = f"Steps until the loss is under {THRESHOLD}"
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
    # Nothing here is negative, so ReLU changes nothing, and the mean of rand is 1/2:
    # E[hidden] = (sum of x + 1) / 2, E[z] = 4 E[hidden] / 2 + 1/2.
    mean_z = X.sum(1) + 1.5
    table = Table("input", "wanted", "mean of z", "its sigmoid", "median output", "5 %", "95 %")
    for i, x in enumerate(X):
        numbers = [sigmoid(mean_z[i]), *np.quantile(outputs[:, i], [0.5, 0.05, 0.95])]
        shown = [f"{number:.3f}" for number in numbers]
        table.add_row(str(x.astype(int)), f"{Y[i, 0]:.0f}", f"{mean_z[i]:.1f}", *shown)
    console.print(table)
    console.print(
        "The text's run printed 0.936 to 0.992. np.random.rand draws weights and biases between 0 "
        "and 1, and the inputs are 0 or 1: what the output unit receives, z, is a sum of numbers "
        f"that are not negative. So no output can be below 0.5 (of {seeds} seeds the lowest is "
        f"{outputs.min():.3f}), whatever is wanted, and ReLU never cuts anything off.\n"
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
    weights = tuple(w - 0.5 for w in document_weights(seed))
    by_hand = backward(weights)
    stepped = tuple(w - rate * g for w, g in zip(weights, by_hand, strict=True))

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
    def row(self) -> tuple[str, str, str]:
        """Bits, steps and loss for a table."""
        steps = "never" if self.steps is None else str(self.steps)
        return f"{self.bits:+.1f}", steps, f"{self.loss:.3f}"


def network(depth: int, hidden: type[nn.Module], width: int = WIDTH) -> nn.Sequential:
    """Return 3 inputs, `depth` hidden layers and a sigmoid output, always from the same seed."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else 3, width), hidden()]
    return nn.Sequential(*layers, nn.Linear(width, 1), nn.Sigmoid())


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, log_dir: Path | None
) -> Training:
    """Train on the four rows until the loss is under the threshold, watched."""
    x, y = torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32)
    loss_fn = nn.BCELoss()
    reached, first = None, None
    with gradwatch.watch(
        model, optimizer, loss_fn=loss_fn, log_dir=log_dir, every_n_steps=250, trace_forward=False
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


def part_c(depths: Sequence[int], steps: int, log_dir: Path | None) -> dict[str, Training]:
    """Train with sigmoid and with ReLU hidden layers at several depths; compare."""
    console.rule("(c) Sigmoid against ReLU hidden layers, by gradient descent")
    trainings: dict[str, Training] = {}
    table = Table("hidden layers", "bits", "steps", "loss", "gradwatch says", title=STEPS)
    for depth, width in ((1, 4), *((depth, WIDTH) for depth in depths)):
        for kind in (nn.Sigmoid, nn.ReLU):
            name = f"{depth} x {width} {kind.__name__}"
            model = network(depth, kind, width)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            training = trainings[name] = train(model, optimizer, steps, folder(log_dir, name))
            table.add_row(name, *training.row, says(training.last))
    console.print(table)
    console.print(
        f"Never: not in {steps} steps. Bits: log2 of the gradient's norm at the first layer over "
        "that at the output, in the first step. A loss of 0.69 is that of always saying 1/2.\n"
    )
    deepest = {kind: trainings[f"{depths[-1]} x {WIDTH} {kind}"] for kind in ("Sigmoid", "ReLU")}
    console.print(gradients(deepest), "")
    return trainings


def folder(log_dir: Path | None, name: str) -> Path | None:
    """Return a training's own folder for TensorBoard."""
    return log_dir / name.replace(" ", "_") if log_dir else None


def says(report: gradwatch.Report) -> str:
    """Return the worst finding and its cause in short."""
    if not report.findings:
        return "healthy"
    worst = report.findings[0]
    cause = f" ({worst.cause})" if worst.cause else ""
    return f"{worst.severity}: {worst.name.removesuffix('-gradient')}{cause}"


def gradients(trainings: dict[str, Training]) -> Table:
    """Return the norms of the weights' gradients at the first step, layer by layer, as bars."""
    table = Table("weights", title="Norm of their gradient in the first step (█: 4 bits)")
    columns: list[list[str]] = []
    for name, training in trainings.items():
        assert training.first.record is not None
        parameters = training.first.record.parameters
        norms = {p.name: p.gradient.norm for p in parameters if p.gradient and len(p.shape) > 1}
        levels = np.log2(np.maximum(list(norms.values()), 2.0**-99))
        table.add_column(name, justify="right")
        table.add_column("")
        columns = columns or [list(norms)]
        columns += [[f"2^{n:.0f}" for n in levels], ["█" * round(17 + n / 4) for n in levels]]
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


# --- (d) the remedies, as gradwatch measures them -----------------------------------------------

TRIED = (
    *("swap-activation-relu", "swap-activation-leaky-relu", "swap-activation-prelu"),
    *("swap-activation-gelu", "he-init", "xavier-init", "batch-norm", "layer-norm", "residual"),
)
"""What textbooks name; gradwatch knows more."""
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "descent": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}


def part_d(
    depth: int, steps: int, budget: float, names: Sequence[str] = tuple(OPTIMIZERS)
) -> dict[str, gradwatch.Verdicts]:
    """Try each remedy of the textbooks on the sick network, alone and in pairs, with controls."""
    console.rule(f"(d) What helps {depth} sigmoid layers: remedies tried on copies")
    remedies = [remedy for remedy in catalog.remedies() if remedy.name in TRIED]
    batch = torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32)
    results: dict[str, gradwatch.Verdicts] = {}
    for name in names:
        verdicts = results[name] = gradwatch.trial(
            network(depth, nn.Sigmoid),
            nn.BCELoss(),
            [batch],
            optimizer=OPTIMIZERS[name],
            steps=steps,
            budget=budget,
            remedies=remedies,
            finalists=len(remedies),
        )
        console.print(f"By {name}:", style="bold")
        print(verdicts)
    console.print(
        "Loss: the median of three seeds, half of their spread behind it; 0.69 is that of always "
        "saying 1/2. Skill: the way from the best constant answer (0 %) to the right one. Bits: "
        "how many more of the gradient's reach the first layer than in the untreated copy. Each "
        "sigmoid takes 2 bits or more, so no initialisation alone cures them; Adam divides each "
        "gradient by its own size and so lives with fewer bits than plain gradient descent.\n"
    )
    return results


def main() -> None:
    """Show the four parts, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--log-dir", type=Path, default=Path("runs/documents-network"), help="(%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps, to try that it runs")
    options = parser.parse_args()
    log_dir: Path = options.log_dir
    torch.set_num_threads(1)  # four rows of data: a second thread only costs
    logging.getLogger("gradwatch").setLevel(logging.ERROR)  # the tables say what it found

    part_a(100 if options.quick else 1000)
    part_b()
    if options.quick:
        part_c([1, 8], 40, log_dir)
        part_d(8, 40, 10, ["Adam"])
    else:
        part_c(DEPTHS, 1000, log_dir)
        part_d(SICK, 300, 180)
    console.print(f"Curves: tensorboard --logdir {log_dir}", markup=False)


if __name__ == "__main__":
    main()
