"""The laws on the architectures that people really train: watching changes nothing, nothing is said
of what learns, and nothing stays behind."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradwatch
from gradwatch.core.finding import Severity

if importlib.util.find_spec("transformers") is None:
    pytest.skip(
        "needs the package transformers: pip install 'gradwatch[huggingface]'",
        allow_module_level=True,
    )
os.environ["HF_HUB_OFFLINE"] = "1"  # read at its import: a test that needs the network should fail

from tests.zoo.huggingface import HUGGINGFACE, quiet

STEPS = 5
LEARNING_STEPS = 60


@pytest.fixture(autouse=True)
def no_remarks() -> Iterator[None]:
    with quiet():
        yield


def train(
    name: str, *, watch: bool, reentrant: bool | None = None
) -> tuple[list[Tensor], list[str], nn.Module]:
    """Return all that a training leaves behind; with checkpointing unless `reentrant` is None."""
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    recipe = HUGGINGFACE[name]
    model = recipe.model()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    watcher = None
    if watch:
        watcher = gradwatch.watch(model, optimizer, every_n_steps=1, strict=True)
    trace: list[Tensor] = []
    for batch in recipe.batches(STEPS):
        output = model(**batch)
        optimizer.zero_grad()
        output.loss.backward()
        trace += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        trace.append(output.loss.detach().clone())
    if watcher is not None:
        watcher.close()
        assert len(watcher.history) == STEPS
        assert not watcher.report().notes
    trace += [value for state in optimizer.state.values() for value in state.values()]
    trace += [
        *model.state_dict().values(),
        torch.get_rng_state(),
        torch.tensor([random.random(), float(np.random.rand())]),
    ]
    return trace, [*model.state_dict()], model


def same(name: str, reentrant: bool | None = None) -> nn.Module:
    plain, plain_names, _ = train(name, watch=False, reentrant=reentrant)
    seen, names, model = train(name, watch=True, reentrant=reentrant)
    assert plain_names == names
    assert len(plain) == len(seen)
    for before, after in zip(plain, seen, strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)
    return model


def hooks(model: nn.Module) -> list[str]:
    """Name the places at which a hook hangs."""
    found = [
        f"{name}.{kind}"
        for name, module in model.named_modules()
        for kind in vars(module)
        if kind.endswith("_hooks") and "state_dict" not in kind and vars(module)[kind]
    ]
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            found.append(name)
    return found


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_a_watched_training_is_bit_identical_and_keeps_no_hook(name: str) -> None:
    assert not hooks(same(name))


# The new name is not known to all versions that we support.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradient_checkpointing_is_bit_identical(name: str, reentrant: bool) -> None:
    same(name, reentrant)


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_the_hooks_that_must_go_are_there_while_it_is_watched(name: str) -> None:
    """So that the test above can fail."""
    model = HUGGINGFACE[name].model()
    assert not hooks(model)
    with gradwatch.watch(model, strict=True):
        assert len(hooks(model)) >= len(list(model.parameters()))
    assert not hooks(model)


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_nothing_is_wrong_with_what_learns(name: str) -> None:
    """Never critical, and no warning at the end, while the loss falls by a third or more."""
    recipe = HUGGINGFACE[name]
    model = recipe.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    losses = []
    with gradwatch.watch(model, optimizer, every_n_steps=10, strict=True) as watcher:
        for step, batch in enumerate(recipe.batches(LEARNING_STEPS)):
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
            losses.append(loss.item())
            if step % 10 == 0:
                assert watcher.report().severity != Severity.CRITICAL, str(watcher.report())
    assert np.mean(losses[-5:]) < np.mean(losses[:3]) * 2 / 3
    assert watcher.report().healthy, str(watcher.report())
