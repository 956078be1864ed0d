"""What a network can reach that has learnt nothing but its output's bias: the best constant.

A network whose gradient has vanished still learns the bias of its last layer, and its loss falls:
only a loss below that of the best constant output shows that it uses its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

Link = Callable[[Tensor], Tensor]

IGNORED: Final = -100
"""The label that Hugging Face models leave out of their loss."""
ITERATIONS: Final = 30
EDGE: Final = 1e-6
"""Probabilities are kept so far from 0 and 1."""
TRIVIAL: Final = 1e-3
"""Part of the loss of a zero output: a batch that leaves less to be learnt beyond a constant cannot
tell the two apart."""
SAME: Final = 1e-3
"""Relative difference up to which two losses are the same one, computed in another way."""


class NotApplicable(Exception):
    """No constant output can be compared with; the message says why."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The losses that frame what a network can learn from a batch."""

    loss: float
    """Of the best output that is the same for every sample."""
    floor: float
    """Of the best output altogether, with every sample fitted on its own."""


def best_constant(
    loss_of: Callable[[Any], Tensor], first: Any, last: Any, head: int | None
) -> Constant:
    """Find the best constant output under a loss.

    `first` and `last` are outputs of the network before and after its training: they tell the
    range of its values (a log-softmax gives log-probabilities only). Their means are constants,
    too, so a network with a constant output is never better than what is found here. `head` is
    the number of values that the network's last layer gives.
    """
    leaves, spec = tree_flatten(last)
    before = tree_flatten(first)[0]
    if [getattr(leaf, "shape", None) for leaf in leaves] != [
        getattr(leaf, "shape", None) for leaf in before
    ]:
        raise NotApplicable("the output changes its form from step to step")
    at = [i for i, leaf in enumerate(leaves) if _varies(leaf)]
    if not at:
        raise NotApplicable(f"the output ({type(last).__name__}) holds no tensor to be replaced")
    links = [_range(before[i], leaves[i]) for i in at]

    def loss_at(free: Sequence[Tensor]) -> Tensor:
        outputs = list(leaves)
        for i, (link, _), value in zip(at, links, free, strict=True):
            value = value if value.requires_grad else value.detach().requires_grad_()
            outputs[i] = link(value + torch.zeros_like(leaves[i])).to(leaves[i].dtype)
        try:
            loss = loss_of(tree_unflatten(outputs, spec))
        except Exception as error:
            raise NotApplicable(f"for a constant output {error}") from error
        return loss.reshape(())

    def lowest(starts: Sequence[list[Tensor]]) -> tuple[float, list[Tensor]]:
        return _minimum(loss_at, min(starts, key=lambda start: _value(loss_at(start))))

    # In the free coordinates of its range a mean of log-probabilities stays one.
    own = [
        [inverse(outputs[i].detach().float()) for i, (_, inverse) in zip(at, links, strict=True)]
        for outputs in (before, leaves)
    ]
    found = []
    for dims in _shared(leaves[at[0]], head):
        means = [[value.mean(_others(dims, value), keepdim=True) for value in one] for one in own]
        found.append(lowest([[torch.zeros_like(mean) for mean in means[0]], *means]))
    if not found:
        raise NotApplicable("a constant fits any batch of one sample")
    best = min(found, key=lambda one: one[0])
    # A value for each sample: how low the loss of this batch can be at all.
    each = [c.expand(value.shape).clone() for c, value in zip(best[1], own[0], strict=True)]
    floor = lowest([each, *own])[0]
    zero = _value(loss_at([torch.zeros_like(c) for c in best[1]]))
    if best[0] - floor <= TRIVIAL * (zero - floor):
        raise NotApplicable(f"a constant output fits this batch as well as any: {best[0]:.2g}")
    return Constant(best[0], floor)


