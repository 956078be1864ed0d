"""A case of the corpus: a small training that is labelled by what happens to it.

A sick one does not reach its threshold within its steps, and with its known cure it does; a healthy
one does. Nothing is labelled by what its gradients look like: that is for the detectors to find.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gradwatch


@dataclass
class Trial:
    """A training that is set up: what it consists of, and how to make one step of it."""

    model: nn.Module
    """All that is watched; a GAN is one module that holds two."""
    optimizers: list[torch.optim.Optimizer]
    step: Callable[[int], Tensor]
    """Does one whole step (forward, backward, optimizer) and returns the loss, not averaged."""
    scaler: torch.amp.GradScaler | None = None
    score: Callable[[], float] | None = None
    """What is judged at the end, the smaller the better; the mean of the latest losses if None."""
    sample: Callable[[], tuple[Tensor, Tensor]] | None = None
    """Draws a batch of inputs and targets, where a step does nothing but `loss_fn(model(inputs),
    targets)`, backward and the optimizer's step: then it can be handed to `gradwatch.trial`."""
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Case:
    """One training of the corpus."""

    name: str
    family: str
    """One of `FAMILIES`."""
    build: Callable[[], Trial]
    """Sets it up; the global seed is set before."""
    threshold: float
    """What the score has to get below."""
    steps: int = 100
    cure: Callable[[], Trial] | None = None
    """The same training with its known fix: makes the case a sick one."""
    finding: str = ""
    """Of a sick one: the name of the finding that a detector should give."""
    cause: str = ""
    """Of a sick one: the cause that it should name."""
    layers: tuple[str, ...] = ()
    """Of a sick one: where the fault is, as names of modules; empty when it is everywhere."""
    also: frozenset[str] = frozenset()
    """Of a sick one: other names of findings that are right, too. One fault shows in several ways,
    and any of these names it: each is true of this training, as the comment beside it says."""
    causes: frozenset[str] = frozenset()
    """Of a sick one: other causes that are as true: to remove one of them was seen to cure this
    training, for three seeds, as the comment beside it says."""
    onset: int = 0
    """Step at which the fault begins."""
    at_init: bool | None = None
    """Whether an exam of step 0 can show the fault; by its onset and its cause if None."""
    source: str = ""
    """Where such a failure was reported: a paper, an issue, a forum thread."""
    tags: frozenset[str] = field(default_factory=frozenset)

    @property
    def sick(self) -> bool:
        """Whether it is a training that fails."""
        return self.cure is not None

    @property
    def right_names(self) -> frozenset[str]:
        """Every name of a finding that is right."""
        return self.also | {self.finding}

    @property
    def right_causes(self) -> frozenset[str]:
        """Every cause that is right."""
        return self.causes | {self.cause}

    @property
    def born(self) -> bool:
        """Whether the fault is there before the first update: a prediction can be asked for."""
        if not self.sick or self.onset:
            return False
        return self.cause in BORN if self.at_init is None else self.at_init

    @property
    def held_out(self) -> bool:
        """Whether it belongs to the half that detectors are not developed on: by its name."""
        return sum(self.name.encode()) % 2 == 1


BORN = frozenset(
    {
        "activation",
        "data-scale",
        "depth",
        "disconnection",
        "init",
        "normalisation",
        "numerics",
        "time",
    }
)
"""Causes that lie in the model or in its data, and not in what is done with the gradients: the
fault is there at step 0, unless the case says otherwise."""

FAMILIES = (
    "depth",
    "activation",
    "init",
    "normalisation",
    "recurrent",
    "transformer",
    "gan",
    "vae",
    "reinforcement",
    "embedding",
    "mixture-of-experts",
    "frozen-and-lora",
    "multi-task",
    "precision",
    "learning-rate",
    "saturated-output",
    "data-scale",
    "numerics",
    "disconnected",
    "optimizer",
    "converged",
    "transient",
)


@dataclass(frozen=True)
class Outcome:
    """What became of a training."""

    score: float
    losses: tuple[float, ...]
    watcher: gradwatch.Watcher | None = None


def train(
    build: Callable[[], Trial], steps: int, *, seed: int = 0, watch: bool = False, **options: Any
) -> Outcome:
    """Run a training, watched or not, and return its outcome."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    trial = build()
    watcher = None
    if watch:
        watcher = gradwatch.watch(
            trial.model, trial.optimizers, scaler=trial.scaler, strict=True, **options
        )
    losses = []
    for i in range(steps):
        loss = trial.step(i)
        if watcher is not None:
            watcher.step(loss)
        losses.append(float(loss.detach()))
    if watcher is not None:
        watcher.close()
    return Outcome(_score(trial, losses), tuple(losses), watcher)


def _score(trial: Trial, losses: list[float]) -> float:
    if trial.score is not None:
        with torch.no_grad():
            score = trial.score()
    else:
        score = median(losses[-max(5, len(losses) // 10) :])
    return score if math.isfinite(score) else math.inf
