"""The watcher: when it looks, that it goes without a trace, and that it never kills a run."""

from __future__ import annotations

import copy
import gc
import io
import logging
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradwatch
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.report import Report
from gradwatch.instrument.schedule import Schedule
from tests.zoo.trainings import mlp


class Capture:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.closed = 0

    def write(self, report: Report, /) -> None:
        self.reports.append(report)

    def close(self) -> None:
        self.closed += 1


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    after: Callable[[Tensor], object] = lambda loss: None,
) -> list[float]:
    losses = []
    for _ in range(steps):
        inputs = torch.randn(8, 64)
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after(loss)
        losses.append(loss.item())
    return losses


@pytest.fixture
def model() -> nn.Sequential:
    return mlp(3, nn.ReLU, width=16)


@pytest.fixture
def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01)


def hooks(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    found = sum(
        len(getattr(module, name))
        for module in model.modules()
        for name in vars(module)
        if name.endswith("_hooks")
    )
    found += sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())
    found += sum(len(p._backward_hooks or ()) for p in model.parameters())
    if optimizer is not None:
        found += len(optimizer._optimizer_step_pre_hooks)
        found += len(optimizer._optimizer_step_post_hooks)
    return found


# --- when it looks ------------------------------------------------------------------------------


def test_early_steps_and_every_nth_are_examined_and_every_step_has_a_pulse(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    with gradwatch.watch(model, optimizer, every_n_steps=30, strict=True) as watcher:
        train(model, optimizer, 65)
    assert [r.step for r in watcher.history] == [0, 1, 2, 5, 10, 20, 30, 60]
    assert [p.step for p in watcher.history.pulses] == list(range(65))


@pytest.mark.parametrize("bad", [0, -3])
def test_a_cadence_that_makes_no_sense_is_refused_by_name(bad: int) -> None:
    with pytest.raises(ValueError, match="every_n_steps must be at least 1"):
        Schedule(bad)
    with pytest.raises(TypeError, match="every_n_steps must be an int"):
        Schedule(2.5)  # type: ignore[arg-type]


def test_the_loop_may_tell_its_loss(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        losses = train(model, optimizer, 12, watcher.step)
    assert [p.loss for p in watcher.history.pulses] == pytest.approx(losses)
    assert [r.loss for r in watcher.history] == pytest.approx(
        [losses[r.step] for r in watcher.history]
    )


def test_a_loss_module_tells_the_loss_by_itself(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    criterion = nn.MSELoss()
    losses = []
    with gradwatch.watch(model, optimizer, loss_fn=criterion, strict=True) as watcher:
        for _ in range(4):
            loss = criterion(model(torch.randn(8, 64)), torch.zeros(8, 10))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert [p.loss for p in watcher.history.pulses] == pytest.approx(losses)
    assert not criterion._forward_hooks


def test_without_an_optimizer_step_ends_a_step(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    with gradwatch.watch(model, strict=True) as watcher:
        losses = train(model, optimizer, 6, watcher.step)
    assert [p.step for p in watcher.history.pulses] == list(range(6))
    assert watcher.history.latest is not None
    assert watcher.history.latest.loss == pytest.approx(losses[5])
    ratio = watcher.history.latest.parameters[0].update_ratio
    assert ratio is not None and ratio > 0


def test_gradients_are_read_accumulated_and_before_clipping(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        for _ in range(2):
            for _ in range(3):
                (model(torch.randn(8, 64)).square().mean() * 50).backward()
            before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            total = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            assert total > 0.5
            optimizer.step()
            optimizer.zero_grad()
    record, pulse = watcher.history.latest, watcher.history.pulses[-1]
    assert record is not None
    assert record.read_point == "before clipping"
    for parameter, truth in zip(record.parameters, before, strict=True):
        assert parameter.gradient is not None
        assert parameter.gradient.norm == pytest.approx(float(truth.norm()), rel=1e-5)
    assert pulse.norm == pytest.approx(float(total), rel=1e-5)
    assert pulse.clip_ratio == pytest.approx(0.5 / float(total), rel=1e-4)
    assert record.clip_ratio == pytest.approx(pulse.clip_ratio, rel=1e-6)


def test_micro_batches_merge_into_one_call(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        for _ in range(3):
            model(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()
    record = watcher.history.latest
    assert record is not None
    calls = [call for call in record.calls if call.layer.name == "0"]
    assert len(calls) == 1
    assert calls[0].output is not None
    assert calls[0].output.count == 3 * 8 * 16


def test_a_scaler_is_divided_out(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradwatch.watch(model, optimizer, scaler=scaler, strict=True) as watcher:
        inputs = torch.randn(8, 64)
        scaler.scale(model(inputs).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    truth = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
    record = watcher.history.latest
    assert record is not None
    assert [p.gradient.norm for p in record.parameters if p.gradient] == pytest.approx(truth)
    assert watcher.history.pulses[0].norms.tolist() == pytest.approx(truth)


def test_updates_are_what_the_weights_really_moved(
    model: nn.Sequential, optimizer: torch.optim.Optimizer
) -> None:
    before = model[0].weight.detach().clone()
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        train(model, optimizer, 1)
    record = watcher.history.latest
    assert record is not None
    parameter = record.parameters[0]
    assert parameter.update is not None and parameter.weight is not None
    moved = model[0].weight.detach() - before
    assert parameter.update.norm == pytest.approx(float(moved.double().norm()), rel=1e-6)
    assert parameter.weight.norm == pytest.approx(float(before.norm()), rel=1e-6)


def test_a_validation_batch_in_between_is_left_out(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        model(torch.randn(500, 64))  # with gradients on, but no backward
        train(model, optimizer, 1)
    record = watcher.history.latest
    assert record is not None
    first = record.calls[0]
    assert first.output is not None
    assert (first.index, first.output.count) == (0, 80)


def test_parameters_that_come_or_go_are_followed(model: nn.Sequential) -> None:
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) as watcher:
        train(model, optimizer, 2)
        model[0].weight.requires_grad_(True)
        train(model, optimizer, 3)
    frozen, thawed = watcher.history.records[0], watcher.history.records[-1]
    assert frozen.parameters[0].gradient is None and not frozen.parameters[0].trainable
    assert thawed.parameters[0].gradient is not None
    names = watcher.history.pulses[-1].columns.parameters
    assert "0.weight" in names and "0.weight" not in watcher.history.pulses[0].columns.parameters


def test_an_examined_step_brings_its_numbers_over_in_one_copy(
    model: nn.Module, optimizer: torch.optim.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a step between two exams brings none. Counted at the only doors to the host."""
    from gradwatch.instrument import pulse, transfer

    copies = {"exam": 0, "ring": 0}
    fetch, flush = transfer.Transfer.fetch, pulse.Ring.flush

    def counted(name: str, function: Any) -> Any:
        def wrapper(self: Any) -> Any:
            copies[name] += 1
            return function(self)

        return wrapper

    monkeypatch.setattr(transfer.Transfer, "fetch", counted("exam", fetch))
    monkeypatch.setattr(pulse.Ring, "flush", counted("ring", flush))
    with gradwatch.watch(model, optimizer, strict=True):
        train(model, optimizer, 3)
        assert copies["exam"] == 3
        before = dict(copies)
        train(model, optimizer, 2)  # steps 3 and 4
        assert copies == before


def test_no_step_asks_the_device_for_a_number(
    model: nn.Module, optimizer: torch.optim.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a number from a tensor is a synchronisation: none in a plain step, and in an
    examined one no more than the one copy (as counted on the path that CUDA takes)."""
    from gradwatch.instrument import kernel

    asked: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                asked.append(str(func))
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(kernel, "_may_ask", lambda device: False)
    with gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) as watcher:
        watcher._recorder._alarm.raised = lambda: False  # on CUDA a flag is read from pinned memory
        for _ in range(3):
            loss = model(torch.randn(8, 64)).square().mean()
            with Count():
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    assert asked == []


# --- without a trace ----------------------------------------------------------------------------


def leave_normally(watcher: gradwatch.Watcher) -> None:
    watcher.close()


def leave_by_detach(watcher: gradwatch.Watcher) -> None:
    watcher.detach()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_no_hook_stays_however_the_training_ends(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    error: type[BaseException] | None,
) -> None:
    keys = list(model.state_dict())

    def end() -> None:
        with gradwatch.watch(model, optimizer, strict=True) as watcher:
            train(model, optimizer, 2)
            assert hooks(model, optimizer) > 0
            assert list(model.state_dict()) == keys
            if error is not None:
                loss = model(torch.randn(8, 64)).mean()
                loss.backward()
                raise error
        watcher.close()

    if error is None:
        end()
    else:
        with pytest.raises(error):
            end()
    assert hooks(model, optimizer) == 0
    assert list(model.state_dict()) == keys


def test_an_error_in_the_models_own_forward_leaves_no_trace_and_the_next_step_is_right(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    with gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) as watcher:
        with pytest.raises(RuntimeError):
            model(torch.randn(8, 63))
        train(model, optimizer, 1)
        record = watcher.history.latest
    assert record is not None
    assert [c.layer.name for c in record.calls] == ["", "0", "1", "2", "3", "4", "5", "6"]
    assert all(c.gain is not None for c in record.calls[2:])


@pytest.mark.parametrize("keep_watcher", [True, False])
def test_the_model_can_be_collected(keep_watcher: bool) -> None:
    model = mlp(3, nn.ReLU, width=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watcher = gradwatch.watch(model, optimizer, strict=True)
    train(model, optimizer, 3)
    watcher.close()
    gone = weakref.ref(model)
    weight = weakref.ref(model[0].weight)
    if not keep_watcher:
        del watcher
    del model, optimizer
    gc.collect()
    assert gone() is None
    assert weight() is None


def test_nothing_grows_over_steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    with gradwatch.watch(model, optimizer, every_n_steps=1, strict=True):
        train(model, optimizer, 3)
        gc.collect()
        before = sum(issubclass(type(o), Tensor) for o in gc.get_objects())
        train(model, optimizer, 5)
        gc.collect()
        assert sum(issubclass(type(o), Tensor) for o in gc.get_objects()) <= before + 2


def test_copies_and_pickles_of_a_watched_model_are_plain(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        twin = copy.deepcopy(model)
        loaded = pickle.loads(pickle.dumps(model))
        buffer = io.BytesIO()
        torch.save(model, buffer)
        copy.deepcopy(optimizer)
        pickle.dumps(optimizer)
        loss = twin(torch.randn(8, 64)).mean() + loaded(torch.randn(8, 64)).mean()
        loss.backward()
        train(model, optimizer, 1)
    record = watcher.history.latest
    assert record is not None
    assert record.calls[0].output is not None
    assert record.calls[0].output.count == 80
    assert record.notes == ()


def test_paused_takes_the_hooks_off_and_puts_them_back(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        train(model, optimizer, 2)
        with watcher.paused():
            assert hooks(model, optimizer) == 0
            train(model, optimizer, 2)
        train(model, optimizer, 2)
    assert [p.step for p in watcher.history.pulses] == [0, 1, 2, 3]


def test_watching_twice_warns_and_replaces(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    first = gradwatch.watch(model, optimizer)
    count = hooks(model, optimizer)
    with pytest.warns(UserWarning, match="watched already"):
        second = gradwatch.watch(model, optimizer)
    assert hooks(model, optimizer) == count
    train(model, optimizer, 1)
    assert len(first.history) == 0
    assert len(second.history) == 1
    second.close()


def test_a_watcher_that_nobody_keeps_goes_on_watching(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    capture = Capture()
    gradwatch.watch(model, optimizer, sinks=[capture], strict=True)
    gc.collect()
    train(model, optimizer, 2)
    assert capture.reports


# --- never kills a run --------------------------------------------------------------------------


FAULTS = [
    "gradwatch.watcher.Watcher._backward_ended",
    "gradwatch.watcher.Watcher._commit",
    "gradwatch.watcher.Watcher._told",
    "gradwatch.watcher.Watcher._send",
    "gradwatch.instrument.probe.Probe._outermost_returned",
    "gradwatch.instrument.probe.measure",
    "gradwatch.instrument.examination.measure",
    "gradwatch.instrument.probe.Flow.add",
    "gradwatch.instrument.taps.Taps._add",
    "gradwatch.instrument.pulse.Ring.write",
    "gradwatch.watcher.gradient_norms",
]


@pytest.mark.parametrize("place", FAULTS)
def test_an_error_of_ours_is_warned_of_once_and_the_training_is_the_same(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(*, watch: bool) -> tuple[list[float], list[Tensor]]:
        torch.manual_seed(0)
        model = mlp(3, nn.ReLU, width=16)
        optimizer = torch.optim.Adam(model.parameters())
        if not watch:
            return train(model, optimizer, 6), list(model.parameters())
        watcher = gradwatch.watch(model, optimizer, every_n_steps=1)
        train_losses = train(model, optimizer, 2, watcher.step)
        rebind = place.startswith("gradwatch.watcher.Watcher")  # bound when it was made
        if rebind:
            watcher.close()
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")

            def broken(*_: Any, **__: Any) -> None:
                raise RuntimeError("injected")

            patch.setattr(place, broken)
            if rebind:
                watcher = gradwatch.watch(model, optimizer, every_n_steps=1)
            train_losses += train(model, optimizer, 4, watcher.step)
            told = [w for w in caught if "stepped aside" in str(w.message)]
        assert len(told) == 1
        assert "injected" in str(told[0].message)
        assert any("stepped aside" in note for note in watcher.report().notes)
        assert hooks(model, optimizer) == 0
        watcher.close()
        return train_losses, list(model.parameters())

    plain, watched = losses(watch=False), losses(watch=True)
    assert plain[0] == watched[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], watched[1], strict=True))


def test_strict_raises(
    model: nn.Module, optimizer: torch.optim.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr("gradwatch.instrument.pulse.Ring.write", broken)
    with (
        gradwatch.watch(model, optimizer, strict=True),
        pytest.raises(RuntimeError, match="injected"),
    ):
        train(model, optimizer, 1)


def test_where_warnings_are_errors_ours_still_kills_no_run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr("gradwatch.instrument.pulse.Ring.write", broken)
    with gradwatch.watch(model, optimizer), warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, 2)
    assert "stepped aside" in caplog.text


def test_a_sink_that_fails_is_left_out_and_the_others_go_on(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    class Broken(Capture):
        def write(self, report: Report, /) -> None:
            raise OSError("disk full")

    broken, capture = Broken(), Capture()
    with (
        pytest.warns(RuntimeWarning, match="Broken is left out: OSError: disk full"),
        gradwatch.watch(model, optimizer, sinks=[broken, capture]) as watcher,
    ):
        train(model, optimizer, 3)
    assert len(capture.reports) == 4  # three exams, and the close
    assert (capture.closed, broken.closed) == (1, 1)
    assert any("disk full" in note for note in watcher.report().notes)


def test_sinks_get_every_pulse_once(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    capture = Capture()
    with gradwatch.watch(model, optimizer, sinks=[capture], strict=True):
        train(model, optimizer, 150)
    steps = [pulse.step for report in capture.reports for pulse in report.pulses]
    assert steps == list(range(150))


def test_a_new_critical_finding_is_logged_once(
    model: nn.Module, optimizer: torch.optim.Optimizer, caplog: pytest.LogCaptureFixture
) -> None:
    def always(history: History) -> Iterator[Finding]:
        return iter((Finding("bad", Severity.CRITICAL, "it is bad"),))

    with (
        caplog.at_level(logging.WARNING),
        gradwatch.watch(
            model,
            optimizer,
            detectors=[always],
            strict=True,  # type: ignore[list-item]
        ),
    ):
        train(model, optimizer, 5)
    assert [record.message for record in caplog.records] == ["step 0: critical: it is bad"]


# --- arguments ----------------------------------------------------------------------------------


def test_arguments_that_make_no_sense_are_refused_by_name(
    model: nn.Module, optimizer: torch.optim.Optimizer, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="model must be"):
        gradwatch.watch(optimizer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="optimizer must be"):
        gradwatch.watch(model, "adam")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loss_fn must be"):
        gradwatch.watch(model, loss_fn=nn.functional.mse_loss)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model must have parameters"):
        gradwatch.watch(nn.ReLU())
    with pytest.raises(ValueError, match="every_n_steps"):
        gradwatch.watch(model, optimizer, every_n_steps=0, log_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert hooks(model, optimizer) == 0


def test_a_compiled_model_is_watched_by_its_parameters_and_the_report_says_so() -> None:
    model = mlp(3, nn.ReLU, width=16)
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.watch(compiled, optimizer, strict=True) as watcher:
        assert sum(len(m._forward_hooks) for m in compiled.modules()) == 0
        loss = model(torch.randn(8, 64)).square().mean()
        loss.backward()
        optimizer.step()
    record = watcher.history.latest
    assert record is not None
    assert record.calls == ()
    assert record.parameters[0].name == "0.weight"
    assert record.parameters[0].gradient is not None
    assert any("compiled" in note for note in watcher.report().notes)


def test_a_driven_watcher_is_told_when_to_read_and_of_which_optimizer(model: nn.Sequential) -> None:
    head, body = (torch.optim.SGD(part.parameters(), lr=0.01) for part in (model[-1:], model[:-1]))
    with gradwatch.watch(model, [head, body], driven=True, strict=True) as watcher:
        assert not head._optimizer_step_pre_hooks
        loss = model(torch.randn(8, 64)).square().mean()
        (loss * 8).backward()
        truth = [p.grad / 8 for p in model[-1].parameters() if p.grad is not None]
        watcher.read(1 / 8, only=head)
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        head.step()
        watcher.step(loss)
    record = watcher.history.latest
    assert record is not None
    reached = [p for p in record.parameters if p.reached]
    assert [p.name for p in reached] == ["6.weight", "6.bias"]
    norms = [p.gradient.norm for p in reached if p.gradient is not None]
    assert norms == pytest.approx([float(g.norm()) for g in truth], rel=1e-6)
    scaled = torch.cat([g.flatten() for g in truth]) * 8
    clipped = [p.grad.flatten() for p in model[-1].parameters() if p.grad is not None]
    ratio = float(torch.cat(clipped).norm() / scaled.norm())
    assert record.clip_ratio == pytest.approx(ratio, rel=1e-4)
    assert record.loss == pytest.approx(loss.item())
    assert all(p.held for p in record.parameters)


def test_a_module_that_is_replaced_is_tapped_from_the_next_exam_on(model: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) as watcher:
        train(model, optimizer, 2)
        model[3] = nn.Sequential(nn.Tanh(), nn.Identity())
        train(model, optimizer, 2)
    taps = watcher.history.pulses[-1].columns.taps
    assert "3.0" in taps
    assert "3.0" not in watcher.history.pulses[0].columns.taps


def test_the_learning_rates_of_an_examined_step_are_kept(model: nn.Sequential) -> None:
    groups = [
        {"params": model[0].parameters(), "lr": 0.1},
        {"params": model[2:].parameters(), "lr": torch.tensor(0.2)},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.01, foreach=False)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    with gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) as watcher:
        train(model, optimizer, 3, lambda _: schedule.step())
    assert [r.learning_rates[:1] for r in watcher.history] == [(0.1,), (0.05,), (0.025,)]


def test_a_step_in_which_no_gradient_came_anywhere_is_seen_as_one(model: nn.Sequential) -> None:
    """A loss that hangs on nothing that is watched: every parameter is disconnected."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    outside = torch.ones((), requires_grad=True)
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        for _ in range(60):
            loss = (model(torch.ones(8, 64)).detach().square().mean() + outside) * 1.0
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    assert len(watcher.history.pulses) == 60
    finding = watcher.report().finding("disconnected-parameters")
    assert finding is not None
    assert str(finding.severity) == "critical"
    assert finding.numbers["share"] == 1


def test_optimizers_that_take_turns_are_all_examined(model: nn.Sequential) -> None:
    """Every 50th step alone would always be the same optimizer's."""
    turns = [torch.optim.SGD(part.parameters(), lr=0.01) for part in (model[-1:], model[:-1])]
    with gradwatch.watch(model, turns, every_n_steps=20, strict=True) as watcher:
        for _ in range(25):
            for optimizer in turns:
                model.zero_grad()
                loss = model(torch.randn(8, 64)).square().mean()
                loss.backward(inputs=optimizer.param_groups[0]["params"])
                optimizer.step()
    steps = [record.step for record in watcher.history]
    assert steps == [0, 1, 2, 3, 5, 6, 10, 11, 20, 21, 40, 41]
    late = [{p.name[0] for p in r.parameters if p.reached} for r in watcher.history.records[-2:]]
    assert late == [{"6"}, {"0", "2", "4"}]
