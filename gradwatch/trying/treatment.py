"""Carrying out prescriptions: the code that is shown is the code that is run."""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType
from typing import Any

import torch
from torch import nn

from gradwatch.checking.batch import LossFn
from gradwatch.core.remedy import CannotApply, Prescription
from gradwatch.core.verdict import Treated
from gradwatch.remedies import _modules


def scope_of(model: nn.Module, loss_fn: LossFn | None, batches: Sequence[Any]) -> dict[str, Any]:
    """Return the names that the code of a remedy may use."""
    classes = {name: value for name, value in vars(_modules).items() if isinstance(value, type)}
    return {**classes, "torch": torch, "model": model, "loss_fn": loss_fn, "batches": batches}


def apply(
    prescriptions: Sequence[Prescription],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    loss_fn: LossFn | None = None,
    batches: Sequence[Any] = (),
) -> Treated:
    """Carry out prescriptions on a model itself; raises `CannotApply`. See `Verdict.apply_to`."""
    scope = scope_of(model, loss_fn, batches)
    for one in prescriptions:
        if not one.runnable:
            raise CannotApply(f"{one.remedy} has to be done by hand")
        if one.of_optimizer:
            if optimizer is None:
                raise CannotApply(f"{one.remedy} changes the optimizer: give it, too")
            scope.setdefault("optimizer", optimizer)
        if not one.per_step:
            execute(one, scope)
    return Treated(scope["model"], scope.get("optimizer", optimizer), scope["loss_fn"])


def compiled(prescription: Prescription) -> CodeType:
    """Return what a prescription runs."""
    return compile(prescription.runs or prescription.code, f"<{prescription.remedy}>", "exec")


def execute(prescription: Prescription, scope: dict[str, Any]) -> None:
    """Run a prescription once; raises `CannotApply`."""
    try:
        exec(compiled(prescription), scope)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise CannotApply(f"{prescription.remedy} failed on a copy ({said})") from error
