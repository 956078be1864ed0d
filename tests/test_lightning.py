"""The Lightning callback: it sees what a plain loop's watcher sees, and changes nothing.

Every scenario is a real Trainer, once of `lightning.pytorch` and once of `pytorch_lightning`.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gradwatch
from gradwatch.core import runfolder
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.lightning import GradWatch
from tests.zoo.trainings import mlp

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
]
PACKAGES = ("lightning.pytorch", "pytorch_lightning")
BATCHES = 7  # odd for windows of 2 and 3


@pytest.fixture(params=PACKAGES)
def L(request: pytest.FixtureRequest) -> Any:
    return import_module(request.param)


def data(seed: int = 1) -> DataLoader[tuple[Tensor, ...]]:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(BATCHES * 8, 64, generator=draw)
    labels = torch.randint(10, (BATCHES * 8,), generator=draw)
    return DataLoader(TensorDataset(inputs, labels), batch_size=8)


def classifier(L: Any, *, fused: bool | None = None, rate: float = 0.05, **methods: Any) -> Any:
    """Return a LightningModule with an MLP; `methods` replace those of the class."""

    class Module(L.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(3, nn.ReLU, width=16)
            self.fails_at: int | None = None

        def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.log("user/loss", loss, on_step=True)
            return loss

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            self.log("user/val", self.loss(batch))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=rate, fused=fused)

    torch.manual_seed(0)
    return type("Module", (Module,), methods)()


def trainer(L: Any, folder: Path, *callbacks: Any, **options: Any) -> Any:
    given = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "default_root_dir": folder,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "callbacks": list(callbacks),
    }
    return L.Trainer(**(given | options))


def precision(L: Any, name: str) -> dict[str, Any]:
    """Return the option of a Trainer; for fp16 it takes the CPU only if handed the plugin."""
    if name != "16-mixed":
        return {"precision": name}
    plugin = import_module(f"{L.__name__}.plugins").MixedPrecision
    return {"plugins": [plugin(name, "cpu", torch.amp.GradScaler("cpu"))]}


def callback(**options: Any) -> GradWatch:
    return GradWatch(**({"report": False, "strict": True, "every_n_steps": 3} | options))


def history(watch: GradWatch) -> History:
    assert watch.watcher is not None
    return watch.watcher.history


def state(module: nn.Module, run: Any) -> list[Tensor]:
    tensors = [*module.state_dict().values(), torch.get_rng_state()]
    for optimizer in run.optimizers:
        for values in optimizer.state_dict()["state"].values():
            tensors += [v for v in values.values() if isinstance(v, Tensor)]
    return [tensor.detach().clone() for tensor in tensors]


def hooks(module: nn.Module) -> int:
    found = sum(
        len(getattr(one, name))
        for one in module.modules()
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    )
    return found + sum(len(p._post_accumulate_grad_hooks or ()) for p in module.parameters())


def undisturbed(
    L: Any,
    folder: Path,
    make: Callable[[], Any],
    more: Callable[[], list[Any]] = list,
    kind: str = "32-true",
    **options: Any,
) -> History:
    """Fit with and without the callback; return what was seen if it made no difference."""
    ends = []
    watch = callback()
    for callbacks in (more(), [*more(), watch]):
        module = make()
        torch.manual_seed(2)
        run = trainer(L, folder / str(len(ends)), *callbacks, **precision(L, kind), **options)
        run.fit(module, data(), data(3))
        ends.append(state(module, run))
    assert len(ends[0]) == len(ends[1])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    assert hooks(module) == 0
    assert watch.watcher is not None
    assert not watch.watcher.report().notes
    return history(watch)


# --- the series of a plain loop -------------------------------------------------------------------


def plain(module: Any, accumulate: int, clip: float | None, kind: str) -> History:
    """What a watcher sees in the loop that one would write by hand."""
    optimizer = module.configure_optimizers()
    scaler = torch.amp.GradScaler("cpu") if kind == "16-mixed" else None
    dtype = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(kind)
    watcher = gradwatch.watch(module, optimizer, scaler=scaler, every_n_steps=3, strict=True)
    for _ in range(2):
        batches = list(data())
        for start in range(0, len(batches), accumulate):
            losses = []
            for batch in batches[start : start + accumulate]:
                cast = torch.autocast("cpu", dtype, cache_enabled=False) if dtype else nullcontext()
                with cast:
                    loss = module.loss(batch)
                part = loss / accumulate
                (part if scaler is None else scaler.scale(part)).backward()
                losses.append(loss.detach())
            if scaler is not None:
                scaler.unscale_(optimizer)
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            watcher.step(torch.stack(losses).mean())
            optimizer.zero_grad()
    watcher.close()
    return watcher.history


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("kind", ["32-true", "bf16-mixed", "16-mixed"])
def test_the_series_are_those_of_a_plain_loop(
    L: Any, tmp_path: Path, accumulate: int, clip: float | None, kind: str
) -> None:
    """Every number of every step, accumulated with an odd tail, unscaled, before clipping."""
    ours = undisturbed(
        L,
        tmp_path,
        lambda: classifier(L),
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        logger=False,
        kind=kind,
    )
    theirs = plain(classifier(L), accumulate, clip, kind)
    assert len(ours.pulses) == len(theirs.pulses) == 2 * -(-BATCHES // accumulate)
    for one, other in zip(ours.pulses, theirs.pulses, strict=True):
        assert one.step == other.step
        assert one.columns == other.columns
        np.testing.assert_allclose(one.norms, other.norms, rtol=1e-6)
        np.testing.assert_allclose(one.outputs, other.outputs, rtol=1e-5)
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
        if kind != "16-mixed":  # where a plain loop's watcher does not know it
            assert one.clip_ratio == pytest.approx(other.clip_ratio, rel=1e-5)
        elif clip is not None:
            assert one.clip_ratio == pytest.approx(min(1.0, clip / one.norm), rel=1e-3)
    assert [r.step for r in ours] == [r.step for r in theirs]
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.read_point == yours.read_point == "before clipping"
        assert [c.layer.name for c in mine.calls] == [c.layer.name for c in yours.calls]
        gains = [[c.gain for c in r.calls if c.gain is not None] for r in (mine, yours)]
        assert gains[0]
        assert gains[0] == pytest.approx(gains[1], rel=1e-6)
        for p, q in zip(mine.parameters, yours.parameters, strict=True):
            assert p.held and q.held
            assert p.gradient is not None and q.gradient is not None
            assert p.gradient.norm == pytest.approx(q.gradient.norm, rel=1e-6)
            assert p.update is not None and q.update is not None
            assert p.update.norm == pytest.approx(q.update.norm, rel=1e-6)


# --- ways to optimize -----------------------------------------------------------------------------


def gan(L: Any, *, toggle: bool, detach: bool = True, clip: float | None = None) -> Any:
    """Return two nets, two optimizers and a training_step by hand."""

    class Gan(L.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.critic = mlp(2, nn.ReLU, width=16), nn.Linear(10, 1)
            self.truths: list[tuple[float, float]] = []

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            ours, theirs = self.optimizers()
            parts = (self.critic, theirs, -1.0), (self.generator, ours, 1.0)
            for part, optimizer, sign in parts:
                if toggle:
                    self.toggle_optimizer(optimizer)
                made = self.generator(batch[0])
                made = made.detach() if detach and part is self.critic else made
                loss = sign * self.critic(made).sigmoid().mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                norm = nn.utils.get_total_norm([p.grad for p in part.parameters()])
                self.truths.append((norm.item(), loss.item()))
                if clip is not None:
                    self.clip_gradients(optimizer, gradient_clip_val=clip)
                optimizer.step()
                if toggle:
                    self.untoggle_optimizer(optimizer)

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            self.critic(self.generator(batch[0]))

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            parts = self.generator, self.critic
            return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in parts]

    torch.manual_seed(0)
    return Gan()


@pytest.mark.parametrize("toggle", [False, True])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("clip", [None, 1e-3])
def test_a_gan_has_two_steps_a_batch_each_about_its_own_half(
    L: Any, tmp_path: Path, toggle: bool, detach: bool, clip: float | None
) -> None:
    """In manual optimization too the gradients are read before the user's clipping."""
    made = []

    def make() -> Any:
        made.append(gan(L, toggle=toggle, detach=detach, clip=clip))
        return made[-1]

    seen = undisturbed(L, tmp_path, make, logger=False)
    truths = made[-1].truths
    assert len(truths) == 4 * BATCHES
    assert [p.step for p in seen.pulses] == list(range(4 * BATCHES))
    assert [p.norm for p in seen.pulses] == pytest.approx([n for n, _ in truths], rel=1e-5)
    assert [p.loss for p in seen.pulses] == pytest.approx([v for _, v in truths], rel=1e-5)
    ratios = [1.0 if clip is None else min(1.0, clip / norm) for norm, _ in truths]
    assert [p.clip_ratio for p in seen.pulses] == pytest.approx(ratios, rel=1e-3)
    for record in seen:
        half = "generator" if record.step % 2 else "critic"
        reached = {p.name.partition(".")[0] for p in record.parameters if p.reached}
        assert reached == {half}
        assert record.read_point == "before clipping"


