"""One trunk and several heads: the sum of their losses decides whose task is learnt."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import adam, sgd, vectors

Losses = tuple[Tensor, Tensor]
Combine = Callable[[Tensor, Tensor], Tensor]


class Heads(nn.Module):
    """A narrow trunk on digits; one head names the digit, the other tells how it is inked."""

    def __init__(self, *, cut: bool, uncertain: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.digit = nn.Linear(16, 10)
        self.ink = nn.Linear(16, 4)
        self.log_variances = nn.Parameter(torch.zeros(2)) if uncertain else None
        self.cut = cut

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.digit(features), self.ink(features.detach() if self.cut else features)


def ink() -> Tensor:
    """Return four numbers of each digit, of about unit size: products of quarters' ink."""
    quarters = vectors()[0].reshape(-1, 2, 4, 2, 4).mean((2, 4)).flatten(1)
    products = quarters * quarters.roll(1, 1)
    return (products - products.mean(0)) / products.std(0)


def two_tasks(
    combine: Combine = lambda digit, ink: digit + ink,
    *,
    units: float = 1.0,
    judged: str = "digit",
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adam,
    uncertain: bool = False,
    cut: bool = False,
    clip: float | None = None,
) -> Trial:
    """Set up both tasks; scored by the errors of the one, or by the worse of both."""
    model = Heads(cut=cut, uncertain=uncertain)
    held = optimizer(model)
    inputs, labels = vectors()
    inks = ink()

    def losses(picked: Tensor) -> Losses:
        digit, inked = model(inputs[picked])
        return F.cross_entropy(digit, labels[picked]), F.mse_loss(inked, units * inks[picked])

    def step(_: int) -> Tensor:
        of_digit, of_ink = losses(torch.randint(0, len(inputs), (64,)))
        variances = model.log_variances
        if variances is not None:
            loss = of_digit * (-variances[0]).exp() + of_ink * (-variances[1]).exp()
            loss = loss + variances.sum()
        else:
            loss = combine(of_digit, of_ink)
        held.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        held.step()
        return loss

    def score() -> float:
        digit, inked = model(inputs)
        wrong = (digit.argmax(-1) != labels).float().mean().item()
        error = (inked / units - inks).square().mean().item()
        return {"digit": wrong, "ink": error, "worse": max(wrong, error)}[judged]  # type: ignore[no-any-return]

    return Trial(model, [held], step, score=score)


def overwritten(digit: Tensor, ink: Tensor) -> Tensor:
    """Combine as a loop does in which `loss =` stands where `loss +=` was meant."""
    return ink


CASES = (
    Case(
        "multi-task-ink-in-large-units",
        "multi-task",
        lambda: two_tasks(units=100.0, optimizer=lambda m: sgd(m, 0.1), clip=1.0),
        threshold=0.4,
        steps=200,
        cure=lambda: two_tasks(optimizer=lambda m: sgd(m, 0.1), clip=1.0),
        finding="drowned-task",
        cause="loss",
        # The units are those of the targets, and to scale them is the cure here.
        also=frozenset({"unscaled-targets"}),
        causes=frozenset({"data-scale"}),
        at_init=True,
        layers=("digit",),
        source="Kendall, Gal & Cipolla 2018; Chen et al. 2018: GradNorm",
    ),
    Case(
        "multi-task-weight-too-small",
        "multi-task",
        lambda: two_tasks(lambda digit, ink: 1e-5 * digit + ink, optimizer=lambda m: sgd(m, 0.1)),
        threshold=0.4,
        steps=200,
        cure=lambda: two_tasks(optimizer=lambda m: sgd(m, 0.1)),
        finding="drowned-task",
        cause="loss",
        at_init=True,
        layers=("digit",),
    ),
    Case(
        "multi-task-loss-overwritten",
        "multi-task",
        lambda: two_tasks(overwritten),
        threshold=0.4,
        steps=200,
        cure=two_tasks,
        finding="disconnected-parameters",
        cause="disconnection",
        layers=("digit",),
    ),
    Case(
        "multi-task-trunk-cut",
        "multi-task",
        lambda: two_tasks(lambda digit, ink: ink, judged="ink", cut=True),
        threshold=0.4,
        steps=200,
        cure=lambda: two_tasks(lambda digit, ink: ink, judged="ink"),
        finding="disconnected-parameters",
        cause="disconnection",
        layers=("trunk.0", "trunk.2"),
    ),
    Case("multi-task-balanced", "multi-task", lambda: two_tasks(judged="worse"), 0.4, steps=200),
    Case(
        "multi-task-uncertainty-weighted",
        "multi-task",
        lambda: two_tasks(uncertain=True, judged="worse"),
        threshold=0.4,
        steps=200,
        source="Kendall, Gal & Cipolla 2018",
    ),
    Case(
        "multi-task-auxiliary",
        "multi-task",
        lambda: two_tasks(lambda digit, ink: digit + 0.1 * ink),
        threshold=0.4,
        steps=200,
    ),
    Case(
        "multi-task-auxiliary-cut-off",
        "multi-task",
        lambda: two_tasks(cut=True),
        threshold=0.4,
        steps=200,
    ),
)
