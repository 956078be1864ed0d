"""Through time: courses of gradients in closed form, and trainings of recurrent nets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import Columns, History, Pulse
from gradwatch.core.record import NO_GRAD_INPUT, NOT_REACHED, Call, Layer, Parameter, Record
from gradwatch.core.stats import Stats
from gradwatch.detectors import _time
from gradwatch.detectors.disconnected_state import DisconnectedState
from gradwatch.detectors.exploding_over_time import ExplodingOverTime
from gradwatch.detectors.vanishing_over_time import VanishingOverTime
from tests.zoo.trainings import DetachedState, first_symbols

RNN = Layer("rnn", "RNN", weighted=True, builtin=True)


def squares(decades: float, steps: int = 41) -> tuple[float, ...]:
    """A gradient that falls by so many decades from the last time step to the first."""
    return tuple(10 ** (2 * decades * (t / (steps - 1) - 1)) for t in range(steps))


def stats(square: float, count: int = 8) -> Stats:
    return replace(Stats.empty(), count=count, squares=square)


def record(step: int, calls: Sequence[Call], parameters: Sequence[Parameter] = ()) -> Record:
    return Record(step, tuple(calls), tuple(parameters))


def parameter(name: str, *shape: int, update: float = 0.01, size: float = 1.0) -> Parameter:
    """A weight that moves by `update` of its size in a step."""
    count = math.prod(shape)
    return Parameter(
        name,
        shape,
        weight=stats(count * size**2, count),
        update=stats(count * (update * size) ** 2, count),
        sample=stats(count * size**2, count),
    )


def calls_of(layer: Layer, gradients: Sequence[float | None]) -> list[Call]:
    """Calls of one layer, each with the square of the gradient at its output."""
    return [
        Call(
            layer,
            index,
            reason=NOT_REACHED if square is None else "",
            grad_output=None if square is None else stats(square),
        )
        for index, square in enumerate(gradients)
    ]


def pulses(losses: Sequence[float]) -> list[Pulse]:
    norms = np.ones(1, np.float32)
    columns = Columns(("rnn.weight_hh_l0",))
    return [
        Pulse(i, columns, norms, np.zeros(0, np.float32), loss, loss_known=True)
        for i, loss in enumerate(losses)
    ]


EXAMS = (0, 1, 2, 5, 10, 20, 40, 60, 80)
STUCK = [1.4 + 0.01 * (-1) ** i for i in range(100)]
LEARNING = [1.4 * 0.97**i for i in range(100)]
WEIGHTS = (parameter("rnn.weight_hh_l0", 4, 4, size=0.3),)


def history(
    times: Callable[[int], tuple[float, ...]],
    losses: Sequence[float] = STUCK,
    weights: Sequence[Parameter] = WEIGHTS,
    exams: Sequence[int] = EXAMS,
) -> History:
    records = [record(step, [Call(RNN, times=times(step))], weights) for step in exams]
    return History.of(records, pulses(losses[: exams[-1] + 1]))


def one(findings: tuple[Finding, ...]) -> Finding:
    (finding,) = findings
    return finding


# --- courses -------------------------------------------------------------------------------------


def course(calls: Sequence[Call], parameters: Sequence[Parameter] = ()) -> _time.Course:
    (found,) = _time.courses(record(0, calls, parameters))
    return found


@pytest.mark.parametrize("decades", [-6.0, 0.0, 4.0, 12.0])
def test_an_exponential_course_has_its_closed_form(decades: float) -> None:
    found = course([Call(RNN, times=squares(decades))])
    assert found.growth == pytest.approx(-decades)
    assert found.drop == pytest.approx(0.75 * abs(decades))
    assert found.monotony == (0 if decades == 0 else -math.copysign(1, decades))


def test_what_comes_after_the_last_step_that_is_read_does_not_count() -> None:
    found = course([Call(RNN, times=squares(4, 21) + (0.0,) * 50)])
    assert found.norms.size == 21
    assert found.growth == pytest.approx(-4)


def test_a_gradient_that_underflows_counts_as_nothing() -> None:
    found = course([Call(RNN, times=(0.0,) * 20 + squares(4, 20))])
    assert found.drop == _time.FLOOR
    assert found.reach == 10


def test_a_layer_that_reads_both_ways_is_judged_by_its_middle() -> None:
    there = np.asarray(squares(8))
    found = course([Call(RNN, times=tuple(there + there[::-1]))])
    assert abs(found.growth) < 0.1
    assert found.drop > 2


def test_a_cell_in_a_loop_and_what_is_inside_it_have_one_course() -> None:
    cell, inner = Layer("cell", "Cell"), Layer("cell.state", "Linear", weighted=True)
    calls: list[Call] = []
    for index, square in enumerate(squares(4, 10)):
        calls.append(Call(cell, index, grad_output=stats(square)))
        calls.append(Call(inner, index, parent=len(calls) - 1, grad_output=stats(square)))
    found = course(calls, [parameter("cell.state.weight", 4, 4)])
    assert found.layers == ("cell",)
    assert found.growth == pytest.approx(-4)


def test_multiplications_by_one_parameter_are_a_loop_and_by_many_are_layers() -> None:
    calls = [
        Call(
            Layer(f":linear#{i}", "linear", functional=True, weighted=True, weight_shape=(4, 4)),
            grad_output=stats(square),
        )
        for i, square in enumerate(squares(4, 10))
    ]
    assert course(calls, [parameter("w", 4, 4)]).layers == (":linear",)
    many = record(0, calls, [parameter(f"w.{i}", 4, 4) for i in range(10)])
    assert not list(_time.courses(many))


def test_an_activation_that_many_layers_share_is_no_loop() -> None:
    calls = calls_of(Layer("relu", "ReLU", builtin=True), squares(9, 12))
    assert not list(_time.courses(record(0, calls, [parameter("first.weight", 4, 4)])))


def test_calls_that_depend_on_data_alone_are_no_chain() -> None:
    calls = calls_of(Layer("encoder", "Linear", weighted=True), squares(9, 12))
    calls = [replace(call, reason=NO_GRAD_INPUT) for call in calls]
    assert not list(_time.courses(record(0, calls)))


# --- vanishing -----------------------------------------------------------------------------------


def test_a_drop_that_stays_in_a_training_that_gets_nowhere_is_critical() -> None:
    finding = one(VanishingOverTime()(history(lambda step: squares(12))))
    assert (finding.severity, finding.cause) == (Severity.CRITICAL, "time")
    assert finding.layers == ("rnn",)
    assert finding.numbers["decades"] == pytest.approx(9)
    assert finding.since == 0


def test_who_learns_does_not_need_the_beginning() -> None:
    assert VanishingOverTime()(history(lambda step: squares(12), LEARNING)) == ()


def test_a_flat_course_in_a_training_that_gets_nowhere_is_not_the_reason() -> None:
    assert VanishingOverTime()(history(lambda step: squares(0.5))) == ()


def test_at_the_start_only_what_is_rounded_away_is_predicted() -> None:
    for decades, said in ((12.0, True), (5.0, False)):
        findings = VanishingOverTime()(history(lambda step, d=decades: squares(d), exams=(0,)))  # type: ignore[misc]
        assert [f.severity for f in findings] == [Severity.WARNING] * said


def test_a_drop_that_heals_is_not_critical_and_then_gone() -> None:
    healing = history(lambda step: squares(12 - step / 10))  # 4 decades in the end, a drop of 3
    assert one(VanishingOverTime()(healing)).severity == Severity.WARNING
    assert VanishingOverTime()(history(lambda step: squares(12 if step < 20 else 1))) == ()


def test_a_loss_that_falls_slowly_is_no_proof() -> None:
    slow = [1.4 - 0.0001 * i for i in range(100)]
    finding = one(VanishingOverTime()(history(lambda step: squares(12), slow)))
    assert finding.severity == Severity.WARNING


def test_weights_that_hardly_moved_prove_nothing() -> None:
    weights = (parameter("rnn.weight_hh_l0", 4, 4, update=1e-5, size=0.3),)
    finding = one(VanishingOverTime()(history(lambda step: squares(12), weights=weights)))
    assert finding.severity == Severity.WARNING


def test_small_recurrent_weights_are_named() -> None:
    weights = (parameter("rnn.weight_hh_l0", 16, 16, size=0.01),)
    finding = one(VanishingOverTime()(history(lambda step: squares(12), weights=weights)))
    assert finding.cause == "init"
    assert "25 times smaller" in finding.causes[0].text  # 1 / (0.01 * sqrt(16))


def test_a_forget_gate_that_begins_closed_is_named() -> None:
    gates = replace(stats(0.0, 16), total=-12.0)  # a bias of -3 for each of 4 units
    bias = Parameter("rnn.bias_hh_l0", (16,), weight=gates)
    layer = replace(RNN, kind="LSTM")
    records = [record(s, [Call(layer, times=squares(12))], [*WEIGHTS, bias]) for s in EXAMS]
    finding = one(VanishingOverTime()(History.of(records, pulses(STUCK[:81]))))
    assert finding.cause == "init"
    assert "add up to -3;" in finding.causes[0].text
    assert "0.047" in finding.causes[0].text  # sigmoid(-3)


def test_padding_that_may_have_been_read_is_pointed_at() -> None:
    table = Layer("embed", "Embedding", builtin=True)
    output = replace(stats(2.0, 10), zeros=8)
    records = [
        record(s, [Call(table, output=output), Call(RNN, times=squares(12))], WEIGHTS)
        for s in EXAMS
    ]
    finding = one(VanishingOverTime()(History.of(records, pulses(STUCK[:81]))))
    assert [cause.name for cause in finding.causes] == ["time", "data"]
    assert "80%" in finding.causes[1].text


# --- exploding -----------------------------------------------------------------------------------


def test_a_gradient_that_grows_through_time_is_born_so_or_comes_of_the_steps() -> None:
    finding = one(ExplodingOverTime()(history(lambda step: squares(-6))))
    assert (finding.severity, finding.cause) == (Severity.CRITICAL, "init")
    later = one(ExplodingOverTime()(history(lambda step: squares(-6 if step >= 20 else 0))))
    assert (later.severity, later.cause) == (Severity.CRITICAL, "learning-rate")
    assert later.since == 20


def test_who_has_learnt_to_look_at_the_beginning_hears_nothing() -> None:
    assert ExplodingOverTime()(history(lambda step: squares(-6), LEARNING)) == ()
    assert ExplodingOverTime()(history(lambda step: squares(-2.5))) == ()


# --- disconnected --------------------------------------------------------------------------------


def cut(gradients: Sequence[float | None], losses: Sequence[float] = STUCK) -> History:
    cell = Layer("cell", "GRUCell", weighted=True, builtin=True)
    weights = (parameter("cell.weight_hh", 12, 4),)
    records = [record(step, calls_of(cell, gradients), weights) for step in EXAMS]
    return History.of(records, pulses(losses[:81]))


def test_only_the_last_calls_get_a_gradient() -> None:
    finding = one(DisconnectedState()(cut([None] * 9 + [1.0])))
    assert (finding.severity, finding.cause) == (Severity.CRITICAL, "disconnection")
    assert finding.layers == ("cell",)
    assert finding.numbers == {"calls": 10, "reached": 1}


@pytest.mark.parametrize(
    "gradients",
    [
        [1.0] * 10,
        [1.0] * 9 + [None],  # a last output that nobody reads
        [None] * 4 + [1.0] * 6,
        [None, None, 1.0],  # targets of the same network
        [None] * 10,
    ],
)
def test_other_patterns_are_no_cut_state(gradients: list[float | None]) -> None:
    assert DisconnectedState()(cut(gradients)) == ()


def test_truncation_on_purpose_is_left_in_peace() -> None:
    assert DisconnectedState()(cut([None] * 9 + [1.0], LEARNING)) == ()


def test_cells_that_never_get_a_state_that_is_trained() -> None:
    cell = Layer("cell", "GRUCell", weighted=True, builtin=True)
    calls = [replace(call, reason=NO_GRAD_INPUT) for call in calls_of(cell, [1.0] * 8)]
    weights = (parameter("cell.weight_hh", 12, 4),)
    records = [record(step, calls, weights) for step in EXAMS]
    finding = one(DisconnectedState()(History.of(records, pulses(STUCK[:81]))))
    assert finding.numbers == {"calls": 8, "reached": 8}


# --- trainings -----------------------------------------------------------------------------------


def findings_of(
    model: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], steps: int
) -> set[str]:
    detectors = [VanishingOverTime(), ExplodingOverTime(), DisconnectedState()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with gradwatch.watch(
        model, optimizer, every_n_steps=20, strict=True, detectors=detectors
    ) as watcher:
        for _ in range(steps):
            inputs, targets = batch()
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    return {finding.name for finding in watcher.report().findings}


class Loop(nn.Module):
    """Steps a cell itself; answers with a head that is called at each step, or only read last."""

    def __init__(self, *, each: bool, detached: bool = False) -> None:
        super().__init__()
        self.cell = nn.GRUCell(2, 16)
        self.head = nn.Linear(16, 4)
        self.each, self.detached = each, detached

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 16)
        out = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            state = self.cell(step, state.detach() if self.detached else state)
            if self.each:
                out = self.head(state)
        return out if self.each else self.head(state)  # type: ignore[no-any-return]


def symbols(length: int, at: int) -> Callable[[], tuple[Tensor, Tensor]]:
    inputs, labels = first_symbols(length)
    inputs = inputs.roll(at, 1)

    def batch() -> tuple[Tensor, Tensor]:
        picked = torch.randint(0, len(inputs), (32,))
        return inputs[picked], labels[picked]

    return batch


def test_a_detached_state_is_found_and_an_output_that_is_not_read_is_none() -> None:
    torch.manual_seed(0)
    assert findings_of(DetachedState(16), symbols(12, 0), 40) == {"disconnected-state"}
    assert findings_of(Loop(each=True, detached=True), symbols(12, 0), 40) == {"disconnected-state"}
    assert findings_of(Loop(each=True), symbols(12, -1), 40) == set()


def test_a_detached_state_does_no_harm_where_the_answer_is_in_the_last_step() -> None:
    torch.manual_seed(0)
    assert findings_of(Loop(each=False, detached=True), symbols(12, -1), 40) == set()


class Reader(nn.Module):
    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_the_same_net_is_sick_or_healthy_by_where_the_answer_stands(
    kind: type[nn.RNN | nn.LSTM | nn.GRU],
) -> None:
    torch.manual_seed(0)
    rnn = kind(2, 16, batch_first=True)
    assert findings_of(Reader(rnn), symbols(30, 0), 40) == {"vanishing-over-time"}
    rnn = kind(2, 16, batch_first=True)
    assert findings_of(Reader(rnn), symbols(30, -1), 40) == set()
