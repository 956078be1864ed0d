"""Structural zeros: real trainings of each kind, and their look-alikes that are no structure."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core import runfolder, specimens
from gradwatch.core.finding import Severity
from gradwatch.core.history import History
from gradwatch.core.report import Report
from gradwatch.core.waivers import Waiver, waived, waivers
from gradwatch.viewer.page_data import page_data
from tests.zoo.trainings import Batch, PreNormTransformer, digit_images, digit_rows, digit_vectors

Step = Callable[[int], Tensor]


def watch(
    model: nn.Module,
    step: Step,
    optimizer: Any = None,
    *,
    steps: int = 40,
    log_dir: Any = None,
    scaler: Any = None,
) -> gradwatch.Watcher:
    """Run a training whose whole step is `step`, with an exam every ten steps."""
    options: dict[str, Any] = {"every_n_steps": 10, "strict": True}
    with gradwatch.watch(model, optimizer, log_dir=log_dir, scaler=scaler, **options) as watcher:
        for i in range(steps):
            watcher.step(step(i))
    return watcher


def fit(
    model: nn.Module,
    data: Callable[[], Batch] = digit_vectors,
    *,
    lr: float = 3e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    held: Callable[[nn.Module], Iterable[nn.Parameter]] = lambda model: model.parameters(),
    rate: Callable[[int], float] = lambda step: 1.0,
    after: Callable[[int], None] = lambda step: None,
    autocast: torch.dtype | None = None,
    **options: Any,
) -> gradwatch.Watcher:
    """Train on digits with cross-entropy."""
    inputs, targets = data()
    chosen = optimizer([p for p in held(model) if p.requires_grad], lr=lr)

    def step(i: int) -> Tensor:
        picked = torch.randint(0, len(inputs), (64,))
        for group in chosen.param_groups:
            group["lr"] = lr * rate(i)
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            output = model(inputs[picked])
        loss = F.cross_entropy(output.float(), targets[picked])
        chosen.zero_grad()
        loss.backward()
        chosen.step()
        after(i)
        return loss.detach()

    return watch(model, step, chosen, **options)


def found(watcher: gradwatch.Watcher, name: str) -> Waiver:
    """Return the one waiver of that name in a training that no detector may speak of."""
    report = watcher.report()
    assert quiet(report), report
    (waiver,) = [waiver for waiver in report.waivers if waiver.name == name]
    return waiver


def quiet(report: Report) -> bool:
    return report.severity is None or report.severity < Severity.WARNING


def names(watcher: gradwatch.Watcher) -> set[str]:
    return {waiver.name for waiver in watcher.report().waivers}


# --- biases that cancel ---------------------------------------------------------------------------


def convolutions(norm: Callable[[int], nn.Module], width: int = 8) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (1, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), norm(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_a_bias_before_a_norm_over_samples_or_places_cancels(
    norm: type[nn.Module], autocast: torch.dtype | None
) -> None:
    waiver = found(
        fit(convolutions(norm), digit_images, autocast=autocast), "cancelled-by-normalisation"
    )
    assert waiver.parameters == ("0.bias", "3.bias")
    assert waiver.reason.startswith(f"cancelled by the {norm.__name__} after it")
    assert waiver.steps == ()


class TwoPaths(nn.Module):
    """The norms are called after both layers, and `F.batch_norm` is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(64, 32)
        self.norm = nn.BatchNorm1d(32)
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.a(x), self.b(x), self.c(x)
        b = F.batch_norm(b, None, None, training=True)
        return self.head(torch.relu(torch.cat([self.norm(a), b, c], -1)))  # type: ignore[no-any-return]


def test_the_norm_need_not_be_a_module_nor_be_called_next() -> None:
    watcher = fit(TwoPaths())
    cancelled = [w for w in watcher.report().waivers if w.name == "cancelled-by-normalisation"]
    assert [w.parameters for w in cancelled] == [("a.bias",), ("b.bias",)]
    assert "BatchNorm1d" in cancelled[0].reason
    assert "batch_norm" in cancelled[1].reason
    assert quiet(watcher.report())


