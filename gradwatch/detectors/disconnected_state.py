"""Disconnected state: the gradient does not get from one time step to the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import NO_GRAD_INPUT, NOT_REACHED, Call, Record
from gradwatch.detectors import _depth, _outcome, _plateau, _time

RECURRENT: Final = frozenset({"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"})
"""Layers that are known to have a state."""


@dataclass(frozen=True, slots=True)
class DisconnectedState:
    """A layer is called once for each time step, and only its latest calls get a gradient: the
    state is detached on its way from one call to the next, or each call begins with a new one.

    Its parameters do get a gradient, from the last step, so that nothing else shows it. The same
    is done on purpose (truncated backpropagation through time, within one step) where the answer
    lies in the latest steps: so it is silent while the training learns more than a little. Batches
    that begin with the detached state of the batch before are another thing, and in order.

    What is counted: calls of one layer in an examined step, the first half of which no gradient
    reaches, though their outputs require one. For a cell of torch also: calls that all get a
    gradient, and none of which is given anything that requires one.
    """

    name: ClassVar[str] = "disconnected-state"

    share: float = 0.5
    """Share of the calls from which on it is more than a last step that nobody reads."""
    patience: int = 30
    """Steps after which a training is held back by it if it gets nowhere."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Look at the latest exams."""
        streak = _outcome.latest_streak(history, lambda record: bool(self._cut(record)))
        going = progress(history)
        if not streak or (going.moving and not _outcome.learns_little(history, going)):
            return ()
        since, until = streak[0].step, streak[-1].step
        record = streak[-1]
        found = _carrying(self._cut(record))
        names = tuple(dict.fromkeys(n for calls in found for n in _time.names(record, calls)))
        lasting = _outcome.lasting(streak) and until >= self.patience
        stuck = going.moving is False and _plateau.held_back(history, going, streak)
        if lasting and stuck and _plateau.moved(history, names):
            severity = Severity.CRITICAL
        elif going.moving is not None or until < self.patience:
            severity = Severity.WARNING
        else:  # it is not known what becomes of it, and it may be meant
            severity = Severity.NOTE
        reached = [call.grad_output is not None for call in found[0]]
        if all(reached):
            how = (
                f"each of its {len(reached)} calls in a step gets a gradient of its own output only"
            )
        else:
            how = f"of its {len(reached)} calls in a step the last {sum(reached)} get a gradient"
        text = (
            f"{how}: the state is detached (`.detach()`, `.data`, `no_grad`, NumPy) on its way "
            "from one call to the next, or not given to it."
        )
        return (
            Finding(
                self.name,
                severity,
                f"the gradient does not get back through the state of {_depth.listed(names)}: "
                f"{how}",
                names,
                since,
                until,
                (Cause("disconnection", text, names, share=1.0),),
                f"Counted in each exam since step {since}; {going.text}.",
                {"calls": float(len(reached)), "reached": float(sum(reached))},
            ),
        )

    def _cut(self, record: Record) -> list[list[Call]]:
        """Return the calls of the layers whose state is cut off."""
        groups = [calls for calls in _time.repeated(record) if len(calls) >= _time.MIN_TIMES]
        return _time.outermost(record, [one for one in groups if self._is_cut(record, one)])

    def _is_cut(self, record: Record, calls: Sequence[Call]) -> bool:
        reached = [call.grad_output is not None for call in calls]
        first = reached.index(True) if any(reached) else len(calls)
        if all(reached[first:]) and self.share * len(calls) <= first < len(calls):
            return _none_reached(record, calls[:first])
        layer = calls[0].layer
        cell = layer.builtin and layer.kind in RECURRENT and layer.kind.endswith("Cell")
        return cell and all(reached) and all(call.reason == NO_GRAD_INPUT for call in calls)


def _none_reached(record: Record, missed: Sequence[Call]) -> bool:
    """Whether nothing got a gradient while these calls were made. A head that is called at each
    step, and read at the last, is missed, too: then the layer that has the state is not."""
    ids = {id(call) for call in missed}
    positions = [i for i, call in enumerate(record.calls) if id(call) in ids]
    meanwhile = record.calls[positions[0] : positions[-1] + 1]
    return all(call.reason == NOT_REACHED for call in missed) and all(
        call.grad_output is None for call in meanwhile
    )


def _carrying(groups: list[list[Call]]) -> list[list[Call]]:
    """Leave out what is called beside the layer that has the state, where that is known."""
    return [calls for calls in groups if calls[0].layer.kind in RECURRENT] or groups


DETECTORS = (DisconnectedState(),)
HEALTHY = ("gru-adding-problem", "irnn-long-memory", "padding-gathered", "lstm-digit-rows")
SICK = ("detached-state",)
