"""Depth, init, activations, norms and the scale of the data: the right cause, from step 0 on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core.finding import Detector, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress
from gradwatch.core.record import NO_GRAD_INPUT, Call, Layer, Parameter, Record
from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Stats
from gradwatch.detectors import _depth, _inputs, _norms, _outcome, _slopes
from gradwatch.detectors._depth import Trend
from gradwatch.detectors.dead_units import DeadUnits
from gradwatch.detectors.exploding import ExplodingGradient
from gradwatch.detectors.saturation import SaturatedActivation
from gradwatch.detectors.signal import SignalScale
from gradwatch.detectors.symmetric_units import SymmetricUnits
from gradwatch.detectors.vanishing import VanishingGradient

MINE: tuple[Detector, ...] = (
    VanishingGradient(),
    ExplodingGradient(),
    SignalScale(),
    SaturatedActivation(),
    DeadUnits(),
    SymmetricUnits(),
)


def stats(values: list[float]) -> Stats:
    """The statistics of some numbers."""
    x = np.asarray(values, np.float64)
    octaves = np.zeros(OCTAVES, np.int64)
    for value in np.abs(x[x != 0]):
        octaves[math.frexp(value)[1] - 1 - OCTAVE_LOW] += 1
    zeros = int((x == 0).sum())
    return Stats(x.size, zeros, 0, 0, x.sum(), (x * x).sum(), octaves, np.abs(x).max())


def chain(depth: int, activation: Callable[[], nn.Module], **options: object) -> nn.Sequential:
    """A plain net of a width of 32 for inputs of 16."""
    width = int(str(options.get("width", 32)))
    norm = options.get("norm")
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Linear(width if i else 16, width))
        if callable(norm):
            layers.append(norm(width))
        layers.append(activation())
    return nn.Sequential(*layers, nn.Linear(width, 4))


def drawn(model: nn.Sequential, init: Callable[[Tensor], object]) -> nn.Sequential:
    """The model with other weights, and biases of zero."""
    for layer in model:
        if isinstance(layer, nn.Linear):
            init(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def neighbours(x: Tensor) -> Tensor:
    """Each sample gets the sum over all of its kind, as in a graph net without a mean."""
    torch.manual_seed(3)
    near = (torch.rand(len(x), len(x)) < 0.3).float()
    return near @ F.relu(x)


def train(
    model: nn.Module, steps: int = 1, *, rate: float = 0.01, batch: int = 64, scale: float = 1.0
) -> History:
    """Watch some steps of plain gradient descent on labels that the inputs tell."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    with gradwatch.watch(model, optimizer, strict=True, detectors=[], every_n_steps=10) as watcher:
        for _ in range(steps):
            x = torch.randn(batch, 16)
            loss = F.cross_entropy(model(x * scale), x[:, :4].argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    return watcher.history


def findings(history: History) -> dict[str, Finding]:
    """What is said of a training, without notes."""
    found = (finding for detector in MINE for finding in detector(history))
    return {finding.name: finding for finding in found if finding.severity > Severity.NOTE}


SICK = {
    "sigmoids": (lambda: chain(8, nn.Sigmoid), "vanishing-gradient", "activation"),
    "functional sigmoids": (
        lambda: chain(8, lambda: Function(torch.sigmoid)),
        "vanishing-gradient",
        "activation",
    ),
    "softmax inside": (
        lambda: chain(3, lambda: nn.Softmax(-1)),
        "vanishing-gradient",
        "activation",
    ),
    "default weights": (lambda: chain(16, nn.ReLU), "vanishing-gradient", "depth"),
    "small weights": (
        lambda: drawn(chain(6, nn.Tanh), lambda w: nn.init.normal_(w, 0, 0.01)),
        "signal-scale",
        "init",
    ),
    "large weights": (
        lambda: drawn(chain(6, nn.ReLU), lambda w: nn.init.normal_(w, 0, 1.5)),
        "exploding-gradient",
        "init",
    ),
    "saturated": (
        lambda: drawn(chain(5, nn.Tanh), lambda w: nn.init.normal_(w, 0, 3)),
        "saturated-activation",
        "init",
    ),
    "weights of one sign": (
        lambda: drawn(chain(4, nn.ReLU), nn.init.uniform_),
        "signal-scale",
        "init",
    ),
    "squares": (
        lambda: drawn(chain(5, lambda: Function(torch.square)), he),
        "signal-scale",
        "activation",
    ),
    "cubes, with a branch of their own": (
        lambda: chain(4, lambda: Function(lambda x: x + x**3)),
        "signal-scale",
        "activation",
    ),
    "sums over neighbours": (
        lambda: drawn(chain(5, lambda: Function(neighbours)), nn.init.orthogonal_),
        "signal-scale",
        "normalisation",
    ),
    "sines of 30 times": (
        lambda: chain(5, lambda: Function(lambda x: torch.sin(30 * x))),
        "exploding-gradient",
        "init",
    ),
    "narrow and deep": (
        lambda: drawn(chain(100, nn.LeakyReLU, width=8), he),
        "vanishing-gradient",
        "depth",
    ),
    "batch norms in a row": (
        lambda: chain(60, nn.ReLU, norm=nn.BatchNorm1d),
        "exploding-gradient",
        "depth",
    ),
    "idle batch norms": (
        lambda: chain(14, nn.ReLU, norm=nn.BatchNorm1d).eval(),
        "vanishing-gradient",
        "normalisation",
    ),
    "groups of one": (
        lambda: chain(3, nn.Tanh, norm=lambda width: nn.GroupNorm(width, width)),
        "vanishing-gradient",
        "normalisation",
    ),
    "all the same": (
        lambda: drawn(chain(3, nn.ReLU), lambda w: nn.init.constant_(w, 0.1)),
        "symmetric-units",
        "init",
    ),
    "zeros": (lambda: drawn(chain(3, nn.Tanh), nn.init.zeros_), "symmetric-units", "init"),
}


@pytest.mark.parametrize("name", SICK)
def test_what_a_net_is_born_with_is_predicted_with_its_cause(name: str) -> None:
    torch.manual_seed(0)
    build, finding, cause = SICK[name]
    found = findings(train(build(), rate=1e-4))
    if name == "groups of one" and finding not in found:  # the gradient may be exactly zero
        assert not found
        return
    assert finding in found, found
    assert found[finding].cause == cause, found[finding]
    assert found[finding].severity == Severity.WARNING
    assert found[finding].since == 0


HEALTHY = {
    "rectifiers": lambda: chain(3, nn.ReLU),
    "He": lambda: drawn(chain(10, nn.ReLU), he),
    "tanh": lambda: drawn(chain(8, nn.Tanh), nn.init.xavier_normal_),
    "orthogonal": lambda: drawn(chain(30, nn.Tanh), nn.init.orthogonal_),
    "one sigmoid": lambda: chain(1, nn.Sigmoid),
    "layer norms": lambda: chain(6, nn.GELU, norm=nn.LayerNorm),
    "batch norms": lambda: chain(6, nn.ReLU, norm=nn.BatchNorm1d),
    "a hard tanh": lambda: chain(3, nn.Hardtanh),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_predicted_of_a_net_that_is_born_well(name: str) -> None:
    torch.manual_seed(0)
    history = train(HEALTHY[name](), 12)
    assert not findings(history)
    assert not findings(History.of(history.records[:1], history.pulses[:1]))


@pytest.mark.parametrize(
    ("scale", "cause"), [(1.0, ""), (5000.0, "data-scale"), (1e-5, "data-scale")]
)
def test_inputs_in_units_of_their_own_are_told_before_training(scale: float, cause: str) -> None:
    torch.manual_seed(0)
    found = findings(train(chain(2, nn.ReLU), scale=scale))
    assert [finding.cause for finding in found.values()] == ([cause] if cause else [])


def test_inputs_that_saturate_are_told_as_saturation() -> None:
    torch.manual_seed(0)
    found = findings(train(chain(2, nn.Tanh), scale=2000.0))
    assert found["saturated-activation"].cause == "data-scale"
    assert "signal-scale" not in found


def entering(
    *, size: float = 1.0, common: float = 0.0, bias: float | None = None, norm: bool = False
) -> Record:
    """A first layer of 4 inputs with weights of 0.5, whose output has a root mean square."""
    rms = math.hypot(size, bias or 0.0)
    output = stats([rms, -rms] * 8)
    layer = Layer("0", "Linear", weighted=True, weight_shape=(2, 4))
    call = Call(layer, reason=NO_GRAD_INPUT, output=output, common=common * output.squares)
    parameters = [Parameter("0.weight", (2, 4), weight=stats([0.5, -0.5] * 4))]
    if bias is not None:
        parameters.append(Parameter("0.bias", (2,), weight=stats([bias, -bias])))
    after = (Call(Layer("1", "BatchNorm1d")),) if norm else ()
    return Record(0, (call, *after), tuple(parameters))


def test_the_size_of_an_input_is_told_from_what_the_first_layer_makes_of_it() -> None:
    """Weights of 0.5 multiply the root mean square of 4 inputs by 0.5 * sqrt(4) = 1."""
    off = _inputs.off_scale(entering(size=400.0))
    assert off is not None
    assert off.size == pytest.approx(400)
    assert off.large
    assert _inputs.off_scale(entering(size=4.0)) is None


def test_what_a_bias_adds_is_not_the_inputs() -> None:
    assert _inputs.off_scale(entering(size=1.0, bias=500.0, common=1 - 4e-6)) is None


def test_inputs_that_hardly_differ_are_too_small() -> None:
    off = _inputs.off_scale(entering(size=1e-3, bias=1.0, common=1 - 1e-6))
    assert off is not None
    assert not off.large
    assert off.differing == pytest.approx(math.sqrt(1e-6) / 0.5, rel=0.01)


def test_samples_that_are_one_and_the_same_are_a_matter_of_the_data() -> None:
    off = _inputs.off_scale(entering(size=1.0, common=1.0))
    assert off is not None
    assert (off.cause, off.large) == ("data", False)
    assert "the same for every sample" in off.text


def test_a_norm_that_overflows_in_half_precision_gives_nothing() -> None:
    zeros = Call(Layer("0", "RMS"), output=stats([0.0] * 16), dtype="float16")
    record = entering(size=0.0, bias=1.0, common=1.0)
    off = _inputs.off_scale(replace(record, calls=(zeros, *record.calls)))
    assert off is not None
    assert off.cause == "precision"
    assert "`0` left the range of float16" in off.text


def test_a_norm_behind_the_first_layer_undoes_the_size_of_the_inputs() -> None:
    assert _inputs.off_scale(entering(size=400.0, norm=True)) is None


def activation(kind: str, output: Stats | None = None, gain: float | None = None) -> Call:
    return Call(Layer("1", kind), output=output, gain=gain)


def test_slopes_are_told_from_outputs_or_gains() -> None:
    assert _slopes.slope(activation("Tanh", stats([0.6, -0.6]))) == pytest.approx(0.64)
    assert _slopes.slope(activation("Sigmoid", stats([0.5, 0.5]))) == pytest.approx(1)
    assert _slopes.slope(activation("Hardtanh", stats([1.0, -1.0, 0.2, 0.0]))) == pytest.approx(0.5)
    assert _slopes.slope(activation("sigmoid", gain=-2.0)) == pytest.approx(1)
    assert _slopes.slope(activation("tanh", gain=-2.0)) == pytest.approx(1.5 / 16)
    assert _slopes.slope(activation("ReLU", stats([1.0]))) is None


def test_a_single_good_exam_does_not_end_a_streak_and_two_do() -> None:
    trend = Trend(("0", "2", "4"), 3.0, 1.0, 3.0, 0.0)
    judged = [(Record(step), trend, bad) for step, bad in enumerate([True, False, True, False])]
    streak = _depth.streak(judged)
    assert streak is not None
    assert (streak.since, streak.until) == (0, 2)
    assert _depth.streak([*judged, (Record(4), trend, False)]) is None


def test_batch_norms_with_two_values_of_each_channel_are_told() -> None:
    torch.manual_seed(0)
    record = train(chain(3, nn.ReLU, norm=nn.BatchNorm1d), batch=2).records[0]
    assert "2 values of each channel" in _norms.unfit(_norms.norms(record))
    record = train(chain(3, nn.ReLU, norm=nn.BatchNorm1d), batch=32).records[0]
    assert not _norms.unfit(_norms.norms(record))


def test_a_layer_that_starts_the_same_and_does_not_stay_so_is_left_in_peace() -> None:
    torch.manual_seed(0)
    model = drawn(chain(3, nn.ReLU), he)
    nn.init.constant_(model.get_parameter("2.weight"), 0.05)
    nn.init.zeros_(model.get_parameter("6.weight"))
    assert not SymmetricUnits()(train(model, 12))


def test_units_that_stay_the_same_are_told_with_their_layer() -> None:
    torch.manual_seed(0)
    model = drawn(chain(3, nn.ReLU), he)
    for name in ("2.weight", "4.weight"):
        nn.init.constant_(model.get_parameter(name), 0.05)
    (finding,) = SymmetricUnits()(train(model, 12))
    assert finding.layers == ("2",)
    assert finding.severity > Severity.NOTE


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("bias", "init"),
        ("function", "activation"),
        ("end", "activation"),
        ("norm", "normalisation"),
    ],
)
def test_units_that_are_born_dead_are_dead_for_a_reason(kind: str, cause: str) -> None:
    torch.manual_seed(0)
    model = chain(2, nn.ReLU)
    layers = list(model)
    if kind == "bias":
        nn.init.constant_(model.get_parameter("2.bias"), -20.0)
    elif kind == "function":
        layers.insert(3, Function(lambda x: -x.square()))
    elif kind == "norm":
        layers.insert(3, nn.GroupNorm(32, 32))
    else:
        nn.init.constant_(model.get_parameter("4.bias"), -20.0)
        layers.append(nn.ReLU())
    (finding,) = DeadUnits()(train(nn.Sequential(*layers), 30))
    assert finding.cause == cause, finding


def test_a_training_that_learns_a_little_may_well_be_held_back() -> None:
    young = History.of([Record(30)])
    late = History.of([Record(200)])
    going = Progress(True, "", fall=0.5, begin=2.0, skill=0.3)
    assert _outcome.learns(young, going)
    assert not _outcome.learns(late, going)
    assert _outcome.learns(late, replace(going, skill=0.6))
    assert not _outcome.learns(young, replace(going, skill=0.1))
    assert not _outcome.learns(young, replace(going, moving=False))
    unknown = replace(going, skill=None)
    assert _outcome.learns(late, unknown)
    assert not _outcome.learns(late, replace(unknown, fall=0.1))
