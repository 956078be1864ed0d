"""Dead units, brought back: new incoming weights, and a bias of zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading


@dataclass(frozen=True)
class ReviveUnits:
    """Draw the incoming weights of dead units anew, after He, with a bias of 0; the living ones
    stay as they are.

    A rectifier that is zero for every sample gets no gradient, so it stays so. With weights around
    zero and no bias about half of the samples reach it again.

    Helps when: units were born dead (biases far below zero, weights of one sign), or died in a jump
    that is over, and the rest of a trained model is to be kept.
    Does not help when: what killed them goes on: lower the learning rate too, or take a rectifier
    with a slope below zero (`swap-activation-leaky-relu`).

    Lu et al. 2019, "Dying ReLU and Initialization"; Sokar et al. 2023 (recycling dormant units).
    Cost: none.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "revive-units"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Draw the weights of the dead units anew"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(("dead-units", cause) for cause in ("init", "learning-rate", "data-scale"))

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        dead: dict[str, set[int]] = {}
        for place in _reading.own_weights(record):
            active = None if place.activation is None else place.activation.active
            transposed = "Transpose" in place.layer.kind  # its units are not the weight's rows
            if active is None or not active.samples or transposed:
                continue
            if active.units.size == place.layer.weight_shape[0]:
                units = set(np.flatnonzero(active.units == 0).tolist())
                dead[place.layer.name] = dead.get(place.layer.name, units) & units
        dead = {name: units for name, units in dead.items() if units}
        if not dead:
            raise CannotPrescribe("no rectifier after a Linear or Conv layer has a dead unit")
        number = sum(map(len, dead.values()))
        widths = {p.layer.name: p.layer.weight_shape[0] for p in _reading.own_weights(record)}
        chosen = [
            f"    {name!r}: slice(None),"  # all of them
            if len(units) == widths[name]
            else f"    {name!r}: {_code.rows([str(unit) for unit in sorted(units)])},"
            for name, units in dead.items()
        ]
        return Prescription(
            self.name,
            f"Draw the weights of {_code.counted(number, 'dead unit')} anew",
            "\n".join(
                [
                    "# What an optimizer remembers of these weights belongs to the old ones.",
                    "dead = {  # in which layer: which units",
                    *chosen,
                    "}",
                    "with torch.no_grad():",
                    "    for name, units in dead.items():",
                    "        layer = model.get_submodule(name)",
                    "        fresh = torch.empty_like(layer.weight)",
                    '        torch.nn.init.kaiming_normal_(fresh, nonlinearity="relu")',
                    "        layer.weight[units] = fresh[units]",
                    '        if getattr(layer, "bias", None) is not None:',
                    "            layer.bias[units] = 0",
                ]
            ),
            answers=_reading.answers(finding, self),
        )


REMEDIES = (ReviveUnits(),)
CURES = ("born-dead", "init-zeros")
DOES_NOT_CURE = ("default-relu-mlp",)