def test_two_optimizers_may_share_one_backward(L: Any, tmp_path: Path) -> None:
    """Each of the two steps has the parameters of its own optimizer."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def optimizers(self: Any) -> list[torch.optim.Optimizer]:
        parts = self.net[:2], self.net[2:]
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in parts]

    def make() -> Any:
        methods = {"training_step": training_step, "configure_optimizers": optimizers}
        return classifier(L, automatic_optimization=False, **methods)

    seen = undisturbed(L, tmp_path, make, logger=False)
    assert len(seen.pulses) == 4 * BATCHES
    for pulse in seen.pulses:
        first = [n for n, v in zip(pulse.columns.parameters, pulse.norms, strict=True) if v >= 0]
        assert all(name.startswith("net.0.") != bool(pulse.step % 2) for name in first)
        assert first


def test_manual_optimization_may_accumulate(L: Any, tmp_path: Path) -> None:
    """The gradient is that of all backwards since the last step, and the loss their sum."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.loss(batch) / 2)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()

    def make() -> Any:
        return classifier(L, automatic_optimization=False, training_step=training_step)

    seen = undisturbed(L, tmp_path, make, logger=False, max_epochs=1)
    module, batches = classifier(L), list(data())[:2]
    loss = sum(module.loss(batch) for batch in batches) / 2
    loss.backward()
    truth = float(nn.utils.get_total_norm([p.grad for p in module.parameters()]))
    assert len(seen.pulses) == BATCHES // 2
    assert seen.pulses[0].norm == pytest.approx(truth, rel=1e-5)
    assert seen.pulses[0].loss == pytest.approx(loss.item(), rel=1e-5)


