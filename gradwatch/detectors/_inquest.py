"""Whose doing it is that the gradient shrinks or grows over depth.

What random weights do to a gradient is known before any step: so the bits of a chain divide into
what the size of the weights explains (init), what the activations take, what norms take that cannot
do their work, what the steps have done since, and the rest, which only the number of layers can
explain (depth).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from gradwatch.core.finding import Cause
from gradwatch.core.ledger import Entry
from gradwatch.core.record import Record
from gradwatch.detectors import _depth, _drawn, _inputs, _norms, _sizes
from gradwatch.detectors._groups import SCALINGS, SIGMOIDS, STEEP, groups
from gradwatch.detectors._sizes import TOO_LARGE

SIGMOID_BITS: Final = 2.6
"""What a sigmoid may lose without being saturated: a hard one has a slope of 1/6."""
OUTLIER: Final = 3.0
"""Bits that a norm takes beyond what the weights before it added, to stand out."""
BORN: Final = 1.0
"""Decades over depth from which on a trend counts as one that the model was born with."""
MIN_SUM: Final = 3.0
"""Bits under which sums are what they are in any net with a pooling or an attention."""
MANY: Final = 10
"""Layers from which on it may be their number that matters ..."""
SEVERAL: Final = 7
"""... and with weights as torch draws them, of which each loses a bit: fewer lose 2 decades."""


class Inquest:
    """The causes of a gradient that shrinks (`sign` -1) or grows (1) over depth in an exam.

    What a model was born with is told from what its steps did by its first exam.
    """

    def __init__(self, record: Record, born: Record, sign: int) -> None:
        self.record, self.born, self.sign = record, born, sign
        self.found = groups(record)
        self.total = _depth.bits(entry for _, entry in self.found.named)
        self.verb = "lose" if sign < 0 else "add"
        self.norms = _norms.norms(record)
        first = _depth.trend(born)
        self.later = record is not born and (first is None or sign * first.drop > -BORN)
        """Whether it was not born so."""
        self.by_size: set[str] = set()
        """Causes that are a matter of the weights' size."""
        weighted = _depth.names(self.found.weighted)
        self.usual = sign < 0 and len(weighted) >= SEVERAL and _drawn.as_torch_draws(born, weighted)
        """Whether so many layers are of the size that they have in any net, and lose by it."""

    def causes(self) -> tuple[Cause, ...]:
        """Return the causes with their shares, the largest first."""
        causes = [*self._activations(), *self._weights_and_norms(), *self._blocks()]
        merged: dict[str, Cause] = {}
        for cause in causes:  # of two of the same name the larger one tells why
            known, bits = merged.get(cause.name, cause), cause.bits or 0.0
            if cause is not known:
                larger = cause if abs(bits) > abs(known.bits or 0.0) else known
                known = replace(larger, bits=bits + (known.bits or 0.0))
            merged[cause.name] = known
        return _depth.shares(merged.values(), self.sign) or self._unknown()

    def _unknown(self) -> tuple[Cause, ...]:
        """What the ledger does not show is a matter of all layers together."""
        layers = _depth.names(self.found.weighted)
        text = "No part of the net takes it alone." if layers else "It cannot be split further."
        return (Cause("depth", text, layers, share=1.0),)

    def _says(self, entries: Sequence[Entry], bits: float) -> str:
        return f"{_depth.kinds(entries, self.verb)} {abs(bits):.1f} bits"

    def _activations(self) -> Iterator[Cause]:
        """What bounded activations take by themselves, and what they take by being saturated."""
        parts = [(entry, *_parts(entry)) for entry in self.found.bounded]
        own = math.fsum(bits for _, bits, _ in parts)
        if own * self.sign > 0:
            entries = [entry for entry, bits, _ in parts if bits]
            text = (
                f"{self._says(entries, own)}, {abs(own) / len(entries):.2f} each (a sigmoid loses "
                "2 at best, its slope is at most 1/4)."
            )
            yield Cause("activation", text, _depth.names(entries), own)
        taken = math.fsum(bits for _, _, bits in parts)
        if taken * self.sign > 0:
            yield self._saturation([entry for entry, _, bits in parts if bits], taken)
        entries = [entry for entry in self.found.functions if entry.bits * self.sign > 0]
        if entries:
            bits = _depth.bits(entries)
            text = (
                f"{self._says(entries, bits)}: the slope depends on the size of what comes in, and "
                "has no bound."
            )
            yield Cause("activation", text, _depth.names(entries), bits)
        yield from self._sums()

    def _sums(self) -> Iterator[Cause]:
        """Sums over neighbours or positions, which grow with their number, and means, in which
        all become alike."""
        entries = [entry for entry in self.found.sums if entry.bits * self.sign > 0]
        bits = _depth.bits(entries)
        if _depth.bits(self.found.sums) * self.sign <= MIN_SUM:
            return
        grows = self.sign > 0
        why = "they add up where a mean would keep the size" if grows else "they average"
        text = f"{self._says(entries, bits)}: {why}."
        yield Cause("normalisation" if grows else "depth", text, _depth.names(entries), bits)

    def _saturation(self, entries: Sequence[Entry], bits: float) -> Cause:
        """Why bounded activations are flat where the signal is."""
        off = _inputs.off_scale(self.born)
        if off is not None and off.large:
            text = f"{self._says(entries, bits)} because the inputs are of size {off.size:.3g}."
            return Cause("data-scale", text, off.layers, bits)
        weighted = self.found.weighted
        at_birth, now = self._mean_size(self.born, weighted), self._mean_size(self.record, weighted)
        if at_birth is not None and at_birth > TOO_LARGE:
            text = f"because the weights before them are {at_birth:.2g} times too large."
            return Cause(
                "init", f"{self._says(entries, bits)} {text}", _depth.names(weighted), bits
            )
        grown = at_birth is not None and now is not None and now > TOO_LARGE * at_birth
        if len(entries) >= MANY and not grown:
            text = (
                f"{self._says(entries, bits)}: {-bits / len(entries):.2f} each, so many they are."
            )
            return Cause("depth", text, _depth.names(entries), bits)
        if grown or self.later:
            return self._steps(entries, bits)
        text = f"{self._says(entries, bits)}: they flatten out."
        return Cause("activation", text, _depth.names(entries), bits)

    def _weights_and_norms(self) -> Iterator[Cause]:
        """In a net with norms the weights' size is undone by them: they are judged together."""
        found = self.found
        chain = (*found.weighted, *found.rectifiers, *found.norms)
        bits = _depth.bits(chain)
        normed = len(self.norms) >= max(1, len(found.weighted) // 3)
        if (empty := self._empty_norms()) is not None:
            yield empty
        elif normed and (why := _norms.unfit(self.norms)):
            layers = tuple(dict.fromkeys(call.layer.name for call in self.norms))
            yield Cause("normalisation", why, layers, bits or _depth.bits(found.blocks))
        elif not normed:
            yield from self._weights()
        elif found.blocks and _depth.bits(found.norms) * self.sign > 0.5 * abs(self.total):
            text = (
                f"{self._says(found.norms, _depth.bits(found.norms))}: they stand behind the sums, "
                "in the way back to every layer before them (post-norm)."
            )
            yield Cause("normalisation", text, _depth.names(found.norms), bits)
        else:
            text = (
                f"{len(found.weighted)} layers with norms {self.verb} {abs(bits):.1f} bits "
                f"together, {abs(bits) / max(1, len(found.weighted)):.2f} each, without a way "
                "around them."
            )
            yield Cause("depth", text, _depth.names(found.weighted), bits)

    def _empty_norms(self) -> Cause | None:
        """Single norms that take the gradient: of a group of one value nothing is left."""
        added = 0.0
        out: list[Entry] = []
        for group, entry in self.found.named:
            if group == "weighted":
                added = entry.bits
            elif group == "norms" and (entry.bits + max(0.0, added)) * self.sign > OUTLIER:
                out.append(entry)
        bits = _depth.bits(out)
        if not out or bits * self.sign < 0.5 * abs(self.total):
            return None
        why = _norms.unfit(self.norms) or (
            "What they normalise hardly varies: a group of one value has no deviation."
        )
        return Cause("normalisation", f"{self._says(out, bits)}. {why}", _depth.names(out), bits)

    def _weights(self) -> Iterator[Cause]:
        """Weights and rectifiers: what the weights' size explains, and what only depth does."""
        weighted, rectifiers = self.found.weighted, self.found.rectifiers
        bits = _depth.bits(weighted) + _depth.bits(rectifiers)
        if bits * self.sign <= 0:
            return
        gain = math.sqrt(2) if rectifiers else 1.0
        now, at_birth = self._expected(self.record, gain), self._expected(self.born, gain)
        if now is None or at_birth is None:
            yield self._init(bits, gain)
            return
        explained = self.sign * min(max(self.sign * now, 0.0), abs(bits))
        born = self.sign * min(max(self.sign * at_birth, 0.0), abs(explained))
        if born * self.sign >= 0.5 * abs(explained):
            born = explained  # the steps have only added to it
        if born:
            yield self._init(born, gain)
        if explained - born:
            yield self._steps(weighted, explained - born)
        rest = bits - explained
        if rest * self.sign > 0 and len(weighted) < MANY:
            # So few layers lose nothing by their number: units have been closed, or were born so.
            yield self._steps(weighted, rest) if self.later else self._init(rest, gain)
        elif rest * self.sign > 0:
            text = (
                f"{self._says(weighted, rest)} though their weights are of the right size: "
                f"{len(weighted)} layers in a row, without a way around them."
            )
            yield Cause("depth", text, _depth.names(weighted), rest)

    def _steps(self, entries: Sequence[Entry], bits: float) -> Cause:
        """What the steps have done, and why they were too large."""
        text = f"{self._says(entries, bits)}; they were not born so: "
        off = _inputs.off_scale(self.born)
        if off is not None and off.large:
            text += f"the inputs are of size {off.size:.3g}, and so were the steps."
            return Cause("data-scale", text, off.layers, bits)
        targets = _inputs.targets_off(self.born)
        if targets is not None:
            text += f"the targets differ by {targets:.3g}, and so large were the steps."
            return Cause("data-scale", text, _depth.names(entries), bits)
        return Cause("learning-rate", f"{text}the steps are too large.", self._missing(1.0), bits)

    def _init(self, bits: float, gain: float) -> Cause:
        layers = self._missing(gain)
        text = self._says(self.found.weighted, bits)
        blamed = [entry for entry in self.found.weighted if entry.layers[0] in layers]
        factor = (self._mean_size(self.record, blamed) or gain) / gain
        if (factor - 1) * self.sign > 0:
            rule = "He's" if self.found.rectifiers else "the signal-preserving"
            size = f"{factor:.3g} times larger" if factor > 1 else f"{1 / factor:.3g} times smaller"
            text += f": their weights are {size} than {rule} size"
        self.by_size.add("depth" if self.usual else "init")
        if not self.usual:
            return Cause("init", text + ".", layers, bits)
        text += (
            f", as torch draws them: a few layers can bear that, {len(self.found.weighted)} in a "
            "row cannot, without norms or a way around them."
        )
        return Cause("depth", text, layers, bits)

    def _missing(self, gain: float) -> tuple[str, ...]:
        """The layers whose weights miss their size in the direction that is judged."""
        by_size = [
            entry
            for entry in self.found.weighted
            if (size := _sizes.size(self.record, entry.call)) is not None
            and (size / gain) ** self.sign > TOO_LARGE
        ]
        by_bits = [entry for entry in self.found.weighted if entry.bits * self.sign > 0]
        return _depth.names(by_size or by_bits)

    def _expected(self, record: Record, gain: float) -> float | None:
        """Bits by which the weights' size (with products beside them) misses what is right."""
        sizes = [_sizes.size(record, entry.call) for entry in self.found.weighted]
        known = [math.log2(size / gain) for size in sizes if size is not None]
        products = [entry for entry in self.found.weighted if entry.kind in SCALINGS]
        return math.fsum(known) + _depth.bits(products) if known else None

    @staticmethod
    def _mean_size(record: Record, entries: Sequence[Entry]) -> float | None:
        sizes = (_sizes.size(record, entry.call) for entry in entries)
        return _sizes.mean(size for size in sizes if size is not None)

    def _blocks(self) -> Iterator[Cause]:
        """Residual blocks and branches: their inner layers cannot be added up."""
        entries = [entry for entry in self.found.blocks if entry.bits * self.sign > 0]
        if _depth.bits(self.found.blocks) * self.sign <= 0:
            return
        bits = _depth.bits(entries)
        name, why = "depth", "they cannot be split further"
        inside = None if self.norms else _sizes.Sizes(self.born).mean
        if self.sign > 0 and not self.norms:
            name = "init" if inside is not None and inside > TOO_LARGE else "normalisation"
            why = "each adds its branch at full size, and no norm keeps the sum"
        elif inside is not None and inside * TOO_LARGE < 1:
            name, why = "init", f"their weights are {1 / inside:.3g} times too small"
        layers = _depth.names(entries)
        text = f"{_depth.listed(layers)} {self.verb} {abs(bits):.1f} bits: {why}."
        yield Cause(name, text, layers, bits)


def _parts(entry: Entry) -> tuple[float, float]:
    """Bits that a bounded activation loses whatever comes in, and those lost by saturation."""
    if entry.kind in STEEP:
        return 0.0, entry.bits
    own = max(entry.bits, -SIGMOID_BITS) if entry.kind in SIGMOIDS else entry.bits
    return own, entry.bits - own
