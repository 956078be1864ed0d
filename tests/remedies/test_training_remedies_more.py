"""Remedies that change the loss, the data or the optimizer: tried on trainings that need them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradwatch.core import catalog
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.record import Call, Group, Layer, Parameter, Record
from gradwatch.core.remedy import CannotApply, CannotPrescribe, Prescription
from gradwatch.core.stats import Stats
from gradwatch.trying import twin
from gradwatch.trying.candidates import UNKNOWN
from tests.zoo.ingredients import digit_batches
from tests.zoo.recipes import convolutional, dense, he, tabular

REMEDIES = {remedy.name: remedy for remedy in catalog.remedies()}
Batches = list[tuple[Tensor, Tensor]]
Make = Callable[..., torch.optim.Optimizer]
STEPS = 60
SGD: Make = partial(torch.optim.SGD, lr=0.1)
ADAM: Make = partial(torch.optim.Adam, lr=1e-2)


@cache
def digits(scale: float = 1.0, offset: float = 0.0) -> Batches:
    torch.manual_seed(7)
    sample = digit_batches()
    return [(scale * x + offset, y) for x, y in (sample() for _ in range(6))]


def table(scale: float = 1.0, offset: float = 0.0) -> Batches:
    x, y = tabular()
    return [(x[i : i + 64], scale * y[i : i + 64] + offset) for i in range(0, 512, 64)]


def one_hot() -> Batches:
    return [(x, F.one_hot(y, 10).float()) for x, y in digits()]


def parity() -> Batches:
    return [(x, (y % 2).float()[:, None]) for x, y in digits()]


def classifier(*end: nn.Module, outputs: int = 10) -> nn.Module:
    return nn.Sequential(*dense(2, init=he, outputs=outputs), *end)


def regression(*end: nn.Module) -> nn.Module:
    return nn.Sequential(*dense(2, init=he, inputs=8, outputs=1), *end)


class Ending(nn.Module):
    """A network whose forward ends with a function."""

    def __init__(self, network: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.network(x))


class Patient:
    """A training: what it comes to as it is, and what with a remedy."""

    def __init__(
        self, model: nn.Module, loss_fn: Any, data: Batches, optimizer: Make = SGD
    ) -> None:
        self.data = data
        self.case = twin.Case(model, loss_fn, data, lambda m: optimizer([*m.parameters()]))
        untreated = twin.make(self.case)
        self.untreated = twin.train(untreated, data, STEPS, watch=True)
        assert self.untreated.report is not None and self.untreated.report.record is not None
        self.record = self.untreated.report.record
        self.findings = self.untreated.report.findings

    def prescribe(self, remedy: str) -> Prescription:
        """As a trial does: for the first finding, or for none."""
        finding = next((f for f in self.findings if not f.because_of), UNKNOWN)
        prescription = REMEDIES[remedy].prescribe(finding, self.record)
        assert prescription.runnable
        return prescription

    def treated(self, remedy: str) -> twin.Twin:
        return twin.make(self.case, [self.prescribe(remedy)])

    def train(self, remedy: str) -> twin.Course:
        return twin.train(self.treated(remedy), self.data, STEPS)


def patient(
    optimizer: Make = SGD, *, data: Batches | None = None, loss_fn: Any = F.cross_entropy
) -> Patient:
    torch.manual_seed(0)
    return Patient(classifier(), loss_fn, data or digits(), optimizer)


def refused(remedy: str, record: Record, finding: Finding = UNKNOWN) -> str:
    with pytest.raises(CannotPrescribe) as reason:
        REMEDIES[remedy].prescribe(finding, record)
    return str(reason.value)


def complaint(name: str, cause: str, *layers: str, **numbers: float) -> Finding:
    return Finding(name, Severity.CRITICAL, "", causes=(Cause(cause, "", layers),), numbers=numbers)


# --- the optimizer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "remedies"),
    [
        (partial(SGD, lr=20.0), ["lower-learning-rate-100", "find-learning-rate"]),
        (partial(SGD, lr=1e-6), ["find-learning-rate", "use-adamw"]),
        (partial(ADAM, lr=1.0), ["lower-learning-rate", "find-learning-rate", "use-sgd"]),
        (partial(ADAM, lr=1e-7), ["find-learning-rate", "raise-learning-rate"]),
        (partial(ADAM, betas=(0.9, 0.0)), ["usual-momentum", "use-sgd"]),
        (partial(SGD, momentum=0.999), ["usual-momentum"]),
        (partial(ADAM, eps=100.0), ["adam-epsilon", "use-adamw"]),
        (partial(SGD, weight_decay=1.0), ["lower-weight-decay"]),
        (partial(ADAM, weight_decay=0.3), ["lower-weight-decay"]),
        (partial(torch.optim.AdamW, lr=0.01, weight_decay=20.0), ["lower-weight-decay"]),
        (partial(SGD, maximize=True), ["minimise"]),
    ],
)
def test_an_optimizer_that_does_not_suit_is_repaired(optimizer: Make, remedies: list[str]) -> None:
    sick = patient(optimizer)
    assert not (sick.untreated.skill or 0.0) > 0.2
    for remedy in remedies:
        assert (sick.train(remedy).skill or 0.0) > 0.3, remedy


def test_a_healthy_optimizer_is_left_as_it_is() -> None:
    record = patient(partial(torch.optim.AdamW, lr=1e-3)).record
    for remedy, reason in {
        "use-adamw": "already",
        "usual-momentum": "no optimizer with another momentum",
        "lower-weight-decay": "above the usual",
        "adam-epsilon": "is small beside",
        "minimise": "go down",
        "zero-grad": "no gradient was left over",
        "full-precision": "no weight is known to be in float16",
        "loss-scale": "nothing is known to be computed in float16",
        "loss-weights": "several terms",
        "check-data": "nothing speaks against the data",
        "guard-numerics": "nothing is not finite",
        "reconnect": "a gradient reaches every parameter",
        "output-activation": "no bounded activation",
        "stable-loss": "suits it",
        "standardise-targets": "classes",
    }.items():
        assert reason in refused(remedy, record)
    assert "SGD already" in refused("use-sgd", patient().record)


def test_a_range_test_touches_nothing_but_the_rate() -> None:
    model = nn.Sequential(nn.BatchNorm1d(64), *dense(1))
    sick = Patient(model, F.cross_entropy, digits(), partial(ADAM, lr=1e-7))
    treated = sick.treated("find-learning-rate")
    torch.testing.assert_close(treated.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert not treated.optimizer.state
    assert 1e-4 < treated.optimizer.param_groups[0]["lr"] < 0.1


def test_groups_keep_their_relation_in_a_range_test() -> None:
    def layered(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        head, body = parameters[-2:], parameters[:-2]
        return torch.optim.SGD([{"params": head}, {"params": body, "lr": 1e-8}], lr=1e-7)

    rates = [
        group["lr"]
        for group in patient(layered).treated("find-learning-rate").optimizer.param_groups
    ]
    assert rates[0] / rates[1] == pytest.approx(10)


def test_where_no_rate_helps_a_range_test_says_so() -> None:
    torch.manual_seed(0)
    sick = Patient(dense(3, init=nn.init.zeros_), F.cross_entropy, digits())
    with pytest.raises(CannotApply, match="falls at no learning rate"):
        sick.treated("find-learning-rate")


def test_the_rate_grows_to_its_value_step_by_step() -> None:
    sick = patient()
    treated = sick.treated("warm-up")
    seen = []
    treated.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])  # type: ignore[attr-defined]
    )
    twin.train(treated, sick.data, 25)
    assert seen == pytest.approx([0.1 * min(1, (1 + 19 / 20 * i) / 20) for i in range(25)])


def test_the_pasted_code_does_what_a_trial_did() -> None:
    sick = patient(partial(ADAM, lr=1e-7))
    for remedy in ("find-learning-rate", "use-adamw", "warm-up", "lower-learning-rate"):
        model = copy.deepcopy(sick.case.model)
        scope: dict[str, Any] = {
            **{"torch": torch, "model": model, "loss_fn": F.cross_entropy, "batches": sick.data},
            "optimizer": torch.optim.Adam(model.parameters(), lr=1e-7),
        }
        exec(sick.prescribe(remedy).code, scope)
        expected = sick.treated(remedy).optimizer
        assert type(scope["optimizer"]) is type(expected)
        assert scope["optimizer"].param_groups[0]["lr"] == expected.param_groups[0]["lr"]


def test_epsilon_follows_the_gradients_down() -> None:
    """A loss of 1e-9 of its size has gradients of some 1e-12: epsilon goes a thousandth below."""
    sick = patient(ADAM, loss_fn=lambda output, target: 1e-9 * F.cross_entropy(output, target))
    assert sick.prescribe("adam-epsilon").title == "Set epsilon to 1e-14"
    assert (sick.train("adam-epsilon").skill or 0.0) > 0.9


def test_what_goes_up_is_turned_round() -> None:
    def negative(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        optimizer.param_groups[0]["lr"] = -0.1
        return optimizer

    assert (patient(negative).train("minimise").skill or 0.0) > 0.6
    finding = complaint("ascending-loss", "optimizer")
    parameter = Parameter("w", (2, 2), descent=-1.0)
    own = Record(0, parameters=(parameter,), groups=(Group("Mine", 0.1),))
    assert "-group" in REMEDIES["minimise"].prescribe(finding, own).code
    assert "go down" in refused("minimise", own)  # one exam alone may be momentum's
    lost = REMEDIES["minimise"].prescribe(complaint("ascending-loss", "loss"), own)
    assert not lost.runnable


def test_a_higher_momentum_is_no_answer_to_steps_that_are_too_large() -> None:
    record = Record(0, groups=(Group("SGD", 0.1, momentum=0.0),))
    assert "0.9" in REMEDIES["usual-momentum"].prescribe(UNKNOWN, record).title
    finding = complaint("oversized-updates", "optimizer")
    assert "no optimizer" in refused("usual-momentum", record, finding)


def test_the_bound_of_clipping_is_twice_the_usual_norm() -> None:
    remedy = REMEDIES["clip-gradients"]
    spike = complaint("gradient-spike", "learning-rate", usual=240.0)
    assert "max_norm=500.0" in remedy.prescribe(spike, Record(0)).code
    assert "max_norm=1.0" in remedy.prescribe(UNKNOWN, Record(0)).code
    always = complaint("always-clipped", "optimizer")
    gradient = Stats(1, 0, 0, 0, 3.0, 9.0, Stats.empty().octaves, 3.0)
    record = Record(0, parameters=(Parameter("w", (1,), gradient=gradient),), clip_ratio=1e-3)
    raised = remedy.prescribe(always, record)
    assert "max_norm=6.0" in raised.code and not raised.runnable
    assert "not known" in refused("clip-gradients", Record(0, clip_ratio=1e-3), always)


# --- number formats --------------------------------------------------------------------------


class Cast(nn.Module):
    """A model in another format, whose forward casts what it gets."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = classifier().to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.to(self.dtype)).float()  # type: ignore[no-any-return]


