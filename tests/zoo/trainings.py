"""The trainings: each a recipe of model, data, loss, optimizer and steps; it runs in seconds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradwatch
from gradwatch.data import digits

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Training:
    """How to train one model."""

    model: Callable[[], nn.Module]
    data: Callable[[], Batch]
    steps: int = 80
    learning_rate: float = 0.1
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
    loss: nn.Module = field(default_factory=nn.CrossEntropyLoss)
    batch: int = 64
    disturb: Callable[[nn.Module, int], None] = lambda model, step: None
    """Called before each step: where a fault is put in at a certain one."""
    schedule: Callable[[int], float] = lambda step: 1.0
    """What the learning rate is multiplied with in each step."""
    trained: Callable[[nn.Module], Iterable[nn.Parameter]] = lambda model: model.parameters()
    """What the optimizer gets to hold."""


def run(
    training: Training,
    *,
    seed: int = 0,
    tell_loss: bool = True,
    log_dir: Path | None = None,
    **options: Any,
) -> tuple[gradwatch.Watcher, list[float]]:
    """Train and watch; returns the closed watcher and the losses."""
    torch.manual_seed(seed)
    model = training.model()
    optimizer = training.optimizer(training.trained(model), lr=training.learning_rate)
    loss_fn = copy.deepcopy(training.loss)
    losses = []
    with gradwatch.watch(model, optimizer, log_dir=log_dir, strict=True, **options) as watcher:
        for step, (inputs, targets) in enumerate(batches(training)):
            training.disturb(model, step)
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * training.schedule(step)
            loss = loss_fn(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if tell_loss:
                watcher.step(loss)
            losses.append(loss.item())
    return watcher, losses


def batches(training: Training) -> Iterator[Batch]:
    """Yield the batches of a training; they depend on the global seed."""
    inputs, targets = training.data()
    for _ in range(training.steps):
        picked = torch.randint(0, len(inputs), (training.batch,))
        yield inputs[picked], targets[picked]


def digit_vectors() -> Batch:
    """Handwritten digits as vectors of 64 standardised pixels."""
    images, labels = digits()
    flat = torch.from_numpy(images).reshape(-1, 64)
    return (flat - flat.mean()) / flat.std(), torch.from_numpy(labels)


def digit_scores() -> Batch:
    """The same vectors, with the digit to be regressed as ten numbers that are 0 or 10."""
    inputs, labels = digit_vectors()
    return inputs, 10.0 * nn.functional.one_hot(labels, 10)


def digits_of_one_class() -> Batch:
    """Digits whose labels were divided by ten before they were cast to integers."""
    inputs, labels = digit_vectors()
    return inputs, (labels / 10).long()


def digit_ink() -> Batch:
    """The same vectors, with the ink of the lower half over that of the upper one to be regressed:
    targets of shape [N]."""
    inputs, _ = digit_vectors()
    ink = inputs[:, 32:].mean(1) - inputs[:, :32].mean(1)
    return inputs, (ink - ink.mean()) / ink.std()


def digit_images() -> Batch:
    """Handwritten digits as 8x8 images of one channel."""
    inputs, labels = digit_vectors()
    return inputs.reshape(-1, 1, 8, 8), labels


def digit_rows() -> Batch:
    """Handwritten digits as sequences of 8 rows."""
    inputs, labels = digit_vectors()
    return inputs.reshape(-1, 8, 8), labels


def first_symbols(length: int = 12, samples: int = 1024) -> Batch:
    """Sequences of noise; the class is which of four symbols stands at the beginning."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (samples,), generator=generator)
    inputs = 0.3 * torch.randn(samples, length, 2, generator=generator)
    inputs[:, 0] = torch.stack([labels % 2, labels // 2], -1) * 2.0 - 1
    return inputs, labels


def mlp(
    depth: int,
    activation: Callable[[], nn.Module],
    *,
    width: int = 32,
    init: Callable[[Tensor], object] | None = None,
) -> nn.Sequential:
    """A plain multi-layer perceptron with `depth` hidden layers, on vectors of 64."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else 64, width), activation()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    if init is not None:
        for layer in model:
            if isinstance(layer, nn.Linear):
                init(layer.weight)
                nn.init.zeros_(layer.bias)
    return model


class FunctionalMLP(nn.Module):
    """The same, with its activations called in `forward`."""

    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.first(x))
        for layer in self.hidden:
            x = torch.sigmoid(layer(x))
        return self.head(x)  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """The block of ResNet-18, with an in-place ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.down is None else self.down(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + skip)  # type: ignore[no-any-return]


def resnet(width: int = 8) -> nn.Sequential:
    """A narrow ResNet-18 for 8x8 images."""
    widths = [width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
    blocks = []
    before = width
    for i, after in enumerate(widths):
        blocks.append(BasicBlock(before, after, 2 if i in (2, 4, 6) else 1))
        before = after
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(before, 10),
    )


class PreNormTransformer(nn.Module):
    """A small pre-norm encoder over the rows of a digit; with a mask of -inf on request."""

    def __init__(self, depth: int = 4, width: int = 32, *, masked: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 64, dropout=0.1, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)
        self.mask = CausalMask() if masked else None

    def forward(self, x: Tensor) -> Tensor:
        mask = None if self.mask is None else self.mask(x)
        x = self.encoder(self.embed(x) + self.position, mask=mask)
        return self.head(self.norm(x).mean(1))  # type: ignore[no-any-return]


class CausalMask(nn.Module):
    """Gives the additive mask of causal attention: -inf where one may not look."""

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        return torch.full((length, length), -torch.inf).triu(1)


class NanForward(nn.Module):
    """Passes its input on, but for one step, in which it divides 0 by 0."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (torch.zeros(()) / 0.0) if self.calls == self.step + 1 else x * 1.0


class NanBackward(nn.Module):
    """Adds sqrt(x * 0), whose value is 0 and whose gradient is 0 * inf, in one step only."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + (x * 0.0).sqrt() if self.calls == self.step + 1 else x * 1.0


class GatedMLP(nn.Module):
    """Hidden layers whose output is multiplied with a sigmoid gate that starts nearly open."""

    def __init__(self, depth: int = 3, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.values = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.Sigmoid()) for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)
        for gate in self.gates:
            nn.init.constant_(gate[0].bias, 5.0)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for value, gate in zip(self.values, self.gates, strict=True):
            x = gate(x) * torch.relu(value(x))
        return self.head(x)  # type: ignore[no-any-return]


class Experts(nn.Module):
    """A mixture in which each sample goes through the one expert that the router picks."""

    def __init__(self, experts: int = 6, width: int = 32) -> None:
        super().__init__()
        self.router = nn.Linear(64, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
            for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        weight, picked = self.router(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            mine = picked == i
            if mine.any():
                out = out.index_add(0, mine.nonzero()[:, 0], expert(x[mine]))
        return out * weight[:, None]


class TwoViews(nn.Module):
    """Encodes two noisy views of each sample with the same net."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one, other = (x + 0.3 * torch.randn_like(x) for _ in range(2))
        return self.encoder(one), self.encoder(other)


class Apart(nn.Module):
    """How far the two views are from each other; nothing holds the samples apart."""

    def forward(self, views: tuple[Tensor, Tensor], _: Tensor) -> Tensor:
        return (views[0] - views[1]).square().sum(-1).mean()


class WeightedLoss(nn.Module):
    """Cross-entropy times a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.weight * nn.functional.cross_entropy(output.float(), target)


class Half(nn.Module):
    """A model under autocast to float16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return self.model(x)  # type: ignore[no-any-return]


class Cast(nn.Module):
    """A model whose weights are in bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.bfloat16()).float()  # type: ignore[no-any-return]


class LinearExperts(nn.Module):
    """Linear experts, the first of which is favoured, with room for so many samples each."""

    def __init__(self, favour: float = 0.0, room: int | None = None) -> None:
        super().__init__()
        self.router = nn.Linear(10, 4)
        self.experts = nn.ModuleList(nn.Linear(10, 8) for _ in range(4))
        self.room = room
        with torch.no_grad():
            self.router.bias[0] += favour

    def forward(self, x: Tensor) -> Tensor:
        weight, picked = self.router(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), 8)
        for i, expert in enumerate(self.experts):
            mine = (picked == i).nonzero()[: self.room, 0]
            if len(mine):
                out = out.index_add(0, mine, expert(x[mine]) * weight[mine, None])
        return out


class Detached(nn.Module):
    """A deep encoder whose features are detached before the head: it stays as it was drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(12, nn.Sigmoid)[:-1]
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).detach())  # type: ignore[no-any-return]


class DetachedState(nn.Module):
    """Reads a sequence with a cell whose state is detached after each step."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.cell = nn.GRUCell(2, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), self.cell.hidden_size)
        for step in x.unbind(1):
            state = self.cell(step, state.detach())
        return self.head(state)  # type: ignore[no-any-return]


class EachToEach(nn.Module):
    """A squared error that lets outputs of shape [N, 1] and targets of shape [N] broadcast."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()


class ScaledLoss(nn.Module):
    """Cross-entropy that is a thousand times larger in one step: as an outlier makes it."""

    def __init__(self, step: int, factor: float) -> None:
        super().__init__()
        self.step, self.factor, self.calls = step, factor, 0

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        loss = nn.functional.cross_entropy(output, target)
        return loss * self.factor if self.calls == self.step + 1 else loss


def born_dead() -> nn.Sequential:
    """Hidden units with a bias so far below zero that no sample reaches them."""
    model = mlp(2, nn.ReLU)
    for layer in model:
        if isinstance(layer, nn.Linear) and layer is not model[-1]:
            nn.init.constant_(layer.bias, -20.0)
    return model


def unscaled_vectors() -> Batch:
    """Digits as vectors whose pixels go up to some thousands."""
    inputs, labels = digit_vectors()
    return 2000 * inputs, labels


def opposites() -> Batch:
    """A linear map and its opposite, and two inputs that tell which: one linear map for both is
    worth nothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=generator)
    which = torch.arange(512) % 2
    y = x @ torch.randn(8, 8, generator=generator) * (2 * which - 1)[:, None] / 8**0.5
    return torch.cat([3 * nn.functional.one_hot(which, 2).float(), x], -1), y


