"""What is prescribed is executed on real models: it changes what it says, and they still train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from gradwatch.core.catalog import remedies
from gradwatch.core.finding import Finding
from gradwatch.core.record import NO_GRAD_INPUT, Parameter, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code
from gradwatch.remedies.swap_activation import SwapActivation

Examine = Callable[..., Record]
Complain = Callable[..., Finding]
Run = Callable[[Prescription, nn.Module], None]
Train = Callable[[nn.Module, torch.Tensor], bool]
OF_ANY_NET = """
    batch-norm clip-gradients group-norm he-init layer-norm orthogonal-init residual
    residual-pre-norm xavier-init swap-activation-relu swap-activation-leaky-relu
    swap-activation-prelu swap-activation-gelu
"""
"""They change any plain net: for the others see test_model_remedies.py and test_conformance.py."""
REMEDIES = {remedy.name: remedy for remedy in remedies() if remedy.name in OF_ANY_NET.split()}


class Net(nn.Module):
    """Modules as attributes, the forward written out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 1)
        self.act1, self.act2, self.out = nn.Tanh(), nn.Tanh(), nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act2(self.fc2(self.act1(self.fc1(x))))
        return self.out(self.fc3(x))


class Functional(nn.Module):
    """The activations are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.fc3(torch.sigmoid(self.fc2(torch.sigmoid(self.fc1(x))))))


OPERATIONS = {"fc1": ":sigmoid#0", "fc2": ":sigmoid#1", "fc3": ":sigmoid#2"}


def mlp() -> nn.Module:
    """3-6-6-6-1 in a Sequential, with a sigmoid output."""
    hidden = [layer for _ in range(2) for layer in (nn.Linear(6, 6), nn.Sigmoid())]
    return nn.Sequential(nn.Linear(3, 6), nn.Sigmoid(), *hidden, nn.Linear(6, 1), nn.Sigmoid())


def shared() -> nn.Module:
    """One activation module in three places."""
    act = nn.Sigmoid()
    return nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 1))


def conv() -> nn.Module:
    """Two convolutions of one shape, one with a stride, then a Linear output."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sigmoid()),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Sigmoid()),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, stride=2), nn.Sigmoid()),
        nn.Flatten(),
        nn.Linear(64, 1),
    )


FLAT = torch.linspace(-1, 1, 15).reshape(5, 3)
IMAGE = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)
MODELS: list[tuple[Callable[[], nn.Module], torch.Tensor, dict[str, str]]] = [
    (mlp, FLAT, {}),
    (Net, FLAT, {}),
    (shared, FLAT, {}),
    (conv, IMAGE, {}),
    (Functional, FLAT, OPERATIONS),
]


