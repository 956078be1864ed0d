"""Handwritten digits, learned by a Lightning Trainer: gradwatch is one callback.

Two networks are trained: a deep one of Sigmoids that learns nothing, ended as soon as gradwatch is
sure of it, and the same with what the report prescribes.

    python examples/lightning_trainer.py
    tensorboard --logdir runs/lightning
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradwatch.data import digits
from gradwatch.lightning import GradWatch

WIDTH = 64  # units of a layer, and pixels of an image
DEPTH = 10  # linear layers
TRAINING_IMAGES = 1_500  # the other 297 are for the test

# Of Lightning itself: the data are in memory, and torch has renamed what it asks.
warnings.filterwarnings("ignore", ".*does not have many workers")
warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)


class Digits(L.LightningModule):
    """A network of linear layers with an activation between them, as one would write it."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]  # 8x8 pixels
        for _ in range(DEPTH - 1):
            layers += [nn.Linear(WIDTH, WIDTH), activation()]
        self.net = nn.Sequential(*layers, nn.Linear(WIDTH, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        right = self.net(images).argmax(1) == labels
        self.log("accuracy", right.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def repaired() -> Digits:
    """Return the network with what was prescribed: ReLU, and He's init for it."""
    model = Digits(nn.ReLU)
    for layer in model.net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return model


def train(name: str, model: Digits, epochs: int, log_dir: Path) -> None:
    """Train, and say how well it does."""
    images, labels = map(torch.from_numpy, digits())
    data = TensorDataset(images, labels)
    training = torch.utils.data.Subset(data, range(TRAINING_IMAGES))
    test = torch.utils.data.Subset(data, range(TRAINING_IMAGES, len(data)))
    trainer = L.Trainer(
        callbacks=[GradWatch(stop_on="critical")],  # <- all that is added
        logger=TensorBoardLogger(log_dir, name=name, version=""),
        max_epochs=epochs,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(model, DataLoader(training, 50, shuffle=True), DataLoader(test, 297))
    accuracy = trainer.callback_metrics["accuracy"]
    print(f"\n{name}: {accuracy:.0%} of the test images are recognised (chance: 10%).\n")


def main() -> None:
    """Train the sick network, then the repaired one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=15, help="of 30 steps each (%(default)s)")
    parser.add_argument(
        "--log-dir", type=Path, default=Path("runs/lightning"), help="(%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="two epochs, to try that it runs")
    options = parser.parse_args()
    epochs = 2 if options.quick else options.epochs
    L.seed_everything(0, verbose=False)
    train("sick", Digits(nn.Sigmoid), epochs, options.log_dir)
    train("repaired", repaired(), epochs, options.log_dir)
    print(f"Both side by side: tensorboard --logdir {options.log_dir}")


if __name__ == "__main__":
    main()