class Centred(nn.Module):
    """A norm of one's own: nothing tells by its name what it does."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_what_cancels_is_told_by_its_numbers_where_its_structure_is_unknown() -> None:
    model = nn.Sequential(nn.Linear(64, 32), Centred(), nn.ReLU(), nn.Linear(32, 10))
    assert found(fit(model), "cancelled").parameters == ("0.bias",)


def in_evaluation() -> nn.Module:
    model = convolutions(nn.BatchNorm2d)
    for layer in (model[1], model[4]):
        layer.eval()
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: convolutions(lambda width: nn.GroupNorm(2, width)),
        in_evaluation,
        lambda: convolutions(lambda width: nn.Identity()),
    ],
    ids=["group-norm", "batch-norm-in-evaluation", "no-norm"],
)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_bias_that_is_learnt_is_counted(
    build: Callable[[], nn.Module], autocast: torch.dtype | None
) -> None:
    assert names(fit(build(), digit_images, autocast=autocast)) == set()


def rotated(x: Tensor) -> Tensor:
    """Rotary positions: what is added to a key then depends on its place."""
    angle = torch.arange(x.shape[-2])[:, None] / 10.0 ** torch.arange(x.shape[-1] // 2)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat(
        [even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1
    )


class Attention(nn.Module):
    """Self-attention over rows, with names that tell nothing."""

    def __init__(self, *, packed: bool, fused: bool, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.layers = nn.ModuleList(
            [nn.Linear(32, 96)] if packed else [nn.Linear(32, 32) for _ in range(3)]
        )
        self.fused, self.change = fused, change
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x))
        parts = torch.cat([layer(x) for layer in self.layers], -1).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in parts)
        q, k = self.change(q), self.change(k)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1) @ v
        return self.head(mixed.transpose(1, 2).flatten(2).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("fused", [False, True])
def test_the_bias_of_keys_cancels_in_the_softmax(fused: bool, autocast: torch.dtype | None) -> None:
    model = Attention(packed=False, fused=fused, change=lambda x: x)
    watcher = fit(model, digit_rows, autocast=autocast)
    waiver = found(watcher, "cancelled-by-softmax")
    assert waiver.parameters == ("layers.1.bias",)
    assert waived(watcher.history) == {"layers.1.bias"}


@pytest.mark.parametrize("fused", [False, True])
def test_a_third_of_a_packed_bias_is_that_of_keys(fused: bool) -> None:
    model = Attention(packed=True, fused=fused, change=lambda x: x)
    waiver = found(fit(model, digit_rows), "partly-cancelled-by-softmax")
    assert waiver.parameters == ("layers.0.bias",)
    assert "33%" in waiver.reason


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("change", [rotated, lambda x: F.layer_norm(x, (8,))])
def test_with_rotary_positions_or_normed_keys_it_does_not_cancel(
    packed: bool, change: Callable[[Tensor], Tensor]
) -> None:
    assert names(fit(Attention(packed=packed, fused=True, change=change), digit_rows)) == set()


def test_a_transformer_of_torch_has_both_kinds_of_attention_zeros() -> None:
    watcher = fit(PreNormTransformer(2), digit_rows, lr=1e-3)
    assert found(watcher, "partly-cancelled-by-softmax").parameters == (
        "encoder.layers.0.self_attn.in_proj_bias",
        "encoder.layers.1.self_attn.in_proj_bias",
    )
    assert found(watcher, "module-not-called").parameters == tuple(
        f"encoder.layers.{i}.self_attn.out_proj.{kind}"
        for i in (0, 1)
        for kind in ("weight", "bias")
    )


# --- zero at first --------------------------------------------------------------------------------


class Residual(nn.Module):
    """Blocks around which the signal can go; `gate` makes what each branch is multiplied with."""

    def __init__(self, gate: Callable[[], nn.Module], blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), gate())
            for _ in range(blocks)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)  # type: ignore[no-any-return]


class Scale(nn.Module):
    def __init__(self, value: float, *shape: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full(shape, value))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def zero_gamma() -> nn.Module:
    norm = nn.BatchNorm1d(32)
    nn.init.zeros_(norm.weight)
    return norm


WITHIN = tuple(
    f"branches.{i}.{layer}.{kind}"
    for i in range(3)
    for layer in (0, 2)
    for kind in ("weight", "bias")
)


@pytest.mark.parametrize(
    ("gate", "opened"),
    [
        (lambda: Scale(0.0), "factor"),
        (lambda: Scale(0.0, 32), "factor"),
        (zero_gamma, "weight"),
    ],
    ids=["rezero", "zero-layer-scale", "zero-gamma"],
)
def test_a_branch_that_starts_at_zero_is_given_time(
    gate: Callable[[], nn.Module], opened: str
) -> None:
    watcher = fit(Residual(gate))
    waiver = found(watcher, "zero-at-first")
    assert set(WITHIN) >= set(waiver.parameters) >= {n for n in WITHIN if "weight" in n}
    assert f"`branches.0.3.{opened}`" in waiver.reason
    assert "before step 1" in waiver.reason
    assert waiver.steps == (0,)
    assert not waived(watcher.history, "zero-at-first"), "it is over"


def zero_head() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    model.append(nn.Linear(32, 10))
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    return model


def test_a_head_that_starts_at_zero_is_given_time() -> None:
    body = ("0.weight", "0.bias", "2.weight", "2.bias")
    early = found(fit(zero_head(), steps=1), "zero-at-first")
    assert early == Waiver(
        "zero-at-first", "zero until what starts at zero moves: `4.weight`", body
    )
    late = found(fit(zero_head()), "zero-at-first")
    assert late.parameters == body
    assert late.reason.endswith("until what starts at zero had moved: `4.weight`")
    assert late.steps == (0,)


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear, *, both: bool = False) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.one = nn.Parameter((not both) * torch.randn(4, base.in_features) / 2)
        self.two = nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.one.T) @ self.two.T  # type: ignore[no-any-return]


def low_rank(*, both: bool = False) -> nn.Module:
    layers = [
        LowRank(nn.Linear(64, 64), both=both),
        nn.ReLU(),
        LowRank(nn.Linear(64, 10), both=both),
    ]
    return nn.Sequential(*layers)


def test_an_adapter_that_starts_at_zero_is_given_time_and_its_base_is_frozen() -> None:
    watcher = fit(low_rank())
    waiver = found(watcher, "zero-at-first")
    assert waiver.parameters == ("0.one", "2.one")
    assert "`0.two`, `2.two`" in waiver.reason
    assert found(watcher, "frozen").parameters == (
        "0.base.weight",
        "0.base.bias",
        "2.base.weight",
        "2.base.bias",
    )


class Helped(nn.Module):
    """An auxiliary head whose loss counts from a certain step on, or in every second step."""

    def __init__(self, counts: Callable[[int], bool]) -> None:
        super().__init__()
        self.body, self.head, self.help = (nn.Linear(64, 32), nn.Linear(32, 10), nn.Linear(32, 10))
        self.counts, self.calls = counts, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        hidden = torch.relu(self.body(x))
        return self.head(hidden) + self.counts(self.calls - 1) * self.help(hidden)  # type: ignore[no-any-return]


def test_what_comes_within_the_first_steps_is_given_time_whatever_it_waited_for() -> None:
    waiver = found(fit(Helped(lambda step: step >= 3)), "zero-at-first")
    assert waiver.parameters == ("help.weight", "help.bias")
    assert waiver.reason == "zero before step 3 only"
    assert waiver.steps == (0, 1, 2)
    assert names(fit(Helped(lambda step: step >= 30))) == set()
    assert names(fit(Helped(lambda step: step % 2 == 1))) == set()


def test_what_stays_zero_is_counted() -> None:
    """Two zero factors, and a layer that is dead for every sample: no step will wake them."""
    assert names(fit(low_rank(both=True))) == {"frozen"}
    dead = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    nn.init.constant_(dead[2].bias, -20.0)
    assert names(fit(nn.Sequential(*dead, nn.Linear(32, 10)))) == set()


def test_a_layer_that_dies_again_is_counted() -> None:
    model = zero_head()
    assert isinstance(model, nn.Sequential)

    def kill(step: int) -> None:
        if step == 20:
            nn.init.constant_(model[2].bias, -1e3)

    assert "zero-at-first" not in names(fit(model, after=kill))


def test_a_branch_that_is_scaled_down_is_told_by_its_scale() -> None:
    """LayerScale: for as long as the scale is small, so are the gradients behind it."""
    model = Residual(lambda: Scale(1e-5, 32))
    early = found(fit(model, steps=3), "scaled-down-at-first")
    assert set(early.parameters) == set(WITHIN)
    assert early.reason.startswith("scaled down by what starts at 1e-05: `branches.0.3.factor`")
    late = found(fit(Residual(lambda: Scale(1e-5, 32)), lr=2e-3), "scaled-down-at-first")
    assert late.steps[:2] == (0, 1)
    assert late.steps[-1] < 30


# --- not reached ----------------------------------------------------------------------------------


class Experts(nn.Module):
    """Each batch goes to one expert."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.experts = nn.ModuleList(nn.Linear(32, 10) for _ in range(3))
        self.choose, self.calls = choose, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.experts[self.choose(self.calls - 1)](torch.relu(self.first(x)))  # type: ignore[no-any-return]