@pytest.mark.parametrize("name", REMEDIES)
@pytest.mark.parametrize(
    ("build", "x", "operations"), MODELS, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_prescription_changes_the_model_and_it_still_trains(
    name: str,
    build: Callable[[], nn.Module],
    x: torch.Tensor,
    operations: dict[str, str],
    examine: Examine,
    complain: Complain,
    run: Run,
    train: Train,
) -> None:
    """What is called runnable runs, changes what the model computes, and leaves it trainable."""
    remedy = REMEDIES[name]
    model = build()
    finding, cause = sorted(remedy.treats)[-1]
    prescription = remedy.prescribe(complain(cause, finding=finding), examine(model, x, operations))
    assert prescription.remedy == name
    assert prescription.answers == f"{finding}: {cause}"
    if not prescription.runnable:
        assert build is Functional
        return
    before, shape = model(x).detach(), model(x).shape
    if prescription.per_step:
        model(x).sum().mul(1e3).backward()
        run(prescription, model)
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        assert norm == pytest.approx(1.0, rel=1e-4)
        return
    run(prescription, model)
    assert model(x).shape == shape
    assert not torch.allclose(model(x), before)
    assert train(model, x)


def test_only_the_hidden_activations_are_swapped(
    examine: Examine, complain: Complain, run: Run
) -> None:
    model = mlp()
    finding = complain("activation", "1", "3", "5", "7")
    run(REMEDIES["swap-activation-gelu"].prescribe(finding, examine(model, FLAT)), model)
    assert [type(model[i]) for i in (1, 3, 5, 7)] == [nn.GELU, nn.GELU, nn.GELU, nn.Sigmoid]


def test_a_shared_activation_is_swapped_in_all_its_places(
    examine: Examine, complain: Complain, run: Run
) -> None:
    model = shared()
    finding = complain("activation", "1")
    run(REMEDIES["swap-activation-relu"].prescribe(finding, examine(model, FLAT)), model)
    assert not any(isinstance(module, nn.Sigmoid) for module in model.modules())


def test_an_unused_module_of_the_same_kind_is_left_alone(
    examine: Examine, complain: Complain, run: Run
) -> None:
    model = Net()
    model.add_module("predict", nn.Tanh())
    finding = complain("activation", "act1", "act2")
    run(REMEDIES["swap-activation-relu"].prescribe(finding, examine(model, FLAT)), model)
    assert isinstance(model.act1, nn.ReLU)
    assert isinstance(model.predict, nn.Tanh)
    assert isinstance(model.out, nn.Sigmoid)


def test_an_activation_that_also_makes_the_output_is_not_touched(
    examine: Examine, complain: Complain
) -> None:
    act = nn.Sigmoid()
    model = nn.Sequential(nn.Linear(3, 6), act, nn.Linear(6, 1), act)
    with pytest.raises(CannotPrescribe, match="the model's output"):
        REMEDIES["swap-activation-relu"].prescribe(
            complain("activation", "1"), examine(model, FLAT)
        )


def test_an_operation_is_named_with_the_forward_that_calls_it(
    examine: Examine, complain: Complain
) -> None:
    """The place and the new call are said, for who would rather change the source."""
    finding = complain("activation", ":sigmoid#0", ":sigmoid#1")
    record = examine(Functional(), FLAT, OPERATIONS)
    prescription = REMEDIES["swap-activation-relu"].prescribe(finding, record)
    assert prescription.runnable
    for part in (":sigmoid#0", ":sigmoid#1", "Functional", "torch.relu(...)"):
        assert part in prescription.code
    assert ":sigmoid#2" not in prescription.code


@pytest.mark.parametrize(
    ("name", "std"),
    [("he-init", (2 / 400) ** 0.5), ("xavier-init", 5 / 3 * (2 / 800) ** 0.5)],
)
def test_weights_get_the_variance_of_the_paper(
    name: str, std: float, examine: Examine, complain: Complain, run: Run
) -> None:
    """He: sqrt(2/fan_in); Xavier before tanh: 5/3 sqrt(2/(fan_in + fan_out)); biases 0."""
    model = nn.Sequential(nn.Linear(400, 400), nn.Tanh(), nn.Linear(400, 1))
    record = examine(model, torch.ones(2, 400))
    last = model[2].weight.detach().clone()
    run(REMEDIES[name].prescribe(complain("init", "0"), record), model)
    assert model[0].weight.std().item() == pytest.approx(std, rel=0.02)
    assert not model[0].bias.any()
    assert torch.equal(model[2].weight, last)


@pytest.mark.parametrize("name", ["he-init", "xavier-init"])
def test_the_output_layer_gets_the_gain_of_a_linear_unit(
    name: str, examine: Examine, complain: Complain, run: Run
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(900, 900))
    model[0] = nn.Linear(900, 900)
    record = examine(model, torch.ones(2, 900))
    run(REMEDIES[name].prescribe(complain("init"), record), model)
    assert model[0].weight.std().item() == pytest.approx((2 / 900) ** 0.5, rel=0.02)
    assert model[2].weight.std().item() == pytest.approx((1 / 900) ** 0.5, rel=0.02)


def test_batch_norm_takes_its_width_and_axes_from_the_layer(
    examine: Examine, complain: Complain, run: Run
) -> None:
    model = conv()
    prescription = REMEDIES["batch-norm"].prescribe(complain("init"), examine(model, IMAGE))
    run(prescription, model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [4, 4, 4]
    assert "optimizer anew" in prescription.code


def test_a_layer_of_the_users_own_is_normalised_at_the_width_of_its_weight(
    examine: Examine, complain: Complain, run: Run, train: Train
) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(7, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.1 * nn.functional.linear(x, self.weight)

    model = nn.Sequential(Scaled(), nn.Sigmoid(), nn.Linear(7, 1))
    run(REMEDIES["layer-norm"].prescribe(complain("init"), examine(model, FLAT)), model)
    assert model[0][1].normalized_shape == (7,)
    assert train(model, FLAT)


def test_new_modules_share_the_number_format_of_the_model(
    examine: Examine, complain: Complain, run: Run, train: Train
) -> None:
    model, x = mlp().double(), FLAT.double()
    for name in ("batch-norm", "swap-activation-prelu"):
        run(REMEDIES[name].prescribe(complain("activation"), examine(model, x)), model)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert train(model, x)


def test_skip_connections_add_the_input_to_the_block_with_its_activation(
    examine: Examine, complain: Complain, run: Run
) -> None:
    """y = x + sigmoid(W x): the identity goes past the sigmoid too."""
    model = mlp()
    h = model[:2](FLAT)
    expected = h + model[2:4](h)
    expected = expected + model[4:6](expected)
    run(REMEDIES["residual"].prescribe(complain("depth"), examine(model, FLAT)), model)
    torch.testing.assert_close(model[:6](FLAT), expected)


def test_a_convolution_with_a_stride_gets_no_skip_connection(
    examine: Examine, complain: Complain, run: Run
) -> None:
    model = conv()
    run(REMEDIES["residual"].prescribe(complain("depth"), examine(model, IMAGE)), model)
    wrapped = [n for n, m in model.named_modules() if type(m).__name__ == "Residual"]
    assert wrapped == ["1.0"]


def test_a_block_that_has_a_skip_connection_gets_no_second_one(
    examine: Examine, complain: Complain
) -> None:
    """Where not all of the gradient passes through the layer (no cut), something goes past it."""
    record = examine(mlp(), FLAT)
    record = replace(record, calls=tuple(replace(call, cut=False) for call in record.calls))
    with pytest.raises(CannotPrescribe, match="same shape"):
        REMEDIES["residual"].prescribe(complain("depth"), record)


def test_an_activation_shared_with_a_layer_outside_is_not_taken_away(
    examine: Examine, complain: Complain
) -> None:
    """It also follows a 3-6 layer, which cannot be wrapped."""
    act = nn.Sigmoid()
    model = nn.Sequential(nn.Linear(3, 6), act, nn.Linear(6, 6), act, nn.Linear(6, 1))
    with pytest.raises(CannotPrescribe, match="plain chain"):
        REMEDIES["residual"].prescribe(complain("depth"), examine(model, FLAT))


HOSTILE = ["it's", 'a"b', "line\nbreak", "back\\slash", "{i}", "0", "1'); raise SystemExit #", "é"]


@pytest.mark.parametrize("name", REMEDIES)
def test_hostile_names_stay_names(
    name: str, examine: Examine, complain: Complain, run: Run, train: Train
) -> None:
    """Quotes, line breaks and code in a module's name do no harm, in comments neither."""
    model = nn.Sequential()
    for i, hostile in enumerate(HOSTILE):
        model.add_module(hostile, nn.Linear(3, 3) if i % 2 == 0 else nn.Sigmoid())
    model.add_module("last", nn.Linear(3, 1))
    remedy = REMEDIES[name]
    finding, cause = sorted(remedy.treats)[-1]
    prescription = remedy.prescribe(complain(cause, finding=finding), examine(model, FLAT))
    assert prescription.runnable
    run(prescription, model)
    assert train(model, FLAT)


def test_a_hostile_operation_cannot_leave_its_comment(complain: Complain, examine: Examine) -> None:
    model = nn.Sequential()
    model.add_module("a\nraise SystemExit", nn.Linear(3, 3))
    model.add_module("b", nn.Linear(3, 1))
    operation = "a\nraise SystemExit:sigmoid#0"
    record = examine(model, FLAT, {"a\nraise SystemExit": operation})
    prescription = REMEDIES["residual"].prescribe(complain("activation", operation), record)
    assert all(line.startswith("#") for line in prescription.code.splitlines())
    prescription = REMEDIES["swap-activation-relu"].prescribe(
        complain("activation", operation), record
    )
    exec(prescription.code, {"torch": torch, "model": model})


ABSTAIN: list[tuple[str, Callable[[], nn.Module], torch.Tensor, str]] = [
    ("swap-activation-relu", lambda: nn.Sequential(nn.Linear(3, 1)), FLAT, "no saturating"),
    ("he-init", lambda: nn.Sequential(nn.ReLU()), FLAT, "weight of its own"),
    ("xavier-init", lambda: nn.Sequential(nn.ReLU()), FLAT, "weight of its own"),
    ("batch-norm", lambda: nn.Linear(3, 1), FLAT, "no hidden"),
    (
        "batch-norm",
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)),
        FLAT,
        "normalisation already",
    ),
    ("batch-norm", mlp, FLAT[:1], "one sample"),
    (
        "batch-norm",
        lambda: nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)),
        FLAT,
        "sequences",
    ),
    (
        "layer-norm",
        lambda: nn.Sequential(nn.Linear(3, 1), nn.Tanh(), nn.Linear(1, 1)),
        FLAT,
        "one feature",
    ),
    (
        "residual",
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Linear(5, 1)),
        FLAT,
        "same shape",
    ),
]


