"""Through time: the replayed gradient at a recurrent layer's input is what autograd gives there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, rnn
from torch.utils.checkpoint import checkpoint

import gradwatch
from gradwatch.core.record import MAX_TIMES, Call

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated"),
]

Model = Callable[[], nn.Module]
LENGTHS = (7, 3, 5)


class Last(nn.Module):
    """Answers from the last output of a recurrent layer, or what else `read` takes of it."""

    def __init__(
        self, layer: nn.Module, read: Callable[[Any], Tensor] = lambda out: out[0][:, -1]
    ) -> None:
        super().__init__()
        self.layer = layer
        self.read = read

    def call(self, x: Tensor) -> Any:
        return self.layer(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.call(x))


class Packed(Last):
    def call(self, x: Tensor) -> Any:
        lengths = torch.tensor(LENGTHS)
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.layer(packed)


class GivenState(Last):
    """Its first state is a parameter, given by keyword."""

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__(layer)
        self.first = nn.Parameter(torch.randn(2, 1, 1, 4))

    def call(self, x: Tensor) -> Any:
        h, c = self.first.expand(2, 1, len(x), 4).contiguous()
        return self.layer(input=x, hx=(h, c))


class Checkpointed(Last):
    def __init__(self, layer: nn.Module, *, reentrant: bool) -> None:
        super().__init__(layer)
        self.reentrant = reentrant

    def call(self, x: Tensor) -> Any:
        x = x if x.requires_grad else x.clone().requires_grad_()
        return checkpoint(self.layer, x, use_reentrant=self.reentrant)


class Unbatched(Last):
    def call(self, x: Tensor) -> Any:
        return self.layer(x[0])


class Frozen(Last):
    """Its weights stay; what is before it is trained."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer.requires_grad_(False))
        self.before = nn.Linear(3, 3)

    def call(self, x: Tensor) -> Any:
        return self.layer(self.before(x))


class Doubled(nn.LSTM):
    """A subclass that is called in another way."""

    def forward(self, x: Tensor, *, times: int = 2) -> Any:  # type: ignore[override]
        return super().forward(times * x)


def normed(layer: nn.LSTM) -> nn.LSTM:
    return parametrizations.weight_norm(layer, "weight_hh_l0")  # type: ignore[no-any-return]


def spectral(layer: nn.LSTM) -> nn.LSTM:
    return parametrizations.spectral_norm(layer, "weight_hh_l0")  # type: ignore[no-any-return]


def lstm(*args: Any, **options: Any) -> nn.LSTM:
    return nn.LSTM(3, 4, *args, batch_first=True, **options)


def states(out: Any) -> Tensor:
    h, c = out[1]
    return torch.cat([h[-1], c[0]], -1)


def packed_mean(out: Any) -> Tensor:
    return rnn.pad_packed_sequence(out[0], batch_first=True)[0].mean(1)


MODELS: dict[str, Model] = {
    "rnn": lambda: Last(nn.RNN(3, 4, batch_first=True)),
    "rnn of relu": lambda: Last(nn.RNN(3, 4, nonlinearity="relu", batch_first=True)),
    "gru": lambda: Last(nn.GRU(3, 4, batch_first=True)),
    "lstm": lambda: Last(lstm()),
    "time first": lambda: Last(nn.LSTM(3, 4), lambda out: out[0][-1]),
    "unbatched": lambda: Unbatched(lstm(), lambda out: out[0][-1]),
    "both ways": lambda: Last(lstm(bidirectional=True)),
    "three layers": lambda: Last(lstm(3)),
    "projected": lambda: Last(lstm(proj_size=2)),
    "without bias": lambda: Last(lstm(bias=False)),
    "its states": lambda: Last(lstm(2), states),
    "its states, both ways and projected": lambda: Last(
        lstm(2, bidirectional=True, proj_size=2), states
    ),
    "both outputs": lambda: Last(lstm(), lambda out: out[0].mean(1) + out[1][0][0]),
    "overwritten output": lambda: Last(lstm(), lambda out: (out[0] * 1.0).relu_()[:, -1]),
    "packed": lambda: Packed(lstm(2), packed_mean),
    "packed, its states": lambda: Packed(lstm(bidirectional=True), states),
    "given state": lambda: GivenState(lstm()),
    "weight norm": lambda: Last(normed(lstm())),
    "old weight norm": lambda: Last(nn.utils.weight_norm(lstm(), "weight_hh_l0")),
    "frozen": lambda: Frozen(lstm()),
    "checkpointed": lambda: Checkpointed(lstm(), reentrant=False),
    "checkpointed, reentrant": lambda: Checkpointed(lstm(), reentrant=True),
}
"""Recurrent layers in all the ways in which they are called; their gradients can be checked."""

UNCHECKED: dict[str, Model] = {
    "dropout": lambda: Last(lstm(2, dropout=0.5)),
    "spectral norm": lambda: Last(spectral(lstm())),
    "a subclass with a forward of its own": lambda: Last(Doubled(3, 4, batch_first=True)),
}
"""What is random, or changes with each call; it must be left alone all the same."""


def batch() -> Tensor:
    return torch.randn(3, 7, 3)


def watched_calls(model: nn.Module, x: Tensor, backward: Callable[[Tensor], None]) -> list[Call]:
    """Watch one step, and return the calls of the layer."""
    watcher = gradwatch.watch(model, every_n_steps=1, strict=True)
    loss = model(x).square().sum()
    backward(loss)
    watcher.step(loss)
    watcher.close()
    record = watcher.history.latest
    assert record is not None
    return [call for call in record.calls if call.layer.name == "layer"]


