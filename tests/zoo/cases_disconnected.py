"""The way back from the loss is cut, or leads through what has no derivative."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import adam, digit_batches, error_rate, supervised, vectors

Cut = Callable[[Tensor], Tensor]


class Through(nn.Module):
    """An encoder, something between, and a head."""

    def __init__(self, between: Cut, code: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, code))
        self.head = nn.Sequential(nn.Linear(code, 32), nn.ReLU(), nn.Linear(32, 10))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.encoder(x)))  # type: ignore[no-any-return]


def through(between: Cut, code: int = 4) -> Trial:
    """Set up a classification of digits whose code is narrow: a random encoder tells too little."""
    model = Through(between, code)
    return supervised(model, digit_batches(), adam(model), score=error_rate(model))


def numpy_round_trip(code: Tensor) -> Tensor:
    return torch.from_numpy(code.detach().numpy().copy())


def rebuilt(code: Tensor) -> Tensor:
    return torch.tensor(code.tolist())


def straight_through(discrete: Cut) -> Cut:
    """Pass the gradient by what has none (Bengio, Leonard & Courville 2013)."""
    return lambda code: code + (discrete(code) - code).detach()


def largest(code: Tensor) -> Tensor:
    """Return the code's largest entry as a one-hot vector."""
    return F.one_hot(code.argmax(-1), code.shape[-1]).float()


def counted(*, by_threshold: bool) -> Trial:
    """Set up a loss that counts errors (F1, accuracy, IoU) or stands for them smoothly."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def loss_fn(output: Tensor, labels: Tensor) -> Tensor:
        probability = output.softmax(-1)
        if by_threshold:
            # The sum makes it differentiable by name only: its gradient is zero everywhere.
            probability = (probability > 0.5).float() + 0 * probability
        return 1 - probability.gather(1, labels[:, None]).mean()

    return supervised(model, digit_batches(), adam(model), loss_fn, score=error_rate(model))


def detached_loss(*, detached: bool) -> Trial:
    """Set up a loop whose loss is put into a new tensor that requires a gradient."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def loss_fn(output: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(output, labels)
        return torch.tensor(loss.item(), requires_grad=True) if detached else loss

    return supervised(model, digit_batches(), adam(model), loss_fn, score=error_rate(model))


class Bootstrap(nn.Module):
    """Predicts what a slow copy of its encoder says of another view (Grill et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.slow = self._encoder(), self._encoder()
        self.slow.load_state_dict(self.online.state_dict())
        self.predictor = nn.Linear(16, 16)

    @staticmethod
    def _encoder() -> nn.Sequential:
        # Without the norm all codes become one, and the loss falls nonetheless.
        last = nn.BatchNorm1d(16, affine=False)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), last)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        predicted = F.normalize(self.predictor(self.online(a)), dim=-1)
        with torch.no_grad():
            wanted = F.normalize(self.slow(b), dim=-1)
        return (predicted - wanted).square().sum(-1).mean()


def bootstrap() -> Trial:
    """Set up self-supervised learning with a slow copy that no gradient should reach; scored by
    the loss and by how alike all codes are (1 when it has collapsed)."""
    model = Bootstrap()
    learning = [*model.online.parameters(), *model.predictor.parameters()]
    optimizer = torch.optim.Adam(learning, lr=3e-3)
    sample = digit_batches()

    def step(_: int) -> Tensor:
        x, _labels = sample()
        loss = model(x + 0.3 * torch.randn_like(x), x + 0.3 * torch.randn_like(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            pairs = zip(model.slow.parameters(), model.online.parameters(), strict=True)
            for slow, online in pairs:
                slow.lerp_(online, 0.02)
        return loss  # type: ignore[no-any-return]

    def score() -> float:
        x = vectors()[0][:300]
        code = F.normalize(model.online(x), dim=-1)
        return model(x, x).item() + (code @ code.T).mean().item()  # type: ignore[no-any-return]

    return Trial(model, [optimizer], step, score=score)


class WithSpare(nn.Module):
    """A classifier with an auxiliary head that this training does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.head, self.spare = nn.Linear(32, 10), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]


def with_spare() -> Trial:
    model = WithSpare()
    return supervised(model, digit_batches(), adam(model), score=error_rate(model))


def cut_off(
    name: str,
    between: Cut,
    source: str = "",
    cure: Cut | None = None,
    code: int = 4,
    finding: str = "disconnected-parameters",
    also: frozenset[str] = frozenset(),
) -> Case:
    """Return a case in which no gradient reaches the encoder."""
    mended = cure or (lambda code: code)
    return Case(
        name,
        "disconnected",
        lambda: through(between, code),
        threshold=0.25,
        steps=250,
        cure=lambda: through(mended, code),
        finding=finding,
        cause="disconnection",
        also=also,
        layers=("encoder.0", "encoder.2"),
        source=source,
    )


CASES = (
    cut_off("encoder-detached", Tensor.detach),
    cut_off("encoder-through-data", lambda code: code.data),
    cut_off(
        "encoder-numpy-round-trip",
        numpy_round_trip,
    ),
    cut_off(
        "encoder-tensor-rebuilt",
        rebuilt,
        "torch.tensor: a copy that has no history",
    ),
    cut_off(
        "code-rounded",
        torch.round,
        "Bengio, Leonard & Courville 2013: straight-through",
        straight_through(torch.round),
        finding="zero-gradient",
        # What reaches the encoder is exactly 0: nothing of the loss does.
        also=frozenset({"disconnected-parameters"}),
    ),
    cut_off(
        "code-argmax",
        largest,
        "Jang, Gu & Poole 2017: categorical reparametrisation",
        cure=lambda code: code.softmax(-1),
        code=16,
    ),
    Case(
        "loss-of-counted-errors",
        "disconnected",
        lambda: counted(by_threshold=True),
        threshold=0.25,
        steps=200,
        cure=lambda: counted(by_threshold=False),
        finding="zero-gradient",
        cause="loss",
        # A comparison has no derivative, as rounding has none: the loss is what cuts.
        also=frozenset({"disconnected-parameters"}),
        causes=frozenset({"disconnection"}),
        at_init=True,
        source="stackoverflow.com/questions/65318064: training on the F1 score",
    ),
    Case(
        "loss-rebuilt-as-leaf",
        "disconnected",
        lambda: detached_loss(detached=True),
        threshold=0.25,
        steps=150,
        cure=lambda: detached_loss(detached=False),
        finding="disconnected-parameters",
        cause="disconnection",
        layers=("0", "2"),
    ),
    Case(
        "code-rounded-straight-through",
        "disconnected",
        lambda: through(straight_through(torch.round)),
        threshold=0.25,
        steps=250,
        source="Bengio, Leonard & Courville 2013",
    ),
    Case(
        "code-through-half-detached",
        "disconnected",
        lambda: through(lambda code: 0.5 * code + 0.5 * code.detach()),
        threshold=0.25,
        steps=250,
    ),
    Case(
        "bootstrap-slow-copy",
        "disconnected",
        bootstrap,
        threshold=0.6,
        steps=200,
        source="Grill et al. 2020: BYOL",
    ),
    Case("spare-head", "disconnected", with_spare, threshold=0.25, steps=150),
)