@pytest.mark.parametrize(("name", "build", "x", "reason"), ABSTAIN)
def test_a_remedy_that_does_not_fit_says_why(
    name: str,
    build: Callable[[], nn.Module],
    x: torch.Tensor,
    reason: str,
    examine: Examine,
    complain: Complain,
) -> None:
    remedy = REMEDIES[name]
    finding, cause = sorted(remedy.treats)[-1]
    with pytest.raises(CannotPrescribe, match=reason):
        remedy.prescribe(complain(cause, finding=finding), examine(build(), x))


def test_gradients_that_are_clipped_are_not_clipped_again(complain: Complain) -> None:
    finding = complain("init", finding="exploding-gradient")
    with pytest.raises(CannotPrescribe, match=r"already \(to 0\.25 of their norm\)"):
        REMEDIES["clip-gradients"].prescribe(finding, Record(0, clip_ratio=0.25))


def test_an_inner_layer_of_a_transformer_is_not_wrapped(
    examine: Examine, complain: Complain
) -> None:
    """Its forward reads `linear1.weight`, which a Sequential does not have."""
    layer: nn.Module = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.Sequential(layer, nn.Linear(4, 1))
    with pytest.raises(CannotPrescribe):
        REMEDIES["layer-norm"].prescribe(complain("init"), examine(model, torch.ones(2, 3, 4)))