def test_lbfgs_is_one_step_however_often_it_calls_its_closure(L: Any, tmp_path: Path) -> None:
    """What is told is of the last call, as in a plain loop."""

    def lbfgs(self: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    def make() -> Any:
        return classifier(L, configure_optimizers=lbfgs)

    seen = undisturbed(L, tmp_path, make, logger=False, max_epochs=1)
    module = make()
    optimizer = module.configure_optimizers()
    criterion = nn.CrossEntropyLoss()
    watcher = gradwatch.watch(module, optimizer, loss_fn=criterion, every_n_steps=3, strict=True)
    for inputs, labels in data():

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = criterion(module.net(inputs), labels)
            loss.backward()
            return loss

        optimizer.step(closure)
    watcher.close()
    theirs = watcher.history
    assert len(seen.pulses) == BATCHES
    for one, other in zip(seen.pulses, theirs.pulses, strict=True):
        np.testing.assert_allclose(one.norms, other.norms, rtol=1e-6)
        assert one.loss == pytest.approx(other.loss, rel=1e-6)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_step_that_returns_none_is_no_step(
    L: Any, tmp_path: Path, accumulate: int
) -> None:
    """Its number stays free; with accumulation the rest of the window counts."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> Tensor | None:
        return None if batch_idx in (2, 3, 5) else self.loss(batch)

    def make() -> Any:
        return classifier(L, training_step=training_step)

    options = {"logger": False, "max_epochs": 1, "accumulate_grad_batches": accumulate}
    seen = undisturbed(L, tmp_path, make, **options)
    assert [p.step for p in seen.pulses] == ([0, 1, 4, 6] if accumulate == 1 else [0, 2, 3])
    assert all(np.isfinite(p.norms).all() and (p.norms > 0).all() for p in seen.pulses)
    assert all(np.isfinite(p.loss) for p in seen.pulses)


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_grad_scaler_skips_is_no_step(L: Any, tmp_path: Path, fused: bool) -> None:
    """Its gradients are infinite by design, and nothing was done with them."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(batch)
        return loss * 1e36 if batch_idx == 1 else loss

    def make() -> Any:
        return classifier(L, fused=fused, training_step=training_step)

    seen = undisturbed(L, tmp_path, make, logger=False, max_epochs=1, kind="16-mixed")
    assert [p.step for p in seen.pulses] == [0, 2, 3, 4, 5, 6]
    assert all(np.isfinite(p.norms).all() for p in seen.pulses)
    assert all(p.norm < 100 for p in seen.pulses), "they are unscaled"
    assert [p.clip_ratio for p in seen.pulses] == pytest.approx([1.0] * 6, rel=1e-3)
    assert all(p.gradient is not None and p.gradient.norm < 100 for p in seen.records[0].parameters)


def test_fp16_in_manual_optimization_is_unscaled(L: Any, tmp_path: Path) -> None:
    """There backward ends before Lightning unscales."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()

    def make() -> Any:
        return classifier(L, automatic_optimization=False, training_step=training_step)

    seen = undisturbed(L, tmp_path, make, logger=False, kind="16-mixed")
    theirs = plain(classifier(L), 1, None, "16-mixed")
    for one, other in zip(seen.pulses, theirs.pulses, strict=True):
        np.testing.assert_allclose(one.norms, other.norms, rtol=1e-6)
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
        assert one.clip_ratio == pytest.approx(1.0, rel=1e-5)


# --- what else a fit is made of -------------------------------------------------------------------


def test_validation_and_the_sanity_check_leave_no_trace(L: Any, tmp_path: Path) -> None:
    """The series are the same whether one validates after every batch, or never."""
    options = {"logger": False, "max_epochs": 1, "accumulate_grad_batches": 2}
    often = undisturbed(L, tmp_path / "a", lambda: classifier(L), val_check_interval=1, **options)
    never = undisturbed(L, tmp_path / "b", lambda: classifier(L), limit_val_batches=0, **options)
    for one, other in zip(often.pulses, never.pulses, strict=True):
        np.testing.assert_array_equal(one.norms, other.norms)
        np.testing.assert_array_equal(one.outputs, other.outputs)
    for mine, yours in zip(often, never, strict=True):
        assert [(c.layer.name, c.gain) for c in mine.calls] == [
            (c.layer.name, c.gain) for c in yours.calls
        ]


def test_averages_of_the_weights_are_undisturbed(L: Any, tmp_path: Path) -> None:
    """SWA copies the module, swaps weights, and adds an epoch without an optimizer step."""

    def swa() -> list[Any]:
        swa_callback = L.callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
        return [swa_callback]

    options = {"logger": False, "max_epochs": 3}
    seen = undisturbed(L, tmp_path / "swa", lambda: classifier(L), swa, **options)
    assert len(seen.pulses) == 3 * BATCHES

    def ema() -> list[Any]:
        return [L.callbacks.EMAWeightAveraging(decay=0.9)]

    seen = undisturbed(L, tmp_path / "ema", lambda: classifier(L), ema, **options)
    assert len(seen.pulses) == 3 * BATCHES


def test_the_learning_rate_finder_is_not_watched(L: Any, tmp_path: Path) -> None:
    """Neither as a tuner nor as a callback; the fit after it is."""
    tuner = import_module(f"{L.__name__}.tuner")
    watch = callback()
    module = classifier(L)
    module.lr = 0.05
    run = trainer(L, tmp_path, watch, logger=False, max_epochs=1)
    tuner.Tuner(run).lr_find(module, data(), num_training=5, update_attr=False)
    assert watch.watcher is None
    assert hooks(module) == 0
    run.fit(module, data())
    assert len(history(watch).pulses) == BATCHES

    watch = callback()
    finder = L.callbacks.LearningRateFinder(num_training_steps=5, update_attr=False)
    run = trainer(L, tmp_path, finder, watch, logger=False, max_epochs=1)
    run.fit(module, data())
    assert [p.step for p in history(watch).pulses] == list(range(BATCHES))


def test_fast_dev_run_leaves_nothing_behind(
    L: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    watch = callback(report=True)
    trainer(L, tmp_path, watch, fast_dev_run=2).fit(classifier(L), data(), data())
    assert len(history(watch).pulses) == 2
    assert list(tmp_path.rglob("*")) == []
    assert "at step 1" in capsys.readouterr().out


def test_fit_may_be_called_twice(L: Any, tmp_path: Path) -> None:
    """With more epochs it goes on counting; a new Trainer begins anew; validating is neither."""
    watch = callback()
    module = classifier(L)
    run = trainer(L, tmp_path, watch, max_epochs=1)
    run.fit(module, data())
    first = watch.watcher
    run.validate(module, data(), verbose=False)
    assert watch.watcher is first
    run.fit_loop.max_epochs = 2
    run.fit(module, data())
    assert watch.watcher is not first
    assert [p.step for p in history(watch).pulses] == list(range(BATCHES, 2 * BATCHES))
    kept = runfolder.read(run.log_dir).history
    assert [p.step for p in kept.pulses] == list(range(2 * BATCHES))
    again = trainer(L, tmp_path / "new", watch, max_epochs=1)
    again.fit(module, data())
    assert [p.step for p in history(watch).pulses] == list(range(BATCHES))
    assert hooks(module) == 0


def test_a_resumed_run_goes_on_in_its_run_folder(L: Any, tmp_path: Path) -> None:
    """Later steps of the run that was killed are overridden; the checkpoint loads weights only."""
    logger = import_module(f"{L.__name__}.loggers").TensorBoardLogger

    def run(epochs: int, watch: GradWatch) -> Any:
        to = logger(tmp_path, name="run", version=0)
        return trainer(L, tmp_path, watch, max_epochs=epochs, logger=to)

    killed = run(2, callback())
    killed.fit(classifier(L), data())
    early = run(1, callback())
    early.fit(module := classifier(L), data())
    early.save_checkpoint(tmp_path / "early.ckpt")
    saved = torch.load(tmp_path / "early.ckpt", weights_only=True)
    assert not any("GradWatch" in key for key in saved["callbacks"])
    watch = callback()
    resumed = run(3, watch)
    resumed.fit(module, data(), ckpt_path=tmp_path / "early.ckpt", weights_only=True)
    assert [p.step for p in history(watch).pulses] == list(range(BATCHES, 3 * BATCHES))
    assert history(watch).records[0].step == BATCHES, "a resumed run is examined at once"
    kept = runfolder.read(tmp_path / "run/version_0")
    assert [p.step for p in kept.history.pulses] == list(range(3 * BATCHES))
    assert not kept.problems
    assert len(list((tmp_path / "run/version_0/gradwatch").glob("seg-???.json"))) == 3


def _twice(L: Any, folder: Path, run: Any, module: Any) -> None:
    run.fit_loop.max_epochs = 1
    run.fit(module, data())
    run.validate(module, data(3), verbose=False)
    run.fit_loop.max_epochs = 2
    run.fit(module, data())


def _resumed(L: Any, folder: Path, run: Any, module: Any) -> None:
    first = trainer(L, folder / "first", max_epochs=1, logger=False)
    first.fit(module, data())
    first.save_checkpoint(folder / "first.ckpt")
    run.fit(module, data(), ckpt_path=folder / "first.ckpt", weights_only=True)


def _after_the_finder(L: Any, folder: Path, run: Any, module: Any) -> None:
    module.lr = 0.05
    tuner = import_module(f"{L.__name__}.tuner").Tuner(run)
    tuner.lr_find(module, data(), num_training=5, update_attr=False)
    run.fit(module, data())


def _until_an_error(L: Any, folder: Path, run: Any, module: Any) -> None:
    step, steps = module.training_step, iter(range(99))

    def failing(batch: Any, batch_idx: int) -> Tensor:
        if next(steps) == 4:
            raise RuntimeError("out of data")
        return step(batch, batch_idx)  # type: ignore[no-any-return]

    module.training_step = failing
    with pytest.raises(RuntimeError, match="out of data"):
        run.fit(module, data())


def _fast_dev_run(L: Any, folder: Path, run: Any, module: Any) -> None:
    run.fit(module, data(), data(3))


@pytest.mark.parametrize(
    ("fit", "options"),
    [
        (_twice, {}),
        (_resumed, {}),
        (_after_the_finder, {}),
        (_until_an_error, {}),
        (_fast_dev_run, {"fast_dev_run": 3}),
    ],
    ids=["fit twice", "resumed", "after the rate finder", "until an error", "fast_dev_run"],
)
def test_however_a_training_is_run_it_is_bit_identical(
    L: Any, tmp_path: Path, fit: Callable[..., None], options: dict[str, Any]
) -> None:
    ends = []
    for callbacks in ([], [callback()]):
        folder = tmp_path / str(len(ends))
        module = classifier(L)
        torch.manual_seed(2)
        run = trainer(L, folder, *callbacks, logger=False, **options)
        fit(L, folder, run, module)
        ends.append(state(module, run))
        assert hooks(module) == 0
    assert len(ends[0]) == len(ends[1])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


# --- where it writes ------------------------------------------------------------------------------


def tags(file: Path) -> Iterator[tuple[str, int]]:
    for event in LegacyEventFileLoader(str(file)).Load():
        for value in event.summary.value:
            yield value.tag, event.step


def test_it_writes_through_the_writer_of_the_trainer(L: Any, tmp_path: Path) -> None:
    """One event file in the folder, or TensorBoard would stop reading the user's own numbers."""
    watch = callback()
    run = trainer(L, tmp_path, watch, max_epochs=2)
    run.fit(classifier(L), data(), data(3))
    folder = Path(run.log_dir)
    (events,) = tmp_path.rglob("*tfevents*")
    assert events.parent == folder == tmp_path / "lightning_logs/version_0"
    seen = list(tags(events))
    every = list(range(2 * BATCHES))
    assert [step for tag, step in seen if tag == "user/loss"] == every
    assert [step for tag, step in seen if tag == "gradwatch/loss"] == every
    assert any(tag.startswith("gradwatch gradients, log2/") for tag, _ in seen)
    kept = runfolder.read(folder)
    assert [p.step for p in kept.history.pulses] == every
    assert history(watch).pulses[-1].loss == kept.history.pulses[-1].loss


def test_the_python_reader_of_tensorboard_follows_the_users_scalars(tmp_path: Path) -> None:
    """As with --load_fast=false, which reads on from the newest event file of a folder only."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    L = import_module(PACKAGES[0])
    reader: list[Any] = []
    counts: list[int] = []

    class Reader(L.Callback):  # type: ignore[misc,name-defined]
        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
            trainer.logger.experiment.flush()
            if not reader:
                reader.append(EventAccumulator(trainer.log_dir))
            reader[0].Reload()
            known = reader[0].Tags()["tensors"]
            counts.append(len(reader[0].Tensors("user/loss")) if "user/loss" in known else 0)

    trainer(L, tmp_path, callback(), Reader(), max_epochs=2).fit(classifier(L), data())
    reader[0].Reload()
    assert [event.step for event in reader[0].Tensors("user/loss")] == list(range(2 * BATCHES))
    assert counts[0] < BATCHES < counts[-1], "it was read while it grew"


def test_other_loggers_get_a_few_scalars(L: Any, tmp_path: Path) -> None:
    """The run folder is in the log dir of the Trainer all the same."""
    to = import_module(f"{L.__name__}.loggers").CSVLogger(tmp_path)
    run = trainer(L, tmp_path, callback(), logger=to)
    run.fit(classifier(L), data())
    written = (Path(run.log_dir) / "metrics.csv").read_text()
    for name in ("findings", "gradient_norm", "clip_ratio", "bits_to_first_layer"):
        assert f"gradwatch/{name}" in written
    assert "user/loss" in written
    assert len(runfolder.read(run.log_dir).history.pulses) == 2 * BATCHES
    assert not list(tmp_path.rglob("*tfevents*"))


def test_a_logger_that_fails_is_left_out(L: Any, tmp_path: Path) -> None:
    """And the training and all other places go on."""
    csv = import_module(f"{L.__name__}.loggers").CSVLogger

    class Failing(csv):  # type: ignore[misc,valid-type]
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if any(name.startswith("gradwatch") for name in metrics):
                raise ConnectionError("the server is gone")

    watch = callback(strict=False)
    run = trainer(L, tmp_path, watch, logger=Failing(tmp_path))
    with pytest.warns(RuntimeWarning, match="left out: ConnectionError: the server is gone"):
        run.fit(classifier(L), data())
    assert watch.watcher is not None
    assert any("the server is gone" in note for note in watch.watcher.report().notes)
    assert len(runfolder.read(run.log_dir).history.pulses) == 2 * BATCHES


def test_without_a_logger_the_run_folder_is_in_the_root_dir(L: Any, tmp_path: Path) -> None:
    trainer(L, tmp_path, callback(), logger=False).fit(classifier(L), data())
    assert [path.name for path in tmp_path.iterdir()] == ["gradwatch"]


def test_a_folder_that_cannot_be_written_costs_the_watching_only(L: Any, tmp_path: Path) -> None:
    (tmp_path / "gradwatch").write_text("in the way")
    module = classifier(L)
    run = trainer(L, tmp_path, callback(strict=False), logger=False)
    with pytest.warns(RuntimeWarning, match="gradwatch does not watch: FileExistsError"):
        run.fit(module, data())
    assert run.global_step == 2 * BATCHES
    with pytest.raises(FileExistsError):
        trainer(L, tmp_path, callback(strict=True), logger=False).fit(module, data())


# --- how it ends ----------------------------------------------------------------------------------


def complain(severity: Severity, since: int) -> Callable[[History], tuple[Finding, ...]]:
    """Return a detector that finds something from a step on."""

    def detector(seen: History) -> tuple[Finding, ...]:
        if seen.last_step < since:
            return ()
        return (Finding("bad", severity, "it is bad", (), since, seen.last_step),)

    return detector


def test_the_report_is_printed_when_fit_ends(
    L: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the run folder and the commands to look closer; unless it is not wanted."""
    run = trainer(L, tmp_path, callback(report=True, detectors=[complain(Severity.WARNING, 3)]))
    run.fit(classifier(L), data())
    printed = capsys.readouterr().out
    assert "Warning: it is bad" in printed
    assert f"Run folder: {run.log_dir}" in printed
    assert f"gradwatch report {run.log_dir} -o report.html" in printed
    assert f"tensorboard --logdir {run.log_dir}" in printed
    trainer(L, tmp_path, callback()).fit(classifier(L), data())
    assert "gradwatch" not in capsys.readouterr().out


@pytest.mark.parametrize("stop_on", ["critical", "warning", None])
@pytest.mark.parametrize("severity", [Severity.CRITICAL, Severity.WARNING, Severity.NOTE])
def test_a_hopeless_training_is_ended_if_that_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stop_on: str | None, severity: Severity
) -> None:
    """At the exam that finds it, with the reason."""
    L = import_module(PACKAGES[0])
    watch = callback(stop_on=stop_on, detectors=[complain(severity, 6)])
    run = trainer(L, tmp_path, watch, logger=False)
    run.fit(classifier(L), data())
    stops = stop_on is not None and severity >= Severity[stop_on.upper()]
    assert run.global_step == (7 if stops else 2 * BATCHES)
    printed = capsys.readouterr().out
    assert ("gradwatch ends the training at step 6." in printed) == stops
    assert ("it is bad" in printed) == stops


