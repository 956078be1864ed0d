"""Experts: modules of one form under one roof, and the layer that sends the samples to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gradwatch.core.record import Call, Record, around

FAINT: Final = 1e-6
"""A router's gradient, relative to its experts', that is only what rounding leaves of none."""
SURE: Final = 17.0
"""Logits from which on a softmax rounds to 0 or 1 in float32: it passes no gradient on."""


CHOOSING: Final = frozenset(
    [
        *("mul", "bmm", "mm", "linear", "where", "index", "index_select", "index_put"),
        *("gather", "scatter", "masked_scatter"),
    ]
)
"""Operations that make one output of several by what a router says."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Modules of the same form in one container, and the router before them."""

    experts: tuple[str, ...]
    router: Call
    """The last weighted call before them that gives one number for each of them."""
    rows: tuple[float, ...]
    """Samples (or tokens) that each was given in this step."""
    samples: float
    """Samples (or tokens) that the router saw."""

    @property
    def sorts(self) -> bool:
        """Whether samples are sent to some and not to others: each sees less than all there are,
        and not all of them the same share."""
        return len(set(self.rows)) > 1 and min(self.rows) < self.samples


def mixtures(record: Record) -> Iterator[Mixture]:
    """Yield what looks like a mixture of experts: a router's outputs are as many as its experts."""
    for experts in _alike(record):
        inside = tuple(f"{expert}." for expert in experts)
        calls = [
            (position, call)
            for position, call in enumerate(record.calls)
            if call.layer.name in experts
        ]
        if not calls:
            continue
        first = calls[0][0]
        # They are given what the router is given, and not, as layers in a row, what it gives.
        before = [call for call in record.calls[:first] if call.layer.weighted]
        if not any(c.layer.weight_shape[1:2] == _width(record, calls[0][0]) for c in before):
            continue
        routers = [
            call
            for call in before
            if call.output is not None
            and call.layer.weight_shape[:1] == (len(experts),)
            and not call.layer.name.startswith(inside)
        ]
        if not routers:
            continue
        router = routers[-1]
        assert router.output is not None
        rows = tuple(
            sum(_rows(record, position) for position, call in calls if call.layer.name == expert)
            for expert in experts
        )
        yield Mixture(experts, router, rows, router.output.count / len(experts))


def unheard(records: Sequence[Record]) -> Iterator[tuple[Mixture, tuple[str, ...]]]:
    """Yield mixtures whose router gets no gradient from what its experts say, in any exam, with its
    parameters: an expert's output is not multiplied with what the router says."""
    for mixture in mixtures(records[-1]) if records else ():
        name = mixture.router.layer.name
        own = tuple(
            p.name
            for p in records[-1].parameters
            if p.trainable and p.name.rpartition(".")[0] == name
        )
        experts = tuple(f"{expert}." for expert in mixture.experts)
        # What saturates as it learns has been heard; what is born saturated is another fault.
        output = mixture.router.output
        sure = output is not None and output.peak > SURE and mixture.router.grad_output is not None
        if own and not sure and all(_deaf(r, own, experts) for r in records):
            yield mixture, own


def chooses(record: Record, mixture: Mixture) -> bool:
    """Whether something is done with the experts' outputs that may be a choice among them."""
    last = max(i for i, c in enumerate(record.calls) if c.layer.name in mixture.experts)
    after = record.calls[last + 1 :]
    above = record.calls[last].parent
    return any(c.layer.functional and c.layer.kind in CHOOSING and c.parent == above for c in after)


def _deaf(record: Record, router: tuple[str, ...], experts: tuple[str, ...]) -> bool:
    heard, theirs = 0.0, 0.0
    for parameter in record.parameters:
        norm = parameter.gradient.norm if parameter.gradient is not None else 0.0
        if parameter.name in router:
            heard = max(heard, norm)
        elif parameter.name.startswith(experts):
            theirs = max(theirs, norm)
    return heard <= FAINT * theirs


def _alike(record: Record) -> Iterator[tuple[str, ...]]:
    """Yield the children of each container that have parameters of the same names and shapes."""
    forms: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {}
    for parameter in record.parameters:
        parts = parameter.name.split(".")
        for i in range(1, len(parts) - 1):
            children = forms.setdefault(".".join(parts[:i]), {})
            children.setdefault(parts[i], {})[".".join(parts[i + 1 :])] = parameter.shape
    for container, children in forms.items():
        groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[str]] = {}
        for child, form in children.items():
            groups.setdefault(tuple(form.items()), []).append(f"{container}.{child}")
        yield from (tuple(group) for group in groups.values() if len(group) > 1)


def _inside(record: Record, position: int) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of the weights in a call, in execution order."""
    for i, call in enumerate(record.calls):
        if call.layer.weighted and (i == position or position in around(record.calls, call)):
            yield call.layer.weight_shape


def _width(record: Record, position: int) -> tuple[int, ...]:
    """Return how many numbers of each sample a call is given."""
    return next(_inside(record, position), ())[1:2]


def _rows(record: Record, position: int) -> float:
    """Return how many samples went through a call: its last weighted layer knows its width."""
    output, shapes = record.calls[position].output, [*_inside(record, position)]
    return output.count / shapes[-1][0] if output is not None and shapes and shapes[-1] else 0.0
