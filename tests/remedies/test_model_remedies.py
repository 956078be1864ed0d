"""Remedies that change the model: what their code does, looked at closely."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core import catalog
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _branches
from gradwatch.trying import twin
from gradwatch.trying.candidates import UNKNOWN
from tests.zoo.cases_recurrent import SigmoidCell
from tests.zoo.recipes import Residual, dense, residual
from tests.zoo.trainings import FunctionalMLP, PreNormTransformer, mlp, resnet

REMEDIES = {remedy.name: remedy for remedy in catalog.remedies()}
X, Y = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10
ROWS = X.reshape(64, 8, 8)


def looked_at(model: nn.Module, x: Tensor = X) -> Record:
    """Return the record of one step, of a copy."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    with gradwatch.watch(model, optimizer, strict=True) as watcher:
        loss = F.cross_entropy(model(x), Y)
        loss.backward()
        optimizer.step()
        watcher.step(loss)
    record = watcher.report().record
    assert record is not None
    return record


def prescribed(
    name: str, model: nn.Module, x: Tensor = X, finding: Finding = UNKNOWN
) -> Prescription:
    found: Prescription = REMEDIES[name].prescribe(finding, looked_at(model, x))
    return found


def case(model: nn.Module, x: Tensor = X) -> twin.Case:
    return twin.Case(
        model, F.cross_entropy, [(x, Y)], lambda m: torch.optim.SGD(m.parameters(), lr=0.1)
    )


def treated(name: str, model: nn.Module, x: Tensor = X, finding: Finding = UNKNOWN) -> Any:
    """Return the treated copy, as a trial makes it, checked against what pasting the code makes,
    and sent through pickle."""
    prescription = prescribed(name, model, x, finding)
    assert prescription.runnable
    made = twin.make(case(model, x), [prescription]).model
    pasted = copy.deepcopy(model)
    exec(prescription.code, {"torch": torch, "model": pasted, "inputs": x})
    shapes = {key: value.shape for key, value in made.state_dict().items()}
    assert shapes == {key: value.shape for key, value in pasted.state_dict().items()}
    back = pickle.loads(pickle.dumps(copy.deepcopy(made)))
    torch.testing.assert_close(back(x), made(x))
    return back


def blamed(finding: str, cause: str, *layers: str) -> Finding:
    return Finding(finding, Severity.CRITICAL, "", causes=(Cause(cause, "", layers),))


class Loop(nn.Module):
    """Reads with a cell in a loop of its own."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 16)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state)  # type: ignore[no-any-return]


# --- swap-activation: functions ----------------------------------------------------------------


class Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.layer(x))


class Mixed(nn.Module):
    """Calls the same function in three ways, its child calls it too, and it makes the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)
        self.child = Child()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.first(x))
        x = self.child(x)
        x = self.second(x).sigmoid()
        return F.sigmoid(self.head(x))


def test_exactly_the_blamed_call_is_swapped() -> None:
    model = Mixed()
    finding = blamed("vanishing-gradient", "activation", ":sigmoid#1")
    net = treated("swap-activation-gelu", model, finding=finding)
    h = torch.sigmoid(net.child.layer(torch.sigmoid(net.first(X))))
    expected = torch.sigmoid(net.head(F.gelu(net.second(h))))
    torch.testing.assert_close(net(X), expected)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(net(X), expected)
    assert torch.equal(net.first.weight, model.first.weight)
    assert not torch.equal(net.second.weight, model.second.weight)  # drawn for what follows it
    assert not net.second.bias.any()


def test_the_function_in_a_submodule_is_that_submodules_own() -> None:
    finding = blamed("vanishing-gradient", "activation", "child:sigmoid#0")
    net = treated("swap-activation-relu", Mixed(), finding=finding)
    h = torch.relu(net.child.layer(torch.sigmoid(net.first(X))))
    expected = torch.sigmoid(net.head(torch.sigmoid(net.second(h))))
    torch.testing.assert_close(net(X), expected)


def test_the_output_is_left_alone_when_nothing_is_blamed() -> None:
    net = treated("swap-activation-prelu", Mixed())
    assert sum(isinstance(module, nn.PReLU) for module in net.modules()) == 3
    assert (net(X) > 0).all() and (net(X) < 1).all()


def test_a_forward_that_calls_it_more_often_than_was_seen_is_refused() -> None:
    """A call on the data has no gradient and is in no record: the numbers would be off by one."""

    class Sneaky(FunctionalMLP):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.sigmoid(x))

    model = Sneaky(3)
    made = twin.make(case(model), [prescribed("swap-activation-relu", model)])
    with pytest.raises(RuntimeError, match="by hand"):
        made.model(X)