def test_weights_in_float32_learn_what_narrow_ones_cannot() -> None:
    sick = Patient(Cast(torch.float16), F.cross_entropy, digits(), ADAM)
    assert sick.findings[0].name == "non-finite"
    treated = sick.treated("full-precision")
    assert {p.dtype for p in treated.model.parameters()} == {torch.float32}
    course = twin.train(treated, sick.data, STEPS)
    assert (course.skill or 0.0) > 0.9
    assert (sick.train("adam-epsilon").skill or 0.0) > 0.9
    text = REMEDIES["loss-scale"].prescribe(UNKNOWN, sick.record)
    assert "GradScaler" in text.code and not text.runnable


# --- the data --------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "offset"), [(2000.0, 0.0), (1e-5, 0.0), (1.0, 500.0)])
def test_inputs_of_any_unit_are_as_good_as_standardised_ones(scale: float, offset: float) -> None:
    torch.manual_seed(0)
    model = dense(2, nn.Tanh)
    sick = Patient(model, F.cross_entropy, digits(scale, offset), partial(SGD, lr=0.3))
    treated = sick.treated("standardise-inputs")
    assert treated.model.state_dict().keys() == model.state_dict().keys()
    back = pickle.loads(pickle.dumps(treated.model))
    torch.testing.assert_close(back(sick.data[0][0]), treated.model(sick.data[0][0]))
    assert (sick.train("standardise-inputs").skill or 0.0) > 0.8 > (sick.untreated.skill or 0.0)


