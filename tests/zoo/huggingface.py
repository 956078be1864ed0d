"""The architectures that people train with `transformers`, tiny and with random weights: built from
configurations, so that no file and no network is needed. Imported only where transformers is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import transformers as hf
from torch import Tensor, nn

from gradwatch.data import digits

WIDTH = 32
LAYERS = 2
WORDS = 40
"""Size of the vocabulary."""
SPREAD = WIDTH**-0.5
"""Of the initial weights; the 0.02 that most configurations have belongs to some 768 units."""

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """A model that gives its own loss, and the batches of its task."""

    model: Callable[[], nn.Module]
    batches: Callable[[int], Iterator[Batch]]
    """`batches(n)` yields n batches; they depend on the global seed."""
    learning_rate: float = 3e-3
    """With AdamW, one at which the task is learnt in some 60 steps."""


def built(auto: type, config: hf.PretrainedConfig) -> Callable[[], nn.Module]:
    """Return a factory for a model in training mode whose weights depend on the global seed."""

    def build() -> nn.Module:
        model: nn.Module = auto.from_config(config)  # type: ignore[attr-defined]
        return model.train()

    return build


def counting(steps: int) -> Iterator[Batch]:
    """Yield sequences that go up by one: the next word is known from the word before."""
    for _ in range(steps):
        start = torch.randint(0, WORDS, (8, 1))
        words = (start + torch.arange(12)) % WORDS
        yield {"input_ids": words, "labels": words}


def copying(steps: int) -> Iterator[Batch]:
    """Yield sequences of one repeated word, to be given back by a decoder."""
    for _ in range(steps):
        words = torch.randint(2, WORDS, (8, 1)).expand(8, 8).contiguous()
        yield {"input_ids": words, "labels": words}


def gaps(steps: int) -> Iterator[Batch]:
    """Yield sequences of one repeated word in which some words are masked (word 0)."""
    for _ in range(steps):
        words = torch.randint(1, WORDS, (8, 1)).expand(8, 12).contiguous()
        hidden = torch.rand(words.shape) < 0.3
        hidden[:, 3] = True
        yield {
            "input_ids": words.masked_fill(hidden, 0),
            "labels": words.masked_fill(~hidden, -100),
        }


def pictures(steps: int, side: int = 32) -> Iterator[Batch]:
    """Yield batches out of 32 handwritten digits, enlarged, as three channels."""
    images, labels = (torch.from_numpy(part)[:32] for part in digits())
    small = ((images - images.mean()) / images.std()).reshape(-1, 1, 8, 8).float()
    large = nn.functional.interpolate(small, size=(side, side), mode="nearest")
    for _ in range(steps):
        picked = torch.randint(0, len(large), (16,))
        yield {
            "pixel_values": large[picked].expand(-1, 3, -1, -1).contiguous(),
            "labels": labels[picked],
        }


def gpt2() -> hf.PretrainedConfig:
    return hf.GPT2Config(
        vocab_size=WORDS,
        n_positions=16,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )


def llama() -> hf.PretrainedConfig:
    return hf.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=0,
    )


def t5() -> hf.PretrainedConfig:
    return hf.T5Config(
        vocab_size=WORDS,
        d_model=WIDTH,
        d_kv=8,
        d_ff=2 * WIDTH,
        num_layers=LAYERS,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )


def bert() -> hf.PretrainedConfig:
    return hf.BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=16,
        initializer_range=SPREAD,
    )


def mamba() -> hf.PretrainedConfig:
    return hf.MambaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        state_size=8,
        num_hidden_layers=LAYERS,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def vit() -> hf.PretrainedConfig:
    return hf.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        num_labels=10,
        initializer_range=SPREAD,
    )


def resnet() -> hf.PretrainedConfig:
    return hf.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, WIDTH],
        depths=[1, 1],
        layer_type="basic",
        num_labels=10,
    )


def convnext() -> hf.PretrainedConfig:
    return hf.ConvNextConfig(
        patch_size=2,
        hidden_sizes=[16, WIDTH],
        depths=[1, 1],
        num_stages=2,
        num_labels=10,
        initializer_range=SPREAD,
    )


CAUSAL, SEQ2SEQ, MASKED, IMAGES = (
    hf.AutoModelForCausalLM,
    hf.AutoModelForSeq2SeqLM,
    hf.AutoModelForMaskedLM,
    hf.AutoModelForImageClassification,
)

HUGGINGFACE: dict[str, Recipe] = {
    "gpt2": Recipe(built(CAUSAL, gpt2()), counting),
    "llama": Recipe(built(CAUSAL, llama()), counting),
    "t5": Recipe(built(SEQ2SEQ, t5()), copying),
    "bert": Recipe(built(MASKED, bert()), gaps),
    "mamba": Recipe(built(CAUSAL, mamba()), counting),
    "vit": Recipe(built(IMAGES, vit()), pictures),
    "resnet": Recipe(built(IMAGES, resnet()), pictures),
    "convnext": Recipe(built(IMAGES, convnext()), pictures),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own remarks (no fast kernels for Mamba) out of the output."""
    before = hf.logging.get_verbosity()
    hf.logging.set_verbosity_error()
    try:
        yield
    finally:
        hf.logging.set_verbosity(before)
