"""Expressions that are not finite in float32 although they are right on paper, and safe forms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.zoo.trainings import Batch


def log_of_softmax(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy as it is written on paper."""
    chances = (40 * output).softmax(-1)  # so sharp that far classes have a chance of zero
    return -(F.one_hot(target, 10) * chances.log()).sum(-1).mean() / 40


def log_softmax(output: Tensor, target: Tensor) -> Tensor:
    """The same cross-entropy, from logits."""
    return F.nll_loss((40 * output).log_softmax(-1), target) / 40


def log_sum_exp(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with a sum of exponentials that overflows."""
    logits = 30 * output
    return (logits.exp().sum(-1).log() - logits.gather(1, target[:, None])[:, 0]).mean() / 30


def stable_log_sum_exp(output: Tensor, target: Tensor) -> Tensor:
    """The same, as PyTorch does it."""
    logits = 30 * output
    return (logits.logsumexp(-1) - logits.gather(1, target[:, None])[:, 0]).mean() / 30


def standardise(eps: float) -> Callable[[Tensor], Tensor]:
    """Each feature by the deviation in its batch: zero for pixels that nobody writes on."""
    return lambda x: (x - x.mean(0)) / (x.std(0) + eps)


def to_partner(eps: float) -> Callable[[Tensor], Tensor]:
    """The distance to the sample at the same place from the end: to itself in the middle."""

    def distance(x: Tensor) -> Tensor:
        square = (x - x.flip(0)).square().sum(-1, keepdim=True)
        return torch.cat([x[:, 1:], (square + eps).sqrt()], -1)

    return distance


def length(x: Tensor) -> Tensor:
    """The root of a square: where it is zero, its gradient is 0 / 0."""
    return x.square().sqrt()


def angle(margin: float) -> Callable[[Tensor], Tensor]:
    """The angle between a sample and each of ten directions, one of which is its own."""

    def angles(x: Tensor) -> Tensor:
        x = F.normalize(x, dim=-1)
        other = torch.cat([x[:, None].detach(), x.roll(1, 0)[:, None].detach()], 1)
        cosine = (x[:, None] * other).sum(-1).clamp(-1 + margin, 1 - margin)
        return torch.cat([x[:, 2:], cosine.acos()], -1)

    return angles


def safe_root(x: Tensor) -> Tensor:
    """The root of what is positive, with an input that is safe where it is not."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), 0.0 * x)


def masked_mean(output: Tensor, target: Tensor) -> Tensor:
    """The mean of logarithms over the positive targets, by multiplication with a mask."""
    mask = (target > 0).float()
    return ((output - target.clamp(min=0).log()).square() * mask).mean()


def log_error(output: Tensor, target: Tensor) -> Tensor:
    """The mean of the same logarithms, by selection."""
    mask = target > 0
    return (output[mask] - target[mask].log()).square().mean()


def gaussian(deviation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Negative log-likelihood, with a deviation that is computed from the second output."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        mean, sigma = output[:, :1], deviation(output[:, 1:])
        return (0.5 * ((mean - target) / sigma).square() + sigma.log()).mean()

    return loss


def attend(fill: float) -> Callable[[Tensor], Tensor]:
    """Weights over 32 features; every 16th sample is empty, and all of it is masked."""

    def weigh(x: Tensor) -> Tensor:
        empty = (torch.arange(len(x)) % 16 == 0)[:, None]
        return x + x * x.masked_fill(empty, fill).softmax(-1)

    return weigh


def causal(x: Tensor) -> Tensor:
    """Attention among 8 groups of 4 features, each to those before: masked with -inf."""
    groups = x.unflatten(-1, (8, 4))
    scores = groups @ groups.mT / 2
    scores = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
    attended: Tensor = scores.softmax(-1) @ groups
    return x + attended.flatten(-2)


def corrupted(at: int, repair: bool) -> Callable[[Tensor, Tensor, int], Batch]:
    """One sample that is not a number, in one step; dropped if it is repaired."""

    def alter(inputs: Tensor, targets: Tensor, step: int) -> Batch:
        if step != at:
            return inputs, targets
        inputs = inputs.clone()
        inputs[3, 5] = torch.nan
        keep = inputs.isfinite().all(-1) if repair else slice(None)
        return inputs[keep], targets[keep]

    return alter