@pytest.mark.parametrize(
    ("model", "shape", "axes"),
    [
        (lambda: dense(1), (32, 64), (0,)),
        (lambda: convolutional(2), (32, 1, 8, 8), (0, 2, 3)),
        (
            lambda: nn.Sequential(nn.Conv1d(4, 6, 3), nn.Flatten(), nn.Linear(36, 10)),
            (32, 4, 8),
            (),
        ),
        (lambda: nn.Sequential(nn.Linear(8, 6), nn.Flatten(), nn.Linear(48, 10)), (32, 8, 8), ()),
    ],
    ids=["mlp", "conv2d", "conv1d", "sequence"],
)
def test_each_feature_or_channel_is_standardised_by_itself(
    model: Callable[[], nn.Module], shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    axes = axes or ((0, 2) if isinstance(model()[0], nn.Conv1d) else (0, 1))  # type: ignore[index]
    x = torch.randn(shape) * 7 + torch.arange(float(torch.tensor(shape).prod())).reshape(shape)
    sick = Patient(model(), F.cross_entropy, [(x, torch.randint(0, 10, (32,)))])
    treated = sick.treated("standardise-inputs").model
    got: list[Tensor] = []
    next(treated.children()).register_forward_pre_hook(lambda _, inputs: got.append(inputs[0]))
    treated(x)
    expected = (x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True, correction=0)
    torch.testing.assert_close(got[0], expected, rtol=1e-4, atol=1e-4)


def test_indices_and_missing_values_are_no_inputs_to_standardise() -> None:
    ids = [(torch.randint(0, 9, (32, 8)), y[:32]) for _, y in digits()]
    words = nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(64, 10))
    assert "indices" in refused("standardise-inputs", Patient(words, F.cross_entropy, ids).record)
    sick = patient()
    holed = [(x.masked_fill(x > 1, torch.nan), y) for x, y in sick.data]
    case = twin.Case(sick.case.model, F.cross_entropy, holed, sick.case.optimizer)
    with pytest.raises(CannotApply, match="no finite floating-point numbers"):
        twin.make(case, [sick.prescribe("standardise-inputs")])


