"""A vision transformer learns handwritten digits: with the Trainer of transformers, and in a plain
loop of accelerate. Both are watched. A sick one:

    python examples/huggingface_trainer.py --learning-rate 3

Needs: pip install 'gradwatch[huggingface]'. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import gradwatch
from gradwatch.data import digits
from gradwatch.huggingface import GradWatch

TRAINING_IMAGES = 1_500  # the other 297 are for the test

Example = dict[str, Any]


def examples() -> list[Example]:
    """Return all images of 8x8 pixels, as the model wants them."""
    images, labels = map(torch.from_numpy, digits())
    images = (images - images.mean()) / images.std()
    return [
        {"pixel_values": image.reshape(1, 8, 8), "labels": label}
        for image, label in zip(images, labels, strict=True)
    ]


def build() -> ViTForImageClassification:
    """Return a tiny vision transformer with random weights."""
    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            initializer_range=32**-0.5,
            id2label={digit: str(digit) for digit in range(10)},
        )
    )


def with_trainer(train: list[Example], options: argparse.Namespace) -> ViTForImageClassification:
    """Train with the Trainer: gradwatch is one callback."""
    model = build()
    trainer = Trainer(
        model,
        TrainingArguments(
            str(options.output_dir / "trainer"),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=25,
            gradient_accumulation_steps=2,
            learning_rate=options.learning_rate,
            max_grad_norm=1.0,
            logging_steps=10,
            save_strategy="no",
            report_to="tensorboard",  # gradwatch writes to the same run
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=train,
        callbacks=[GradWatch()],  # <- added
    )
    trainer.train()
    return model


def with_accelerate(train: list[Example], options: argparse.Namespace) -> ViTForImageClassification:
    """Train in a loop of one's own: gradwatch wants the model and the optimizer within."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer, loader = accelerator.prepare(
        original := build(),
        torch.optim.AdamW(original.parameters(), lr=options.learning_rate),
        DataLoader(train, batch_size=25, shuffle=True),  # type: ignore[arg-type]
    )
    with gradwatch.watch(  # <- added
        accelerator.unwrap_model(model),
        optimizer.optimizer,
        scaler=accelerator.scaler,
        log_dir=options.output_dir / "accelerate",
    ) as watcher:
        for _ in range(options.epochs):
            for batch in loader:
                with accelerator.accumulate(model):
                    loss = model(**batch).loss
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                if accelerator.sync_gradients:
                    watcher.step(loss)  # <- added: progress is judged on the loss
    print(watcher.report())  # <- added
    return original


def recognised(model: ViTForImageClassification, test: list[Example]) -> float:
    """Return the share of the test images that the model gets right."""
    images = torch.stack([example["pixel_values"] for example in test])
    model.train(False)
    with torch.no_grad():
        guesses = model(images).logits.argmax(1).numpy()
    return float(np.mean(guesses == np.asarray([example["labels"] for example in test])))


def main() -> None:
    """Train both ways, and say how well each network does."""
    parser = argparse.ArgumentParser(description="Watch a Trainer and a loop of accelerate.")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="of 30 steps each (%(default)s)")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/vit"), help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one epoch, to try that it runs")
    options = parser.parse_args()
    options.epochs = 1 if options.quick else options.epochs

    torch.set_num_threads(1)  # more are slower for a model as small as this
    torch.manual_seed(0)
    data = examples()
    train, test = data[:TRAINING_IMAGES], data[TRAINING_IMAGES:]
    for way in (with_trainer, with_accelerate):
        model = way(train, options)
        share = recognised(model, test)
        print(f"{share:.0%} of the {len(test)} test images are recognised (chance: 10%).\n")


if __name__ == "__main__":
    main()
