"""A `Record` is one examined training step, as plain data.

It holds what went through each call of each layer (forward and backward) and what each parameter
and its gradient looked like at the end of backward, before clipping.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from gradwatch.core.answer import Answer, read
from gradwatch.core.stats import Active, Stats

NO_REASON: Final = ""
PASS_THROUGH: Final = "passes its input on unchanged"
NO_GRAD_INPUT: Final = "its input needs no gradient"
NO_GRAD_OUTPUT: Final = "its output needs no gradient"
NOT_REACHED: Final = "no gradient reached it"
PARTIAL: Final = "the backward pass reached only a part of it"
OVERWRITTEN: Final = "its output was overwritten in place"
NOT_FINITE: Final = "its gradient is not finite"
ZERO_GRADIENT: Final = "its gradient is exactly zero"
REASONS: Final = (
    NO_REASON,
    PASS_THROUGH,
    NO_GRAD_INPUT,
    NO_GRAD_OUTPUT,
    NOT_REACHED,
    PARTIAL,
    OVERWRITTEN,
    NOT_FINITE,
    ZERO_GRADIENT,
)
"""Why a call can have no gain. What has no number says why: never a made-up 0."""

MAX_TIMES: Final = 256
"""Time steps of a recurrent layer that are kept."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A place in the model: a module, or an operation that is no module."""

    name: str
    """The module's path as `named_modules()` gives it (`""` is the model itself), or for an
    operation the path of the module whose `forward` calls it, a colon, the operation and its
    number there: `encoder.0:sigmoid#1`."""
    kind: str
    """The class name of the module (`Linear`), or the operation (`sigmoid`)."""
    functional: bool = False
    """True for an operation called in some `forward`, like `torch.sigmoid`."""
    weighted: bool = False
    """True when it multiplies by a parameter of at least two dimensions (embeddings: no)."""
    weight_shape: tuple[int, ...] = ()
    """Shape of its own `weight`, where it has one."""
    builtin: bool = False
    """True for a class of `torch.nn` itself."""
    foreign: bool = False
    """True for an operation with an `nn.Parameter` that neither the model nor an optimizer knows: a
    layer in a plain list, or one that is made anew in each forward pass."""

    @property
    def label(self) -> str:
        """The name to show to people; the model itself is "(model)"."""
        return self.name or "(model)"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a layer in a step; micro-batches of the same step are merged into it."""

    layer: Layer
    index: int = 0
    """0 for the first call of this layer in a forward pass, 1 for the second, ..."""
    parent: int | None = None
    """Position in `Record.calls` of the call that made this one; None for an outermost one."""
    gain: float | None = None
    """log2 of (gradient norm at its input, through this call) / (gradient norm at its output), in
    bits: by how much backpropagation through it multiplied the gradient."""
    reason: str = NO_REASON
    """Why `gain` is None: one of `REASONS`."""
    cut: bool = False
    """Whether all of the gradient between its parent's output and input passes through its output:
    only there may the parent's gain be split without counting a path twice or not at all."""
    output: Stats | None = None
    """Its output, all floating-point tensors of it together; None where not observed."""
    grad_output: Stats | None = None
    """The gradient at its output, without the uses of that output inside the call itself."""
    active: Active | None = None
    """For an activation that can be zero: how often each of its units was not."""
    common: float | None = None
    """Squares of the part of the output that all samples of the batch share (their mean, as often
    as there are samples); None where it is not one tensor of several samples."""
    dtype: str = ""
    """Number format of the output: `float32`, `bfloat16`, ..."""
    training: bool = True
    """Whether the module was in training mode; an operation has none and counts as in training."""
    times: tuple[float, ...] = ()
    """For a recurrent layer: squares of the gradient at its input, by time step; at most
    `MAX_TIMES` of them, evenly spaced."""
    drift: float | None = None
    """For a normalisation with running statistics, in training mode: how far those are from this
    batch's, in nats (the Kullback-Leibler divergence between the normal distributions with these
    means and variances, of the median channel; 0 when they agree); None for all others."""

    @property
    def spread(self) -> float | None:
        """Share of the output's squares in which the samples of the batch differ: 0 when the layer
        says the same of every sample; None when not measured or the output is 0."""
        return _spread(self.output, self.common)


