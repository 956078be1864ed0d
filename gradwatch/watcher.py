"""`watch()`: the hook manager. When to look, whom to tell, and never to disturb."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from warnings import warn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradwatch.core import catalog
from gradwatch.core.finding import Detector
from gradwatch.core.history import History
from gradwatch.core.record import Record
from gradwatch.core.report import Report
from gradwatch.core.reporter import Reporter, warn_safely
from gradwatch.core.sink import Sink
from gradwatch.instrument import anatomy, modes
from gradwatch.instrument.examination import AFTER_CLIPPING, Examination
from gradwatch.instrument.gradients import Gradients
from gradwatch.instrument.hooks import Hook
from gradwatch.instrument.pulse import gradient_norms
from gradwatch.instrument.recorder import Recorder
from gradwatch.instrument.schedule import Schedule

log = logging.getLogger("gradwatch")
PATIENCE: Final = 64
"""Losses that a loop may tell before its optimizer makes a first step (micro-batches of it, steps
that a GradScaler skips): after that it is taken for one that never does."""

_watched: Final[weakref.WeakKeyDictionary[nn.Module, Watcher]] = weakref.WeakKeyDictionary()


class Watcher:
    """Watches a model train, without changing the training.

    Use it as a context manager or call `close()` at the end. It is attached once it is made.

    With the optimizer given, the loop stays as it is; else call `watcher.step()` or
    `watcher.step(loss)` after each optimizer step. `watcher.step(loss)` is of use in both cases:
    whether a training gets anywhere is judged on its loss.

    Args:
        log_dir: where to write: the run folder `<log_dir>/gradwatch/`, and TensorBoard events
            in `<log_dir>` itself unless a `writer` is given. Nothing is written without it.
        every_n_steps: examine every so many optimizer steps, and steps 0, 1, 2, 5, 10 and 20.
        loss_fn: a loss module (`nn.CrossEntropyLoss()`), to learn the loss from.
        scaler: the `GradScaler`, to see gradients unscaled.
        writer: the `SummaryWriter` that you already have for this run.
        sinks: more places to write reports to.
        detectors: instead of all that are installed.
        trace_forward: look at every module's output in every step, to name the layer in which a
            NaN is born in the forward pass. Costs one sum per module and step.
        driven: for a framework's callback, which says itself when the gradients are final (`read`)
            and when a step is over (`step`): neither backward nor the optimizers are listened to.
        strict: raise errors of gradwatch itself instead of warning once and stepping aside.

    Raises `TypeError` or `ValueError` for arguments that make no sense; nothing after that.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        log_dir: str | Path | None = None,
        every_n_steps: int = 50,
        loss_fn: nn.Module | None = None,
        scaler: torch.amp.GradScaler | None = None,
        writer: Any = None,
        sinks: Iterable[Sink] = (),
        detectors: Iterable[Detector] | None = None,
        trace_forward: bool = True,
        driven: bool = False,
        strict: bool = False,
    ) -> None:
        _expect("model", model, nn.Module, "a torch.nn.Module")
        if loss_fn is not None:
            _expect("loss_fn", loss_fn, nn.Module, "a loss module such as nn.CrossEntropyLoss()")
        if next(model.parameters(), None) is None:
            raise ValueError(f"model must have parameters to be watched, {type(model)} has none")
        self._optimizers = _optimizers(optimizer)
        self._schedule = Schedule(every_n_steps)
        self._model = weakref.ref(model)
        self._loss_fn = loss_fn
        self._scaler = scaler
        self._strict = strict
        self._driven = driven
        self._trace_forward = trace_forward
        all_sinks = [*_own_sinks(log_dir, writer), *sinks]
        self._reporter = Reporter(
            type(model).__name__,
            catalog.detectors() if detectors is None else detectors,
            catalog.remedies(),
            all_sinks,
            run_folder=_run_folder(all_sinks),
            strict=strict,
        )
        self._step = 0
        self._quiet_until = 0
        self._due = self._unjudged = False
        # Until it is seen that the loop does not.
        self._tells_loss = bool(self._optimizers) and not driven
        self._attached = self._stepped_aside = self._closed = False
        self._loss: Tensor | float | None = None
        self._norms: Tensor | None = None
        self._scale: Tensor | float | None = None
        self._others: frozenset[int] = frozenset()
        self._stepped = False  # an optimizer, ever
        self._untaken = 0  # losses that were told
        self._given_up = False  # an exam, because parameters were replaced in it
        self._fresh = False  # whether a backward has ended since the gradients were read
        self._versions: list[int] = []
        self._examination: Examination | None = None
        self._handles: list[RemovableHandle] = []
        self._parameters: dict[str, nn.Parameter] = {}
        self._gradients = Gradients(self, self._guarded(Watcher._backward_ended))
        self._recorder = Recorder(self._guarded)
        if (before := _watched.get(model)) is not None:
            warn("this model is watched already: the new watcher replaces the old", stacklevel=3)
            before.close()
        _watched[model] = self
        self.attach()

    # --- the hook manager --------------------------------------------------------------------

    def attach(self) -> None:
        """Begin to look, or go on after `detach`. Does nothing when it is attached."""
        model = self._model()
        if self._attached or self._closed or self._stepped_aside or model is None:
            return
        self._attached = True
        self._parameters = anatomy.parameters(model)
        self._gradients.attach(self._parameters)
        if compiled := anatomy.compiled(model):
            where = "the model" if "" in compiled else ", ".join(compiled)
            self._reporter.note(f"Activations of {where} are not observed: compiled.")
        if self._trace_forward:
            self._recorder.install(anatomy.modules(model))
        before, after = self._guarded(Watcher._before_step), self._guarded(Watcher._commit)
        for optimizer in () if self._driven else self._optimizers:
            self._handles += [
                optimizer.register_step_pre_hook(Hook(self, lambda own, *_: before(own))),
                optimizer.register_step_post_hook(Hook(self, lambda own, one, *_: after(own, one))),
            ]
        if self._loss_fn is not None:
            see = self._guarded(Watcher._see_loss)
            self._handles.append(
                self._loss_fn.register_forward_hook(Hook(self, lambda own, *a: see(own, a[-1])))
            )
        self._begin_examination_if_due()

    def detach(self) -> None:
        """Stop looking: every hook goes. What was seen stays; `attach` goes on."""
        self._attached = False
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._gradients.detach()
        self._recorder.remove()
        if self._examination is not None:
            self._examination.close()
            self._examination = None
        self._parameters = {}
        self._norms = self._loss = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have no hook on the model for the length of a `with` block, for an export for example."""
        self.detach()
        try:
            yield
        finally:
            self.attach()

    def close(self) -> None:
        """Detach, send the last report to the sinks, and close them. May be called twice."""
        if self._closed:
            return
        self.detach()
        self._closed = True
        model = self._model()
        if model is not None and _watched.get(model) is self:
            del _watched[model]
        if not self._stepped_aside:
            self._guarded(Watcher._send)(self)
        self._reporter.close()
        self._optimizers, self._loss_fn, self._scaler = (), None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- what the user asks and tells --------------------------------------------------------

    @property
    def history(self) -> History:
        """The examined steps and the pulses so far."""
        self._flush()
        return self._reporter.history

    def report(self) -> Report:
        """Return what is known as of now."""
        self._flush()
        return self._reporter.report()

    def step(self, loss: Tensor | float | None = None, *, number: int | None = None) -> None:
        """Say that an optimizer step was made, and with which loss.

        Without an optimizer given to `watch` this is what ends a step; with one it only tells
        the loss of the step that just ended. `number` is for a `driven` watcher: what the framework
        counts this step as, from 0.
        """
        if self._attached:
            self._guarded(Watcher._told)(self, loss, number)

    def _told(self, loss: Tensor | float | None, number: int | None) -> None:
        if self._driven and number is not None:
            self._step = number
        if loss is not None:  # NumPy's numbers are no floats to torch
            loss = loss.detach() if isinstance(loss, Tensor) else float(loss)
            if isinstance(loss, Tensor) and loss.numel() > 1:  # one of each replica
                loss = loss.mean()
        if self._driven or not self._optimizers:
            self._loss = self._loss if loss is None else loss
            if not self._driven:
                self._before_step()
            self._commit()
        elif loss is not None:
            self._tells_loss = True
            self._recorder.set_loss(loss)
            if self._unjudged:
                self._reporter.set_loss(float(loss))
                self._send()
            self._untaken += 1
            if not self._stepped and self._untaken > PATIENCE and self._norms is not None:
                self._loss = loss
                self._commit()  # the loop makes steps, and the optimizer none

    def _see_loss(self, loss: object) -> None:
        if torch.is_grad_enabled() and isinstance(loss, Tensor) and loss.numel() == 1:
            self._loss = loss.detach()

    # --- a step ------------------------------------------------------------------------------

    def read(
        self, scale: Tensor | float | None = None, *, only: torch.optim.Optimizer | None = None
    ) -> None:
        """Say that the gradients are final: accumulated, reduced, and not yet clipped.

        Only for a `driven` watcher. `scale` is what to multiply them with to undo a loss scale;
        `only` leaves out of the step what other optimizers hold. Said again without a backward in
        between, it does not read again: they may be clipped by now, and only the two are updated.
        """
        if self._attached:
            self._guarded(Watcher._read)(self, scale, only)

    def _backward_ended(self) -> None:
        self._fresh = True
        renewed = self._gradients.renewed()
        if self._examination is not None:
            self._examination.backward_ended(renewed=renewed)
        if not self._driven:
            self._read(self._unscale())

    def _read(
        self, scale: Tensor | float | None = None, only: torch.optim.Optimizer | None = None
    ) -> None:
        """The gradients are complete, unless another backward follows."""
        others = [o for o in self._optimizers if o is not only] if only is not None else []
        self._others = _held(others) - _held([only] if only is not None else [])
        self._scale = scale
        if self._driven and self._norms is not None and not self._fresh:
            return
        gradients = self._gradients.values()
        places = zip(self._gradients.parameters, gradients, strict=True)
        if all(gradient is None or id(p) in self._others for p, gradient in places):
            return
        norms = gradient_norms(gradients)
        # A negative norm stands for a parameter that was not reached.
        self._norms = norms if scale is None else torch.where(norms < 0, norms, norms * scale)
        self._versions = self._gradients.versions()
        if self._examination is not None:
            self._examination.read(self._gradients.names, gradients, scale)
            if self._driven and not self._fresh:  # another optimizer has stepped since backward
                self._examination.read_point = AFTER_CLIPPING
        self._fresh = False

    def _before_step(self) -> None:
        """The last moment to see the gradients, if no backward was seen to end."""
        if self._norms is None:
            self._follow_parameters()
            self._gradients.reached.update(range(len(self._gradients.parameters)))
            self._read(self._unscale())
            if self._examination is not None:
                self._examination.read_point = AFTER_CLIPPING
            if self._norms is None:  # no gradient anywhere: the worst disconnection of all
                self._norms = torch.full((len(self._gradients.parameters),), -1.0)

    def _commit(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """The optimizer has stepped."""
        self._stepped |= optimizer is not None
        norms = self._norms
        if norms is None:  # a step without a backward: nothing was to be seen
            return
        # A fused optimizer is called in the steps that its GradScaler skips, too, and told so.
        skipped = getattr(optimizer, "found_inf", None)
        if skipped is not None:
            norms = torch.where(skipped.to(norms.device) > 0, -1.0, norms)
            # Only an exam may wait for the device.
            if self._examination is not None and bool(skipped):
                self._examination.close()
                self._examination, self._due = None, True
        if self._unjudged:  # the last step's loss was not told
            self._tells_loss = False
            self._send()
        foreign = [id(p) in self._others for p in self._gradients.parameters]
        if any(foreign):
            norms = norms.masked_fill(torch.tensor(foreign, device=norms.device), -1.0)
        clip_ratio = self._clip_ratio(norms, optimizer)
        odd = self._recorder.write(self._step, self._gradients.names, norms, clip_ratio)
        if self._loss is not None:
            self._recorder.set_loss(self._loss)
        if odd and self._step >= self._quiet_until:
            self._quiet_until = self._step + self._schedule.every_n_steps
            self._due = True
        if self._examination is not None:
            record = self._examination.record(
                self._step,
                loss=self._loss,
                clip_ratio=clip_ratio,
                notes=self._reporter.notes,
            )
            others = {name for name, p in self._parameters.items() if id(p) in self._others}
            self._reporter.add_record(_without_gradients(record, others) if others else record)
            self._examination = None  # only now: if it fails, `detach` has to take its hooks off
            # Where the loop tells its loss after the step, judgement waits for it.
            self._unjudged = self._tells_loss and self._loss is None
            if not self._unjudged:
                self._send()
        self._step += 1
        self._norms = self._loss = None
        reached = self._gradients.reached & {i for i, other in enumerate(foreign) if other}
        self._gradients.next_step()
        self._gradients.reached |= reached  # for the other optimizer's step of the same backward
        self._begin_examination_if_due()

    def _follow_parameters(self) -> None:
        """Look again at what the model consists of: lazy layers are made, others replaced."""
        model = self._model()
        if model is None or self._follow(anatomy.parameters(model)):
            return
        if self._examination is not None:  # it knows neither the new layers nor their parameters
            if self._given_up and self._examination.renew(self._parameters):
                return  # they are made anew in every forward pass
            self._examination.close()
            self._examination = None
            self._given_up = self._due = True
        elif not self._given_up:
            self._due = True

    def _follow(self, parameters: dict[str, nn.Parameter]) -> bool:
        """Watch these parameters, and return whether they were watched already. One that was
        frozen since stays: a GAN freezes one half for the other half's step, which is when the
        next exam begins."""
        watched = {id(p) for p in self._gradients.parameters}
        trainable = {id(p) for p in parameters.values() if p.requires_grad}
        watched_already = trainable <= watched <= {id(p) for p in parameters.values()}
        if not watched_already:  # replaced, unfrozen or added
            self._gradients.attach(parameters)
        self._parameters = parameters
        return watched_already

    def _clip_ratio(self, norms: Tensor, optimizer: torch.optim.Optimizer | None) -> Tensor:
        """Gradient norm as the optimizer saw it / as backward left it."""
        if self._versions == self._gradients.versions():
            return torch.ones((), device=norms.device)
        clipped = gradient_norms(self._gradients.values()).to(norms.device)
        clipped = torch.where(norms < 0, norms, clipped)  # only what this step is about
        before, after = (n.clamp(min=0).square().sum().sqrt() for n in (norms, clipped))
        # A GradScaler has unscaled them in place by now, but for a fused optimizer that does it.
        unscaled = self._scaler is not None and getattr(optimizer, "grad_scale", None) is None
        return after / before if self._scale is None or unscaled else after * self._scale / before

    def _unscale(self) -> Tensor | None:
        scale = getattr(self._scaler, "_scale", None)
        return None if scale is None else scale.reciprocal()

    def _begin_examination_if_due(self) -> None:
        model = self._model()
        # Several optimizers take turns: one exam after the other, so that each is seen in its own.
        turns = range(min(max(1, len(self._optimizers)), self._step + 1))
        due = self._due or any(self._schedule(self._step - turn) for turn in turns)
        if not due or model is None or not self._attached or self._examination is not None:
            return
        self._due = False
        parameters = anatomy.parameters(model)
        self._follow(parameters)
        modules = anatomy.modules(model)
        if self._trace_forward:
            self._recorder.install(modules)
        self._examination = Examination(
            modules,
            anatomy.layers(modules),
            parameters,
            self._guarded,
            self._optimizers,
        )

    def _flush(self) -> None:
        self._reporter.add_pulses(self._recorder.flush())

    def _send(self) -> None:
        self._unjudged = False
        self._flush()
        self._reporter.send()

    # --- never disturb -----------------------------------------------------------------------

    def _guarded(self, function: Callable[..., None]) -> Callable[..., None]:
        """Wrap what runs inside the user's training: an error of ours ends the watching only."""
        own = weakref.ref(self)

        @wraps(function)
        def guarded(*args: Any) -> None:
            watcher = own()
            if watcher is None or watcher._stepped_aside or modes.tracing():
                return
            try:
                if modes.active():
                    with modes.unseen():
                        function(*args)
                else:
                    function(*args)
            except Exception as error:
                if watcher._strict:
                    raise
                watcher._step_aside(error)

        return guarded

    def _step_aside(self, error: Exception) -> None:
        self._stepped_aside = True
        text = f"gradwatch stepped aside at step {self._step}: {type(error).__name__}: {error}"
        self._reporter.note(text)
        warn_safely(f"{text} (the training goes on; strict=True raises instead)")
        log.debug("the error", exc_info=error)
        self.detach()


