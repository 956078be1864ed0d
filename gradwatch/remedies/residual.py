"""Skip connections: a way past the layers on which the gradient loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _blocks, _branches, _code, _reading
from gradwatch.remedies._reading import Place

_SAME_OPTIMIZER: Final = (
    "# The parameters are the same ones: an optimizer that holds them need not be made anew."
)


@dataclass(frozen=True)
class Residual:
    """Add its input to the output of each hidden block whose two sides have the same shape.

    In y = x + f(x) the gradient reaches x along the identity whatever f does to it, so it no longer
    is a product of all the layers. The block is a weighted layer up to its activation: a skip
    around the layer alone would still send all of the gradient through the activation. Where the
    shapes differ, `residual-projection` adds a linear projection of the input, of orthogonal
    weights (1x1 with the same stride for a convolution). `residual-pre-norm` adds s f(norm(x)),
    with a normalisation at the beginning of the block, and a learnt factor s, that starts as one by
    the root of the number of blocks: all of them together add as much as one.

    Helps when: a net is deep (over some 20 layers) and has no other way back to its first layers.
    Does not help when: the signal grows with each sum, as after sigmoids, which are never negative,
    or with many blocks: there the pre-norm is needed. In 49 sick trainings that it could be applied
    to without a norm it repaired 8. The names in state_dict change.

    He, Zhang, Ren and Sun 2015, "Deep Residual Learning for Image Recognition"; Xiong et al. 2020
    (pre-norm); De and Smith 2020 (the factor).
    """

    norm: bool = False
    """Whether each block begins with a normalisation."""
    project: bool = False
    """Whether blocks whose sides differ get one too, with a projection."""

    @property
    def name(self) -> str:
        """`residual`, `residual-pre-norm` or `residual-projection`."""
        return "residual" + "-pre-norm" * self.norm + "-projection" * self.project

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        norm = ", with a normalisation in each block" if self.norm else ""
        project = ", with projections where widths differ" if self.project else ""
        return f"Add skip connections around the hidden layers{norm}{project}"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        vanishing = {("vanishing-gradient", cause) for cause in ("activation", "init", "depth")}
        if not self.norm:
            return frozenset(vanishing)
        findings = ("exploding-gradient", "signal-scale", "dead-units")
        return frozenset(vanishing | {(finding, "depth") for finding in findings})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        beside = _branches.inside(record)
        hidden = [p for p in _reading.hidden(record) if p.layer.name not in beside]
        square = [place for place in hidden if _blocks.square(place, record)]
        other = [
            p for p in hidden[1:] if self.project and p not in square and _blocks.projectable(p)
        ]
        if self.project and not other:
            raise CannotPrescribe("no hidden layer has an input and an output of different shape")
        if not square and not other:
            raise CannotPrescribe(
                "no hidden layer has an input and an output of the same shape and no skip "
                "connection around it"
            )
        chosen = [place for place in hidden if place in square or place in other]
        blocks = _blocks.chains(chosen, record)
        by_hand = [place for place in chosen if place.activation and _blocks.functional(place)]
        if not blocks and not by_hand:
            raise CannotPrescribe(
                "no hidden layer that could get one stands in a plain chain with its activation"
            )
        projected = [block[0] for block in blocks if block[0] in _reading.names(other)]
        if self.project and blocks and not projected:
            raise CannotPrescribe("no layer that changes the width stands in a plain chain")
        wrap = _wrap(blocks, projected, norm=self.norm)
        classes = [
            "ScaledResidual" if self.norm else "Residual",
            *(["ProjectedResidual"] if projected else []),
        ]
        return Prescription(
            self.name,
            f"Add skip connections around {_code.counted(len(blocks) or len(by_hand), 'block')}",
            _code.definition(*classes) + wrap if blocks else _advice(by_hand),
            runnable=bool(blocks),
            runs=wrap if blocks else "",
            answers=_reading.answers(finding, self),
        )


def _wrap(blocks: Sequence[tuple[str, ...]], projected: Sequence[str], *, norm: bool) -> str:
    lines = [f"blocks = {_code.tuples(blocks)}"]
    if projected:
        lines += [
            f"projected = {_code.listing(projected)}",
            "projected = {model.get_submodule(name) for name in projected}",
        ]
    lines += [
        "new = {}",
        "for block in blocks:",
        "    layer, *rest = [model.get_submodule(name) for name in block]",
        "    branch = torch.nn.Sequential(layer, *rest)",
    ]
    residual = "Residual(branch)"
    if norm:
        lines += [
            "    if isinstance(layer, torch.nn.Linear):",
            "        norm = torch.nn.LayerNorm(layer.in_features)",
            "    else:  # the same over channels and positions",
            "        norm = torch.nn.GroupNorm(1, layer.in_channels)",
            "    branch.insert(0, norm.to(layer.weight))",
        ]
        residual = f"ScaledResidual(branch, {len(blocks)} ** -0.5).to(layer.weight)"
    lines.append(f"    new[layer] = {residual}")
    if projected:
        lines += [
            "    if layer in projected:",
            "        if isinstance(layer, torch.nn.Linear):",
            "            sizes = layer.in_features, layer.out_features",
            "        else:",
            "            sizes = layer.in_channels, layer.out_channels, 1, layer.stride",
            "        projection = type(layer)(*sizes, bias=False)",
            "        torch.nn.init.orthogonal_(projection.weight)",
            "        new[layer] = ProjectedResidual(branch, projection.to(layer.weight))",
        ]
    return "\n".join(
        [
            *lines,
            "    new.update(dict.fromkeys(rest, torch.nn.Identity()))  # they went into the block",
            "for name, module in list(model.named_modules(remove_duplicate=False)):",
            "    if module in new:",
            "        model.set_submodule(name, new[module])",
            _code.NEW_OPTIMIZER if norm or projected else _SAME_OPTIMIZER,
        ]
    )


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


REMEDIES = (Residual(norm=True), Residual(), Residual(project=True))
CURES = ("default-relu-mlp", "activation-deep-sigmoid")
DOES_NOT_CURE = ("init-zeros",)
