"""`GradWatch` for the Trainer of transformers: `Trainer(..., callbacks=[GradWatch()])`.

A door: it turns the Trainer's events into calls of a `Watcher`, and judges nothing. Gradients are
read where backward ends, by the watcher itself: the first event that the Trainer sends after a
backward comes after its clipping.
"""

from __future__ import annotations

import shlex
import sys
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradwatch.callback import Callback
from gradwatch.checking.patient import unwrapped
from gradwatch.core.reporter import warn_safely
from gradwatch.instrument.graph import unobservable
from gradwatch.instrument.hooks import Hook
from gradwatch.recording import Recording
from gradwatch.sinks.console import Console
from gradwatch.sinks.latest import Latest
from gradwatch.sinks.runfolder import RunFolder
from gradwatch.sinks.tensorboard import TensorBoard
from gradwatch.watcher import Watcher

try:
    from transformers.trainer_callback import CallbackHandler, TrainerCallback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "gradwatch.huggingface needs the package transformers: "
        "pip install 'gradwatch[huggingface]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class GradWatch(Callback, TrainerCallback):
    """Watches a `transformers.Trainer` train, and prints the report at the end.

    With `report_to="tensorboard"` it writes to the Trainer's own event file and puts the run folder
    beside it; else there is the run folder only, in `output_dir`.

    Args:
        every_n_steps: examine every so many optimizer steps, and steps 0, 1, 2, 5, 10 and 20.
        report: print the report when the training ends, and how to look closer.
        stop_on: end the training at a finding at least this severe: "critical" or "warning".
        sinks: more places to write reports to.
        detectors: instead of all that are installed.
        trace_forward: look at every module's output in every step, to name the layer in which a
            NaN is born in the forward pass. Costs one sum per module and step.
        try_remedies: when the training ends and the report holds a warning or worse, try remedies
            on copies of the model as it was at the start, for 60 s or that many seconds, and print
            what they were worth: `verdicts`. For models that compute their own loss; what the first
            16 batches and the weights of the start need is kept in the host's memory for that.
        strict: raise errors of gradwatch itself instead of warning once and stepping aside.
    """

    def _forget(self) -> None:
        super()._forget()
        self._keeping: RemovableHandle | None = None
        self._loss_seen = False
        self._scaler: Any = None
        self._end: weakref.finalize[..., Any] | None = None

    # --- events ------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach: what a checkpoint holds is restored by now."""
        self._close()
        self.watcher = self.verdicts = self._recording = None
        if self._stop_on is not None and args.world_size > 1:  # the others would wait for ever
            raise ValueError(f"stop_on is for one process, and this is one of {args.world_size}")
        if not state.is_world_process_zero:
            return
        callbacks, training = _callers()
        writers = (getattr(callback, "tb_writer", None) for callback in callbacks)
        writer = next(filter(None, writers), None)
        folder = str(args.output_dir if writer is None else writer.log_dir)
        board = [] if writer is None else [TensorBoard(writer=writer)]
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        self._scaler = getattr(optimizer, "scaler", None)
        self._losses, self._latest = [], Latest()
        try:
            self.watcher = Watcher(
                model,
                getattr(optimizer, "optimizer", optimizer),  # accelerate's wrapper has no hooks
                scaler=self._scaler,
                sinks=[RunFolder(folder), *board, self._latest, *self._sinks],
                **self._options,
            )
        except Exception as error:
            if self._options["strict"]:
                raise
            warn_safely(f"gradwatch does not watch: {type(error).__name__}: {error}")
            return
        self.watcher._step = state.global_step  # a resumed training goes on counting
        handle = model.register_forward_hook(Hook(self, GradWatch._returned))
        if self._seconds is not None:
            inner = getattr(optimizer, "optimizer", optimizer)
            self._safely(lambda: self._record(unwrapped(model), inner))
        self._end = weakref.finalize(training or self, _end, self.watcher, handle)
        self._advice = f"Look closer: gradwatch report {shlex.quote(folder)} -o report.html"
        if board:
            self._advice += f"\nIn TensorBoard: tensorboard --logdir {shlex.quote(folder)}"

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the loss, unless the step was skipped for its loss scale; stop if that is wanted."""
        losses, self._losses = self._losses, []
        self._loss_seen = bool(losses)
        skipped = getattr(kwargs["optimizer"], "step_was_skipped", False)
        if self.watcher is not None and losses and not skipped:
            self.watcher.step(sum(loss.to(losses[0].device) for loss in losses))
        report = self._latest.report
        if self._stop_on is None or report is None or report.severity is None:
            return
        if report.severity >= self._stop_on:
            control.should_training_stop = True
            print(f"gradwatch ends the training at step {report.step}. {report.verdict}")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the mean loss since the last log, if the steps' own losses are not to be seen."""
        logs = kwargs["logs"]
        if self.watcher is not None and not self._loss_seen and "loss" in logs:
            self.watcher.step(logs["loss"])
        if "train_runtime" in logs:  # the last event before TensorBoardCallback closes its writer
            self._close()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print the report."""
        self._close()
        if self._prints and self.watcher is not None and self._advice:
            console = Console()
            console.write(self.watcher.report())
            console.close()
            print(self._advice)
        self._advice = ""
        self._try_remedies(unwrapped(kwargs["model"]), None)

    # --- remedies ----------------------------------------------------------------------------

    def _record(self, model: nn.Module, optimizer: Any) -> None:
        recording = self._recording = Recording(model, optimizer)

        def called(own: GradWatch, module: nn.Module, args: Any, kwargs: Any) -> None:
            if module.training and not args and not unobservable():
                own._safely(lambda: recording.keep(kwargs))

        self._keeping = model.register_forward_pre_hook(Hook(self, called), with_kwargs=True)

    # --- the loss ----------------------------------------------------------------------------

    def _returned(self, model: nn.Module, args: Any, output: Any) -> None:
        """Note the loss of a micro-batch, with the weight that backward is going to give it.

        A weight of 1, or 1 / the number of micro-batches: the Trainer decides it after `forward`.
        A loss that a `compute_loss` of one's own does not use gets no gradient, and is not counted.
        """
        loss = output.get("loss") if isinstance(output, dict) else output
        loss = loss[0] if isinstance(loss, tuple) and loss else loss
        if unobservable() or not isinstance(loss, Tensor) or loss.numel() != 1:
            return
        if loss.requires_grad:
            value = loss.detach().clone()  # the Trainer may multiply it in place
            loss.register_hook(Hook(self, lambda own, weight: own._weighted(value, weight)))

    def _weighted(self, loss: Tensor, weight: Tensor) -> None:
        scale = getattr(self._scaler, "_scale", None)
        share = loss * weight.detach()
        self._losses.append(share if scale is None else share / scale)

    def _close(self) -> None:
        if self._end is not None:
            self._end()
        if self._keeping is not None:
            self._keeping.remove()


class _Presence:
    """Hangs in the frame of a function, and goes with it."""


def _callers() -> tuple[Sequence[TrainerCallback], _Presence | None]:
    """Return all callbacks of the Trainer that sent this event, and what goes when it is done.

    No event tells which callback writes to TensorBoard, and none is sent when a training fails or
    is interrupted. The frames that have called us know both.
    """
    frame = sys._getframe(2)
    while not isinstance(handler := frame.f_locals.get("self"), CallbackHandler):
        if frame.f_back is None:
            return (), None
        frame = frame.f_back
    callbacks: list[TrainerCallback] = handler.callbacks
    while frame.f_back is not None and frame.f_locals.get("self") is handler:
        frame = frame.f_back
    presence = frame.f_locals["gradwatch"] = _Presence()
    return callbacks, presence


def _end(watcher: Watcher, handle: RemovableHandle) -> None:
    handle.remove()
    watcher.close()