def around(calls: Sequence[Call], call: Call) -> Iterator[int]:
    """Yield the positions of the calls that this one was made in, the innermost first."""
    while call.parent is not None:
        yield call.parent
        call = calls[call.parent]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in an examined step. What could not be measured is None."""

    name: str
    shape: tuple[int, ...]
    trainable: bool = True
    reached: bool = True
    """Whether backward reached it in this step."""
    gradient: Stats | None = None
    """Accumulated over micro-batches, unscaled, before clipping."""
    weight: Stats | None = None
    update: Stats | None = None
    """The movement of a fixed strided sample of its elements by this optimizer step."""
    sample: Stats | None = None
    """That sample before the step; at step 0 of a frozen weight, too, which then stays the same."""
    held: bool | None = None
    """Whether an optimizer holds it; None when no optimizer is known."""
    group: int | None = None
    """Position in `Record.groups` of the group that steps it; None when none is known."""
    dtype: str = ""
    """Its number format: `float32`, `bfloat16`, ..."""
    common: float | None = None
    """Squares of the part of the weight that all its units (rows) share; None for one unit."""
    descent: float | None = None
    """Cosine between the movement of the sample and its negative gradient, from -1 to 1: 1 for
    plain gradient descent, below 0 where the step goes up the gradient."""
    carried: float | None = None
    """Norm of the gradient that was there already when the step's first backward began."""

    @property
    def update_ratio(self) -> float | None:
        """rms(update) / rms(weight) over the sample; None when not measured or the weight is 0."""
        if self.update is None or self.sample is None or not self.sample.rms:
            return None
        return self.update.rms / self.sample.rms

    @property
    def spread(self) -> float | None:
        """Share of the weight's squares in which its units differ: 0 when they are all the same;
        None when not measured or the weight is 0."""
        return _spread(self.weight, self.common)


@dataclass(frozen=True, slots=True)
class Group:
    """A parameter group of an optimizer, as it was at the step. What it has not is None."""

    kind: str
    """Class name of the optimizer: `AdamW`."""
    learning_rate: float | None = None
    """None, too, for a rate that is a tensor: it lives on the device."""
    weight_decay: float | None = None
    epsilon: float | None = None
    momentum: float | None = None
    """Momentum, or the first beta."""
    second_momentum: float | None = None
    """The second beta, or RMSprop's alpha."""
    maximize: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One examined step. Calls are in the order in which they began."""

    step: int
    """Optimizer steps done before this one."""
    calls: tuple[Call, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    loss: float | None = None
    clip_ratio: float | None = None
    """Gradient norm after clipping / before; 1 when nothing was clipped, None when not known."""
    read_point: str = "before clipping"
    """Where in the step the gradients were read."""
    notes: tuple[str, ...] = field(default=())
    """What could not be observed, and why."""
    groups: tuple[Group, ...] = ()
    """The parameter groups of the optimizers, where those are known."""
    output: tuple[float, ...] = ()
    """What the device sent of the model's output and the gradient there (`losses.FIELDS`)."""

    @property
    def answer(self) -> Answer | None:
        """What the model answered, and what that is worth; None where it was not seen."""
        return read(self.output, self.loss) if self.output else None

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """Of each parameter group, where it is known."""
        return tuple(g.learning_rate for g in self.groups if g.learning_rate is not None)

    @property
    def gradient_norm(self) -> float:
        """The norm of all (finite) gradients together."""
        squares = (p.gradient.squares for p in self.parameters if p.gradient is not None)
        return math.sqrt(math.fsum(squares))


def _spread(stats: Stats | None, common: float | None) -> float | None:
    if stats is None or common is None or stats.nonfinite or not 0 < stats.squares < math.inf:
        return None
    return max(0.0, 1 - common / stats.squares)
