"""Gradients that are zero, or next to it, for a time or in part, as they should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np

from gradwatch.core.progress import progress
from gradwatch.core.record import NO_GRAD_INPUT, Call, Parameter, Record
from gradwatch.core.waiver import Evidence, Waiver, between, listed, owner, size

GRACE: Final = 10
"""Steps within which a gradient that begins as zero has to come, if nothing is seen that it waits
for; and for which it may wait for what is seen."""
SMALL: Final = 0.01
"""Value of a constant scale that counts as starting near zero: LayerScale starts at 1e-6 to 1e-4,
and at 0.1 in its shallowest form, which is not small (Touvron et al. 2021)."""
FAINT: Final = 2.0**-7
"""Gradient of a weight that is scaled down, over the median of those that are not."""
MOST: Final = 0.5
"""Share of zero entries in the gradient of an embedding from which on one would wonder."""
FADED: Final = 1 / 30
"""What is left of a gradient that has faded."""
ALIKE: Final = 30.0
"""Factor by which a parameter may have faded more than the typical one."""
DONE: Final = 0.1
"""What is left of the loss in a training that is done."""
ENOUGH: Final = 20
"""Steps that must be known before anything can be said to have faded."""


def zero_at_first(evidence: Evidence) -> Iterator[Waiver]:
    """Yield what gets no gradient at first because something behind it starts at zero: a zero-init
    branch or head, LoRA's B, the scale of ReZero."""
    born, now = evidence.exams[0], evidence.parameters
    waits: dict[str, str] = {}
    woke: dict[str, int] = {}
    behind: dict[str, str] = {}
    gates_then, gates_now = _gates(born), _gates(now)
    for position, name in enumerate(evidence.names):
        if name not in born or name not in now or not _is_zero(born[name]):
            continue
        step, lasts = _beginning(evidence, position)
        if step is None:
            gate = _nearest(gates_now, name)
            if gate is not None and evidence.steps[-1] < GRACE:
                waits[name] = gate
        elif lasts:
            gate = _nearest(gates_then, name)
            if gate is not None and gate in now and size(now[gate].weight):
                behind[name], woke[name] = gate, step
            elif step <= GRACE:
                woke[name] = step
    if waits:
        reason = f"zero until what starts at zero moves: {listed(_distinct(waits.values()))}"
        yield Waiver("zero-at-first", reason, tuple(waits))
    for names in (tuple(behind), tuple(name for name in woke if name not in behind)):
        if names:
            steps = [woke[name] for name in names]
            first = _distinct(behind[name] for name in names if name in behind)
            reason = f"zero before step {between(min(steps), max(steps), 'd')} only"
            if first:
                reason += f", until what starts at zero had moved: {listed(first)}"
            early = tuple(r.step for r in evidence.records if r.step < max(steps))
            yield Waiver("zero-at-first", reason, names, early)


def _is_zero(parameter: Parameter) -> bool:
    """Whether its gradient is exactly zero: that its norm is may be float32's range."""
    gradient = parameter.gradient
    return gradient is not None and 0 < gradient.count == gradient.zeros


def _beginning(evidence: Evidence, position: int) -> tuple[int | None, bool]:
    """Return the first step in which it had a gradient, and whether it has had one since."""
    reached = evidence.reached[:, position]
    alive = evidence.norms[reached, position] != 0
    if not alive.any():
        return None, False
    first = int(alive.argmax())
    return int(evidence.steps[reached][first]), bool(alive[first:].all())


def _gates(parameters: Mapping[str, Parameter]) -> list[str]:
    """Return the weights and scales that are zero and that have a gradient."""
    return [
        parameter.name
        for parameter in _factors(parameters)
        if parameter.weight is not None
        and 0 < parameter.weight.count == parameter.weight.zeros
        and size(parameter.gradient)
        and parameter.held is not False
    ]


def _factors(parameters: Mapping[str, Parameter]) -> Iterator[Parameter]:
    """Yield what is multiplied with and not added: all but those of one dimension that stand beside
    a weight."""
    weighted = {
        owner(name)
        for name, parameter in parameters.items()
        if len(parameter.shape) > 1 or name.rpartition(".")[2] == "weight"
    }
    for name, parameter in parameters.items():
        beside = owner(name) in weighted and name.rpartition(".")[2] != "weight"
        if not (len(parameter.shape) == 1 and beside):
            yield parameter


def _nearest(gates: Iterable[str], name: str) -> str | None:
    """Return the one that shares the most of the way through the modules with a parameter."""
    path = name.split(".")

    def shared(gate: str) -> int:
        pairs = zip(path, gate.split("."), strict=False)
        return next((i for i, (own, other) in enumerate(pairs) if own != other), len(path))

    return max((gate for gate in gates if gate != name), key=shared, default=None)


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def scaled_down(evidence: Evidence) -> Iterator[Waiver]:
    """Yield the weights of a branch that is multiplied with a constant scale near zero: LayerScale.

    The branch is what is in the same module as the scale (or as the module that is the scale), and
    its gradients have to be as small as that makes them, against those of all other weights.
    """
    born = evidence.exams[0]
    scopes: dict[str, str] = {}
    for scale in _factors(born):
        if scale.weight is None or not _is_faint_constant(scale):
            continue
        alone = not any(n != scale.name and owner(n) == owner(scale.name) for n in born)
        scope = owner(owner(scale.name)) if alone else owner(scale.name)
        if scope:
            scopes.setdefault(f"{scope}.", scale.name)
    outside = [
        size(p.gradient)
        for p in born.values()
        if len(p.shape) > 1 and size(p.gradient) and not p.name.startswith(tuple(scopes))
    ]
    if not scopes or not outside:
        return
    limit = FAINT * float(np.median(outside))
    inside = {
        p.name: scopes[scope]
        for scope in scopes
        for p in born.values()
        if p.name.startswith(scope) and 0 < size(p.gradient) < limit and p.name != scopes[scope]
    }
    scales = _distinct(inside.values())
    if inside:
        exams = zip(evidence.records, evidence.exams, strict=True)
        steps = [record.step for record, exam in exams if _still_faint(exam, scales)]
        sizes = [size(born[scale].weight) for scale in scales]
        yield Waiver(
            "scaled-down-at-first",
            f"scaled down by what starts at {between(min(sizes), max(sizes), '.0e')}: "
            f"{listed(scales)}",
            tuple(inside),
            () if evidence.latest.step in steps else tuple(steps),
        )


