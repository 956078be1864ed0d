"""The books balance: what the ledger blames adds up to what was lost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.core.ledger import Ledger, ledger
from gradwatch.core.record import NO_GRAD_INPUT, PASS_THROUGH, Call, Layer, Record
from gradwatch.core.stats import Stats

bits = st.floats(-30, 30)


def gradient(level: float) -> Stats:
    """A gradient with the norm 2^level."""
    return replace(Stats.empty(), count=1, squares=4.0**level)


def call(
    name: str, gain: float | None, level: float, parent: int | None = None, cut: bool = True
) -> Call:
    kind = name.rpartition(".")[2].rstrip("0123456789") or "Net"
    reason = NO_GRAD_INPUT if gain is None else ""
    return Call(Layer(name, kind), 0, parent, gain, reason, cut, grad_output=gradient(level))


def chain(gains: list[float | None]) -> Record:
    """A sequential model: `gains` from the first layer to the last, the loss's gradient is 1."""
    level, children = 0.0, []
    for position, gain in reversed(list(enumerate(gains))):
        children.append(call(f"layer{position}", gain, level, parent=0))
        level += gain or 0.0
    whole = None if None in gains else math.fsum(gain or 0.0 for gain in gains)
    return Record(0, (call("", whole, 0.0), *reversed(children)))


@given(st.lists(bits, min_size=1, max_size=12))
@settings(max_examples=60)
def test_a_chain_adds_up_layer_by_layer(gains: list[float]) -> None:
    """Every layer of a chain is blamed for its own bits, and they add up to the whole."""
    found = ledger(chain(list(gains)))
    assert [entry.layers for entry in found.entries] == [(f"layer{n}",) for n in range(len(gains))]
    assert [entry.bits for entry in found.entries] == pytest.approx(gains, abs=1e-6)
    assert found.total == pytest.approx(math.fsum(gains), abs=1e-6)


@given(st.lists(bits, min_size=1, max_size=12))
@settings(max_examples=30)
def test_a_first_layer_without_an_input_gradient_is_left_out(gains: list[float]) -> None:
    """The input of a model needs no gradient: its first layer has no gain, and no made-up 0."""
    found = ledger(chain([None, *gains]))
    assert "layer0" not in {entry.layers[0] for entry in found.entries}
    assert found.total == pytest.approx(math.fsum(gains), abs=1e-6)


@given(st.lists(bits, min_size=3, max_size=8), st.integers(1, 7))
@settings(max_examples=40)
def test_a_container_is_split_at_its_cuts_only(gains: list[float], at: int) -> None:
    """What lies between two cuts is blamed as a whole, and the sum stays the same."""
    record = chain(list(gains))
    at = min(at, len(gains) - 1)
    calls = list(record.calls)
    calls[at] = replace(calls[at], cut=False)  # the gradient bypasses this layer's output
    found = ledger(replace(record, calls=tuple(calls)))
    stretch = (f"layer{at - 1}", f"layer{at}")
    assert [entry.layers for entry in found.entries if len(entry.layers) > 1] == [stretch]
    assert found.total == pytest.approx(math.fsum(gains), abs=1e-6)


def test_a_container_without_a_cut_is_blamed_whole() -> None:
    """Inside of a block with a skip connection nothing is blamed for what bypasses it."""
    record = Record(
        0,
        (
            call("", 0.5, 0.0),
            call("block", 0.5, 0.0, parent=0),
            call("block.f", -20.0, 0.0, parent=1, cut=False),
            call("block.g", -20.0, 0.0, parent=1, cut=False),
        ),
    )
    found = ledger(record)
    assert [(entry.layers, entry.bits) for entry in found.entries] == [(("block",), 0.5)]


def test_the_inner_gain_of_a_residual_branch_is_not_added_up() -> None:
    """Thirty healthy blocks whose branches lose 10 bits each lose nothing together."""
    calls = [call("", 0.0, 0.0)]
    for block in range(30):
        calls.append(call(f"block{block}", 0.0, 0.0, parent=0))
        calls.append(call(f"block{block}.f", -10.0, -1.0, parent=len(calls) - 1, cut=False))
    assert [entry.bits for entry in ledger(Record(0, tuple(calls))).entries] == [0.0] * 30


def test_what_no_layer_explains_is_blamed_on_the_container() -> None:
    """An operation that was not seen, behind the last layer, is a line of its own."""
    record = Record(0, (call("", -8.0, 0.0), call("layer0", -5.0, -3.0, parent=0)))
    found = ledger(record)
    assert [(entry.layers, entry.bits) for entry in found.entries] == [
        (("layer0",), -5.0),
        (("",), -3.0),
    ]
    assert found.total == -8.0


def test_what_passes_its_input_on_is_no_line() -> None:
    """Dropout in evaluation mode, Identity: no entry."""
    record = chain([-1.0, -2.0])
    through = replace(call("identity", None, -2.0, parent=0), reason=PASS_THROUGH)
    with_it = Record(0, (*record.calls[:2], through, *record.calls[2:]))
    # Its position moves no parent: all of them are children of the first call.
    assert [e.bits for e in ledger(with_it).entries] == [e.bits for e in ledger(record).entries]


@pytest.mark.parametrize("squares", [0.0, math.inf])
def test_a_gradient_without_a_level_gives_no_entry(squares: float) -> None:
    """Nothing is blamed with an infinite number of bits."""
    dead = replace(call("", -1.0, 0.0), grad_output=replace(gradient(0), squares=squares))
    assert ledger(Record(0, (dead,))) == Ledger()
    assert ledger(Record(0)).total == 0.0


def test_kinds_are_grouped_with_the_largest_loss_first() -> None:
    """`by_kind` says what the Sigmoids and what the Linears lose together and each."""
    record = Record(
        0,
        (
            call("", -7.0, 0.0),
            call("Linear0", -1.0, -6.0, parent=0),
            call("Sigmoid0", -2.0, -4.0, parent=0),
            call("Linear1", -1.0, -3.0, parent=0),
            call("Sigmoid1", -3.0, 0.0, parent=0),
        ),
    )
    totals = ledger(record).by_kind()
    assert [(total.kind, total.bits, total.each) for total in totals] == [
        ("Sigmoid", -5.0, -2.5),
        ("Linear", -2.0, -1.0),
    ]
