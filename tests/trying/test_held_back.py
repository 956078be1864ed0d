"""Copies are judged by batches that they were not trained on, in evaluation mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradwatch.checking.batch import Whole
from gradwatch.trying.twin import Case, ask, make, train


class Modes(nn.Linear):
    """Notes the modes that it is called in."""

    seen: list[bool]

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.training)
        return super().forward(x)


def noise(seed: int) -> tuple[Tensor, Tensor]:
    """Labels that have nothing to do with the inputs: they can only be learnt by heart."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 40, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def case(model: nn.Module, count: int, held: int) -> Case:
    batches = [noise(i) for i in range(count)]
    return Case(
        model,
        F.cross_entropy,
        batches[held:],
        lambda copy: torch.optim.Adam(copy.parameters(), 0.05),
        batches[:held],
    )


def test_what_is_learnt_by_heart_is_worth_nothing_elsewhere() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 64), nn.Tanh(), nn.Linear(64, 4))
    one = case(model, 4, 1)
    by_heart = train(make(one), one.batches, 120)
    judged = train(make(one), one.batches, 120, held=one.held)
    assert by_heart.losses == judged.losses
    assert by_heart.held_skill is None
    assert judged.skill is not None
    assert judged.skill > 0.9
    assert judged.held_skill is not None
    assert judged.held_skill < 0.1


def test_it_is_asked_in_evaluation_mode_and_goes_on_as_it_was() -> None:
    layer = Modes(40, 4)
    layer.seen = []
    twin = make(case(nn.Sequential(nn.BatchNorm1d(40), layer), 2, 1))
    model = twin.model
    assert isinstance(model, nn.Sequential)
    inner = model[1]
    assert isinstance(inner, Modes)
    answer = ask(twin, noise(0))
    assert answer is not None
    assert inner.seen == [False]
    expected = F.cross_entropy(model.eval()(noise(0)[0]), noise(0)[1]).detach()
    assert abs(answer.loss - float(expected)) < 1e-5
    model.train()
    model[0].eval()
    ask(twin, noise(0))
    assert [module.training for module in model.modules()] == [True, False, True]
    assert all(p.grad is None for p in model.parameters())


def test_a_training_step_of_its_own_is_not_asked() -> None:
    model = nn.Linear(40, 4)
    one = Case(
        model,
        None,
        [Whole(lambda m, batch: m(batch[0]).sum(), noise(0))],
        lambda m: torch.optim.SGD(m.parameters(), 0.1),
    )
    assert ask(make(one), one.batches[0]) is None
