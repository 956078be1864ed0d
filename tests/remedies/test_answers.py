"""Findings that other remedies leave unanswered: each gets a change, or the lines to write."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core import catalog
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.record import Call, Layer, Parameter, Record
from gradwatch.core.remedy import CannotApply, CannotPrescribe, Prescription
from gradwatch.core.stats import Stats
from gradwatch.remedies import _modules
from gradwatch.trying import treatment
from gradwatch.trying.candidates import UNKNOWN

REMEDIES = {remedy.name: remedy for remedy in catalog.remedies()}
EMPTY = Stats.empty()


def complaint(finding: str, cause: str, *layers: str) -> Finding:
    return Finding(finding, Severity.CRITICAL, "", causes=(Cause(cause, "", layers),))


def prescribe(remedy: str, finding: Finding, record: Record) -> Prescription:
    found: Prescription = REMEDIES[remedy].prescribe(finding, record)
    return found


def refused(remedy: str, finding: Finding, record: Record) -> str:
    with pytest.raises(CannotPrescribe) as reason:
        prescribe(remedy, finding, record)
    return str(reason.value)


def looked_at(model: nn.Module, x: Tensor, y: Tensor) -> Record:
    record = gradwatch.diagnose(model, F.mse_loss, (x, y)).record
    assert record is not None
    return record


def apply(prescription: Prescription, model: nn.Module, **data: object) -> nn.Module:
    treated: nn.Module = treatment.apply([prescription], model, **data).model  # type: ignore[arg-type]
    return treated


# --- shapes ----------------------------------------------------------------------------------


def test_each_output_is_compared_with_its_own_target() -> None:
    x, y = torch.randn(6, 3), torch.randn(6)
    finding = complaint("broadcast-targets", "loss")
    prescription = prescribe("match-shapes", finding, Record(0))

    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean()

    model = nn.Linear(3, 1)
    given = {"loss_fn": loss_fn, "batches": [(x, y)]}
    treated = treatment.apply([prescription], model, **given)  # type: ignore[arg-type]
    output = model(x)
    expected = (output[:, 0] - y).square().mean()
    torch.testing.assert_close(treated.loss_fn(output, y), expected)
    given["batches"] = [(x, y[:, None])]
    with pytest.raises(CannotApply, match="one shape already"):
        treatment.apply([prescription], model, **given)  # type: ignore[arg-type]


def test_a_loss_of_classes_keeps_its_targets() -> None:
    loss_fn = _modules.MatchedShapes(F.cross_entropy)  # type: ignore[no-untyped-call]
    output, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(loss_fn(output, labels), F.cross_entropy(output, labels))  # type: ignore[no-untyped-call]


# --- running statistics ----------------------------------------------------------------------


def norm_record(count: int) -> Record:
    layer = Layer("1", "BatchNorm1d", weight_shape=(4,), builtin=True)
    return Record(50, (Call(layer, output=replace(EMPTY, count=count), drift=9.0),))


@pytest.mark.parametrize("momentum", [0.0, 1e-4, 1.0])
def test_running_statistics_follow_again(momentum: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum))
    for found in (complaint("norm-statistics", "normalisation", "1"), UNKNOWN):
        norm = model[1]
        assert isinstance(norm, nn.BatchNorm1d)
        norm.momentum = momentum
        apply(prescribe("norm-momentum", found, norm_record(256)), model)
        assert norm.momentum == 0.1


def test_no_momentum_is_prescribed_where_it_is_not_to_blame() -> None:
    finding = complaint("norm-statistics", "normalisation", "1")
    assert "too few values" in refused("norm-momentum", finding, norm_record(8))
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(CannotApply, match="ordinary"):
        apply(prescribe("norm-momentum", finding, norm_record(256)), model)


def test_batch_norms_of_pairs_give_way_to_group_norms() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    record = looked_at(model, torch.randn(2, 3), torch.randn(2, 1))
    finding = complaint("norm-statistics", "normalisation", "1")
    treated = apply(prescribe("group-norm", finding, record), model)
    assert isinstance(treated.get_submodule("1"), nn.GroupNorm)


def test_norms_that_leave_nothing_are_replaced_or_spoken_of() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(-1, keepdim=True)

    x, y = torch.randn(8, 3, 4, 4), torch.randn(8, 2)
    finding = complaint("dead-units", "normalisation", "2")
    for norm, runnable in ((nn.InstanceNorm2d(32), True), (Own(), False)):
        head = (nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.AdaptiveAvgPool2d(2), norm)
        model = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), *head)
        prescription = prescribe("group-norm", finding, looked_at(model, x, y))
        assert prescription.runnable is runnable
        if runnable:
            assert isinstance(apply(prescription, model).get_submodule("2"), nn.GroupNorm)


# --- weights that belong to no layer ---------------------------------------------------------


class Product(nn.Module):
    """A linear map that is the product of two raw matrices."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.factors = nn.ParameterList([nn.Parameter(first), nn.Parameter(second)])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.factors[0]), self.factors[1])


