"""Handwritten digits, learned by a plain PyTorch loop: gradwatch is the three marked lines.

The network is sick unless told otherwise, so that there is something to see. Healthy:

    python examples/plain_pytorch.py --activation ReLU --depth 4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import gradwatch  # <- added (1)
from gradwatch.data import digits

WIDTH = 64  # units of a layer, and pixels of an image
ACTIVATIONS = ("Sigmoid", "Tanh", "ReLU", "LeakyReLU", "GELU")
TRAINING_IMAGES = 1_500  # the other 297 are for the test


def build(depth: int, activation: str) -> nn.Sequential:
    """Return a network of `depth` linear layers with the activation between them."""
    layers: list[nn.Module] = [nn.Flatten()]  # 8x8 pixels
    for _ in range(depth - 1):
        layers += [nn.Linear(WIDTH, WIDTH), getattr(nn, activation)()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, log_dir: Path) -> None:
    """Train with stochastic gradient descent, as one would without gradwatch."""
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    with gradwatch.watch(model, optimizer, loss_fn=loss_fn, log_dir=log_dir) as watcher:  # <- (2)
        for _ in range(epochs):
            for batch in torch.randperm(len(images)).split(50):
                loss = loss_fn(model(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    print(watcher.report())  # <- added (3)


def main() -> None:
    """Train, then say what was seen and how well the network does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--depth", type=int, default=10, help="linear layers (%(default)s)")
    parser.add_argument("--activation", default="Sigmoid", choices=ACTIVATIONS)
    parser.add_argument("--epochs", type=int, default=15, help="of 30 steps each (%(default)s)")
    parser.add_argument("--log-dir", type=Path, default=Path("runs/digits"), help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="two epochs, to try that it runs")
    options = parser.parse_args()

    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, digits())
    train_images, test_images = images[:TRAINING_IMAGES], images[TRAINING_IMAGES:]
    train_labels, test_labels = labels[:TRAINING_IMAGES], labels[TRAINING_IMAGES:]
    model = build(options.depth, options.activation)

    epochs = 2 if options.quick else options.epochs
    train(model, train_images, train_labels, epochs, options.log_dir)

    with torch.no_grad():
        right = (model(test_images).argmax(1) == test_labels).float().mean().item()
    print(f"{right:.0%} of the {len(test_images)} test images are recognised (chance: 10%).")
    print(f"See it in TensorBoard: tensorboard --logdir {options.log_dir}")


if __name__ == "__main__":
    main()