@pytest.mark.slow
def test_remedies_are_tried_when_a_fit_went_wrong(
    L: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On copies of the module as it was at the start, with its own training step, bit-identically
    for the module itself."""

    def run(try_remedies: bool | float) -> tuple[Any, GradWatch]:
        module = classifier(L, rate=1e-9)
        watch = callback(try_remedies=try_remedies, detectors=None)
        trainer(L, tmp_path, watch, max_epochs=4).fit(module, data())
        return module, watch

    plain, untried = run(False)
    assert untried.verdicts is None
    tried, watch = run(20.0)
    verdicts = watch.verdicts
    assert verdicts is not None
    assert verdicts.recommended, str(verdicts)
    assert verdicts.recommended[0].model.net[0].weight.shape == tried.net[0].weight.shape
    assert "untreated" in capsys.readouterr().out
    assert watch.watcher is not None
    folder = watch.watcher.report().run_folder
    assert folder is not None
    kept = runfolder.read(folder).trial
    assert kept is not None and kept.to_json() == verdicts.to_json()
    for one, other in zip(plain.parameters(), tried.parameters(), strict=True):
        assert torch.equal(one, other)


def test_no_remedies_are_tried_on_a_training_that_went_well(L: Any, tmp_path: Path) -> None:
    watch = callback(try_remedies=True, detectors=[])
    trainer(L, tmp_path, watch).fit(classifier(L), data())
    assert watch.verdicts is None


def test_options_that_make_no_sense_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="try_remedies must be True, False or a number"):
        GradWatch(try_remedies=-1.0)
    with pytest.raises(ValueError, match="stop_on must be 'critical', 'warning' or None"):
        GradWatch(stop_on="note")
    with pytest.raises(ValueError, match="every_n_steps must be at least 1"):
        GradWatch(every_n_steps=0)


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt()])
def test_an_exception_leaves_no_hook_and_a_whole_run_folder(
    L: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    """Lightning only tells `on_exception`; whoever pressed Ctrl-C gets the report."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 4:
            raise error
        return self.loss(batch)  # type: ignore[no-any-return]

    module = classifier(L, training_step=training_step)
    run = trainer(L, tmp_path, callback(report=True), logger=False)
    with pytest.raises((RuntimeError, SystemExit)):
        run.fit(module, data())
    assert hooks(module) == 0
    assert not any(one._optimizer_step_post_hooks for one in run.optimizers)
    assert [p.step for p in runfolder.read(tmp_path).history.pulses] == [0, 1, 2, 3]
    interrupted = isinstance(error, KeyboardInterrupt)
    assert ("at step 3" in capsys.readouterr().out) == interrupted


def test_an_error_of_its_own_ends_the_watching_only(L: Any, tmp_path: Path) -> None:
    def broken(seen: History) -> tuple[Finding, ...]:
        raise ZeroDivisionError("a bug")

    module = classifier(L)
    run = trainer(L, tmp_path, callback(strict=False, detectors=[broken]), logger=False)
    with pytest.warns(RuntimeWarning, match="stepped aside at step 0: ZeroDivisionError: a bug"):
        run.fit(module, data())
    assert run.global_step == 2 * BATCHES
    assert hooks(module) == 0


def test_a_fit_without_an_optimizer_is_told_so_and_no_hook_stays(
    L: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = classifier(L, configure_optimizers=lambda self: None)
    run = trainer(L, tmp_path, callback(report=True), logger=False)
    with pytest.warns(UserWarning, match="configure_optimizers` returned `None`"):
        run.fit(module, data())
    assert hooks(module) == 0
    assert "Critical: no optimizer holds 8 parameters that get gradients" in capsys.readouterr().out


def test_a_compiled_module_is_watched_by_its_parameters(L: Any, tmp_path: Path) -> None:
    """As in a plain loop; the report says what is not observed."""
    watch = callback()
    module = classifier(L)
    module.net.compile(backend="eager")
    trainer(L, tmp_path, watch, logger=False).fit(module, data())
    assert len(history(watch).pulses) == 2 * BATCHES
    assert watch.watcher is not None
    assert any("not observed: compiled" in note for note in watch.watcher.report().notes)


# --- two packages, several processes --------------------------------------------------------------


def test_it_can_be_pickled_alone_and_with_its_trainer(L: Any, tmp_path: Path) -> None:
    """As ddp_spawn does, before and after a fit; its options come along, its watcher does not."""
    boring = import_module(f"{L.__name__}.demos.boring_classes").BoringModel
    watch = callback(stop_on="critical", every_n_steps=7)
    run = trainer(L, tmp_path, watch, max_epochs=1, limit_train_batches=3, limit_val_batches=0)
    for _ in range(2):
        for one in (pickle.loads(pickle.dumps(watch)), copy.deepcopy(watch)):
            assert isinstance(one, GradWatch) and isinstance(one, L.Callback)
            assert one.watcher is None
            assert one._options == watch._options
        assert isinstance(pickle.loads(pickle.dumps(run)).callbacks[0], GradWatch)
        run.fit(boring())
    assert len(history(watch).pulses) == 3


def test_a_subclass_is_a_callback_too(L: Any, tmp_path: Path) -> None:
    ended = []

    class Mine(GradWatch):
        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            ended.append(self.watcher)
            super().on_fit_end(trainer, pl_module)

    watch = Mine(report=False)
    assert isinstance(watch, L.Callback)
    trainer(L, tmp_path, watch, logger=False).fit(classifier(L), data())
    assert ended == [watch.watcher]


@pytest.mark.distributed
def test_several_processes_see_the_reduced_gradient_and_stop_together(tmp_path: Path) -> None:
    """Of two spawned processes the first is watched: it sees what one sees with all the data."""
    script = tmp_path / "script.py"
    script.write_text(SEVERAL)
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, check=True, timeout=200, capture_output=True, text=True)
    assert "rank 0 stopped after 6" in done.stdout
    assert "rank 1 stopped after 6" in done.stdout
    assert done.stdout.count("gradwatch ends the training at step 5.") == 1
    torch.manual_seed(0)
    layer = nn.Linear(8, 3)
    inputs = torch.arange(8 * 8 * 8.0).reshape(64, 8).sin()
    truths = []
    for batch in inputs.split(8):
        layer.zero_grad()
        layer(batch).square().mean().backward()
        truths.append([p.grad.norm().item() for p in layer.parameters() if p.grad is not None])
        with torch.no_grad():
            for p in layer.parameters():
                p -= 0.1 * p.grad
    seen = runfolder.read(tmp_path).history.pulses
    assert [p.step for p in seen] == list(range(6))
    np.testing.assert_allclose([p.norms for p in seen], truths[:6], rtol=1e-5)


SEVERAL = """
import sys
import lightning.pytorch as L, torch
from torch.utils.data import DataLoader
from gradwatch.core.finding import Finding, Severity
from gradwatch.lightning import GradWatch

def bad(seen):
    last = seen.last_step
    return (Finding("bad", Severity.CRITICAL, "it is bad", (), 5, last),) if last >= 5 else ()

class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 3)
    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
    def train_dataloader(self):
        inputs = torch.arange(8 * 8 * 8.0).reshape(64, 8).sin()
        return DataLoader(inputs[self.global_rank :: 2], batch_size=4)
    def on_train_end(self):
        print(f"rank {self.global_rank} stopped after {self.trainer.global_step}", flush=True)

if __name__ == "__main__":
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_spawn", max_epochs=1, logger=False,
        callbacks=[GradWatch(stop_on="critical", detectors=[bad], strict=True)],
        default_root_dir=sys.argv[1], use_distributed_sampler=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    torch.manual_seed(0)
    trainer.fit(Module())
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_only_the_package_that_is_used_is_imported(package: str) -> None:
    """Importing the door imports none; a callback belongs to what is imported when it is made."""
    code = f"""
import sys
from gradwatch.lightning import GradWatch
assert not {set(PACKAGES)} & set(sys.modules)
import {package}
assert isinstance(GradWatch(), {package}.Callback)
assert {set(PACKAGES) - {package}} & set(sys.modules) == set()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_lightning_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("lightning", "pytorch_lightning"):
            monkeypatch.delitem(sys.modules, name)
    for name in ("lightning", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gradwatch\[lightning\]'"):
        GradWatch()