def test_what_is_reached_now_and_then_is_told_how_often() -> None:
    waiver = found(fit(Experts(lambda step: step % 3), steps=60), "reached-now-and-then")
    assert waiver.parameters == tuple(
        f"experts.{i}.{k}" for i in range(3) for k in ("weight", "bias")
    )
    assert "reached in 20 of 60 steps" in waiver.reason


def test_an_expert_that_is_chosen_no_more_is_counted() -> None:
    watcher = fit(Experts(lambda step: step % 3 if step < 20 else 0), steps=60)
    assert {n for w in watcher.report().waivers for n in w.parameters} == {
        "experts.0.weight",
        "experts.0.bias",
    }


class Adversaries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        self.critic = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))


def test_the_halves_of_a_gan_take_turns_and_a_critic_of_differences_needs_no_bias() -> None:
    model = Adversaries()
    halves = [
        torch.optim.RMSprop(part.parameters(), lr=1e-3) for part in (model.critic, model.generator)
    ]

    def step(i: int) -> Tensor:
        fake = model.generator(torch.randn(64, 4))
        model.critic.requires_grad_(i % 2 == 0)
        if i % 2 == 0:
            real = torch.randn(64, 2) + 3
            loss = model.critic(fake.detach()).mean() - model.critic(real).mean()
        else:
            loss = -model.critic(fake).mean()
        model.zero_grad()
        loss.backward()
        halves[i % 2].step()
        return loss.detach()

    watcher = watch(model, step, halves, steps=60)
    assert set(found(watcher, "reached-now-and-then").parameters) == {
        name for name, _ in model.named_parameters()
    }
    assert "reached in 30 of 60 steps" in found(watcher, "reached-now-and-then").reason
    assert found(watcher, "cancelled").parameters == ("critic.2.bias",)


