"""The entries of a ledger, sorted by the kind of layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.ledger import Entry, ledger
from gradwatch.core.record import Call, Record, around


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SIGMOIDS: Final = _words("Sigmoid Hardsigmoid sigmoid hardsigmoid")
"""Their slope is at most 1/4 (1/6): 2 to 2.6 bits each, whatever comes in."""
STEEP: Final = _words("Tanh Hardtanh Softsign tanh hardtanh softsign")
"""Bounded ones whose slope is 1 at zero: they lose bits only when the signal is too large."""
BOUNDED: Final = (
    SIGMOIDS
    | STEEP
    | _words("LogSigmoid Softmax Softmax2d LogSoftmax log_sigmoid softmax log_softmax")
)
RECTIFIERS: Final = _words(
    """
    ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Softplus Hardswish
    relu threshold leaky_relu prelu rrelu elu selu celu gelu silu mish softplus
    hardswish
    """
)
"""Activations that pass about half of the signal on: half a bit each, which He's init restores."""
SCALINGS: Final = _words("mul div")
"""A product with a number belongs to the weights beside it: together they set the signal's size."""
RECTIFIED: Final = 1.5
"""Bits that an activation of no known kind may lose and still be one like a ReLU, which loses
about half a bit."""
SAME_BITS: Final = 0.2
"""Bits within which products with one number agree."""
SUMS: Final = _words(
    """
    linear matmul bmm einsum sum index_add scatter_add scatter_reduce segment_reduce cumsum
    sparse_addmm sparse_mm
    """
)
_PLUMBING: Final = _words(
    """
    add sub cat stack mean view reshape flatten Flatten Identity index select slice squeeze
    unsqueeze expand transpose permute pad where masked_fill Dropout Dropout1d
    Dropout2d Dropout3d dropout Upsample interpolate PixelShuffle scaled_dot_product_attention
    Embedding clone to
    """
)


@dataclass(frozen=True, slots=True)
class Groups:
    """The entries of a ledger in execution order, each with the name of its group."""

    named: tuple[tuple[str, Entry], ...]

    def of(self, *groups: str) -> tuple[Entry, ...]:
        """Return the entries of some groups."""
        return tuple(entry for name, entry in self.named if name in groups)

    @property
    def weighted(self) -> tuple[Entry, ...]:
        """Layers with weights, and products with one number beside them."""
        return self.of("weighted")

    @property
    def bounded(self) -> tuple[Entry, ...]:
        """Activations that flatten out on both sides."""
        return self.of("bounded")

    @property
    def rectifiers(self) -> tuple[Entry, ...]:
        """Activations that flatten out on one side."""
        return self.of("rectifiers")

    @property
    def norms(self) -> tuple[Entry, ...]:
        """Normalisations."""
        return self.of("norms")

    @property
    def functions(self) -> tuple[Entry, ...]:
        """Other functions without weights: squares, sines, exponentials, ..."""
        return self.of("functions")

    @property
    def sums(self) -> tuple[Entry, ...]:
        """Sums over neighbours or positions, and means."""
        return self.of("sums")

    @property
    def blocks(self) -> tuple[Entry, ...]:
        """What cannot be split further: residual blocks, and stretches with branches."""
        return self.of("blocks")


def groups(record: Record) -> Groups:
    """Sort the entries of an exam's ledger."""
    parents = {call.parent for call in record.calls}
    holders = holding(record)
    containers = {id(call): i in holders for i, call in enumerate(record.calls) if i in parents}
    entries = ledger(record).entries
    products = [entry.bits for entry in entries if entry.kind in SCALINGS]
    fixed = bool(products) and max(products) - min(products) < SAME_BITS
    named = []
    for entry in entries:
        group = _group(entry, record, containers)
        if group == "products":  # of anything else than one number: a function like any other
            group = "weighted" if fixed else "functions"
        named.append((group, entry))
    return Groups(tuple(named))


def _group(entry: Entry, record: Record, containers: dict[int, bool]) -> str:
    call = entry.call
    if call is None or len(entry.layers) > 1:
        return "blocks"
    if call.layer.weighted:
        return "weighted"
    if entry.kind in BOUNDED:
        return "bounded"
    if entry.kind in RECTIFIERS:
        return "rectifiers"
    if is_norm(call.layer.kind) or any(
        is_norm(record.calls[i].layer.kind) for i in around(record.calls, call)
    ):
        return "norms"
    if id(call) in containers:
        return "blocks" if containers[id(call)] else _of_own_make(entry.bits)
    if entry.kind in SCALINGS:
        return "products"
    if is_sum(entry.kind):
        return "sums"
    return "plumbing" if is_plumbing(entry.kind) else "functions"


def _of_own_make(bits: float) -> str:
    """Return the group of a module without weights: an activation written by hand, whatever
    branches it has inside."""
    if bits > 0:
        return "functions"
    return "rectifiers" if bits >= -RECTIFIED else "bounded"


def holding(record: Record) -> set[int]:
    """Return the positions of the calls that have weights or norms in them."""
    layers = (c for c in record.calls if c.layer.weighted or is_norm(c.layer.kind))
    return {i for call in layers for i in around(record.calls, call)}


def branches(record: Record) -> bool:
    """Whether anything is added to what layers make: a sum inside an activation is none."""
    holders = holding(record)
    return any(
        call.layer.kind == "add" and (call.parent is None or call.parent in holders)
        for call in record.calls
    )


def is_norm(kind: str) -> bool:
    """Whether it is the class or operation of a normalisation, of anybody's make."""
    return "norm" in kind.lower() and "weight" not in kind.lower()


def is_sum(kind: str) -> bool:
    """Whether it adds up what it is given, with numbers that are no parameters: neighbours in a
    graph, positions in a sequence."""
    return kind in SUMS


def is_plumbing(kind: str) -> bool:
    """Whether it only moves, adds or averages numbers."""
    return kind in _PLUMBING or "pool" in kind.lower()


def functions(record: Record) -> tuple[str, ...]:
    """Return the calls of functions without weights that are no ordinary activation."""
    parents = {call.parent for call in record.calls}
    return tuple(
        dict.fromkeys(
            call.layer.name
            for i, call in enumerate(record.calls)
            if i not in parents
            and not call.layer.weighted
            and call.layer.kind not in BOUNDED | RECTIFIERS
            and not is_norm(call.layer.kind)
            and not is_plumbing(call.layer.kind)
            and not is_sum(call.layer.kind)
        )
    )


def sums(record: Record) -> tuple[str, ...]:
    """Return the calls that add up over neighbours or positions, and are no layers."""
    return tuple(
        dict.fromkeys(
            call.layer.name
            for call in record.calls
            if call.layer.functional and not call.layer.weighted and is_sum(call.layer.kind)
        )
    )


def before(record: Record, position: int) -> Call | None:
    """Return the call that did something to the signal right before a call."""
    parents = {call.parent for call in record.calls}
    for i in range(position - 1, -1, -1):
        kind = record.calls[i].layer.kind
        if i not in parents and not is_plumbing(kind) and not is_sum(kind):
            return record.calls[i]
    return None
