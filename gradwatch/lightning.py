"""`GradWatch` for the Trainer of Lightning: `Trainer(callbacks=[GradWatch()])`.

A door: it turns the Trainer's events into calls of a `Watcher`, and judges nothing. It works for
`lightning.pytorch` and `pytorch_lightning`, whichever is imported, and does not import the other:
either takes seconds, and their `Callback` classes are two.
"""

from __future__ import annotations

import inspect
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from torch import Tensor
from torch.optim import Optimizer

from gradwatch.callback import Callback
from gradwatch.core.finding import Severity
from gradwatch.core.reporter import warn_safely
from gradwatch.core.sink import Sink
from gradwatch.instrument.hooks import Hook
from gradwatch.recording import Recording
from gradwatch.sinks.console import Console
from gradwatch.sinks.latest import Latest
from gradwatch.sinks.logger import LoggerScalars
from gradwatch.sinks.runfolder import RunFolder
from gradwatch.sinks.tensorboard import TensorBoard
from gradwatch.watcher import Watcher

if TYPE_CHECKING:
    from lightning.pytorch import Callback as Base
else:
    Base = object

PACKAGES: Final = ("lightning.pytorch", "pytorch_lightning")


class GradWatch(Callback, Base):
    """Watches a training, and prints the report at the end.

    Everything goes where the Trainer's own things go: the run folder into its `log_dir`, scalars
    and histograms through its TensorBoardLogger, a few scalars to its other loggers.

    Args:
        every_n_steps: examine every so many optimizer steps, and steps 0, 1, 2, 5, 10 and 20.
        report: print the report when `fit` ends, and how to look closer.
        stop_on: end the training at a finding at least this severe: "critical" or "warning".
        sinks: more places to write reports to.
        detectors: instead of all that are installed.
        trace_forward: look at every module's output in every step, to name the layer in which a
            NaN is born in the forward pass. Costs one sum per module and step.
        try_remedies: when `fit` ends and the report holds a warning or worse, try remedies on
            copies of the model as it was at the start, for 60 s or that many seconds, and print
            what they were worth: `verdicts`. For automatic optimization; the first 16 batches and
            the weights of the start are kept in the host's memory for that.
        strict: raise errors of gradwatch itself instead of warning once and stepping aside.
    """

    _declared: type[GradWatch]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Only now, for most programs import this module first and Lightning second.
        bases = (cls, *(base for base in _callbacks() if not issubclass(cls, base)))
        declared = vars(cls).get("_declared", cls)
        kind = type(cls.__name__, bases, {"_declared": declared, "__module__": cls.__module__})
        return object.__new__(kind)

    def _forget(self) -> None:
        super()._forget()
        self._loss: Tensor | None = None
        self._number = 0
        self._handles: list[Any] = []
        self._goes_on = False

    # --- events ------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach: sanity check and restoring are over."""
        self._end()
        self._forget()
        self.watcher = None
        folder = str(trainer.log_dir or trainer.default_root_dir)  # asked in all processes or none
        if not trainer.is_global_zero:
            return
        try:
            self.watcher = Watcher(
                pl_module,
                trainer.optimizers,
                driven=True,
                sinks=[*self._places(trainer, folder), self._latest, *self._sinks],
                **self._options,
            )
        except Exception as error:
            if self._options["strict"]:
                raise
            warn_safely(f"gradwatch does not watch: {type(error).__name__}: {error}")
            return
        self._goes_on = True
        stepped = Hook(self, GradWatch._stepped)
        self._handles = [one.register_step_post_hook(stepped) for one in trainer.optimizers]
        if self._seconds is not None:
            self._safely(lambda: self._record(trainer, pl_module))

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a batch, if remedies are to be tried."""
        if (recording := self._recording) is not None and not recording.full:
            self._safely(lambda: recording.keep(batch))

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Note the loss. Lightning has divided it by the micro-batches, and scaled it for fp16."""
        if self.watcher is not None:
            loss, scale = loss.detach(), _inverse_scale(trainer)
            self._losses.append(loss if scale is None else loss * scale)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """In manual optimization this is the last moment before clipping."""
        if self.watcher is not None and not pl_module.automatic_optimization:
            self.watcher.read(_inverse_scale(trainer))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """In automatic optimization the gradients are final now, and not clipped yet."""
        if self.watcher is None:
            return
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)  # it unscales by itself
        self.watcher.read(_inverse_scale(trainer) if fused else None, only=optimizer)
        self._number = trainer.global_step
        if losses := self._losses:
            total = sum(losses[1:], losses[0])
            automatic, parts = pl_module.automatic_optimization, trainer.accumulate_grad_batches
            # The last micro-batches of an epoch may be fewer: the mean is over those there are.
            self._loss = total * parts / len(losses) if automatic and parts > 1 else total
            self._losses = []

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        skipped = getattr(optimizer, "found_inf", None)  # others are not called for such a step
        if self.watcher is not None and (skipped is None or not skipped.item()):
            self.watcher.step(self._loss, number=self._number)

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        """End the training if that is wanted; all processes decide together."""
        if self._stop_on is None:
            return
        report = self._latest.report
        severe = report is not None and (report.severity or Severity.NOTE) >= self._stop_on
        stop = trainer.strategy.reduce_boolean_decision(severe, all=False)
        if stop and not trainer.should_stop:
            trainer.should_stop = True
            if report is not None:
                print(f"gradwatch ends the training at step {report.step}. {report.verdict}")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Detach, print the report, and try remedies if that is wanted and needed."""
        self._end(tell=self._prints)
        self._try_remedies(pl_module, _training_step)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach: nothing else is called then. Who has pressed Ctrl-C may want the report."""
        self._end(tell=self._prints and isinstance(exception, KeyboardInterrupt))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Detach: nothing else is called when a tuner ends the training."""
        self._end()

    # --- the rest ----------------------------------------------------------------------------

    def _places(self, trainer: Any, folder: str) -> Iterator[Sink]:
        if trainer.fast_dev_run:  # leaves nothing behind
            return
        if "://" in folder:
            warn_safely(f"gradwatch writes no run folder: {folder} is not on this machine")
        else:
            yield RunFolder(folder)
            folder = shlex.quote(str(Path(folder)))
            self._advice = f"Look closer: gradwatch report {folder} -o report.html"
        for logger in trainer.loggers:
            writer = getattr(logger, "experiment", None)
            if hasattr(writer, "add_histogram_raw"):
                yield TensorBoard(writer=writer)
                events = shlex.quote(str(Path(logger.log_dir)))
                self._advice += f"\nIn TensorBoard: tensorboard --logdir {events}"
            else:
                yield LoggerScalars(logger)

    def _record(self, trainer: Any, pl_module: Any) -> None:
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            warn_safely("gradwatch tries remedies for automatic optimization, one optimizer, only")
            return
        self._recording = Recording(pl_module, trainer.optimizers[0])

    def _end(self, *, tell: bool = False) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        ended, self._goes_on = self._goes_on, False
        if self.watcher is None or not ended:
            return
        self.watcher.close()
        if tell:
            console = Console()
            console.write(self.watcher.report())
            console.close()
            print(self._advice)

    def __getstate__(self) -> dict[str, Any]:
        """What belongs to a run that goes on here stays here."""
        fresh = {key: value for key, value in vars(self).items() if key != "watcher"}
        fresh |= {
            "_latest": Latest(),
            "_losses": [],
            "_loss": None,
            "_handles": [],
            "_goes_on": False,
            "_recording": None,
            "verdicts": None,
        }
        return fresh

    def __reduce__(self) -> tuple[Any, ...]:
        return _new, (self._declared,), self.__getstate__()


def _training_step(module: Any, batch: Any) -> Any:
    """One training step of a copy without a Trainer: what it logs goes nowhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are trying to `self.log")
        wanted = len(inspect.signature(module.training_step).parameters)
        result = module.training_step(*(batch, 0)[:wanted])
    return result["loss"] if isinstance(result, Mapping) else result


def _inverse_scale(trainer: Any) -> Tensor | None:
    scale = getattr(getattr(trainer.precision_plugin, "scaler", None), "_scale", None)
    return None if scale is None else scale.reciprocal()


def _callbacks() -> list[type]:
    """Return the `Callback` of each Lightning that is imported; if none is, of one to be had."""
    found = [sys.modules[name].Callback for name in PACKAGES if sys.modules.get(name)]
    for name in () if found else PACKAGES:
        try:
            return [import_module(name).Callback]
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    if not found:
        raise ModuleNotFoundError(
            "gradwatch.lightning needs the package lightning: pip install 'gradwatch[lightning]'",
            name="lightning",
        )
    return found


def _new(cls: type[GradWatch]) -> GradWatch:
    return cls.__new__(cls)
