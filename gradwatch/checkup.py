"""`diagnose()`: one check-up of a model, a loss and a batch, without a training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from torch import Tensor, nn

from gradwatch.checking.batch import LossFn, backward, check_arguments, forward, fresh, loss_of
from gradwatch.checking.patient import patient, unwrapped
from gradwatch.core import catalog
from gradwatch.core.finding import Detector
from gradwatch.core.history import History
from gradwatch.core.record import Record
from gradwatch.core.report import Report, examine
from gradwatch.instrument import anatomy
from gradwatch.instrument.examination import Examination


def diagnose(
    model: nn.Module,
    loss_fn: LossFn | None,
    batch: Any,
    *,
    detectors: Iterable[Detector] | None = None,
) -> Report:
    """Examine one forward and backward pass, in training mode, and say what to expect.

    No step is made, and the model is left exactly as it was: weights, gradients, buffers, modes,
    hooks and random generators. What is found before training is a prediction; whether a model
    trains is judged by `gradwatch.testing.trainability`.

    Args:
        loss_fn: see `batch`.
        batch: `(inputs, targets)` for `loss_fn(model(inputs), targets)`, where inputs may be a
            tuple of arguments or a mapping of keyword arguments; or a mapping for
            `loss_fn(model(**batch), batch)`, and with `loss_fn=None` the output's own `loss`, as
            Hugging Face models give it; or anything else for `loss_fn(model(batch))`.
        detectors: instead of all that are installed.

    Raises `TypeError` or `ValueError` for arguments or a loss that make no sense, and
    `RuntimeError`, with the error as its cause, when the forward, loss_fn or the backward raises.
    """
    check_arguments(model, loss_fn, batch)
    model = unwrapped(model)
    with patient(model, loss_fn, batch) as (stand_in, loss_fn):
        record = _examined(stand_in, loss_fn, batch)
    return examine(
        History.of([record]),
        catalog.detectors() if detectors is None else detectors,
        catalog.remedies(),
        model=type(model).__name__,
    )


def _examined(model: nn.Module, loss_fn: LossFn | None, batch: Any) -> Record:
    modules, parameters = anatomy.modules(model), anatomy.parameters(model)
    errors: list[Exception] = []

    def guarded(function: Callable[..., None]) -> Callable[..., None]:
        # An error of ours inside the user's forward must not be taken for one of theirs.
        @wraps(function)
        def guard(*args: Any) -> None:
            try:
                if not errors:
                    function(*args)
            except Exception as error:
                errors.append(error)

        return guard

    examination = Examination(modules, anatomy.layers(modules), parameters, guarded)
    try:
        batch = fresh(batch)
        loss = loss_of(loss_fn, forward(model, batch), batch)
        backward(loss)
        examination.backward_ended(renewed=False)
        if errors:
            raise errors[0]
        gradients: list[Tensor | None] = [parameter.grad for parameter in parameters.values()]
        examination.read(list(parameters), gradients, None)
        return examination.record(0, loss=loss, clip_ratio=None, notes=())
    finally:
        examination.close()
