"""A real Trainer of transformers, tiny and offline, trains the same with the callback, and tells it
the true gradients."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

if any(importlib.util.find_spec(name) is None for name in ("transformers", "accelerate")):
    pytest.skip(
        "needs transformers and accelerate: pip install 'gradwatch[huggingface]'",
        allow_module_level=True,
    )
os.environ["HF_HUB_OFFLINE"] = "1"  # read at its import: a test that needs the network should fail

import transformers as hf
from accelerate.state import AcceleratorState, GradientState, PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gradwatch.core import runfolder
from gradwatch.core.history import Pulse
from gradwatch.core.report import Report
from gradwatch.huggingface import GradWatch
from tests.zoo.huggingface import HUGGINGFACE, WORDS, counting, quiet

EXAMPLES = 20  # in batches of 2: 10 micro-batches, which leaves an odd one with 3 to a step


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """accelerate keeps its settings in the process: one test's bf16 would be the next one's."""
    with quiet():
        yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class TrueGradients(hf.TrainerCallback):
    """Reads what the optimizer is going to get: the true gradients when nothing is clipped."""

    def __init__(self) -> None:
        self.norms: list[list[float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = kwargs["model"].parameters()
        self.norms.append([float(torch.linalg.vector_norm(p.grad)) for p in parameters])


class Failing(hf.TrainerCallback):
    """Raises in the fourth step."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise self.error


class Scaled(hf.Trainer):
    """Trains in fp16 with a loss scale on the CPU, which accelerate does on GPUs only."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.native_amp = True
        # Two steps are skipped before the scale is small enough.
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**36, backoff_factor=2.0**-10)
        self.accelerator.scaler = scaler


class OwnLoss(hf.Trainer):
    """Computes its loss from the logits, and does not use the one that the model returns."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        logits, labels = model(**inputs).logits[:, :-1], inputs["labels"][:, 1:]
        return 3 * nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


