"""Draw anew what no Linear or Conv layer holds: tables, raw parameters, recurrent layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Parameter, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading, _recurrent

_RECURRENT: Final = _recurrent.PLAIN | _recurrent.GATED
_FACTORS: Final = """\
# Of two factors one is enough, where their product should begin at 0: in LoRA A is drawn, B is 0.
"""


@dataclass(frozen=True)
class Redraw:
    """Draw embedding tables and raw parameters anew after Xavier, and recurrent layers as PyTorch
    does.

    `torch.zeros` for two factors of one product is a saddle: the gradient of each is the other one,
    and so 0 for good. `torch.randn` has variance 1, whatever the number of inputs: 256 inputs make
    the signal 16 times larger. Both are written where weights are no layers of torch.nn, which
    would draw them by themselves.

    Helps when: both tables, both factors or all matrices began with zeros; or raw parameters or a
    recurrent layer are far from the size that keeps a signal.
    Does not help when: the weights belong to Linear or Conv layers (`he-init`, `xavier-init`), or
    one factor is zero on purpose: it gets a gradient, and is left alone.

    Glorot and Bengio 2010 (Xavier); Hu et al. 2022 (LoRA: one factor drawn, one zero). Cost: none.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "redraw"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Draw the weights anew that are no Linear or Conv layer's"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = (
            "zero-gradient",
            "vanishing-gradient",
            "exploding-gradient",
            "saturated-activation",
            "signal-scale",
            "learns-nothing",
            "constant-output",
        )
        return frozenset((finding, "init") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        own = {place.layer.name for place in _reading.own_weights(record)}
        kinds = {call.layer.name: call.layer.kind for call in record.calls}
        recurrent = {name for name, kind in kinds.items() if kind in _RECURRENT}
        if finding.name != "learns-nothing":  # what is lost over time is up to recurrent-init
            own |= recurrent
        other = [
            p
            for p in record.parameters
            if p.trainable and len(p.shape) > 1 and _owner(p) not in own
        ]
        sick = [p for p in other if _stuck(p)] or self._blamed(finding, record, other)
        if not sick:
            raise CannotPrescribe("no table, raw parameter or recurrent layer is known to need it")
        layers = tuple(dict.fromkeys(_owner(p) for p in sick if _owner(p) in recurrent))
        raw = [p for p in sick if _owner(p) not in layers]
        parts = [_code.BEFORE_TRAINING]
        if raw:
            parts += [
                *([_FACTORS.rstrip()] if any(map(_stuck, raw)) else []),
                "parameters = dict(model.named_parameters())",
                f"for name in {_code.listing([p.name for p in raw])}:",
                "    torch.nn.init.xavier_normal_(parameters[name])",
            ]
        if layers:
            parts += [
                f"for name in {_code.listing(layers)}:",
                "    model.get_submodule(name).reset_parameters()",
            ]
        return Prescription(
            self.name,
            f"Draw {_code.counted(len(sick), 'weight')} anew",
            "\n".join(parts),
            answers=_reading.answers(finding, self),
        )

    def _blamed(self, finding: Finding, record: Record, other: list[Parameter]) -> list[Parameter]:
        """Those that are named, or that a named operation multiplies by."""
        blamed = set(_reading.blamed(finding, self))
        operations = {
            # A module's forward multiplies by its own parameters, and by those of its lists.
            (call.layer.name.rpartition(":")[0], call.layer.weight_shape)
            for call in record.calls
            if call.layer.functional and call.layer.name in blamed
        }
        return [
            p
            for p in other
            if {p.name, _owner(p)} & blamed
            or any((path, tuple(p.shape)) in operations for path in _around(p))
        ]


def _owner(parameter: Parameter) -> str:
    """The module that holds it; the model itself, whose name is empty, is no layer."""
    return parameter.name.rpartition(".")[0] or parameter.name


def _around(parameter: Parameter) -> list[str]:
    """The modules that it is in, the model itself included."""
    parts = parameter.name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts))]


def _stuck(parameter: Parameter) -> bool:
    """Whether it is 0, and so is its gradient."""
    weight, gradient = parameter.weight, parameter.gradient
    return (
        weight is not None
        and gradient is not None
        and weight.count > 0
        and weight.squares == 0 == gradient.squares
        and not weight.nonfinite
    )


REMEDIES = (Redraw(),)
CURES = ("skip-gram-both-tables-zero",)
DOES_NOT_CURE = ("init-constant-relu",)