@pytest.mark.parametrize(("scale", "offset"), [(2e5, 0.0), (1e-4, 0.0), (1.0, 1000.0)])
def test_targets_of_any_unit_are_as_good_as_standardised_ones(scale: float, offset: float) -> None:
    torch.manual_seed(0)
    make = partial(ADAM, lr=3e-3)
    sick = Patient(regression(), F.mse_loss, table(scale, offset), make)
    assert (sick.untreated.skill or 0.0) < 0.1
    prescription = sick.prescribe("standardise-targets")
    assert prescription.changes_loss
    course = sick.train("standardise-targets")
    assert (course.skill or 0.0) > 0.7
    # In these units the training does not depend on scale and offset.
    plain = Patient(regression(), F.mse_loss, table(), make)
    torch.manual_seed(0)
    plain.case = twin.Case(sick.case.model, F.mse_loss, table(), plain.case.optimizer)
    assert course.end == pytest.approx(plain.train("standardise-targets").end, rel=0.05)


def test_the_pasted_code_scales_as_a_trial_did() -> None:
    torch.manual_seed(0)
    sick = Patient(regression(), F.mse_loss, table(50.0, 30.0), ADAM)
    inputs, targets = (torch.cat(column) for column in zip(*sick.data, strict=True))
    scope: dict[str, Any] = {"torch": torch, "model": sick.case.model, "loss_fn": F.mse_loss}
    scope |= {"inputs": inputs, "targets": targets}
    for remedy in ("standardise-targets", "standardise-inputs"):
        exec(sick.prescribe(remedy).code, scope)
    _, y = sick.data[0]
    expected = sick.treated("standardise-targets").loss_fn
    assert expected is not None
    torch.testing.assert_close(scope["loss_fn"](y * 0, y), expected(y * 0, y))


# --- the loss --------------------------------------------------------------------------------


def softmax(x: Tensor) -> Tensor:
    return F.softmax(x, -1)