def test_two_zero_factors_are_drawn() -> None:
    model = Product(torch.zeros(2, 5), torch.zeros(3, 2))
    record = looked_at(model, torch.randn(8, 5), torch.randn(8, 3))
    for finding in (complaint("zero-gradient", "init", ":linear#1"), UNKNOWN):
        apply(prescribe("redraw", finding, record), model)
        assert all(p.std() > 0.1 for p in model.parameters())


def test_one_zero_factor_is_left_alone() -> None:
    model = Product(torch.randn(2, 5), torch.zeros(3, 2))
    record = looked_at(model, torch.randn(8, 5), torch.randn(8, 3))
    assert "known to need it" in refused("redraw", UNKNOWN, record)


def test_matrices_that_an_operation_multiplies_by_are_drawn_and_no_others() -> None:
    model = Product(1e-3 * torch.randn(7, 5), torch.ones(3, 7))
    record = looked_at(model, torch.randn(8, 5), torch.randn(8, 3))
    finding = complaint("vanishing-gradient", "init", ":linear#0")
    apply(prescribe("redraw", finding, record), model)
    assert model.factors[0].std() > 0.1
    assert torch.equal(model.factors[1], torch.ones(3, 7))
    layered = nn.Sequential(model, nn.Linear(3, 1))
    record = looked_at(layered, torch.randn(8, 5), torch.randn(8, 1))
    finding = complaint("vanishing-gradient", "init", "0:linear#0")
    assert "not those of a Linear or Conv" in refused("he-init", finding, record)


def test_a_recurrent_layer_gets_the_usual_weights() -> None:
    model = nn.Sequential(nn.LSTM(4, 8))
    nn.init.normal_(model[0].weight_hh_l0, std=8.0)
    layer = Layer("0", "LSTM", builtin=True)
    parameters = tuple(Parameter(n, tuple(p.shape)) for n, p in model.named_parameters())
    finding = complaint("learns-nothing", "init", "0")
    apply(prescribe("redraw", finding, Record(0, (Call(layer),), parameters)), model)
    assert model[0].weight_hh_l0.abs().max() <= 8**-0.5


def test_a_router_begins_without_a_favourite() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    nn.init.constant_(model[0].bias, 30.0)
    record = looked_at(model, torch.randn(8, 6), torch.randn(8, 4))
    apply(prescribe("router-init", complaint("collapsed-router", "init", "0"), record), model)
    assert not model[0].bias.any() and 0 < model[0].weight.std() < 0.3
    refused("router-init", UNKNOWN, record)


# --- learns nothing --------------------------------------------------------------------------


def stepping(ratio: float) -> Record:
    moved, size = (replace(EMPTY, count=1, squares=s) for s in (ratio**2, 1.0))
    return Record(90, parameters=(Parameter("0.weight", (3, 3), update=moved, sample=size),))


def test_the_learning_rate_is_changed_in_the_direction_that_was_measured() -> None:
    finding = complaint("learns-nothing", "learning-rate")
    assert "10000" in prescribe("raise-learning-rate", finding, stepping(1e-6)).title
    assert "only" in refused("lower-learning-rate", finding, stepping(1e-6))
    prescribe("lower-learning-rate", finding, stepping(0.5))
    assert "already" in refused("raise-learning-rate", finding, stepping(0.5))


