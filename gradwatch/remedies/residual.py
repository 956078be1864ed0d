"""Skip connections: a way past the layers on which the gradient loses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading
from gradwatch.remedies._reading import Place


@dataclass(frozen=True)
class Residual:
    """Add its input to the output of each hidden block whose two sides have the same shape.

    In y = x + f(x) the gradient reaches x along the identity whatever f does to it, so it no longer
    is a product of all the layers. The block is a weighted layer up to its activation: a skip
    around the layer alone would still send all of the gradient through the activation.

    Helps when: a net is deep (over some 20 layers) and has no other way back to its first layers.
    Does not help when: widths change in every layer; the signal grows with each sum, as after
    sigmoids, which are never negative: put a normalisation into the block (pre-norm). In 49 sick
    trainings that it could be applied to it repaired 8. The names in state_dict change.

    He, Zhang, Ren and Sun 2015, "Deep Residual Learning for Image Recognition".
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "residual"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Add skip connections around the hidden layers"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(("vanishing-gradient", cause) for cause in ("activation", "init", "depth"))

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        square = [place for place in _reading.hidden(record) if _square(place, record)]
        if not square:
            raise CannotPrescribe("no hidden layer has an input and an output of the same shape")
        blocks = _blocks(square, record)
        by_hand = [place for place in square if place.activation and _functional(place)]
        if not blocks and not by_hand:
            raise CannotPrescribe(
                "no hidden layer of the same width on both sides stands in a plain chain with "
                "its activation"
            )
        return Prescription(
            self.name,
            f"Add skip connections around {_code.counted(len(blocks) or len(by_hand), 'block')}",
            _code.definition("Residual") + _wrap(blocks) if blocks else _advice(by_hand),
            runnable=bool(blocks),
            runs=_wrap(blocks) if blocks else "",
            answers=_reading.answers(finding, self),
        )


def _square(place: Place, record: Record) -> bool:
    """Whether its input can be added to its output."""
    layer, call = place.layer, place.call
    shape = layer.weight_shape
    if layer.functional or not call.cut or len(shape) < 2 or shape[0] != shape[1]:
        return False
    if len(shape) == 2:
        return True
    # A stride or missing padding of a convolution shows in the number of elements only.
    source = place.before
    return (
        source is not None
        and source.output is not None
        and call.output is not None
        and source.output.count == call.output.count
    )


def _functional(place: Place) -> bool:
    return place.activation is not None and place.activation.layer.functional


def _block(place: Place, record: Record) -> tuple[str, ...]:
    """The modules from the layer to its activation, where they are a plain chain; else empty."""
    chain = [place.call]
    if place.activation is not None:
        chain += place.after[: place.after.index(place.activation) + 1]
    plain = all(
        _reading.replaceable(record, call) and call.parent == place.call.parent and call.cut
        for call in chain
    )
    return tuple(call.layer.name for call in chain) if plain else ()


def _blocks(square: Sequence[Place], record: Record) -> list[tuple[str, ...]]:
    """The blocks that can be wrapped: no module of one is also called outside of all of them."""
    chains = [block for place in square if (block := _block(place, record))]
    calls = Counter(call.layer.name for call in record.calls)
    while True:
        inside = Counter(name for block in chains for name in block)
        whole = [block for block in chains if all(inside[name] == calls[name] for name in block)]
        heads = Counter(block[0] for block in set(whole))  # one layer, two different activations
        whole = [block for block in whole if heads[block[0]] == 1]
        if whole == chains:
            return list(dict.fromkeys(whole))
        chains = whole


def _wrap(blocks: Sequence[tuple[str, ...]]) -> str:
    return f"""\
blocks = {_code.tuples(blocks)}
new = {{}}
for block in blocks:
    layer, *rest = [model.get_submodule(name) for name in block]
    new[layer] = Residual(torch.nn.Sequential(layer, *rest))
    new.update(dict.fromkeys(rest, torch.nn.Identity()))  # they went into the block
for name, module in list(model.named_modules(remove_duplicate=False)):
    if module in new:
        model.set_submodule(name, new[module])
# The parameters are the same ones: an optimizer that holds them need not be made anew."""


def _advice(places: Sequence[Place]) -> str:
    layers = _code.mention(_reading.names(places))
    activations = _code.mention(_reading.names(p.activation for p in places if p.activation))
    return "\n".join(
        [
            "# To change by hand: the activation is called in a forward and is no module, and a",
            "# skip around the layer alone would still send all of the gradient through it.",
            f"#   For {layers}",
            f"#   and {activations}",
            "#   write h = h + activation(layer(h)) instead of h = activation(layer(h)).",
        ]
    )


REMEDIES = (Residual(),)