SQUASHED: dict[str, tuple[Callable[[], nn.Module], Any, Callable[[], Batches]]] = {
    "softmax twice": (lambda: classifier(nn.Softmax(-1)), F.cross_entropy, digits),
    "in forward": (lambda: Ending(classifier(), softmax), F.cross_entropy, digits),
    "as a method": (lambda: Ending(classifier(), lambda x: x.softmax(1)), F.cross_entropy, digits),
    "sigmoid twice": (
        lambda: classifier(nn.Sigmoid(), outputs=1),
        F.binary_cross_entropy_with_logits,
        parity,
    ),
    "sigmoid in forward": (
        lambda: Ending(classifier(outputs=1), torch.sigmoid),
        F.binary_cross_entropy_with_logits,
        parity,
    ),
    "sigmoid and squared error": (lambda: classifier(nn.Sigmoid()), F.mse_loss, one_hot),
    "softmax and squared error": (lambda: classifier(nn.Softmax(-1)), F.mse_loss, one_hot),
}


@pytest.mark.parametrize("name", SQUASHED)
def test_logits_reach_the_loss_as_they_are(name: str) -> None:
    torch.manual_seed(0)
    build, loss_fn, data = SQUASHED[name]
    sick = Patient(build(), loss_fn, data(), partial(SGD, lr=0.2 if "squared" in name else 0.1))
    assert (sick.untreated.skill or 0.0) < 0.25
    prescription = sick.prescribe("stable-loss")
    assert prescription.changes_loss == ("squared error" in name)
    treated = sick.treated("stable-loss")
    assert treated.model(sick.data[0][0]).min() < 0
    assert (sick.train("stable-loss").skill or 0.0) > (0.2 if "squared" in name else 0.5)


@pytest.mark.parametrize("functional", [True, False])
def test_log_softmax_gives_the_same_and_stays_finite(functional: bool) -> None:
    """log(softmax(x)) is -inf for logits of hundreds, and log_softmax is the same elsewhere."""
    torch.manual_seed(0)
    if functional:
        model: nn.Module = Ending(classifier(), lambda x: torch.log(softmax(x)))
    else:
        model = Ending(classifier(nn.Softmax(-1)), torch.log)
    sick = Patient(model, F.nll_loss, digits())
    treated = sick.treated("stable-loss").model
    x = sick.data[0][0]
    torch.testing.assert_close(treated(x), sick.case.model(x), rtol=1e-4, atol=1e-5)
    assert torch.isinf(sick.case.model(1e3 * x)).any()
    assert torch.isfinite(treated(1e3 * x)).all()


def test_a_cross_entropy_of_ones_own_is_replaced_for_classes_only() -> None:
    def own(output: Tensor, target: Tensor) -> Tensor:
        shares = output.exp() / output.exp().sum(-1, keepdim=True)
        return -shares.log().gather(1, target[:, None]).mean()

    sick = patient(partial(SGD, lr=1e-3), data=digits(300.0), loss_fn=own)
    assert sick.findings and not torch.isfinite(torch.tensor(sick.untreated.end))
    assert (sick.train("stable-loss").skill or 0.0) > 0.2
    huber = patient(data=one_hot(), loss_fn=F.huber_loss)
    if huber.record.answer is not None and not huber.record.answer.kind:
        with pytest.raises(CannotApply, match="no classes of this output"):
            huber.treated("stable-loss")


@pytest.mark.parametrize(
    ("model", "loss_fn"),
    [
        (lambda: classifier(nn.LogSoftmax(-1)), F.nll_loss),
        (lambda: classifier(nn.LogSoftmax(-1)), F.cross_entropy),
        (classifier, F.cross_entropy),
    ],
)
def test_a_loss_that_suits_its_output_is_left_alone(model: Any, loss_fn: Any) -> None:
    record = Patient(model(), loss_fn, digits()).record
    assert "suits it" in refused("stable-loss", record)
    refused("output-activation", record)


@pytest.mark.parametrize(
    ("end", "data"),
    [
        (lambda: regression(nn.Tanh()), table(10.0)),
        (lambda: Ending(regression(), torch.tanh), table(10.0)),
        (lambda: regression(nn.ReLU()), table(1.0, -2.0)),
        (lambda: Ending(regression(), F.relu), table(1.0, -2.0)),
        (lambda: regression(nn.Softplus()), table()),
    ],
    ids=["tanh", "tanh in forward", "relu", "relu in forward", "softplus"],
)
def test_an_output_reaches_targets_that_its_activation_did_not(
    end: Callable[[], nn.Module], data: Batches
) -> None:
    torch.manual_seed(0)
    sick = Patient(end(), F.mse_loss, data, partial(SGD, lr=0.02, momentum=0.5))
    assert (sick.untreated.skill or 0.0) < 0.4
    assert (sick.train("output-activation").skill or 0.0) > 0.55