class Bell(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(-100 * x * x)


def test_an_activation_of_ones_own_is_swapped_with_weights_that_suit() -> None:
    model = nn.Sequential(nn.Linear(5, 6), Bell(), nn.Linear(6, 1))
    before = model[0].weight.clone()
    record = looked_at(model, torch.randn(8, 5), torch.randn(8, 1))
    finding = complaint("learns-nothing", "activation", "1")
    treated = apply(prescribe("swap-activation-relu", finding, record), model)
    assert isinstance(treated.get_submodule("1"), nn.ReLU)
    assert not torch.equal(model[0].weight, before)


# --- what is said ----------------------------------------------------------------------------

FOREIGN = Layer(":linear#0", "linear", functional=True, weighted=True, foreign=True)
ADDED = Layer("cell:add#0", "add", functional=True)
SOFTMAX = Layer("5", "Softmax", builtin=True)
TIMES = Layer("head:mul#0", "mul", functional=True)
HEAD = Layer("0", "Linear", builtin=True, weighted=True, weight_shape=(4, 4))
TANH = Layer("1", "Tanh", builtin=True)
SIMPLE = Layer("cell", "Linear", builtin=True, weighted=True, weight_shape=(4, 4))
UP = Parameter("w", (2, 2), descent=-1.0)
TEXTS = [
    ("step-optimizer", complaint("stalled-updates", "disconnection"), (), "optimizer.step()"),
    ("register-layers", complaint("forgotten-parameters", "disconnection"), (FOREIGN,), "ModuleL"),
    ("hold-apart", complaint("collapsed-output", "loss"), (), "InfoNCE"),
    ("expert-capacity", complaint("dropped-samples", "disconnection", "e.0", "e.1"), (), "= 2"),
    ("loss-weights", complaint("collapsed-router", "init", "router"), (), "0.01"),
    ("temperature", complaint("saturated-output", "loss", "head:mul#0"), (TIMES,), "exp()"),
    ("sloped-loss", complaint("zero-gradient", "loss"), (), "argmax"),
    ("sloped-loss", complaint("zero-gradient", "loss", "5"), (SOFTMAX,), "BCEWithLogits"),
    ("sloped-loss", complaint("saturated-output", "loss", "1"), (HEAD, TANH), "at one end"),
    ("check-data", complaint("signal-scale", "data", "0"), (), "unique(dim=0)"),
    ("check-data", complaint("unscaled-targets", "data"), (), "99999"),
    ("check-data", complaint("constant-targets", "data"), (), "return_counts"),
    ("full-precision", complaint("learns-nothing", "precision", "cell:add#0"), (ADDED,), "float()"),
    ("gated-cell-gru", complaint("vanishing-over-time", "time", "cell"), (SIMPLE,), "keep * state"),
    ("lower-weight-decay", complaint("weight-decay-dominates", "optimizer"), (), "weight_decay"),
    ("minimise", complaint("ascending-loss", "optimizer"), (), "p -= lr"),
]


@pytest.mark.parametrize(("remedy", "finding", "layers", "says"), TEXTS)
def test_what_only_the_user_can_do_is_said_in_comments(
    remedy: str, finding: Finding, layers: tuple[Layer, ...], says: str
) -> None:
    record = Record(0, tuple(map(Call, layers)), (UP,) if remedy == "minimise" else ())
    prescription = prescribe(remedy, finding, record)
    assert not prescription.runnable
    assert says in prescription.code
    assert all(line.startswith("#") for line in prescription.code.splitlines())
    assert prescription.answers == f"{finding.name}: {finding.cause}"


@pytest.mark.parametrize("remedy", sorted({remedy for remedy, *_ in TEXTS}))
def test_nothing_is_said_of_what_nobody_found(remedy: str) -> None:
    refused(remedy, UNKNOWN, Record(0))


def test_weights_that_move_are_stepped() -> None:
    finding = complaint("stalled-updates", "disconnection")
    assert "change in a step" in refused("step-optimizer", finding, stepping(1e-3))