def test_a_weight_that_is_computed_is_not_written_to(examine: Examine, complain: Complain) -> None:
    """Under weight norm `layer.weight` is made anew in every forward: an init would be lost."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 1))
    record = examine(model, FLAT)
    parameters = tuple(Parameter(n, tuple(p.shape)) for n, p in model.named_parameters())
    record = replace(record, parameters=parameters)
    prescription = REMEDIES["he-init"].prescribe(complain("init"), record)
    assert "'1'" in prescription.code
    assert "'0'" not in prescription.code


def test_long_lists_of_names_are_shortened_to_the_same_names() -> None:
    def value(expression: str) -> Any:
        return eval(expression)

    numbered = [f"layers.{i}.act" for i in range(1, 40, 2)]
    mixed = [*(f"stage{i}.block {j}'s" for i in range(3) for j in range(20)), "head"]
    pairs = [(str(i), str(i + 1)) for i in range(0, 40, 2)]
    odd = [("a", "b"), ("c",), *pairs]
    assert value(_code.listing(numbered)) == numbered
    assert len(_code.listing(numbered)) < 60
    assert value(_code.listing(mixed)) == mixed
    assert max(map(len, _code.listing(mixed).splitlines())) <= 88
    assert value(_code.tuples(pairs)) == pairs
    assert value(_code.tuples(odd)) == odd
    assert value(_code.listing(["01", "02", "03", "04"])) == ["01", "02", "03", "04"]


def test_remedies_have_distinct_names_and_a_docstring_that_says_when_they_do_not_help() -> None:
    assert len({remedy.name for remedy in remedies()}) == len(remedies())
    assert REMEDIES.keys() == set(OF_ANY_NET.split())
    for remedy in remedies():
        text = " ".join((type(remedy).__doc__ or "").split())
        assert "Helps when" in text
        assert "Does not help" in text
        assert type(remedy).__module__.startswith("gradwatch.remedies.")


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="ReLU, LeakyReLU, PReLU, GELU, Tanh, got 'Sigmoid'"):
        SwapActivation("Sigmoid")


def test_the_first_layer_is_initialised_with_the_others(
    examine: Examine, complain: Complain
) -> None:
    """It has no gradient at its input and cannot be blamed: it goes with what half of them do."""
    record = examine(mlp(), FLAT)
    calls = tuple(
        replace(call, reason=NO_GRAD_INPUT) if call.layer.name == "0" else call
        for call in record.calls
    )
    record = replace(record, calls=calls)
    most = REMEDIES["he-init"].prescribe(complain("init", "2", "4"), record).code
    one = REMEDIES["he-init"].prescribe(complain("init", "2"), record).code
    assert "['0', '2', '4']" in most
    assert "['2']" in one


def test_an_operation_that_is_called_often_is_mentioned_once(
    examine: Examine, complain: Complain
) -> None:
    layers = {f"{i}": f":tanh#{i}" for i in range(12)}
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(13)))
    record = examine(model, FLAT, layers)
    for name in ("swap-activation-prelu", "residual"):
        prescription = REMEDIES[name].prescribe(complain("activation", *layers.values()), record)
        comments = [line for line in prescription.code.splitlines() if line.startswith("#")]
        assert len(comments) <= 6
        assert any("':tanh#0' to ':tanh#11', 12 times" in line for line in comments)
