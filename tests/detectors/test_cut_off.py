"""Weights that are trained no more, are put back, or are made where nobody sees them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Finding, Severity

Hook = Callable[[nn.Module, int], None]


def rings(n: int) -> tuple[Tensor, Tensor]:
    """Draw points of three rings: no linear function of them tells the rings apart."""
    labels = torch.randint(0, 3, (n,))
    angles = 2 * torch.pi * torch.rand(n)
    radii = labels + 1 + 0.1 * torch.randn(n)
    return torch.stack([radii * angles.cos(), radii * angles.sin()], 1), labels


def warned(
    model: nn.Module,
    steps: int = 150,
    before: Hook | None = None,
    after: Hook | None = None,
    penalty: Callable[[], Tensor] | None = None,
) -> list[Finding]:
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with gradwatch.watch(model, optimizer, strict=True, every_n_steps=10) as watcher:
        for i in range(steps):
            if before is not None:
                before(model, i)
            x, labels = rings(64)
            loss = F.cross_entropy(model(x), labels)
            if penalty is not None:
                loss = loss + penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
            if after is not None:
                after(model, i)
        found = watcher.report().findings
    return [one for one in found if one.severity >= Severity.WARNING and not one.because_of]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    )


def test_a_plain_training_is_left_in_peace() -> None:
    assert not warned(net())


def test_frozen_after_a_few_steps() -> None:
    def freeze(model: nn.Module, step: int) -> None:
        if step == 11:  # after five exams
            for parameter in [*model.parameters()][:-2]:
                parameter.requires_grad_(requires_grad=False)

    slow = net()
    with torch.no_grad():
        for parameter in slow.parameters():
            parameter.mul_(0.3)  # so that little is learnt by then
    (found,) = warned(slow, before=freeze)
    assert (found.name, found.cause) == ("disconnected-parameters", "disconnection")
    assert found.since == 10
    assert set(found.layers) == {"0", "2"}


def test_frozen_when_it_has_learnt() -> None:
    def freeze(model: nn.Module, step: int) -> None:
        if step == 150:
            for parameter in [*model.parameters()][:-2]:
                parameter.requires_grad_(requires_grad=False)

    assert not warned(net(), 400, before=freeze)


def test_weights_that_are_put_back_after_each_step() -> None:
    born = {name: value.clone() for name, value in net().state_dict().items()}
    found = warned(net(), after=lambda model, _: model.load_state_dict(born) and None)
    assert (found[0].name, found[0].cause) == ("stalled-updates", "disconnection")
    assert "put back" in found[0].causes[0].text


class Features(nn.Module):
    """A convolution whose output is taken under `no_grad`, and a head."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.cut):
            features = self.features(x)
        return self.head(features)  # type: ignore[no-any-return]


def test_layers_that_are_called_under_no_grad() -> None:
    torch.manual_seed(0)
    (found,) = warned(Features(cut=True))
    assert (found.name, found.cause) == ("disconnected-parameters", "disconnection")
    assert not warned(Features(cut=False))


def test_a_body_that_was_trained_before_may_be_called_under_no_grad() -> None:
    torch.manual_seed(0)
    model = Features(cut=False)
    warned(model, 300)
    model.cut = True
    assert not warned(model)


class Hidden(nn.Module):
    """Keeps its middle layers in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 24), nn.Linear(24, 3)
        self.middle = [nn.Linear(24, 24), nn.Linear(24, 24)]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for layer in self.middle:
            x = torch.relu(layer(x))
        return self.last(x)  # type: ignore[no-any-return]


def test_layers_in_a_plain_list_before_one_that_is_trained() -> None:
    torch.manual_seed(0)
    (found,) = warned(Hidden(), 300)
    assert (found.name, found.severity) == ("forgotten-parameters", Severity.WARNING)


def test_a_penalty_that_outweighs_the_answers() -> None:
    model = net()
    heavy = warned(model, penalty=lambda: 0.2 * sum(p.abs().sum() for p in model.parameters()))
    assert (heavy[0].name, heavy[0].cause) == ("drowned-task", "loss")
    model = net()
    light = warned(model, penalty=lambda: 1e-5 * sum(p.abs().sum() for p in model.parameters()))
    assert not light


def test_a_hinge_with_labels_of_zero_and_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with gradwatch.watch(model, optimizer, strict=True, every_n_steps=10) as watcher:
        for _ in range(200):
            x, labels = rings(64)
            loss = (1 - (labels == 0).float() * model(x)[:, 0]).clamp(min=0).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
        found = [f for f in watcher.report().findings if f.severity == Severity.CRITICAL]
    assert [(one.name, one.cause) for one in found] == [("zero-gradient", "loss")]
    assert "exactly zero in the latest" in found[0].summary
