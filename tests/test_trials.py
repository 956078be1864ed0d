"""`trial`: what helps is found, what does not is not advised, and nothing is touched."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core import catalog
from gradwatch.core.record import Record
from gradwatch.core.runfolder import RunWriter, read
from tests.zoo.ingredients import digit_batches
from tests.zoo.trainings import mlp, normal

STEPS = 40


def batches(count: int = 8) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(7)
    sample = digit_batches()
    return [sample() for _ in range(count)]


def sgd(rate: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def some(*names: str) -> list[Any]:
    found = [remedy for remedy in catalog.remedies() if remedy.name in names]
    assert len(found) == len(names)
    return found


def fading() -> nn.Sequential:
    torch.manual_seed(0)
    return mlp(8, nn.Tanh, init=normal(0.02))


def try_on(model: nn.Module, **options: Any) -> gradwatch.Verdicts:
    settings = {"optimizer": sgd(0.1), "steps": STEPS, "budget": 300.0} | options
    return gradwatch.trial(model, F.cross_entropy, batches(), **settings)


def test_the_result_is_kept_beside_the_run_that_it_is_about(tmp_path: Path) -> None:
    """With log_dir; whoever reads the run later finds the numbers. A log_dir without a run is an
    error before anything is tried."""
    model = fading()
    with pytest.raises(FileNotFoundError, match="holds none"):
        try_on(model, remedies=some("xavier-init"), log_dir=tmp_path)
    inputs, targets = batches(1)[0]
    optimizer = sgd(0.1)(list(model.parameters()))
    with gradwatch.watch(model, optimizer, log_dir=tmp_path):
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    verdicts = try_on(model, remedies=some("xavier-init"), log_dir=tmp_path)
    run = read(tmp_path)
    assert run.problems == () and run.trial is not None
    assert run.trial.to_json() == verdicts.to_json()


def test_a_disk_that_is_full_does_not_cost_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and the result is returned."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    RunWriter(tmp_path).add_record(Record(0))
    monkeypatch.setattr("gradwatch.trials.write_trial", full)
    with pytest.warns(RuntimeWarning, match="the trial is not kept in .*No space left"):
        verdicts = try_on(fading(), remedies=some("xavier-init"), log_dir=tmp_path)
    assert verdicts.recommended


def test_the_remedy_that_helps_comes_first_with_its_numbers() -> None:
    verdicts = try_on(fading(), remedies=some("xavier-init", "clip-gradients"))
    best = verdicts[0]
    assert best.name == "xavier-init" and best.recommended
    assert best.treated.skill > 0.5 > 0.1 > abs(verdicts.untreated.skill)
    assert len(best.treated.losses) == len(verdicts.untreated.losses) == 3
    assert best.bits_recovered > 20
    assert best.steps_to_match is not None and best.steps_to_match < STEPS
    assert best.more_parameters == 0
    assert verdicts.reseeded is not None
    assert not any(verdict.recommended for verdict in verdicts if "xavier" not in verdict.name)
    assert "xavier" in str(verdicts) and "kaiming" not in str(verdicts)


def test_when_nothing_helps_that_is_the_answer() -> None:
    verdicts = try_on(fading(), remedies=some("clip-gradients"))
    assert not verdicts.recommended
    assert verdicts.summary.startswith("Nothing that was tried helps")


def test_a_healthy_training_is_left_in_peace() -> None:
    verdicts = try_on(mlp(2, nn.ReLU))
    assert len(verdicts) == 0
    assert "trains as it is" in verdicts.summary


def test_the_code_does_to_the_model_what_was_measured_and_the_treated_copy_can_be_pickled() -> None:
    model = fading()
    verdicts = try_on(model, remedies=some("residual", "xavier-init"))
    best = verdicts[0]
    mine = copy.deepcopy(model)
    exec(best.code, {"torch": torch, "model": mine})
    shapes = [tuple(p.shape) for p in mine.parameters()]
    back = pickle.loads(pickle.dumps(best.model))
    assert [tuple(p.shape) for p in back.parameters()] == shapes
    inputs, _ = batches(1)[0]
    assert torch.isfinite(back(inputs)).all()


def test_nothing_of_the_users_is_touched() -> None:
    model = fading()
    recorded = batches()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    F.cross_entropy(model(recorded[0][0]), recorded[0][1]).backward()
    optimizer.step()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = (
        copy.deepcopy(model.state_dict()),
        [p.grad.clone() for p in model.parameters() if p.grad is not None],
        copy.deepcopy(optimizer.state_dict()),
        copy.deepcopy(recorded),
        (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),  # type: ignore[index]
    )
    gradwatch.trial(model, F.cross_entropy, recorded, optimizer=optimizer, steps=40, budget=20)
    after = (
        model.state_dict(),
        [p.grad for p in model.parameters() if p.grad is not None],
        optimizer.state_dict(),
        recorded,
        (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),  # type: ignore[index]
    )
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.modules())


def test_two_trials_of_the_same_thing_agree() -> None:
    options = {"remedies": some("xavier-init", "lower-learning-rate")}
    first, second = (try_on(fading(), **options) for _ in range(2))
    assert [v.name for v in first] == [v.name for v in second]
    assert [v.treated.losses for v in first] == [v.treated.losses for v in second]


def test_the_budget_is_kept_and_what_was_not_reached_is_named() -> None:
    verdicts = try_on(fading(), budget=0.8)
    assert verdicts.seconds < 8
    assert verdicts.not_reached
    assert verdicts.not_reached[0] in str(verdicts)


def test_an_interrupt_gives_what_there_is() -> None:
    steps = iter(range(10**6))

    def impatient(_: str) -> None:
        if next(steps) > 2 * STEPS:
            raise KeyboardInterrupt

    verdicts = try_on(fading(), on_step=impatient)
    assert verdicts.not_reached


def test_the_optimizer_of_a_copy_is_like_the_users_own() -> None:
    """Its class, its groups, its options: a rate that is far too low stays so in the twin."""
    model = mlp(2, nn.ReLU)
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 1e-7}, {"params": model[2:].parameters()}],
        lr=1e-7,
        momentum=0.5,
    )
    verdicts = try_on(model, optimizer=optimizer, remedies=some("raise-learning-rate"))
    assert not verdicts.untreated.skill > 0.05
    assert verdicts[0].name == "raise-learning-rate" and verdicts[0].recommended


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batches": []}, "batches must hold at least one batch"),
        ({"batches": torch.zeros(3, 4)}, "batches must be a list of batches"),
        ({"steps": 3}, "steps must be an int of at least"),
        ({"budget": 0}, "budget must be a positive number"),
        ({"optimizer": "adam"}, "optimizer must be a torch optimizer or a function"),
        ({"model": 3}, "model must be a torch.nn.Module"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], said: str) -> None:
    given = {"model": mlp(1, nn.ReLU), "loss_fn": F.cross_entropy, "batches": batches(1)}
    with pytest.raises((TypeError, ValueError), match=said):
        gradwatch.trial(**(given | arguments))


def test_a_training_step_of_its_own_is_as_good_as_a_loss_function() -> None:
    """The same trainings, said in two ways, give the same losses."""
    options: dict[str, Any] = {"remedies": some("xavier-init"), "optimizer": sgd(0.1)}
    step = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])  # noqa: E731
    one = gradwatch.trial(fading(), F.cross_entropy, batches(), steps=STEPS, **options)
    two = gradwatch.trial(fading(), None, batches(), steps=STEPS, training_step=step, **options)
    assert one[0].treated.losses == two[0].treated.losses
    assert two[0].recommended
    with pytest.raises(TypeError, match="loss_fn None"):
        gradwatch.trial(fading(), F.cross_entropy, batches(), training_step=step)


def test_a_model_that_cannot_be_copied_gets_prescriptions_only() -> None:
    class Single(nn.Sequential):
        def __deepcopy__(self, memo: object) -> Single:
            raise RuntimeError("there is only one")

    model = Single(*fading())
    before = copy.copy(model.state_dict())
    verdicts = gradwatch.trial(model, F.cross_entropy, batches())
    assert len(verdicts) == 0
    assert verdicts.report is not None and verdicts.report.prescriptions
    assert "there is only one" in verdicts.summary
    assert "Not measured: " in str(verdicts)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def test_a_remedy_is_applied_to_the_model_itself_on_request() -> None:
    model = fading()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    verdicts = try_on(model, remedies=some("xavier-init", "clip-gradients"))
    best = next(v for v in verdicts if v.name == "xavier-init")
    before = model[0].weight.clone()
    treated = best.apply_to(model, optimizer)
    assert treated.model is model and treated.optimizer is optimizer
    assert model[0].weight.std() > 3 * before.std()
    scheduled = best.prescriptions[0].apply_to(copy.deepcopy(model))
    assert scheduled.optimizer is None


def test_a_remedy_at_random_is_a_control() -> None:
    verdicts = try_on(fading(), budget=60.0)
    assert verdicts.other is not None
    assert verdicts.other.name not in {name for v in verdicts for name in v.name.split(" + ")}
    assert f"at random: {verdicts.other.name}" in str(verdicts)
    assert len(verdicts.other.treated.losses) == len(verdicts.untreated.losses)


def test_the_loader_stays_where_it_was() -> None:
    """Its order comes from random generators, its own or the global one: both are put back."""
    inputs, targets = (torch.cat(part) for part in zip(*batches(4), strict=True))
    data = torch.utils.data.TensorDataset(inputs, targets)
    own = torch.Generator().manual_seed(3)
    loader: Any = torch.utils.data.DataLoader(data, 64, shuffle=True, generator=own)
    other: Any = torch.utils.data.DataLoader(data, 64, shuffle=True)
    model = mlp(2, nn.ReLU)
    before = own.get_state(), torch.get_rng_state()
    for one in (loader, other):
        gradwatch.trial(model, F.cross_entropy, one, steps=STEPS)
    assert torch.equal(own.get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    with pytest.raises(TypeError, match="would be used up"):
        gradwatch.trial(model, F.cross_entropy, iter(loader), steps=STEPS)
