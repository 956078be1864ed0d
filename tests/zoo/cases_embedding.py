"""Embeddings: most of the rows get no gradient in a step, and words follow Zipf's law."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import adam, supervised
from tests.zoo.trainings import Batch

WORDS = 60
PAD = 0


class Bag(nn.Module):
    """Classifies words by the mean of their vectors."""

    def __init__(self, embed: nn.Module, width: int = 16, *, cut: bool = False) -> None:
        super().__init__()
        self.embed = embed
        self.head = nn.Linear(width, 6)
        self.cut = cut

    def forward(self, words: Tensor) -> Tensor:
        vectors = F.embedding(words, self.embed.weight.data) if self.cut else self.embed(words)  # type: ignore[arg-type]
        return self.head(vectors if vectors.dim() == 2 else vectors.mean(1))  # type: ignore[no-any-return]


def classes(words: Tensor) -> Tensor:
    """Return the class of a word, which its number does not tell linearly."""
    return words * 7 % 11 % 6


def zipf(size: int) -> Tensor:
    """Draw words with frequencies of 1 / rank."""
    return torch.multinomial(1 / torch.arange(1.0, WORDS + 1), size, replacement=True)


def words_of(size: int, draw: Callable[[int], Tensor]) -> Callable[[], Batch]:
    def sample() -> Batch:
        words = draw(size)
        return words[:, None], classes(words)

    return sample


def even(size: int) -> Tensor:
    return torch.randint(0, WORDS, (size,))


def wrong_of_all(model: nn.Module) -> Callable[[], float]:
    """Score by the share of all words, rare ones too, that are classified wrongly."""
    words = torch.arange(WORDS)

    def score() -> float:
        return (model(words[:, None]).argmax(-1) != classes(words)).float().mean().item()  # type: ignore[no-any-return]

    return score


def table(std: float = 1.0, **options: bool | float | int) -> nn.Embedding:
    embed = nn.Embedding(WORDS, 16, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        embed.weight.mul_(std)
    return embed


def bag(
    embed: Callable[[], nn.Module] = table,
    draw: Callable[[int], Tensor] = even,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adam,
    *,
    cut: bool = False,
) -> Trial:
    model = Bag(embed(), cut=cut)
    return supervised(model, words_of(64, draw), optimizer(model), score=wrong_of_all(model))


def plain(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def fast(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=3.0)


def adagrad(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(model.parameters(), lr=0.3)


class Padded(nn.Module):
    """Reads a sentence that is padded to one length, and answers from a mean or the last state."""

    def __init__(self, reading: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 16, padding_idx=PAD)
        self.rnn = nn.RNN(16, 24, batch_first=True)
        self.head = nn.Linear(24, 6)
        self.reading = reading

    def forward(self, words: Tensor) -> Tensor:
        states, _ = self.rnn(self.embed(words))
        if self.reading == "last":
            return self.head(states[:, -1])  # type: ignore[no-any-return]
        lengths = (words != PAD).sum(1)
        return self.head(states[torch.arange(len(words)), lengths - 1])  # type: ignore[no-any-return]


def sentences() -> Batch:
    """Draw sentences of 2 to 5 words, padded to 40; the class is that of their last word."""
    words = torch.randint(1, WORDS, (64, 40))
    lengths = torch.randint(2, 6, (64,))
    words[torch.arange(40) >= lengths[:, None]] = PAD
    return words, classes(words[torch.arange(64), lengths - 1])


def padded(reading: str) -> Trial:
    model = Padded(reading)
    return supervised(model, sentences, adam(model))


class SkipGram(nn.Module):
    """Two tables; a pair is scored by the product of their rows."""

    def __init__(self, center: float, context: float) -> None:
        super().__init__()
        self.center, self.context = table(center), table(context)

    def forward(self, pairs: Tensor) -> Tensor:
        return (self.center(pairs[:, 0]) * self.context(pairs[:, 1])).sum(-1)  # type: ignore[no-any-return]


def neighbours() -> Batch:
    """Draw pairs of words, half of them out of the same ten, which counts as 1."""
    center = even(128)
    near = torch.randint(0, 10, (128,)) + center // 10 * 10
    context = torch.where(torch.arange(128) % 2 == 0, near, even(128))
    return torch.stack([center, context], -1), (center // 10 == context // 10).float()


def skip_gram(center: float, context: float) -> Trial:
    model = SkipGram(center, context)
    return supervised(model, neighbours, adam(model, 2e-2), F.binary_cross_entropy_with_logits)


class Tied(nn.Module):
    """Predicts the next word with the embedding's own table as the weights of its output."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 64)
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        self.head = nn.Linear(64, WORDS, bias=False)
        nn.init.normal_(self.embed.weight, std=std)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        return self.head(x + self.body(x))  # type: ignore[no-any-return]


def following() -> Batch:
    words = even(64)
    return words, (words * 7 + 3) % WORDS


def tied(std: float) -> Trial:
    model = Tied(std)
    return supervised(model, following, adam(model, 5e-3))


CASES = (
    Case(
        "embedding-rare-words-starve",
        "embedding",
        lambda: bag(draw=zipf, optimizer=plain),
        threshold=0.3,
        steps=200,
        cure=lambda: bag(draw=zipf, optimizer=adagrad),
        finding="starved-rows",
        cause="optimizer",
        # Thirty times the learning rate cures it, too: rare rows are stepped rarely.
        causes=frozenset({"learning-rate"}),
        layers=("embed",),
        source="Duchi, Hazan & Singer 2011; Kunstner et al. 2024: heavy-tailed class imbalance",
    ),
    Case(
        "embedding-table-by-data",
        "embedding",
        lambda: bag(lambda: table(0.01), cut=True),
        threshold=0.3,
        steps=200,
        cure=lambda: bag(lambda: table(0.01)),
        finding="disconnected-parameters",
        cause="disconnection",
        layers=("embed",),
    ),
    Case(
        "embedding-padding-read",
        "embedding",
        lambda: padded("last"),
        threshold=0.8,
        steps=200,
        cure=lambda: padded("gathered"),
        finding="vanishing-over-time",
        cause="time",
        # The gradient vanishes: over time.
        also=frozenset({"vanishing-gradient"}),
        layers=("rnn",),
        source="stackoverflow.com/questions/51030782: why sequences are packed",
    ),
    Case(
        "skip-gram-both-tables-zero",
        "embedding",
        lambda: skip_gram(0.0, 0.0),
        threshold=0.55,
        steps=150,
        cure=lambda: skip_gram(0.3, 0.0),
        finding="zero-gradient",
        cause="init",
        layers=("center", "context"),
        source="Mikolov's word2vec.c draws one table at random and zeroes the other",
    ),
    Case(
        "embedding-zipf-adagrad",
        "embedding",
        lambda: bag(draw=zipf, optimizer=adagrad),
        threshold=0.3,
        steps=200,
        source="Duchi, Hazan & Singer 2011",
    ),
    Case(
        "embedding-sparse-gradients",
        "embedding",
        lambda: bag(lambda: table(sparse=True), optimizer=fast),
        threshold=0.3,
        steps=200,
    ),
    Case(
        "embedding-bag",
        "embedding",
        lambda: bag(lambda: nn.EmbeddingBag(WORDS, 16)),
        threshold=0.3,
        steps=200,
    ),
    Case("padding-gathered", "embedding", lambda: padded("gathered"), threshold=0.8, steps=200),
    Case("skip-gram", "embedding", lambda: skip_gram(0.3, 0.0), threshold=0.55, steps=150),
    Case("tied-output-table", "embedding", lambda: tied(0.1), threshold=0.5, steps=150),
)
