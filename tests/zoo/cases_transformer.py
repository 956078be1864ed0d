"""Transformers in miniature: of our own code, and as people configure them in `transformers`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from tests.zoo import huggingface
from tests.zoo.case import Case, Trial
from tests.zoo.ingredients import Sample, adam, supervised
from tests.zoo.trainings import Batch

WORDS = 20
PADDING = 20


class Attention(nn.Module):
    """Causal attention of one head that does not look at padding either."""

    def __init__(self, width: int, divisor: float, minimum: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.divisor, self.minimum = divisor, minimum

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2) / self.divisor
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        hidden = hidden | padding[:, None, :]
        return self.out(scores.masked_fill(hidden, self.minimum).softmax(-1) @ self.value(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a feed-forward net, with the norm before or after each, or with none."""

    def __init__(self, width: int, divisor: float, norm: str, minimum: float) -> None:
        super().__init__()
        self.attention = Attention(width, divisor, minimum)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norm1 = nn.LayerNorm(width) if norm != "none" else nn.Identity()
        self.norm2 = nn.LayerNorm(width) if norm != "none" else nn.Identity()
        self.before = norm != "post"

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        if self.before:
            x = x + self.attention(self.norm1(x), padding)
            return x + self.feed(self.norm2(x))  # type: ignore[no-any-return]
        x = self.norm1(x + self.attention(x, padding))
        return self.norm2(x + self.feed(x))  # type: ignore[no-any-return]


class Language(nn.Module):
    """A causal language model."""

    def __init__(
        self,
        depth: int = 2,
        width: int = 32,
        *,
        norm: str = "pre",
        divisor: float = 32**0.5,
        gain: float = 1.0,
        minimum: float = -1e9,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS + 1, width)
        self.position = nn.Parameter(0.1 * torch.randn(12, width))
        self.blocks = nn.ModuleList(Block(width, divisor, norm, minimum) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, WORDS)
        with torch.no_grad():
            for layer in self.blocks.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.mul_(gain)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words) + self.position[: words.shape[1]]
        for block in self.blocks:
            x = block(x, words == PADDING)
        return self.head(self.norm(x)).flatten(0, 1)  # type: ignore[no-any-return]


def progressions() -> Batch:
    """Draw sequences that go up by one of three steps: two words are needed to know the next."""
    start, by = torch.randint(0, WORDS, (16, 1)), torch.randint(1, 4, (16, 1))
    words = (start + by * torch.arange(12)) % WORDS
    return words[:, :-1], words[:, 1:].flatten()


def left_padded() -> Batch:
    """Draw the same, with the first two words of every fourth sequence replaced by padding."""
    words, following = progressions()
    words[::4, :2] = PADDING
    return words, following


def language(
    model: nn.Module, rate: float = 3e-3, warm_up: int = 0, sample: Sample = progressions
) -> Trial:
    optimizer = adam(model, rate)
    trial = supervised(model, sample, optimizer)
    plain = trial.step

    def step(i: int) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (i + 1) / (warm_up + 1))
        return plain(i)

    return replace(trial, step=step)


def pretrained(name: str, rate: float | None = None, **changes: Any) -> Trial:
    """Set up one of the models of `transformers`, with its configuration changed."""
    recipe = huggingface.HUGGINGFACE[name]
    build = recipe.model
    if changes:
        config = getattr(huggingface, name)()
        for key, value in changes.items():
            assert hasattr(config, key), key
            setattr(config, key, value)
        auto = hf.AutoModelForMaskedLM if name == "bert" else hf.AutoModelForCausalLM
        build = huggingface.built(auto, config)
    with huggingface.quiet():
        model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate or recipe.learning_rate)
    batches: Iterator[huggingface.Batch] = recipe.batches(10_000)

    def step(_: int) -> Tensor:
        with huggingface.quiet():
            loss: Tensor = model(**next(batches)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return Trial(model, [optimizer], step)


CASES = (
    Case(
        "transformer-left-padding-nan",
        "transformer",
        lambda: language(Language(minimum=-torch.inf), sample=left_padded),
        threshold=1.0,
        steps=60,
        cure=lambda: language(Language(), sample=left_padded),
        finding="non-finite",
        cause="numerics",
        layers=("blocks.0.attention",),
        source="pytorch/pytorch#41508: a row that is masked altogether gives nan",
    ),
    Case(
        "transformer-post-norm-no-warm-up",
        "transformer",
        lambda: language(Language(8, norm="post"), 2e-2),
        threshold=1.0,
        steps=60,
        cure=lambda: language(Language(8), 2e-2),
        finding="oversized-updates",
        cause="normalisation",
        # Half of the learning rate cures it, too; at step 0 nothing is wrong.
        causes=frozenset({"learning-rate"}),
        at_init=False,
        source="Xiong et al. 2020: On Layer Normalization in the Transformer Architecture",
    ),
    Case(
        "transformer-no-norm-large-init",
        "transformer",
        lambda: language(Language(8, norm="none", gain=2.0)),
        threshold=1.5,
        steps=60,
        cure=lambda: language(Language(8, gain=2.0)),
        finding="signal-scale",
        cause="normalisation",
        # Weights of half the size cure it, too.
        causes=frozenset({"init"}),
        source="Zhang, Dauphin & Ma 2019: Fixup Initialization",
    ),
    Case(
        "gpt2-init-too-large",
        "transformer",
        lambda: pretrained("gpt2", initializer_range=2.0),
        threshold=2.0,
        steps=60,
        cure=lambda: pretrained("gpt2"),
        finding="saturated-output",
        cause="init",
        # The tables are a hundred times too large, and so are the logits.
        also=frozenset({"signal-scale"}),
        layers=("lm_head",),
    ),
    Case(
        "llama-learning-rate-too-high",
        "transformer",
        lambda: pretrained("llama", 1.0),
        threshold=1.0,
        steps=60,
        cure=lambda: pretrained("llama"),
        finding="oversized-updates",
        cause="learning-rate",
    ),
    Case("transformer-pre-norm", "transformer", lambda: language(Language()), 0.8, steps=60),
    Case(
        "transformer-pre-norm-deep",
        "transformer",
        lambda: language(Language(8), 5e-3),
        0.8,
        steps=60,
    ),
    Case(
        "transformer-post-norm-warm-up",
        "transformer",
        lambda: language(Language(4, norm="post"), 3e-3, warm_up=20),
        0.8,
        steps=80,
    ),
    Case("gpt2-counting", "transformer", lambda: pretrained("gpt2"), 1.5, steps=60),
    Case("llama-counting", "transformer", lambda: pretrained("llama"), 0.8, steps=60),
    Case("t5-copying", "transformer", lambda: pretrained("t5"), 0.8, steps=60),
    Case("mamba-counting", "transformer", lambda: pretrained("mamba"), 0.8, steps=60),
    Case("bert-gaps", "transformer", lambda: pretrained("bert"), 1.5, steps=150),
)