watch = Watcher
"""`gradwatch.watch(model, optimizer)`: the name that it goes by."""


def _expect(name: str, value: object, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, got {value!r:.200}")


def _optimizers(optimizer: object) -> tuple[torch.optim.Optimizer, ...]:
    optimizers = tuple(optimizer) if isinstance(optimizer, list | tuple) else (optimizer,)
    optimizers = tuple(one for one in optimizers if one is not None)
    # accelerate wraps an optimizer in one that takes no hooks.
    optimizers = tuple(
        one if hasattr(one, "_optimizer_step_pre_hooks") else getattr(one, "optimizer", one)
        for one in optimizers
    )
    for one in optimizers:
        _expect("optimizer", one, torch.optim.Optimizer, "a torch optimizer or a list of them")
    return optimizers


def _held(optimizers: Iterable[torch.optim.Optimizer]) -> frozenset[int]:
    """Return the ids of the parameters that the optimizers hold."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return frozenset(id(parameter) for group in groups for parameter in group["params"])


NOT_SEEN: Final[dict[str, Any]] = {
    "reached": False,
    **dict.fromkeys(("gradient", "update", "sample", "descent", "carried")),
}


def _without_gradients(record: Record, names: Set[str]) -> Record:
    """Return the record with these parameters as not reached."""
    parameters = (replace(p, **NOT_SEEN) if p.name in names else p for p in record.parameters)
    return replace(record, parameters=tuple(parameters))


def _run_folder(sinks: Iterable[Sink]) -> str | None:
    from gradwatch.sinks.runfolder import RunFolder

    return next((str(sink.path) for sink in sinks if isinstance(sink, RunFolder)), None)


def _own_sinks(log_dir: str | Path | None, writer: Any) -> Iterator[Sink]:
    if log_dir is not None:
        from gradwatch.sinks.runfolder import RunFolder

        yield RunFolder(log_dir)
    if log_dir is not None or writer is not None:
        from gradwatch.sinks.tensorboard import TensorBoard

        yield TensorBoard(log_dir) if writer is None else TensorBoard(writer=writer)
