"""Reinforcement learning on problems so small that the best policy is known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import adam, error_rate, sgd, vectors

SIDE = 4
"""Of the grid world: from a random square to the corner, -1 for each move."""


def policy(gain: float = 1.0) -> nn.Sequential:
    """A policy over ten actions, seeing a digit: the right one is to name it."""
    last = nn.Linear(32, 10)
    with torch.no_grad():
        last.weight.mul_(gain)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), last)


def bandit(
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    baseline: bool = True,
    gain: float = 1.0,
    greedy: bool = False,
    cut: bool = False,
    sign: float = 1.0,
    entropy: float = 0.0,
    rate: float = 1e-2,
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] = adam,
) -> Trial:
    """Set up REINFORCE on a contextual bandit; scored by the share of digits that it misnames."""
    model = policy(gain)
    held = optimizer(model, rate)
    inputs, labels = vectors()

    def step(_: int) -> Tensor:
        picked = torch.randint(0, len(inputs), (128,))
        logits = model(inputs[picked])
        chosen = Categorical(logits=logits, validate_args=False)
        action = logits.argmax(-1) if greedy else chosen.sample()
        reward = scale * ((action == labels[picked]).float() + offset)
        gain = reward - reward.mean() if baseline else reward
        log_probability = chosen.log_prob(action)
        if cut:
            log_probability = torch.tensor(log_probability.tolist(), requires_grad=True)
        loss = -sign * (log_probability * gain).mean() - entropy * chosen.entropy().mean()
        held.zero_grad()
        loss.backward()
        held.step()
        return loss  # type: ignore[no-any-return]

    return Trial(model, [held], step, score=error_rate(model))


class Values(nn.Module):
    """Action values of a grid world whose squares are given as two coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(SIDE * SIDE, 48), nn.ReLU(), nn.Linear(48, 4))

    def forward(self, square: Tensor) -> Tensor:
        return self.layers(F.one_hot(square, SIDE * SIDE).float())  # type: ignore[no-any-return]


def moved(square: Tensor, action: Tensor) -> Tensor:
    """Return where a move leads; walls stop it."""
    row, column = square // SIDE, square % SIDE
    row = (row + (action == 0).long() - (action == 1).long()).clamp(0, SIDE - 1)
    column = (column + (action == 2).long() - (action == 3).long()).clamp(0, SIDE - 1)
    return row * SIDE + column


def detour(model: Values) -> Callable[[], float]:
    """Score by the moves that the greedy policy makes more than needed, up to 20, on average."""

    def score() -> float:
        square = torch.arange(SIDE * SIDE)
        needed = 2 * (SIDE - 1) - square // SIDE - square % SIDE
        moves = torch.zeros(SIDE * SIDE)
        for _ in range(20):
            away = square != SIDE * SIDE - 1
            moves += away
            square = torch.where(away, moved(square, model(square).argmax(-1)), square)
        return (moves - needed).mean().item()

    return score


def q_learning(
    *,
    reward: float = -1.0,
    rate: float = 1e-2,
    discount: float = 0.9,
    refresh: int = 10,
    wrong_network: bool = False,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.mse_loss,
) -> Trial:
    """Set up deep Q-learning from random moves, with a target network that is copied now and
    then."""
    model, target = Values(), Values()
    target.load_state_dict(model.state_dict())
    held = adam(target if wrong_network else model, rate)

    def step(i: int) -> Tensor:
        if i % refresh == 0 and not wrong_network:
            target.load_state_dict(model.state_dict())
        square = torch.randint(0, SIDE * SIDE - 1, (64,))
        action = torch.randint(0, 4, (64,))
        following = moved(square, action)
        with torch.no_grad():
            worth = target(following).max(-1).values * (following != SIDE * SIDE - 1)
            wanted = reward + discount * worth
        value = model(square).gather(1, action[:, None])[:, 0]
        loss = loss_fn(value, wanted)
        held.zero_grad()
        loss.backward()
        held.step()
        return loss

    return Trial(model, [held], step, score=detour(model))


CASES = (
    Case(
        "reinforce-reward-unscaled",
        "reinforcement",
        lambda: bandit(scale=1000.0, offset=-1.0, baseline=False, optimizer=sgd, rate=0.5),
        threshold=0.5,
        steps=300,
        cure=lambda: bandit(optimizer=sgd, rate=0.5),
        finding="oversized-updates",
        cause="data-scale",
        # The first step makes the policy certain, and its gradient 0; with plain SGD the size of
        # the reward and the learning rate are one number: to lower either cures it.
        also=frozenset({"unscaled-targets", "saturated-output", "zero-gradient"}),
        causes=frozenset({"learning-rate"}),
        source="Henderson et al. 2018, section 4: reward scale",
    ),
    Case(
        "reinforce-log-probability-copied",
        "reinforcement",
        lambda: bandit(cut=True),
        threshold=0.5,
        steps=300,
        cure=bandit,
        finding="disconnected-parameters",
        cause="disconnection",
        # All parameters are reached, by the entropy with its weight of 0.
        also=frozenset({"zero-gradient"}),
        layers=("0", "2"),
    ),
    Case(
        "reinforce-saturated-policy",
        "reinforcement",
        lambda: bandit(gain=300.0, rate=5e-3),
        threshold=0.4,
        steps=300,
        cure=lambda: bandit(rate=5e-3),
        finding="saturated-output",
        cause="init",
        # Logits of 66 on average.
        also=frozenset({"signal-scale"}),
        layers=("2",),
        source="Andrychowicz et al. 2021: initial policies should be near uniform",
    ),
    Case(
        "reinforce-wrong-sign",
        "reinforcement",
        lambda: bandit(sign=-1.0),
        threshold=0.5,
        steps=300,
        cure=bandit,
        finding="ascending-loss",
        cause="loss",
    ),
    Case(
        "dqn-target-network-trained",
        "reinforcement",
        lambda: q_learning(wrong_network=True),
        threshold=2.0,
        steps=250,
        cure=q_learning,
        finding="forgotten-parameters",
        # What no optimizer holds is cut off from the training: one fault with two names.
        causes=frozenset({"disconnection"}),
        cause="optimizer",
        layers=("layers.0", "layers.2"),
    ),
    Case(
        "dqn-rewards-unscaled",
        "reinforcement",
        lambda: q_learning(reward=-1000.0),
        threshold=2.0,
        steps=250,
        cure=q_learning,
        finding="unscaled-targets",
        cause="data-scale",
        source="van Hasselt et al. 2016: Learning values across many orders of magnitude",
    ),
    Case("reinforce-bandit", "reinforcement", bandit, threshold=0.5, steps=300),
    Case(
        "reinforce-with-entropy-bonus",
        "reinforcement",
        lambda: bandit(entropy=0.01),
        threshold=0.5,
        steps=300,
    ),
    Case("dqn-grid-world", "reinforcement", q_learning, threshold=2.0, steps=250),
    Case(
        "dqn-huber-loss",
        "reinforcement",
        lambda: q_learning(loss_fn=F.smooth_l1_loss),
        threshold=2.0,
        steps=250,
    ),
)