def _is_faint_constant(parameter: Parameter) -> bool:
    weight = parameter.weight
    if weight is None or not 0 < size(weight) <= SMALL:
        return False
    return abs(weight.mean) >= (1 - 1e-6) * size(weight)  # all the same


def _still_faint(parameters: Mapping[str, Parameter], scales: Iterable[str]) -> bool:
    found = [size(parameters[name].weight) for name in scales if name in parameters]
    return bool(found) and float(np.median(found)) <= SMALL


def sparse_rows(evidence: Evidence) -> Iterator[Waiver]:
    """Yield the embeddings most of whose rows the latest batch did not ask for."""
    shares: dict[str, float] = {}
    for call in evidence.latest.calls:
        if not _looks_up(call):
            continue
        place = call.layer.name.partition(":")[0]
        for parameter in evidence.latest.parameters:
            inside = not place or parameter.name.startswith(f"{place}.")
            gradient = parameter.gradient
            if parameter.shape != call.layer.weight_shape or gradient is None or not inside:
                continue
            if gradient.squares > 0 and gradient.zeros >= MOST * gradient.count:
                shares[parameter.name] = gradient.zeros / gradient.count
    if shares:
        low, high = min(shares.values()), max(shares.values())
        yield Waiver(
            "rows-not-in-the-batch",
            f"{between(low, high, '.0%')} of its gradient is zero: rows that are not in the batch",
            tuple(shares),
            (evidence.latest.step,),
        )


def _looks_up(call: Call) -> bool:
    """Whether it is a table that indices, which have no gradient, are looked up in."""
    layer = call.layer
    if layer.functional:
        return layer.kind.startswith("embedding") and len(layer.weight_shape) == 2
    return not layer.weighted and len(layer.weight_shape) == 2 and call.reason == NO_GRAD_INPUT


def standing_still(evidence: Evidence) -> Iterator[Waiver]:
    """Yield what did not move in some exams because its learning rate was 0, and moved in others:
    the first step of a warm-up, the last one of a cosine."""
    moved = {
        name
        for exam in evidence.exams
        for name, p in exam.items()
        if p.update is not None and p.update.squares > 0
    }
    names: dict[str, None] = {}
    steps: list[int] = []
    for record in evidence.records:
        standing = (p for p in record.parameters if p.name in moved)
        still = [p.name for p in standing if _stands_still(p, record)]
        if still:
            names |= dict.fromkeys(still)
            steps.append(record.step)
    if steps:
        listed_steps = ", ".join(map(str, steps[:3])) + (", ..." if len(steps) > 3 else "")
        yield Waiver(
            "learning-rate-0",
            f"not moved at step {listed_steps}, where the learning rate is 0",
            tuple(names),
            tuple(steps),
        )


def _stands_still(parameter: Parameter, record: Record) -> bool:
    if parameter.group is None or not 0 <= parameter.group < len(record.groups):
        return False
    still = parameter.update is not None and parameter.update.squares == 0
    rate = record.groups[parameter.group].learning_rate
    return rate == 0 and still and size(parameter.gradient) > 0


def converged(evidence: Evidence) -> Iterator[Waiver]:
    """Yield the gradients that have faded together because the training is done: the loss has
    fallen, and no parameter has faded much more than the others."""
    steps = evidence.complete
    tenth = max(1, len(steps) // 10)
    going = progress(evidence.history)
    last = going.begin - going.fall
    done = going.moving and going.begin > 0 and last <= DONE * going.begin
    if len(steps) < ENOUGH or not done:
        return
    early, late = (_typical(evidence, part) for part in (steps[: 2 * tenth], steps[-tenth:]))
    known = np.flatnonzero((early > 0) & (late > 0))
    if not known.size:
        return
    left = late[known] / early[known]
    usual = float(np.median(left))
    faded = (left <= FADED) & (left >= usual / ALIKE)
    if usual <= FADED:
        yield Waiver(
            "converged",
            f"faded together to {usual:.0e} of what they were, as the loss went from "
            f"{going.begin:.3g} to {last:.3g}",
            tuple(evidence.names[i] for i in known[faded]),
        )


def _typical(evidence: Evidence, steps: np.ndarray) -> np.ndarray:
    """Return the median norm of each parameter over some steps; 0 where there is none."""
    norms = evidence.norms[steps]
    norms = np.where(np.isfinite(norms) & (norms >= 0), norms, 0.0)
    return np.asarray(np.median(norms, axis=0))