def test_a_loop_keeps_its_weights_when_its_activation_is_swapped() -> None:
    model = Loop(SigmoidCell(8, 16))
    net = treated("swap-activation-tanh", model, ROWS)
    assert torch.equal(net.cell.of_state.weight, model.cell.of_state.weight)
    assert net(ROWS).shape == (64, 10)


# --- weights -----------------------------------------------------------------------------------


def test_orthogonal_weights_keep_lengths_times_the_gain() -> None:
    net = treated("orthogonal-init", dense(3, nn.Tanh))
    weight = net[2].weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(32), atol=1e-5, rtol=0)
    net = treated("orthogonal-init", dense(3))
    weight = net[2].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SELU])
def test_every_layer_gives_unit_variance_after_lsuv(activation: Callable[[], nn.Module]) -> None:
    net = treated("lsuv-init", dense(5, activation, init=nn.init.zeros_), 100 * X)
    x = 100 * X
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            assert x.var().item() == pytest.approx(1, abs=0.11)


def test_running_statistics_are_not_moved_by_lsuv() -> None:
    model = dense(2, norm=nn.BatchNorm1d)
    net = twin.make(case(model), [prescribed("lsuv-init", model)]).model
    assert dict(net.named_buffers())["1.num_batches_tracked"] == 0


@pytest.mark.parametrize("name", ["he-init", "xavier-init", "orthogonal-init", "lsuv-init"])
def test_frozen_weights_are_not_drawn_anew(name: str) -> None:
    model = dense(3)
    model[0].requires_grad_(False)
    net = twin.make(case(model), [prescribed(name, model)]).model
    assert torch.equal(net.get_parameter("0.weight"), model[0].weight)
    assert not torch.equal(net.get_parameter("2.weight"), model[2].weight)


def test_only_dead_units_are_drawn_anew() -> None:
    model = dense(2)
    with torch.no_grad():
        model[2].bias[:5] = -100
    net = treated("revive-units", model)
    assert torch.equal(net[2].weight[5:], model[2].weight[5:])
    assert (net[2].weight[:5] != model[2].weight[:5]).any(1).all()
    assert not net[2].bias[:5].any()
    assert ((net[:4](X) > 0).any(0)).all()


def test_a_model_without_dead_units_needs_no_revival() -> None:
    with pytest.raises(CannotPrescribe, match="no rectifier"):
        prescribed("revive-units", dense(2, nn.Tanh))


# --- recurrent ---------------------------------------------------------------------------------


