"""Recurrent layers, read off a record: which there are, and over how many steps they are read."""

from __future__ import annotations

from typing import Final

from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe
from gradwatch.remedies import _reading

PLAIN: Final = frozenset({"RNN", "RNNCell"})
GATED: Final = frozenset({"LSTM", "LSTMCell", "GRU", "GRUCell"})


def layers(record: Record, kinds: frozenset[str]) -> dict[str, str]:
    """Return the trained recurrent layers of torch.nn of these classes, by name; raises
    `CannotPrescribe` when there is none."""
    trained = {p.name.rpartition(".")[0] for p in record.parameters if p.trainable}
    found = {
        call.layer.name: call.layer.kind
        for call in record.calls
        if call.layer.builtin and call.layer.kind in kinds and call.layer.name in trained
    }
    if not found:
        raise CannotPrescribe(f"the model has no {' or '.join(sorted(kinds))} that is trained")
    return found


def steps(record: Record, name: str) -> int:
    """Return over how many time steps a layer is seen to be read; a cell, how often called."""
    calls = [call for call in record.calls if call.layer.name == name]
    return max([len(calls), *(len(call.times) for call in calls)])


def replaceable(record: Record, name: str) -> bool:
    """Whether another module can stand in its place."""
    return all(
        _reading.replaceable(record, call) for call in record.calls if call.layer.name == name
    )
