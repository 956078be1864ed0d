"""Generative adversarial nets on a line: what a generator learns is measured exactly there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, Trial

GeneratorLoss = Callable[[Tensor], Tensor]
DiscriminatorLoss = Callable[[Tensor, Tensor], Tensor]


class Pair(nn.Module):
    """A generator and a discriminator."""

    def __init__(self, activation: Callable[[], nn.Module], depth: int, last: nn.Module) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1), last)
        hidden: list[nn.Module] = []
        for i in range(depth):
            hidden += [nn.Linear(32 if i else 1, 32), activation()]
        self.discriminator = nn.Sequential(*hidden, nn.Linear(32, 1))


def real(size: int = 64) -> Tensor:
    """Draw from what is to be imitated: a normal distribution around 3."""
    return 3 + 0.5 * torch.randn(size, 1)


def distance(model: Pair) -> Callable[[], float]:
    """Score by the Wasserstein distance of what is generated from what is real."""

    def score() -> float:
        fake = model.generator(torch.randn(1000, 4)).sort(0).values
        return (fake - real(1000).sort(0).values).abs().mean().item()  # type: ignore[no-any-return]

    return score


def minimax(fake: Tensor) -> Tensor:
    """The generator's loss of the first paper: log(1 - D), which is flat where D is sure."""
    return -F.softplus(fake).mean()


def non_saturating(fake: Tensor) -> Tensor:
    return F.softplus(-fake).mean()


def logistic(true: Tensor, fake: Tensor) -> Tensor:
    return (F.softplus(-true) + F.softplus(fake)).mean()


def squares(true: Tensor, fake: Tensor) -> Tensor:
    return ((true - 1).square() + fake.square()).mean()


def adversarial(
    generator_loss: GeneratorLoss = non_saturating,
    discriminator_loss: DiscriminatorLoss = logistic,
    *,
    activation: Callable[[], nn.Module] = nn.LeakyReLU,
    depth: int = 1,
    last: nn.Module | None = None,
    rate: float = 5e-3,
    discriminator_rate: float = 5e-3,
    head_start: int = 0,
    plain: bool = False,
    detached: bool = False,
    second: str = "generator",
    clip: float | None = None,
) -> Trial:
    """Set up a GAN: in each step the discriminator learns, then the generator."""
    model = Pair(activation, depth, last or nn.Identity())
    betas = (0.5, 0.9)
    of_discriminator = torch.optim.Adam(
        model.discriminator.parameters(), discriminator_rate, betas=betas
    )
    held = getattr(model, second).parameters()
    of_generator = (
        torch.optim.SGD(held, rate) if plain else torch.optim.Adam(held, rate, betas=betas)
    )

    def discriminate() -> None:
        fake = model.generator(torch.randn(64, 4)).detach()
        loss = discriminator_loss(model.discriminator(real()), model.discriminator(fake))
        of_discriminator.zero_grad()
        loss.backward()
        of_discriminator.step()
        if clip is not None:
            with torch.no_grad():
                for parameter in model.discriminator.parameters():
                    parameter.clamp_(-clip, clip)

    for _ in range(head_start):
        discriminate()

    def step(_: int) -> Tensor:
        discriminate()
        fake = model.generator(torch.randn(64, 4))
        loss = generator_loss(model.discriminator(fake.detach() if detached else fake))
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()
        return loss

    return Trial(model, [of_discriminator, of_generator], step, score=distance(model))


def wasserstein(true: Tensor, fake: Tensor) -> Tensor:
    return (fake - true).mean()


CASES = (
    Case(
        "gan-minimax-discriminator-wins",
        "gan",
        lambda: adversarial(minimax, head_start=300, plain=True, rate=0.02),
        threshold=1.0,
        steps=350,
        cure=lambda: adversarial(head_start=300, plain=True, rate=0.02),
        finding="saturated-output",
        cause="loss",
        layers=("discriminator",),
        source="Goodfellow et al. 2014, section 3; Arjovsky & Bottou 2017",
    ),
    Case(
        "gan-fake-detached-for-generator",
        "gan",
        lambda: adversarial(detached=True),
        threshold=1.0,
        steps=200,
        cure=adversarial,
        finding="disconnected-parameters",
        cause="disconnection",
        # The first exam sees the discriminator's step, which the generator is no part of.
        at_init=False,
        layers=("generator.0", "generator.2"),
    ),
    Case(
        "gan-generator-not-held",
        "gan",
        lambda: adversarial(second="discriminator"),
        threshold=1.0,
        steps=200,
        cure=adversarial,
        finding="forgotten-parameters",
        # What no optimizer holds is cut off from the training: one fault with two names.
        causes=frozenset({"disconnection"}),
        cause="optimizer",
        layers=("generator.0", "generator.2"),
    ),
    Case(
        "gan-deep-sigmoid-discriminator",
        "gan",
        lambda: adversarial(activation=nn.Sigmoid, depth=16),
        threshold=1.0,
        steps=200,
        cure=lambda: adversarial(depth=16),
        finding="vanishing-gradient",
        cause="activation",
        layers=tuple(f"discriminator.{i}" for i in range(1, 32, 2)),
    ),
    Case(
        "gan-tanh-cannot-reach-data",
        "gan",
        lambda: adversarial(last=nn.Tanh()),
        threshold=1.0,
        steps=200,
        cure=adversarial,
        finding="saturated-activation",
        cause="data-scale",
        # The tanh is the generator's output, and to leave it out is the cure here; it saturates in
        # the course of the training.
        also=frozenset({"saturated-output"}),
        causes=frozenset({"activation"}),
        at_init=False,
        layers=("generator.3",),
        source="Radford, Metz & Chintala 2016, section 4: scale images to the range of the tanh",
    ),
    Case("gan-non-saturating", "gan", adversarial, threshold=1.0, steps=200),
    Case(
        "gan-least-squares",
        "gan",
        lambda: adversarial(lambda fake: (fake - 1).square().mean(), squares),
        threshold=1.0,
        steps=200,
        source="Mao et al. 2017",
    ),
    Case(
        "gan-wasserstein-clipped",
        "gan",
        lambda: adversarial(
            lambda fake: -fake.mean(), wasserstein, clip=0.3, rate=3e-3, discriminator_rate=2e-2
        ),
        threshold=1.0,
        steps=300,
        source="Arjovsky, Chintala & Bottou 2017",
    ),
    Case(
        "gan-two-time-scales",
        "gan",
        lambda: adversarial(rate=2e-3, discriminator_rate=1e-2),
        threshold=1.0,
        steps=250,
        source="Heusel et al. 2017",
    ),
)