def own_loss(output: Any, batch: Any) -> Callable[[Any], Tensor]:
    """Return the loss that a Hugging Face model computed by itself, as a function of its output:
    the cross-entropy of the labels or, for causal ones, of the next labels."""
    logits, labels = (item(source, key) for source, key in ((output, "logits"), (batch, "labels")))
    loss = item(output, "loss")
    if isinstance(logits, Tensor) and isinstance(labels, Tensor) and isinstance(loss, Tensor):

        def plain(logits: Tensor) -> Tensor:
            flat = logits.reshape(-1, logits.shape[-1]).float()
            return F.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORED)

        def shifted(logits: Tensor) -> Tensor:
            flat = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
            return F.cross_entropy(flat, labels[:, 1:].reshape(-1), ignore_index=IGNORED)

        def squared(logits: Tensor) -> Tensor:
            return F.mse_loss(logits.reshape(labels.shape).float(), labels.float())

        for candidate in (squared,) if labels.is_floating_point() else (plain, shifted):
            try:
                again = _value(candidate(logits))
            except (RuntimeError, IndexError, ValueError):  # the shapes do not go together
                continue
            if math.isclose(again, _value(loss), rel_tol=SAME):
                return candidate
    raise NotApplicable("how the model computes its loss is not known")


def item(source: Any, key: str) -> Any:
    """Return a mapping's item or an object's attribute; None where there is none."""
    return source.get(key) if isinstance(source, Mapping) else getattr(source, key, None)


def _varies(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() > 0


def _shared(leaf: Tensor, head: int | None) -> Iterator[tuple[int, ...]]:
    """Yield the dimensions that a constant output may still depend on: those of one sample; for
    sequences and images those of one position, since a bias is the same for all positions."""
    samples = range(1, leaf.dim())
    if leaf.dim() <= 2 or head == math.prod(leaf.shape[1:]):
        ways = [tuple(samples)]
    else:
        ways = [(leaf.dim() - 1,), (1,)]
    for dims in ways:
        if leaf.numel() > math.prod(leaf.shape[dim] for dim in dims):
            yield dims


def _others(dims: tuple[int, ...], leaf: Tensor) -> list[int]:
    """Return the dimensions to take the mean over."""
    kept = dims if leaf.dim() > 2 else range(1, leaf.dim())
    return [dim for dim in range(leaf.dim()) if dim not in kept]


def _range(first: Tensor, last: Tensor) -> tuple[Link, Link]:
    """Return functions from all numbers to the range of the outputs, and back."""

    def same(x: Tensor) -> Tensor:
        return x

    def always(holds: Callable[[Tensor], Tensor]) -> bool:
        return all(bool(holds(x.detach().float()).all()) for x in (first, last))

    for dim in {last.dim() - 1, min(1, last.dim() - 1)}:
        if last.shape[dim] < 2:
            continue
        if always(lambda x: x.logsumexp(dim).abs() < SAME):  # noqa: B023 (called here and now)
            return partial(torch.log_softmax, dim=dim), same
        if always(lambda x: (x.sum(dim) - 1).abs() < SAME) and always(lambda x: x >= 0):  # noqa: B023
            return partial(torch.softmax, dim=dim), lambda x: x.clamp(min=EDGE).log()
    if always(lambda x: (x >= 0) & (x <= 1)):
        return torch.sigmoid, lambda x: x.logit(EDGE)
    return same, same


def _minimum(
    loss_at: Callable[[Sequence[Tensor]], Tensor], start: Sequence[Tensor]
) -> tuple[float, list[Tensor]]:
    """Minimise a loss from a start; raises `NotApplicable` when it falls without end."""
    free = [value.detach().clone().requires_grad_() for value in start]
    optimizer = torch.optim.LBFGS(
        free, max_iter=ITERATIONS, history_size=5, line_search_fn="strong_wolfe"
    )
    best = _value(loss_at(free)), list(start)
    begin = best[0]

    def closure() -> Tensor:
        nonlocal best
        optimizer.zero_grad()
        loss = loss_at(free)
        loss.backward()
        if (value := _value(loss)) < best[0]:
            best = value, [one.detach().clone() for one in free]
        return loss

    optimizer.step(closure)
    twice = [2 * found - before for found, before in zip(best[1], start, strict=True)]
    if begin - _value(loss_at(twice)) > 1.5 * (begin - best[0]) > 0 and best[0] < 0:
        raise NotApplicable("the loss of a constant output falls without end")
    if not math.isfinite(best[0]):
        raise NotApplicable("the loss of a constant output is not finite")
    return best


def _value(loss: Tensor) -> float:
    value = float(loss.detach())
    return value if math.isfinite(value) else math.inf