def test_an_activation_that_reaches_its_targets_stays() -> None:
    sick = Patient(regression(nn.Tanh()), F.mse_loss, table(0.2))
    with pytest.raises(CannotApply, match="the targets are in the range of tanh"):
        sick.treated("output-activation")


def test_a_gate_is_no_output_activation() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.value, self.gate = (
                dense(1, outputs=32),
                *(nn.Linear(32, 10) for _ in range(2)),
            )

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            return self.value(h) * torch.sigmoid(self.gate(h))

    record = Patient(Gated(), F.cross_entropy, digits()).record
    assert "no bounded activation" in refused("output-activation", record)
    assert "suits it" in refused("stable-loss", record)


class Cosine(nn.Module):
    """Logits that are cosines between features and classes, times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.body = dense(1, outputs=32, init=he)
        self.classes = nn.Parameter(torch.randn(10, 32))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        features = F.normalize(self.body(x), dim=-1)
        return self.factor * features @ F.normalize(self.classes, dim=-1).T


@pytest.mark.parametrize("factor", [1e-3, 0.5])
def test_logits_that_are_too_small_get_a_factor_that_is_learnt(factor: float) -> None:
    torch.manual_seed(0)
    sick = Patient(Cosine(factor), F.cross_entropy, digits(), ADAM)
    assert (sick.untreated.skill or 0.0) < 0.3
    treated = sick.treated("temperature")
    before = treated.model.log_of_scale.item()  # type: ignore[operator, union-attr]
    logits = treated.model(sick.data[0][0])
    assert (logits - logits.mean(0)).square().mean().sqrt().item() == pytest.approx(1.0, rel=1e-3)
    assert (twin.train(treated, sick.data, STEPS).skill or 0.0) > 0.7
    assert treated.model.log_of_scale.item() != before  # type: ignore[operator, union-attr]


def test_logits_of_ordinary_size_get_none() -> None:
    assert "ordinary size" in refused("temperature", patient().record)


# --- what is said ----------------------------------------------------------------------------


TEXTS = [
    ("zero-grad", complaint("accumulating-gradients", "optimizer"), "optimizer.zero_grad()"),
    ("zero-grad", complaint("stalled-updates", "optimizer"), "loss.backward()"),
    ("loss-weights", complaint("drowned-task", "loss"), "gradients"),
    ("loss-weights", complaint("posterior-collapse", "loss"), "divergence"),
    ("loss-weights", complaint("collapsed-router", "loss"), "balancing"),
    ("check-data", complaint("non-finite", "data"), "isfinite"),
    ("check-data", complaint("gradient-spike", "data"), "quantile"),
    ("check-data", complaint("learns-nothing", "data"), "Shuffle the targets"),
    ("guard-numerics", complaint("non-finite", "numerics"), "detect_anomaly"),
]


@pytest.mark.parametrize(("remedy", "finding", "says"), TEXTS)
def test_what_only_the_user_can_do_is_said_in_comments(
    remedy: str, finding: Finding, says: str
) -> None:
    prescription = REMEDIES[remedy].prescribe(finding, Record(0))
    assert not prescription.runnable
    assert says in prescription.code
    assert all(line.startswith("#") for line in prescription.code.splitlines())
    assert prescription.answers == f"{finding.name}: {finding.cause}"


def test_the_operations_that_are_called_there_are_the_ones_that_are_spoken_of() -> None:
    calls = [Call(Layer("norm", "Mine"))]
    calls += [Call(Layer(f"norm:{f}#0", f, functional=True)) for f in ("sqrt", "div")]
    calls += [Call(Layer("head:exp#0", "exp", functional=True))]
    finding = complaint("non-finite", "numerics", "norm")
    code = REMEDIES["guard-numerics"].prescribe(finding, Record(0, tuple(calls))).code
    assert "sqrt:" in code and "division:" in code and "exp:" not in code


def test_a_record_alone_tells_what_is_cut_off() -> None:
    cut = Parameter("encoder.0.weight", (2, 2), reached=False)
    prescription = REMEDIES["reconnect"].prescribe(UNKNOWN, Record(0, parameters=(cut,)))
    assert "'encoder.0'" in prescription.code