class Borrowed(nn.Module):
    """Uses the weight of a module that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.held = nn.Linear(64, 32)
        self.more = nn.ParameterList([nn.Parameter(torch.zeros(32))])
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.linear(x, self.held.weight, self.held.bias) + self.more[0]
        return self.head(torch.relu(hidden))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Shares the weight of a module that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.store = nn.Linear(64, 64, bias=False)
        self.used = nn.Linear(64, 64)
        self.used.weight = self.store.weight
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.used(x)))  # type: ignore[no-any-return]


def test_a_weight_that_is_shared_is_seen_where_it_is_used() -> None:
    assert names(fit(Tied())) == set()


def test_parameters_of_a_module_that_is_not_called_are_told() -> None:
    assert found(fit(Borrowed()), "module-not-called").parameters == ("held.weight", "held.bias")


class Bootstrap(nn.Module):
    """Learns digits, and to predict what a slow copy of itself says."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        self.target = copy.deepcopy(self.online)
        self.unused = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.target(x)
        return self.online(x) + 0.01 * wanted  # type: ignore[no-any-return]

    def follow(self, step: int) -> None:
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.1)


COPY = tuple(f"target.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias"))


@pytest.mark.parametrize("moves", [True, False])
def test_a_target_network_that_no_optimizer_holds_is_not_missed(moves: bool) -> None:
    model = Bootstrap()
    del model.unused
    follow = model.follow if moves else lambda step: None
    watcher = fit(model, held=lambda model: model.online.parameters(), after=follow)
    assert found(watcher, "not-to-be-trained").parameters == COPY
    assert waived(watcher.history, "not-to-be-trained") == set(COPY)