def by_time(model: nn.Module, x: Tensor) -> Tensor:
    """The oracle: the input itself is made to require a gradient; nothing watches."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: Any, kwargs: Any) -> Any:
        given = args[0] if args else kwargs["input"]
        packed = isinstance(given, rnn.PackedSequence)
        values = given.data if packed else given
        if not values.requires_grad:
            values.requires_grad_()
        values.retain_grad()
        caught.append(values)

    handle = model.layer.register_forward_pre_hook(catch, with_kwargs=True)  # type: ignore[union-attr, operator]
    model(x).square().sum().backward()
    handle.remove()
    gradient = next(one.grad for one in caught if one.grad is not None)
    if isinstance(model, Packed):
        sizes = [sum(length > t for length in LENGTHS) for t in range(max(LENGTHS))]
        return torch.stack([step.square().sum() for step in gradient.split(sizes)])
    if gradient.ndim == 3:
        gradient = gradient if model.layer.batch_first is False else gradient.transpose(0, 1)  # type: ignore[union-attr]
    return gradient.flatten(1).square().sum(1)


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_gradient_that_autograd_gives_at_the_input(name: str) -> None:
    torch.manual_seed(0)
    model, x = MODELS[name]().double(), batch().double()
    (call,) = watched_calls(model, x, Tensor.backward)
    expected = by_time(model, x)
    assert call.times == pytest.approx(expected.tolist(), rel=1e-12)
    assert len(call.times) in (7, 3)


def train(name: str, *, watch: bool, autocast: bool) -> list[Tensor]:
    torch.manual_seed(1)
    model = {**MODELS, **UNCHECKED}[name]()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    watcher = gradwatch.watch(model, optimizer, every_n_steps=1, strict=True) if watch else None
    trace = []
    for step in range(6):
        model.train(step != 3)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(batch()).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        trace += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        trace.append(loss.detach())
    if watcher is not None:
        watcher.close()
        assert not watcher.report().notes
    weights = [weight.detach() for weight in model.layer._flat_weights]  # type: ignore[union-attr]
    return [*trace, *weights, *model.state_dict().values(), torch.get_rng_state()]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", [*MODELS, *UNCHECKED])
def test_a_watched_training_is_bit_identical(name: str, autocast: bool) -> None:
    plain = train(name, watch=False, autocast=autocast)
    seen = train(name, watch=True, autocast=autocast)
    assert len(plain) == len(seen)
    assert all(torch.equal(one, other) for one, other in zip(plain, seen, strict=True))


def test_a_forward_of_its_own_has_no_times_and_breaks_nothing() -> None:
    (call,) = watched_calls(Last(Doubled(3, 4, batch_first=True)), batch(), Tensor.backward)
    assert call.times == ()
    assert call.grad_output is not None


def test_dropout_between_the_layers_is_left_out() -> None:
    torch.manual_seed(0)
    model = Last(lstm(2, dropout=0.5))
    (call,) = watched_calls(model, batch(), Tensor.backward)
    assert len(call.times) == 7
    assert min(call.times) > 0


def test_spectral_norm_takes_no_step_of_its_own() -> None:
    torch.manual_seed(0)
    model = Last(spectral(lstm()))
    (call,) = watched_calls(model, batch(), Tensor.backward)
    assert len(call.times) == 7


def test_weights_that_changed_inside_backward_leave_no_number() -> None:
    model = Last(lstm())
    weight = model.layer.weight_hh_l0

    def step(parameter: Tensor) -> None:
        with torch.no_grad():
            parameter.mul_(0.9)

    weight.register_post_accumulate_grad_hook(step)  # type: ignore[operator, union-attr]
    (call,) = watched_calls(model, batch(), Tensor.backward)
    assert call.times == ()


def test_of_a_long_sequence_the_first_and_the_last_step_are_kept() -> None:
    torch.manual_seed(0)
    model, x = Last(lstm()).double(), torch.randn(1, MAX_TIMES + 44, 3, dtype=torch.float64)
    (call,) = watched_calls(model, x, Tensor.backward)
    expected = by_time(model, x)
    assert len(call.times) == MAX_TIMES
    assert call.times[0] == pytest.approx(expected[0].item(), rel=1e-12)
    assert call.times[-1] == pytest.approx(expected[-1].item(), rel=1e-12)


def test_micro_batches_add_up() -> None:
    torch.manual_seed(0)
    model, x = Last(lstm()).double(), batch().double()
    parts = [by_time(model, part) for part in x.split(1)]
    watcher = gradwatch.watch(model, every_n_steps=1, strict=True)
    for part in x.split(1):
        model(part).square().sum().backward()
    watcher.step()
    watcher.close()
    assert watcher.history.latest is not None
    call = next(c for c in watcher.history.latest.calls if c.layer.name == "layer")
    assert call.times == pytest.approx(torch.stack(parts).sum(0).tolist(), rel=1e-12)


def test_the_gradient_of_a_gradient_passes_too() -> None:
    """A gradient penalty: the gradients that arrive are part of a graph themselves."""

    def penalised(loss: Tensor) -> None:
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + slope.square().sum()).backward()

    torch.manual_seed(0)
    model, x = Last(nn.GRU(3, 4, batch_first=True)), batch().requires_grad_()
    (call,) = watched_calls(model, x, penalised)
    assert len(call.times) == 7


def test_hooks_of_the_user_on_saved_tensors_do_not_see_it() -> None:
    def packed(watch: bool) -> int:
        count = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return tensor

        model, x = Last(lstm()), batch()
        watcher = gradwatch.watch(model, every_n_steps=1, strict=True) if watch else None
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(x).square().sum().backward()
        if watcher is not None:
            watcher.step()
            watcher.close()
        return count

    assert packed(True) == packed(False) > 0
