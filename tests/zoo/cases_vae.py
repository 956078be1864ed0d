"""Variational autoencoders on digits: what is judged is the reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import adam, vectors

LATENT = 8


class VAE(nn.Module):
    """Encoder to a mean and a log-variance, and decoder."""

    def __init__(self, spread: float = 1.0, *, reparametrised: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU())
        self.mean = nn.Linear(48, LATENT)
        self.log_variance = nn.Linear(48, LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, 48), nn.ReLU(), nn.Linear(48, 64))
        self.reparametrised = reparametrised
        with torch.no_grad():
            self.log_variance.weight.mul_(spread)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        latent = torch.distributions.Normal(mean, (log_variance / 2).exp(), validate_args=False)
        z = latent.rsample() if self.reparametrised else latent.sample()
        return self.decoder(z), mean, log_variance


def variational(
    beta: Callable[[int], float] = lambda step: 0.1,
    spread: float = 1.0,
    *,
    reparametrised: bool = True,
    mean_of_pixels: bool = False,
    rate: float = 5e-3,
) -> Trial:
    """Set up a VAE whose KL divergence weighs `beta(step)`; scored by the mean squared error of
    digits that go through the mean of their code (0.6 is that of the mean image)."""
    model = VAE(spread, reparametrised=reparametrised)
    optimizer = adam(model, rate)
    digits, _ = vectors()

    def step(i: int) -> Tensor:
        x = digits[torch.randint(0, len(digits), (64,))]
        output, mean, log_variance = model(x)
        error = (output - x).square()
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)
        reconstruction = error.mean() if mean_of_pixels else 0.5 * error.sum(-1).mean()
        loss = reconstruction
        if beta(i) > 0:
            loss = loss + beta(i) * divergence.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss  # type: ignore[no-any-return]

    def score() -> float:
        mean = model.mean(model.encoder(digits))
        return (model.decoder(mean) - digits).square().mean().item()  # type: ignore[no-any-return]

    return Trial(model, [optimizer], step, score=score)


def constant(beta: float) -> Callable[[int], float]:
    return lambda step: beta


CASES = (
    Case(
        "vae-kl-too-strong",
        "vae",
        lambda: variational(constant(30.0)),
        threshold=0.4,
        steps=300,
        cure=variational,
        finding="posterior-collapse",
        cause="loss",
        layers=("mean", "log_variance"),
        source="Bowman et al. 2016; Higgins et al. 2017",
    ),
    Case(
        "vae-mean-of-pixels-sum-of-kl",
        "vae",
        lambda: variational(constant(1.0), mean_of_pixels=True),
        threshold=0.4,
        steps=300,
        cure=lambda: variational(constant(1.0)),
        finding="posterior-collapse",
        cause="loss",
        layers=("mean", "log_variance"),
    ),
    Case(
        "vae-log-variance-explodes",
        "vae",
        lambda: variational(spread=300.0),
        threshold=0.4,
        steps=200,
        cure=variational,
        finding="non-finite",
        cause="numerics",
        # The weights of the log-variance are 300 times too large: the exponential overflows.
        causes=frozenset({"init"}),
        layers=("log_variance",),
    ),
    Case(
        "vae-sample-instead-of-rsample",
        "vae",
        lambda: variational(constant(0.0), reparametrised=False),
        threshold=0.4,
        steps=300,
        cure=lambda: variational(constant(0.0)),
        finding="disconnected-parameters",
        cause="disconnection",
        layers=("encoder.0", "mean", "log_variance"),
    ),
    Case("vae-standard", "vae", partial(variational, constant(0.5)), threshold=0.4, steps=300),
    Case("vae-weak-kl", "vae", partial(variational, constant(0.01)), threshold=0.4, steps=300),
    Case(
        "vae-kl-annealed",
        "vae",
        lambda: variational(lambda step: min(0.5, step / 400)),
        threshold=0.4,
        steps=300,
        source="Bowman et al. 2016",
    ),
    Case(
        "vae-without-kl",
        "vae",
        lambda: variational(constant(0.0)),
        threshold=0.4,
        steps=300,
    ),
)