def with_module(model: nn.Sequential, position: int, module: nn.Module) -> nn.Sequential:
    """Return a model with one more module at a position."""
    layers = list(model)
    return nn.Sequential(*layers[:position], module, *layers[position:])


def he(weight: Tensor) -> Tensor:
    """He's initialisation, for rectifiers."""
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


def normal(std: float) -> Callable[[Tensor], Tensor]:
    """Normal weights of a given size."""
    return lambda weight: nn.init.normal_(weight, std=std)


ADAM = torch.optim.Adam

HEALTHY: dict[str, Training] = {
    "digits-mlp": Training(lambda: mlp(2, nn.ReLU), digit_vectors),
    "he-relu-mlp": Training(
        lambda: mlp(12, nn.ReLU, width=64, init=he), digit_vectors, learning_rate=0.02
    ),
    "resnet": Training(resnet, digit_images, steps=40, learning_rate=0.05),
    "pre-norm-transformer": Training(
        PreNormTransformer, digit_rows, learning_rate=1e-3, optimizer=ADAM
    ),
    "masked-attention": Training(
        lambda: PreNormTransformer(2, masked=True), digit_rows, learning_rate=1e-3, optimizer=ADAM
    ),
    "tanh-mlp": Training(
        lambda: mlp(4, nn.Tanh, init=nn.init.xavier_normal_), digit_vectors, learning_rate=0.05
    ),
    "gated-mlp": Training(GatedMLP, digit_vectors, learning_rate=3e-3, optimizer=ADAM),
    "default-relu-mlp-adam": Training(
        lambda: mlp(6, nn.ReLU, width=64), digit_vectors, learning_rate=3e-3, optimizer=ADAM
    ),
    "warm-up": Training(
        lambda: mlp(2, nn.ReLU), digit_vectors, schedule=lambda step: min(1.0, step / 20)
    ),
    "mixture-of-experts": Training(Experts, digit_vectors, learning_rate=1e-2, optimizer=ADAM),
}
"""They learn: the loss at the end is well below that at the beginning."""