class Reader(nn.Module):
    def __init__(self, rnn: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.rnn(x)
        assert isinstance(last, Tensor | tuple)
        return self.head(states[:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_weights_are_orthogonal_gate_by_gate(kind: Any) -> None:
    net = treated("recurrent-init", Reader(kind(8, 16, batch_first=True)), ROWS)
    for gate in net.rnn.weight_hh_l0.split(16):
        torch.testing.assert_close(gate @ gate.T, torch.eye(16), atol=1e-5, rtol=0)
    assert bool(net.rnn.bias_hh_l0.any()) == (kind is not nn.RNN)


def test_a_rectified_rnn_gets_the_identity() -> None:
    model = Reader(nn.RNN(8, 16, nonlinearity="relu", batch_first=True))
    net = treated("recurrent-init", model, ROWS)
    assert torch.equal(net.rnn.weight_hh_l0, torch.eye(16))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_the_gates_that_keep_the_state_are_opened(kind: Any) -> None:
    model = Reader(kind(8, 16, batch_first=True))
    net = treated("forget-gate-bias", model, ROWS)
    total = net.rnn.bias_ih_l0 + net.rnn.bias_hh_l0
    assert (total[16:32] == 1).all()
    before = model.rnn.bias_ih_l0 + model.rnn.bias_hh_l0  # type: ignore[operator]
    assert torch.equal(total[32:], before[32:])


def test_the_gates_are_opened_for_the_length_of_the_sequences() -> None:
    """log(U(1, T - 1)) for T = 8 steps lies between 0 and log 7; the input gate gets -that."""
    net = treated("forget-gate-bias-by-length", Reader(nn.LSTM(8, 16, batch_first=True)), ROWS)
    kept = net.rnn.bias_ih_l0[16:32]
    assert (kept >= 0).all() and (kept <= torch.tensor(7.0).log()).all() and kept.std() > 0
    assert torch.equal(net.rnn.bias_ih_l0[:16], -kept)


@pytest.mark.parametrize(("name", "kind"), [("gru", nn.GRU), ("lstm", nn.LSTM)])
def test_a_gated_cell_is_called_as_the_plain_one_was(name: str, kind: type) -> None:
    rnn = nn.RNN(8, 8, 2, batch_first=True, bidirectional=True, dropout=0.0)
    net = treated(f"gated-cell-{name}", Reader(rnn), ROWS)
    assert isinstance(net.rnn, kind)
    states, last = net.rnn(ROWS, torch.zeros(4, 64, 8))
    expected, state = rnn(ROWS)
    assert states.shape == expected.shape and last.shape == state.shape


def test_a_cell_that_stands_in_two_places_is_one_cell_afterwards() -> None:
    class Twice(Reader):
        def __init__(self) -> None:
            super().__init__(nn.RNN(8, 16, batch_first=True))
            self.again = self.rnn

    model = Twice()
    net = twin.make(case(model, ROWS), [prescribed("gated-cell-gru", model, ROWS)]).model
    assert isinstance(net.again, nn.GRU) and net.again is net.rnn


def test_an_lstm_does_not_fit_a_loop_with_one_state() -> None:
    model = Loop(nn.RNNCell(8, 16))
    with pytest.raises(CannotPrescribe, match="one state"):
        prescribed("gated-cell-lstm", model, ROWS)
    assert isinstance(treated("gated-cell-gru", model, ROWS).cell, nn.GRUCell)


# --- residual branches -------------------------------------------------------------------------


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))


def test_branches_are_found_where_they_end() -> None:
    record = looked_at(residual(6, two_layers))
    assert _branches.last_layers(record) == tuple(f"{i}.branch.2" for i in range(1, 7))
    record = looked_at(PreNormTransformer(2), ROWS)
    assert _branches.last_layers(record) == tuple(
        f"encoder.layers.{i}.{end}" for i in range(2) for end in ("self_attn.out_proj", "linear2")
    )
    # Where the width changes it is not told what is the branch and what the projection.
    record = looked_at(resnet(), X.reshape(64, 1, 8, 8))
    assert _branches.last_layers(record) == tuple(f"{i}.bn2" for i in (3, 4, 6, 8, 10))


def test_parallel_layers_and_plain_nets_are_no_branches() -> None:
    class Sum(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(inputs, 32), nn.Linear(inputs, 32)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)  # type: ignore[no-any-return]

    assert _branches.ends(looked_at(nn.Sequential(Sum(64), nn.ReLU(), nn.Linear(32, 10)))) == ()
    with pytest.raises(CannotPrescribe, match="it has 0"):
        prescribed("scale-branches", dense(8))


def test_the_sum_of_scaled_branches_stays_as_large_as_one() -> None:
    model = residual(16, two_layers)
    for block in model[1:17]:
        assert isinstance(block, Residual)
        for i in (0, 2):
            nn.init.kaiming_normal_(block.branch[i].weight)  # type: ignore[index]
    grown = model[:17](X).std() / model[0](X).std()
    scaled = treated("scale-branches", model)
    assert scaled[:17](X).std() / scaled[0](X).std() < 3 < 30 < grown
    zero = treated("zero-branches", model)
    torch.testing.assert_close(zero[:17](X), zero[0](X))
    zero(X).sum().backward()
    assert zero[1].branch[2].weight.grad.any()


def test_a_zero_gain_is_meant_in_a_branch_and_nowhere_else() -> None:
    def branch() -> nn.Sequential:
        norm = nn.BatchNorm1d(32)
        nn.init.zeros_(norm.weight)
        return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), norm)

    with pytest.raises(CannotPrescribe, match="no normalisation"):
        prescribed("norm-gain", residual(2, branch))
    model = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10))
    nn.init.zeros_(model[1].weight)  # type: ignore[arg-type]
    assert (treated("norm-gain", model)[1].weight == 1).all()


def test_a_projection_goes_around_what_changes_the_width() -> None:
    model = nn.Sequential(
        nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(),
        nn.Linear(16, 10),
    )  # fmt: skip
    net = treated("residual-projection", model)
    h = net[:2](X)
    torch.testing.assert_close(
        net[2](h), net[2].projection(h) + torch.tanh(net[2].branch[0](h)), atol=1e-6, rtol=1e-5
    )
    assert type(net[4]).__name__ == "Residual"
    weight = net[2].projection.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(16), atol=1e-5, rtol=0)


def test_a_projection_of_a_convolution_has_its_stride() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(192, 10),
    )  # fmt: skip
    net = treated("residual-projection", model, X.reshape(64, 1, 8, 8))
    assert net[2].projection.stride == (2, 2)