class Plain(nn.Module):
    """No model of transformers: gives a tuple, and the mean loss of a micro-batch, which the
    Trainer weighs in the step's."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 16)
        self.out = nn.Linear(16, WORDS)

    def forward(self, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.out(self.words(input_ids))
        return nn.functional.cross_entropy(logits[:, :-1].mT, labels[:, 1:]), logits


@dataclass
class Run:
    """What a training leaves behind."""

    trainer: Any
    watch: GradWatch
    true: TrueGradients

    @property
    def state(self) -> list[Tensor]:
        moments = self.trainer.optimizer.state_dict()["state"].values()
        return [
            *self.trainer.model.state_dict().values(),
            *(value for state in moments for value in state.values()),
            torch.tensor(self.logged("loss")),
        ]

    @property
    def pulses(self) -> tuple[Pulse, ...]:
        assert self.watch.watcher is not None
        return self.watch.watcher.history.pulses

    @property
    def report(self) -> Report:
        assert self.watch.watcher is not None
        return self.watch.watcher.report()

    def logged(self, key: str) -> list[float]:
        history = self.trainer.state.log_history
        return [float(entry[key]) for entry in history if "grad_norm" in entry]

    def hooks(self) -> list[str]:
        """Name the places at which a hook hangs."""
        model, optimizer = self.trainer.model, self.trainer.optimizer
        inner = getattr(optimizer, "optimizer", optimizer)
        owners = {**dict(model.named_modules()), "optimizer": inner}
        found = [
            f"{name}.{kind}"
            for name, owner in owners.items()
            for kind in vars(owner)
            if kind.endswith("_hooks") and "state_dict" not in kind and vars(owner)[kind]
        ]
        return found + [n for n, p in model.named_parameters() if p._post_accumulate_grad_hooks]


def prepare(
    folder: Path,
    *others: Any,
    watch: bool = True,
    every_n_steps: int = 3,
    stop_on: str | None = None,
    try_remedies: bool | float = False,
    kind: type[hf.Trainer] = hf.Trainer,
    build: Callable[[], nn.Module] = HUGGINGFACE["gpt2"].model,
    **arguments: Any,
) -> Run:
    torch.manual_seed(7)
    model = build()
    examples = [{k: v[0] for k, v in batch.items()} for batch in counting(EXAMPLES)]
    settings: dict[str, Any] = {
        "use_cpu": True,
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }
    callback = GradWatch(
        every_n_steps=every_n_steps, stop_on=stop_on, try_remedies=try_remedies, strict=True
    )
    true = TrueGradients()
    trainer = kind(
        model,  # type: ignore[arg-type]
        hf.TrainingArguments(str(folder), **{**settings, **arguments}),
        train_dataset=examples,  # type: ignore[arg-type]
        eval_dataset=examples[:4],  # type: ignore[arg-type]
        callbacks=[true, *([callback] if watch else []), *others],
    )
    return Run(trainer, callback, true)


def train(folder: Path, *others: Any, resume: str | None = None, **options: Any) -> Run:
    run = prepare(folder, *others, **options)
    run.trainer.train(resume_from_checkpoint=resume)
    return run


def same(plain: Run, watched: Run) -> None:
    """Assert that two trainings left the same, to the bit, and no hook."""
    for before, after in zip(plain.state, watched.state, strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before.nan_to_num(), after.nan_to_num())
    assert watched.hooks() == plain.hooks()


CHECKPOINTING = {"gradient_checkpointing": True}
SCENARIOS: dict[str, dict[str, Any]] = {
    "clipped": {},
    "unclipped": {"max_grad_norm": 0.0},
    "accumulated": {"gradient_accumulation_steps": 3},
    "accumulated-unclipped": {"gradient_accumulation_steps": 3, "max_grad_norm": 0.0},
    "bf16-accumulated": {"bf16": True, "gradient_accumulation_steps": 3},
    "evaluated": {"eval_strategy": "steps", "eval_steps": 3},
    "fp16": {"kind": Scaled, "fp16": True, "optim": "adamw_torch"},
    "own-loss": {"kind": OwnLoss},
    "plain-accumulated": {"build": Plain, "gradient_accumulation_steps": 3},
}
SLOW: dict[str, dict[str, Any]] = {
    "bf16": {"bf16": True},
    "fp16-fused": {"kind": Scaled, "fp16": True, "optim": "adamw_torch_fused"},
    "fp16-accumulated": {
        "kind": Scaled,
        "fp16": True,
        "optim": "adamw_torch",
        "gradient_accumulation_steps": 2,
    },
    "checkpointed": {**CHECKPOINTING, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant": {**CHECKPOINTING, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "compiled": {"torch_compile": True, "torch_compile_backend": "eager"},
}


# The new name is not known to all versions that we support.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler's
@pytest.mark.parametrize(
    "options",
    [
        *(pytest.param(options, id=name) for name, options in SCENARIOS.items()),
        *(pytest.param(o, id=name, marks=pytest.mark.slow) for name, o in SLOW.items()),
    ],
)
def test_it_trains_the_same_and_the_series_are_the_trainers_own(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """Bit for bit; and loss, gradient norm and clipping of each step are what the Trainer logs."""
    plain = train(tmp_path, watch=False, **options)
    run = train(tmp_path, **options)
    same(plain, run)
    norms, losses = np.asarray(run.logged("grad_norm")), np.asarray(run.logged("loss"))
    made = np.isfinite(norms)  # a step whose loss scale is too large is not made
    pulses = [pulse for pulse in run.pulses if pulse.norm > 0]  # NaN is not
    assert len(pulses) == made.sum() >= 3
    np.testing.assert_allclose([pulse.norm for pulse in pulses], norms[made], rtol=1e-5)
    np.testing.assert_allclose([pulse.loss for pulse in pulses], losses[made], rtol=1e-5)
    if "fp16" not in options:
        limit = options.get("max_grad_norm", 1.0) or np.inf
        ratios = [pulse.clip_ratio for pulse in pulses]
        np.testing.assert_allclose(ratios, np.minimum(1, limit / norms), rtol=1e-5)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_each_parameters_norm_is_that_of_the_gradient_that_the_optimizer_gets(
    tmp_path: Path, micro_batches: int
) -> None:
    """Accumulated over all micro-batches, also in the last step, which has fewer."""
    run = train(tmp_path, max_grad_norm=0.0, gradient_accumulation_steps=micro_batches)
    assert len(run.pulses) == len(run.true.norms) == (10 if micro_batches == 1 else 4)
    np.testing.assert_allclose([p.norms for p in run.pulses], run.true.norms, rtol=1e-5)
    names = [name for name, _ in run.trainer.model.named_parameters()]
    assert list(run.pulses[0].columns.parameters) == names


def test_a_step_that_the_loss_scale_skips_is_no_finding(tmp_path: Path) -> None:
    run = train(tmp_path, **SCENARIOS["fp16"])
    assert not np.isfinite(run.logged("grad_norm")[0])
    assert run.report.healthy


def test_a_resumed_training_is_the_same_and_goes_on_counting(tmp_path: Path) -> None:
    """Checkpoints hold the same with the callback, and one run folder holds both parts."""
    saving = {"save_strategy": "steps", "save_steps": 4, "logging_steps": 2}
    plain = train(tmp_path / "plain", watch=False, **saving)
    train(tmp_path / "watched", **saving)
    checkpoint = tmp_path / "watched" / "checkpoint-4"
    kept = sorted(path.name for path in (tmp_path / "plain" / "checkpoint-4").iterdir())
    assert sorted(path.name for path in checkpoint.iterdir()) == kept
    resumed = train(tmp_path / "watched", resume=str(checkpoint), **saving)
    same(plain, resumed)
    assert [pulse.step for pulse in resumed.pulses] == [4, 5, 6, 7, 8, 9]
    history = runfolder.read(tmp_path / "watched").history
    assert [pulse.step for pulse in history.pulses] == list(range(10))


def test_a_saved_model_is_loaded_again(tmp_path: Path) -> None:
    run = train(tmp_path, save_strategy="epoch")
    run.trainer.save_model(str(tmp_path / "model"))
    loaded = hf.GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    for name, value in run.trainer.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=["fails", "^C"])
def test_a_training_that_ends_early_keeps_its_record_and_no_hook(
    tmp_path: Path, error: BaseException
) -> None:
    """The Trainer sends no event then."""
    run = prepare(tmp_path, Failing(error))
    with pytest.raises(type(error)):
        run.trainer.train()
    error.__traceback__ = None
    gc.collect()
    assert run.hooks() == []
    assert [pulse.step for pulse in runfolder.read(tmp_path).history.pulses] == [0, 1, 2]


def test_there_are_hooks_while_it_trains(tmp_path: Path) -> None:
    """So that the tests above can fail."""
    seen: list[str] = []

    class Look(hf.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.extend(run.hooks())

    run = prepare(tmp_path, Look(), max_steps=1)
    run.trainer.train()
    assert {"optimizer._optimizer_step_post_hooks", "lm_head._forward_hooks"} <= set(seen)


def test_it_can_train_twice(tmp_path: Path) -> None:
    run = train(tmp_path, max_steps=2)
    run.trainer.train()
    assert [pulse.step for pulse in run.pulses] == [0, 1]
    assert run.hooks() == []


def test_the_report_and_how_to_see_it_again_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path)
    printed = capsys.readouterr().out
    assert "gradwatch: GPT2LMHeadModel at step 9" in printed
    assert f"Run folder: {tmp_path}" in printed.replace("\n", "")
    assert f"gradwatch report {tmp_path} -o" in printed
    assert "tensorboard" not in printed
    assert len(runfolder.read(tmp_path).history.pulses) == 10
    assert not list(tmp_path.rglob("*tfevents*"))


@pytest.mark.slow
def test_remedies_are_tried_when_a_training_went_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On copies of the model as it was at the start; the training itself is the same."""
    options: dict[str, Any] = {"learning_rate": 1e-12, "num_train_epochs": 6}
    plain = train(tmp_path / "plain", watch=False, **options)
    tried = train(tmp_path / "tried", try_remedies=30.0, **options)
    same(plain, tried)
    verdicts = tried.watch.verdicts
    assert verdicts is not None
    assert verdicts.recommended, str(verdicts)
    assert "learning-rate" in verdicts.recommended[0].name
    assert "untreated" in capsys.readouterr().out