SICK: dict[str, Training] = {
    "sigmoid-mlp": Training(lambda: mlp(20, nn.Sigmoid), digit_vectors),
    "functional-sigmoid-mlp": Training(lambda: FunctionalMLP(12), digit_vectors),
    "small-tanh-mlp": Training(lambda: mlp(12, nn.Tanh, init=normal(0.02)), digit_vectors),
    "default-relu-mlp": Training(lambda: mlp(24, nn.ReLU), digit_vectors),
    "large-tanh-mlp": Training(
        lambda: mlp(12, nn.Tanh, width=64, init=normal(1.0)), digit_vectors, learning_rate=0.5
    ),
    "large-relu-mlp": Training(
        lambda: mlp(12, nn.ReLU, width=64, init=normal(1.0)), digit_vectors, steps=12
    ),
    "high-learning-rate": Training(
        lambda: mlp(2, nn.Tanh),
        digit_scores,
        learning_rate=2.0,
        steps=20,
        loss=nn.MSELoss(),
    ),
    "unscaled-inputs": Training(
        lambda: mlp(3, nn.Tanh, init=nn.init.xavier_normal_), unscaled_vectors, learning_rate=0.5
    ),
    "born-dead": Training(born_dead, digit_vectors),
    "dying-relu": Training(
        lambda: mlp(3, nn.ReLU),
        digit_vectors,
        learning_rate=0.3,
        loss=ScaledLoss(4, 300.0),
        steps=150,
    ),
    "low-learning-rate": Training(lambda: mlp(2, nn.ReLU), digit_vectors, learning_rate=1e-8),
    "high-learning-rate-adam": Training(
        lambda: mlp(3, nn.ReLU), digit_vectors, learning_rate=1.0, optimizer=ADAM
    ),
    "oversized-steps": Training(
        lambda: mlp(3, nn.Tanh),
        digit_vectors,
        learning_rate=0.7,
        optimizer=lambda params, lr: torch.optim.AdamW(params, lr=lr, weight_decay=1.0),
    ),
    "detached": Training(Detached, digit_vectors),
    "detached-state": Training(
        DetachedState, first_symbols, learning_rate=1e-2, optimizer=ADAM, steps=100
    ),
    "forgotten-by-the-optimizer": Training(
        lambda: mlp(2, nn.ReLU),
        digit_vectors,
        trained=lambda model: copy.deepcopy(model).parameters(),
    ),
    "siamese-without-negatives": Training(
        TwoViews, digit_vectors, learning_rate=3e-3, optimizer=ADAM, steps=250, loss=Apart()
    ),
    "large-epsilon": Training(
        lambda: mlp(2, nn.ReLU),
        digit_vectors,
        learning_rate=1e-2,
        optimizer=lambda params, lr: torch.optim.Adam(params, lr=lr, eps=100.0),
    ),
    "large-weight-decay": Training(
        lambda: mlp(2, nn.ReLU),
        digit_vectors,
        optimizer=lambda params, lr: torch.optim.SGD(params, lr=lr, weight_decay=1.0),
    ),
    "maximised": Training(
        lambda: mlp(2, nn.ReLU),
        digit_vectors,
        learning_rate=0.01,
        optimizer=lambda params, lr: torch.optim.SGD(params, lr=lr, maximize=True),
    ),
    "bfloat16-weights": Training(
        lambda: Cast(mlp(2, nn.ReLU, width=64)),
        digit_vectors,
        learning_rate=3e-5,
        optimizer=ADAM,
    ),
    "unscaled-half": Training(
        lambda: Half(mlp(2, nn.ReLU)),
        digit_vectors,
        learning_rate=1e-2,
        optimizer=lambda params, lr: torch.optim.Adam(params, lr=lr, eps=1e-15),
        loss=WeightedLoss(1e-7),
    ),
    "collapsed-router": Training(
        lambda: LinearExperts(favour=40.0),
        opposites,
        learning_rate=1e-2,
        optimizer=ADAM,
        loss=nn.MSELoss(),
    ),
    "dropped-samples": Training(
        lambda: LinearExperts(room=1),
        opposites,
        learning_rate=1e-2,
        optimizer=ADAM,
        loss=nn.MSELoss(),
    ),
    "spike": Training(
        lambda: mlp(3, nn.ReLU), digit_vectors, loss=ScaledLoss(50, 1000.0), steps=90
    ),
    "targets-broadcast": Training(
        lambda: nn.Sequential(mlp(2, nn.ReLU), nn.Linear(10, 1)),
        digit_ink,
        learning_rate=3e-3,
        optimizer=ADAM,
        loss=EachToEach(),
    ),
    "targets-all-one-class": Training(lambda: mlp(2, nn.ReLU), digits_of_one_class),
    "running-statistics-fixed": Training(
        lambda: with_module(mlp(2, nn.ReLU), 0, nn.BatchNorm1d(64, momentum=0.0)), unscaled_vectors
    ),
    "norm-over-one-value": Training(
        lambda: nn.Sequential(
            mlp(2, nn.ReLU), nn.Unflatten(1, (10, 1)), nn.LayerNorm(1), nn.Flatten()
        ),
        digit_vectors,
    ),
    "nan-forward": Training(
        lambda: with_module(mlp(3, nn.ReLU), 4, NanForward(37)), digit_vectors, steps=45
    ),
    "nan-backward": Training(
        lambda: with_module(mlp(3, nn.ReLU), 4, NanBackward(37)), digit_vectors, steps=45
    ),
}
"""They do not learn, or not what is evaluated later, and each for a reason of its own."""
