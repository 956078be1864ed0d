"""A `Record` is one examined training step, as plain data.

It holds what went through each call of each layer (forward and backward) and what each parameter
and its gradient looked like at the end of backward, before clipping.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

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
    """That sample before the step."""
    held: bool | None = None
    """Whether an optimizer holds it; None when no optimizer is known."""

    @property
    def update_ratio(self) -> float | None:
        """rms(update) / rms(weight) over the sample; None when not measured or the weight is 0."""
        if self.update is None or self.sample is None or not self.sample.rms:
            return None
        return self.update.rms / self.sample.rms


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
    learning_rates: tuple[float, ...] = ()
    """Of each parameter group of the optimizers, where those are known."""

    @property
    def gradient_norm(self) -> float:
        """The norm of all (finite) gradients together."""
        squares = (p.gradient.squares for p in self.parameters if p.gradient is not None)
        return math.sqrt(math.fsum(squares))
