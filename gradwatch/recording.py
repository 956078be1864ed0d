"""What a trial needs of a training that a framework runs: how it began, and its first batches."""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gradwatch.checking.batch import TrainingStep, WrongValue
from gradwatch.core.verdict import Verdicts
from gradwatch.trials import trial
from gradwatch.trying.bar import BUDGET, bar
from gradwatch.trying.optimizers import remade

BATCHES: Final = 16
"""Batches that are kept."""


def budget_of(try_remedies: bool | float) -> float | None:
    """Return the seconds that `try_remedies` asks for, None for no trial; raises `ValueError`."""
    if try_remedies is True or try_remedies is False:
        return BUDGET if try_remedies else None
    if not isinstance(try_remedies, int | float) or not try_remedies > 0:
        raise WrongValue(
            f"try_remedies must be True, False or a number of seconds, got {try_remedies!r}"
        )
    return float(try_remedies)


class Recording:
    """The beginning of a training, in the host's memory: weights, optimizer, the first batches."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._born = _to_host(model.state_dict())
        self._optimizer = remade(optimizer, model)
        self._batches: list[Any] = []

    @property
    def full(self) -> bool:
        """Whether no more batches are wanted."""
        return len(self._batches) >= BATCHES

    def keep(self, batch: Any) -> None:
        """Keep a copy of a batch, as long as there are few."""
        if not self.full:
            self._batches.append(_to_host(batch))

    def trial(
        self,
        model: nn.Module,
        training_step: TrainingStep | None,
        seconds: float,
        log_dir: str | None = None,
    ) -> Verdicts:
        """Try remedies on copies of the model as it was when the training began."""
        device = next(model.parameters()).device
        copied = copy.deepcopy(model)
        copied.load_state_dict(self._born)
        batches = [tree_map_only(Tensor, lambda t: t.to(device), one) for one in self._batches]
        with bar(seconds) as on_step:
            return trial(
                copied,
                None,
                batches,
                optimizer=self._optimizer,
                budget=seconds,
                training_step=training_step,
                on_step=on_step,
                log_dir=log_dir,
            )


def _to_host(values: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t.detach().to("cpu", copy=True), values)