def test_a_target_network_that_an_optimizer_holds_is_told_by_its_movement() -> None:
    model = Bootstrap()
    watcher = fit(model, after=model.follow)
    assert found(watcher, "not-to-be-trained").parameters == COPY
    assert "not-to-be-trained" not in names(fit(Bootstrap())), (
        "it stands still: it may be forgotten"
    )


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.encoder(x)).detach())  # type: ignore[no-any-return]


@pytest.mark.parametrize("held", [lambda model: model.parameters(), lambda m: m.head.parameters()])
def test_what_is_cut_off_is_counted(held: Callable[[nn.Module], Any]) -> None:
    assert names(fit(Cut(), held=held)) == set()


# --- zero in part, or for a time ------------------------------------------------------------------


class Words(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.table = nn.Embedding(1000, 8, sparse=kind == "sparse")
        self.head = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        known = self.kind == "functional"
        words = F.embedding(tokens, self.table.weight) if known else self.table(tokens)
        return self.head(words.mean(1))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("kind", ["module", "sparse", "functional"])
def test_rows_that_are_not_in_the_batch_are_not_dead(kind: str) -> None:
    model = Words(kind)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)

    def step(i: int) -> Tensor:
        tokens = torch.randint(0, 1000, (64, 5))
        loss = F.mse_loss(model(tokens)[:, 0], (tokens % 4).float().mean(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    waiver = found(watch(model, step, optimizer, steps=200), "rows-not-in-the-batch")
    assert waiver.parameters == ("table.weight",)
    assert 70 <= int(waiver.reason[:2]) <= 76  # exp(-320 / 1000) of the rows


def test_a_learning_rate_of_zero_is_told_by_its_steps() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    everything = tuple(name for name, _ in model.named_parameters())
    warm_up = found(fit(model, rate=lambda step: min(1.0, step / 20)), "learning-rate-0")
    assert (warm_up.parameters, warm_up.steps) == (everything, (0,))
    cosine = fit(model, rate=lambda step: 0.5 + 0.5 * math.cos(math.pi * step / 30), steps=31)
    assert found(cosine, "learning-rate-0").steps == (30,)
    assert waived(cosine.history, "learning-rate-0") == set(everything)
    assert names(fit(model, rate=lambda step: 0.0)) == set(), "it never moves"


def test_updates_that_are_lost_are_counted() -> None:
    """They do not move either, but not for a learning rate of 0."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    assert names(fit(model, lr=1e-15, optimizer=torch.optim.SGD)) == set()


def grown(norm: nn.Module) -> gradwatch.Watcher:
    first = nn.Linear(64, 32)
    nn.init.normal_(first.weight, std=0.005)
    model = nn.Sequential(first, norm, nn.ReLU(), nn.Linear(32, 10))
    return fit(model, lr=1.0, optimizer=torch.optim.SGD, steps=100)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_a_weight_before_a_norm_may_grow_and_get_less_gradient(norm: type[nn.Module]) -> None:
    waiver = found(grown(norm(32)), "scale-invariant")
    assert waiver.parameters == ("0.weight",)
    assert "scale-invariant" not in names(grown(nn.Identity()))


def test_steps_that_a_scaler_skips_are_told() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    inputs, targets = digit_vectors()

    def step(i: int) -> Tensor:
        picked = torch.randint(0, len(inputs), (64,))
        with torch.autocast("cpu", torch.float16):
            output = model(inputs[picked])
        loss = F.cross_entropy(output.float(), targets[picked])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    waiver = found(watch(model, step, optimizer, scaler=scaler, steps=60), "skipped-steps")
    assert waiver.parameters == ()
    assert 0 < len(waiver.steps) < 20
    assert waiver.steps[0] == 0


def test_gradients_that_fade_with_the_loss_have_converged() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    inputs = torch.randn(32, 8)
    targets = inputs[:, :1].sin()

    def step(i: int) -> Tensor:
        loss = F.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    waiver = found(watch(model, step, optimizer, steps=300), "converged")
    assert set(waiver.parameters) == {name for name, _ in model.named_parameters()}


def test_gradients_that_fade_while_nothing_is_learnt_are_counted() -> None:
    """A sigmoid that is driven into saturation: the loss stays."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), nn.Sigmoid())

    def saturate(step: int) -> None:
        if step == 20:
            nn.init.constant_(model[2].bias, 40.0)

    watcher = fit(model, after=saturate, steps=80)
    assert watcher.history.pulses[-1].norm < 1e-3 * watcher.history.pulses[0].norm
    assert "converged" not in names(watcher)


@pytest.mark.parametrize(
    "sick",
    ["sigmoid-mlp", "born-dead", "dying-relu", "detached", "low-learning-rate", "nan-backward"],
)
def test_a_sick_training_gets_no_waiver(sick: str) -> None:
    assert waivers(specimens.load(sick)) == ()


# --- where they are shown -------------------------------------------------------------------------


def test_an_ordinary_training_has_none() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    report = fit(model).report()
    assert report.waivers == ()
    assert "Not counted" not in str(report)


def test_every_waiver_is_printed_with_its_reason() -> None:
    text = str(fit(Residual(zero_gamma)).report())
    assert "Not counted, and why" in text
    assert "branches.0.2.bias" in text
    assert "cancelled by the BatchNorm1d after it" in text
    assert "zero before step 1 only" in text


def test_of_many_waivers_the_last_are_told_by_their_names() -> None:
    many = tuple(Waiver(f"kind-{i}", f"reason {i}", (f"[red]{i}", "b", "c")) for i in range(9))
    lines = str(Report("Net", 3, waivers=many)).splitlines()
    lines = lines[lines.index("Not counted, and why") + 1 :]
    assert lines[0] == "  [red]0 and 2 more: reason 0"
    assert lines[6:] == ["  and 3 more: kind-6, kind-7, kind-8"]


def test_the_page_shows_them_all() -> None:
    many = tuple(Waiver(f"kind-{i}", f"reason {i}", ("a", "\u202eb")) for i in range(9))
    shown = page_data(Report("Net", 3, waivers=many), History())["waivers"]
    assert len(shown) == 9
    assert shown[1] == {"reason": "reason 1", "parameters": ["a", "b"]}


def test_they_come_back_from_the_run_folder(tmp_path: Any) -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    watcher = fit(model, log_dir=tmp_path)
    assert watcher.report().waivers
    assert runfolder.read(tmp_path).report().waivers == watcher.report().waivers


def test_of_nothing_nothing_is_waived() -> None:
    assert waivers(History()) == ()
    assert waived(History()) == frozenset()
