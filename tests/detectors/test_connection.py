"""Cut connections, forgotten parameters and experts that hear nothing: certain ones are said."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.detectors.collapsed_router import CollapsedRouter
from gradwatch.detectors.disconnected import DisconnectedParameters
from gradwatch.detectors.dropped_samples import DroppedSamples
from gradwatch.detectors.forgotten import ForgottenParameters
from tests.zoo.trainings import digit_vectors

Between = Callable[[Tensor], Tensor]


class Through(nn.Module):
    """An encoder, something between, and a head."""

    def __init__(self, between: Between) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 6))
        self.head = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 10))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.encoder(x)))  # type: ignore[no-any-return]


def watched(
    model: nn.Module,
    held: Iterable[nn.Parameter] | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    steps: int = 30,
) -> History:
    """Train on digits for some steps, and return what was seen."""
    inputs, labels = digit_vectors()
    optimizer = torch.optim.Adam(model.parameters() if held is None else held, lr=3e-3)
    watcher = gradwatch.watch(model, optimizer, strict=True, every_n_steps=10, detectors=[])
    with watcher:
        for step in range(steps):
            picked = slice(32 * step, 32 * step + 32)
            loss = loss_fn(model(inputs[picked]), labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    return watcher.history


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def disconnected(model: nn.Module, held: Iterable[nn.Parameter] | None = None) -> Finding:
    (found,) = DisconnectedParameters()(watched(model, held))
    return found


@pytest.mark.parametrize(
    "between",
    [
        Tensor.detach,
        lambda code: code.data,
        lambda code: torch.from_numpy(code.detach().numpy().copy()),
        lambda code: torch.tensor(code.tolist()),
        lambda code: F.one_hot(code.argmax(-1), 6).float(),
        lambda code: torch.distributions.Normal(code, 0.1).sample(),
        lambda code: torch.tanh(code).detach(),
    ],
    ids=["detach", "data", "numpy", "rebuilt", "argmax", "sample", "after a function"],
)
def test_a_cut_between_two_layers_is_no_mere_note(between: Between) -> None:
    found = disconnected(Through(between))
    assert found.severity >= Severity.WARNING
    assert found.cause == "disconnection"
    assert found.layers == ("encoder.0", "encoder.2")


def test_one_of_two_branches() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 8), nn.Linear(32, 8)
            self.head = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            both = [self.a(x[:, :32]), self.b(x[:, 32:]).detach()]
            return self.head(torch.cat(both, 1))  # type: ignore[no-any-return]

    found = disconnected(Branches())
    assert (found.layers, found.severity >= Severity.WARNING) == (("b",), True)


def test_a_weight_that_is_used_by_its_data() -> None:
    class ByData(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight.data, self.bias)

    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), ByData(16, 16), nn.Linear(16, 10))
    found = disconnected(model)
    assert (found.layers, found.severity >= Severity.WARNING) == (("2",), True)
    assert found.numbers["parameters"] == 1


class Spare(nn.Module):
    """A classifier with a head whose output nobody uses."""

    def __init__(self, *, called: bool) -> None:
        super().__init__()
        self.body = nn.Linear(64, 16)
        self.spare, self.head = nn.Linear(16, 16), nn.Linear(16, 10)
        self.called = called

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.body(x))
        if self.called:
            self.spare(hidden)
        return self.head(hidden)  # type: ignore[no-any-return]


@pytest.mark.parametrize("called", [True, False])
def test_an_unused_head_is_a_note(called: bool) -> None:
    found = disconnected(Spare(called=called))
    assert (found.severity, found.layers) == (Severity.NOTE, ("spare",))


def test_what_no_optimizer_holds_is_a_note() -> None:
    model = Through(Tensor.detach)
    assert disconnected(model, model.head.parameters()).severity == Severity.NOTE


def test_a_loss_without_a_history_is_critical() -> None:
    model = nn.Linear(64, 10)

    def loss_fn(output: Tensor, labels: Tensor) -> Tensor:
        return torch.tensor(F.cross_entropy(output, labels).item(), requires_grad=True)

    (found,) = DisconnectedParameters()(watched(model, loss_fn=loss_fn))
    assert (found.severity, found.numbers["share"]) == (Severity.CRITICAL, 1)


class Experts(nn.Module):
    """Experts for digits, each of which has room for so many samples."""

    def __init__(self, *, favour: float = 0, room: int | None = None, weighted: bool = True):
        super().__init__()
        self.router = nn.Linear(64, 4)
        self.experts = nn.ModuleList(nn.Linear(64, 10) for _ in range(4))
        self.room, self.weighted = room, weighted
        with torch.no_grad():
            self.router.bias[1] += favour

    def forward(self, x: Tensor) -> Tensor:
        weight, picked = self.router(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            mine = (picked == i).nonzero()[: self.room, 0]
            if len(mine):
                y = expert(x[mine])
                out = out.index_add(0, mine, y * weight[mine, None] if self.weighted else y)
        return out


def test_experts_that_are_picked_and_not_weighted() -> None:
    found = disconnected(Experts(weighted=False))
    assert (found.layers, found.severity >= Severity.WARNING) == (("router",), True)


def test_a_router_that_favours_one_expert_from_birth() -> None:
    (found,) = CollapsedRouter()(watched(Experts(favour=50.0)))
    assert found.cause == "init"
    assert found.layers == ("router", "experts.0", "experts.2", "experts.3")
    assert found.severity >= Severity.WARNING
    assert found.since == 0


def test_experts_without_room() -> None:
    (found,) = DroppedSamples()(watched(Experts(room=2)))
    assert found.severity >= Severity.WARNING
    assert found.numbers["kept"] <= 8 / 32


def test_an_ordinary_mixture_hears_nothing() -> None:
    history = watched(Experts())
    for detector in (CollapsedRouter(), DroppedSamples(), DisconnectedParameters()):
        assert detector(history) == ()


def layers(*positions: int) -> tuple[nn.Sequential, list[nn.Parameter]]:
    """Return a net and the parameters of the layers at these positions."""
    model = nn.Sequential(
        nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)
    )
    return model, [p for i in positions for p in model[i].parameters()]


@pytest.mark.parametrize(
    ("held", "forgotten"),
    [((0, 4), ("2",)), ((0, 2), ("4",)), ((0,), ("2", "4"))],
    ids=["between", "behind", "most"],
)
def test_a_layer_that_is_forgotten_is_no_mere_note(
    held: tuple[int, ...], forgotten: tuple[str, ...]
) -> None:
    model, parameters = layers(*held)
    (found,) = ForgottenParameters()(watched(model, parameters))
    assert found.severity >= Severity.WARNING
    assert (found.cause, found.layers) == ("disconnection", forgotten)


def test_a_head_on_a_backbone_is_no_more_than_a_warning() -> None:
    model, parameters = layers(2, 4)
    (found,) = ForgottenParameters()(watched(model, parameters))
    assert found.severity < Severity.CRITICAL
    assert found.layers == ("0",)
    assert "backbone" in found.confidence


def test_who_holds_only_biases_is_warned() -> None:
    model, parameters = layers(0, 2, 4)
    biases = [p for p in parameters if p.dim() < 2]
    (found,) = ForgottenParameters()(watched(model, biases))
    assert found.severity >= Severity.WARNING