def test_pre_norm_blocks_begin_as_nearly_the_identity() -> None:
    """Each adds 1/√n of a block on normalised inputs, whatever the size of what goes past it."""
    model = dense(17)
    net = treated("residual-pre-norm", model)
    assert net[2].scale.item() == pytest.approx(0.25)
    h = net[:2](X)
    normed = F.layer_norm(h, (32,), net[2].branch[0].weight, net[2].branch[0].bias)
    expected = h + 0.25 * torch.relu(net[2].branch[1](normed))
    torch.testing.assert_close(net[2](h), expected)


@pytest.mark.parametrize("name", ["residual", "residual-pre-norm"])
def test_what_has_a_skip_connection_gets_no_second_one(name: str) -> None:
    with pytest.raises(CannotPrescribe, match="no skip connection"):
        prescribed(name, residual(4, two_layers))


# --- normalisation -----------------------------------------------------------------------------


def test_group_norm_takes_the_place_of_batch_norm() -> None:
    net = treated("group-norm", dense(3, norm=nn.BatchNorm1d))
    norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
    assert [(norm.num_groups, norm.num_channels) for norm in norms] == [(2, 32)] * 3
    assert not any(isinstance(module, nn.BatchNorm1d) for module in net.modules())
    net.train()
    assert torch.isfinite(net(X[:1])).all()


@pytest.mark.parametrize("width", [6, 16, 24, 48, 100, 1024])
def test_the_groups_divide_any_width(width: int) -> None:
    net = treated("group-norm", dense(1, width=width))
    norm = net[0][1]
    assert width % norm.num_groups == 0
    assert width // norm.num_groups >= min(width, 16)


def test_batch_norms_are_put_back_in_training_mode() -> None:
    model = dense(2, norm=nn.BatchNorm1d)
    model[1].eval()
    net = twin.make(case(model), [prescribed("batch-norm-train", model)]).model
    assert all(module.training for module in net.modules())
    with pytest.raises(CannotPrescribe, match="evaluation mode"):
        prescribed("batch-norm-train", dense(2, norm=nn.BatchNorm1d))


# --- widths, and what is trained ---------------------------------------------------------------


def narrow(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2), *between, nn.ReLU(), nn.Linear(2, 32),
        nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def test_a_bottleneck_is_widened_to_its_neighbours_width() -> None:
    net = treated("wider-bottleneck", narrow())
    assert net[2].weight.shape == net[4].weight.shape == (32, 32)


def test_a_bottleneck_with_a_norm_is_widened_by_hand() -> None:
    prescription = prescribed("wider-bottleneck", narrow(nn.LayerNorm(2)))
    assert not prescription.runnable
    assert "'2' should have 32 inputs and 32 outputs" in prescription.code


def test_halving_the_width_is_no_bottleneck() -> None:
    with pytest.raises(CannotPrescribe, match="too narrow"):
        prescribed(
            "wider-bottleneck",
            nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 10)),
        )


def test_what_the_optimizer_forgot_is_held_in_a_trial() -> None:
    torch.manual_seed(0)
    model = mlp(2, nn.Tanh)
    optimizer = torch.optim.SGD(model[:2].parameters(), lr=0.1)
    labels = (X[:, :10]).argmax(1)
    verdicts = gradwatch.trial(
        model,
        F.cross_entropy,
        [(X, labels)],
        optimizer=optimizer,
        steps=100,
        budget=300,
        remedies=[REMEDIES["hold-parameters"]],
    )
    assert verdicts[0].name == "hold-parameters"
    assert verdicts[0].treated.loss < 0.8 * verdicts.untreated.loss


def test_frozen_parameters_are_trained_and_held() -> None:
    model = dense(2)
    model[:4].requires_grad_(False)
    held = twin.Case(
        model,
        F.cross_entropy,
        [(X, Y)],
        lambda m: torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1),
    )
    made = twin.make(held, [prescribed("unfreeze", model)])
    before = copy.deepcopy(made.model.state_dict())
    twin.train(made, held.batches, 2)
    assert all(not torch.equal(v, before[k]) for k, v in made.model.state_dict().items())
    with pytest.raises(CannotPrescribe, match="frozen"):
        prescribed("unfreeze", dense(2))


def test_a_second_swap_in_the_same_forward_swaps_the_rest() -> None:
    """What is left of a function is counted anew: the second sigmoid is the first by then."""
    first = blamed("vanishing-gradient", "activation", ":sigmoid#0")
    net = treated("swap-activation-relu", Mixed(), finding=first)
    net = treated("swap-activation-gelu", net, finding=first)
    h = F.gelu(net.second(torch.sigmoid(net.child.layer(torch.relu(net.first(X))))))
    torch.testing.assert_close(net(X), torch.sigmoid(net.head(h)))