def test_the_trainers_own_event_file_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard would stop reading the Trainer's file beside a second one."""
    train(tmp_path, report_to="tensorboard")
    (events,) = tmp_path.rglob("*tfevents*")
    assert f"tensorboard --logdir {events.parent}" in capsys.readouterr().out
    assert len(runfolder.read(events.parent).history.pulses) == 10
    scalars = EventAccumulator(str(events)).Reload()
    tags = scalars.Tags()["scalars"]
    assert len(scalars.Scalars("train/loss")) == 10
    ours = [tag for tag in tags if tag.startswith("gradwatch")]
    assert ours
    assert max(len(scalars.Scalars(tag)) for tag in ours) == 10


HOPELESS: dict[str, Any] = {
    "learning_rate": 1e4,
    "max_grad_norm": 0.0,
    "optim": "sgd",
    "num_train_epochs": 3,
}


def test_a_hopeless_training_is_stopped_where_that_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, stop_on="critical", **HOPELESS)
    steps = run.trainer.state.global_step
    assert steps < 15
    printed = capsys.readouterr().out
    assert "Critical: " in printed
    assert f"gradwatch ends the training at step {steps - 1}. Critical: " in printed


def test_a_hopeless_training_goes_on_by_default(tmp_path: Path) -> None:
    assert train(tmp_path, **HOPELESS).trainer.state.global_step == 30


def test_what_stop_on_may_be_is_said() -> None:
    with pytest.raises(ValueError, match="stop_on must be 'critical', 'warning' or None, got 'x'"):
        GradWatch(stop_on="x")


def test_without_transformers_it_says_who_needs_what() -> None:
    """And gradwatch itself does not ask for it."""
    code = """
import sys
sys.modules["transformers"] = None
import gradwatch.watcher
try:
    import gradwatch.huggingface
except ImportError as error:
    print(error)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=120)
    assert done.stdout.strip() == (
        "gradwatch.huggingface needs the package transformers: pip install 'gradwatch[huggingface]'"
    )
