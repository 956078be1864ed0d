"""One examined step from its first forward call to its `Record`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.core.record import Group, Layer, Parameter, Record
from gradwatch.core.stats import Stats
from gradwatch.instrument import exam
from gradwatch.instrument.gradients import sample
from gradwatch.instrument.hooks import Hook
from gradwatch.instrument.kernel import common, measure
from gradwatch.instrument.probe import Probe
from gradwatch.instrument.pulse import gradient_norms

BEFORE_CLIPPING = "before clipping"
AFTER_CLIPPING = "at the optimizer's step, after any clipping"


class Examination:
    """Holds what is measured of one step on the device until `record` brings it to the host."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        layers: Mapping[str, Layer],
        parameters: Mapping[str, nn.Parameter],
        guard: Callable[[Callable[..., None]], Callable[..., None]],
        optimizers: Sequence[torch.optim.Optimizer] = (),
    ) -> None:
        self._parameters = dict(parameters)
        self._optimizers = tuple(optimizers)
        self._carried: int | None = None
        ids = frozenset(map(id, parameters.values()))
        # Sharded ones are put together for the forward pass, and those are other parameters.
        sharded = any(hasattr(parameter, "to_local") for parameter in parameters.values())
        held = None if sharded else frozenset(_groups(self._optimizers))
        self.probe = Probe(layers, ids, guard, Hook(self, Examination._begin), held)
        self.probe.install(modules)
        self._gradients: dict[str, int] = {}
        self._directions: dict[str, Tensor] = {}
        self._weights: dict[str, int] = {}
        self._commons: dict[str, int] = {}
        self._samples: dict[str, Tensor] = {}
        self.read_point = BEFORE_CLIPPING

    @torch.no_grad()
    def read(
        self, names: Sequence[str], gradients: Sequence[Tensor | None], scale: Tensor | float | None
    ) -> None:
        """Measure gradients and weights at the end of a backward; the last of a step counts."""
        add = self.probe.transfer.add
        self.read_point = BEFORE_CLIPPING
        self._gradients = {
            name: add(measure(gradient if scale is None else gradient * scale))
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None and not gradient.is_meta
        }
        self._directions = {
            name: sample(gradient)
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None and gradient.layout is torch.strided and not gradient.is_meta
        }
        weights = {n: p for n, p in self._parameters.items() if n in set(names) and not p.is_meta}
        self._weights = {name: add(measure(weight)) for name, weight in weights.items()}
        commons = {name: common(weight) for name, weight in weights.items()}
        self._commons = {name: add(one) for name, one in commons.items() if one is not None}
        self._samples = {name: sample(weight) for name, weight in weights.items()}

    @torch.no_grad()
    def _begin(self) -> None:
        """The step's first backward begins: is there a gradient already?"""
        carried = gradient_norms([parameter.grad for parameter in self._parameters.values()])
        self._carried = self.probe.transfer.add(carried.double())

    def backward_ended(self, *, renewed: bool) -> None:
        """A backward has ended; `renewed` says that the gradients were begun anew for it."""
        if renewed:  # cleared after the graph was first looked at, as by an inner autograd.grad
            self._carried = None
        self.probe.backward_ended(renewed=renewed)

    @torch.no_grad()
    def record(
        self,
        step: int,
        *,
        loss: Tensor | float | None,
        clip_ratio: Tensor | None,
        notes: Sequence[str],
    ) -> Record:
        """End the step: measure what moved, copy everything over, and put it together."""
        self.probe.finish()
        transfer = self.probe.transfer
        before = {name: transfer.add(measure(value)) for name, value in self._samples.items()}
        if step == 0:  # frozen ones stay as they are
            before |= {n: transfer.add(measure(sample(p))) for n, p in self._frozen()}
        moves = {
            name: sample(self._parameters[name]).double() - value.double()
            for name, value in self._samples.items()
        }
        moved = {name: transfer.add(measure(move)) for name, move in moves.items()}
        descents = {
            name: transfer.add(_cosine(-moves[name], direction.double()))
            for name, direction in self._directions.items()
            if name in moves and moves[name].shape == direction.shape
        }
        loss_at = None if loss is None else transfer.add(_scalar(loss))
        clip_at = None if clip_ratio is None else transfer.add(_scalar(clip_ratio))
        numbers = transfer.fetch()

        def stats(tickets: Mapping[str, int], name: str) -> Stats | None:
            return Stats.unpack(numbers[tickets[name]]) if name in tickets else None

        def number(tickets: Mapping[str, int], name: str) -> float | None:
            value = float(numbers[tickets[name]][0]) if name in tickets else math.nan
            return value if math.isfinite(value) else None

        groups = _groups(self._optimizers)
        carried = (
            [None] * len(self._parameters)
            if self._carried is None
            else [max(0.0, float(norm)) for norm in numbers[self._carried]]
        )
        parameters = tuple(
            Parameter(
                name,
                tuple(parameter.shape),
                parameter.requires_grad,
                name in self._gradients,
                stats(self._gradients, name),
                stats(self._weights, name),
                stats(moved, name),
                stats(before, name),
                held=id(parameter) in groups if self._optimizers else None,
                group=groups.get(id(parameter)),
                dtype=str(parameter.dtype).removeprefix("torch."),
                common=number(self._commons, name),
                descent=number(descents, name),
                carried=there,
            )
            for (name, parameter), there in zip(self._parameters.items(), carried, strict=True)
        )
        said = list(notes)
        if self.probe.operations_left_out:
            said.append(
                f"{self.probe.operations_left_out} operations outside modules were not followed: "
                "there are too many in one step"
            )
        told = None if loss_at is None else float(numbers[loss_at][0])
        calls = exam.calls(self.probe.seen, numbers)
        output = exam.answer(self.probe.seen, numbers)
        self.probe.close()
        return Record(
            step,
            calls,
            parameters,
            told,
            None if clip_at is None else float(numbers[clip_at][0]),
            self.read_point,
            tuple(said),
            tuple(_described(self._optimizers)),
            output,
        )

    def _frozen(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, p in self._parameters.items():
            if not p.requires_grad and p.ndim > 1 and p.is_floating_point() and not p.is_meta:
                yield name, p

    def renew(self, parameters: Mapping[str, nn.Parameter]) -> bool:
        """Take these for those of the same names, which they have replaced; returns whether they
        are the same names."""
        if parameters.keys() != self._parameters.keys():
            return False
        self._parameters = dict(parameters)
        return True

    def close(self) -> None:
        """Give up: no hook stays."""
        self.probe.close()


def _scalar(value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().reshape(-1)[:1].double()
    return torch.tensor([value], dtype=torch.float64)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return a.dot(b) / (a.dot(a) * b.dot(b)).sqrt()


def _groups(optimizers: Iterable[torch.optim.Optimizer]) -> dict[int, int]:
    """Return by the id of each parameter that is held the position of its group."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return {id(p): i for i, group in enumerate(groups) for p in group["params"]}


def _described(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[Group]:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            betas = group.get("betas", ())
            first, second = betas[:2] if len(betas) > 1 else (None, None)
            yield Group(
                type(optimizer).__name__,
                _number(group.get("lr")),
                _number(group.get("weight_decay")),
                _number(group.get("eps")),
                _number(group.get("momentum", first)),
                _number(group.get("alpha", second)),
                bool(group.get("maximize", False)),
            )


def _number(value: Any) -> float | None:
    # A tensor lives on the device, and would have to be waited for.
    return float(value) if isinstance(value, int | float) else None
