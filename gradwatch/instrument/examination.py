"""One examined step from its first forward call to its `Record`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from gradwatch.core.record import Layer, Parameter, Record
from gradwatch.core.stats import Stats
from gradwatch.instrument import exam
from gradwatch.instrument.gradients import sample
from gradwatch.instrument.kernel import measure
from gradwatch.instrument.probe import Probe

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
        held: frozenset[int] | None = None,
    ) -> None:
        """`held` are the ids of the parameters that optimizers hold, where those are known."""
        self._parameters = dict(parameters)
        self._held = held
        self.probe = Probe(layers, frozenset(map(id, parameters.values())), guard)
        self.probe.install(modules)
        self._gradients: dict[str, int] = {}
        self._weights: dict[str, int] = {}
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
        weights = {n: p for n, p in self._parameters.items() if n in set(names) and not p.is_meta}
        self._weights = {name: add(measure(weight)) for name, weight in weights.items()}
        self._samples = {name: sample(weight) for name, weight in weights.items()}

    @torch.no_grad()
    def record(
        self,
        step: int,
        *,
        loss: Tensor | float | None,
        clip_ratio: Tensor | None,
        notes: Sequence[str],
        learning_rates: Sequence[float] = (),
    ) -> Record:
        """End the step: measure what moved, copy everything over, and put it together."""
        self.probe.finish()
        transfer = self.probe.transfer
        before = {name: transfer.add(measure(value)) for name, value in self._samples.items()}
        moved = {
            name: transfer.add(measure(sample(self._parameters[name]).double() - value.double()))
            for name, value in self._samples.items()
        }
        loss_at = None if loss is None else transfer.add(_scalar(loss))
        clip_at = None if clip_ratio is None else transfer.add(_scalar(clip_ratio))
        numbers = transfer.fetch()

        def stats(tickets: Mapping[str, int], name: str) -> Stats | None:
            return Stats.unpack(numbers[tickets[name]]) if name in tickets else None

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
                None if self._held is None else id(parameter) in self._held,
            )
            for name, parameter in self._parameters.items()
        )
        said = list(notes)
        if self.probe.operations_left_out:
            said.append(
                f"{self.probe.operations_left_out} operations outside modules were not followed: "
                "there are too many in one step"
            )
        calls = exam.calls(self.probe.seen, numbers)
        self.probe.close()
        return Record(
            step,
            calls,
            parameters,
            None if loss_at is None else float(numbers[loss_at][0]),
            None if clip_at is None else float(numbers[clip_at][0]),
            self.read_point,
            tuple(said),
            tuple(learning_rates),
        )

    def close(self) -> None:
        """Give up: no hook stays."""
        self.probe.close()


def _scalar(value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().reshape(-1)[:1].double()
    return torch.tensor([value], dtype=torch.float64)
