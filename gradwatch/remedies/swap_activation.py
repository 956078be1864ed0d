"""Another activation function: the answer to saturation, and to units that die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Layer, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _calls, _code, _reading

_NAMES: Final = {
    "ReLU": "relu",
    "LeakyReLU": "leaky-relu",
    "PReLU": "prelu",
    "GELU": "gelu",
    "Tanh": "tanh",
}
_OPERATIONS: Final = {
    "ReLU": "torch.relu(...)",
    "LeakyReLU": "torch.nn.functional.leaky_relu(...)",
    "PReLU": "self.act(...) with an own torch.nn.PReLU()",
    "GELU": "torch.nn.functional.gelu(...)",
    "Tanh": "torch.tanh(...)",
}
_DRAWS: Final = {
    "LeakyReLU": "torch.nn.init.kaiming_normal_(layer.weight, a=0.01)",
    "PReLU": "torch.nn.init.kaiming_normal_(layer.weight, a=0.25)",
    "Tanh": "torch.nn.init.xavier_normal_(layer.weight, gain=5 / 3)",
}
"""The initialisation that suits it; that of ReLU where none is named."""
_RELU: Final = 'torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'


@dataclass(frozen=True)
class SwapActivation:
    """Replace saturating hidden activations by one that passes gradients on, and draw the weights
    before them as it needs them: after He, or after Xavier for tanh. (Where it replaces another
    rectifier the weights stay.)

    The slope of a sigmoid is at most 1/4, so each one takes at least 2 bits from the gradient, and
    far more where it saturates; tanh has slope 1 at 0 and takes bits only away from it. ReLU has
    slope 1 for positive inputs and 0 for others. LeakyReLU and PReLU keep a small slope there (a
    fixed 0.01, or learnt), so that no unit can die: they replace rectifiers that are dead, too.
    GELU is smooth, and usual in transformers. Tanh suits a recurrent cell, whose state has to stay
    bounded. An activation that is called in some forward and is no module is swapped, too: just
    that call of it is then answered by a new submodule.

    Helps when: hidden layers are sigmoids, saturated tanhs, squares or softmaxes.
    Does not help when: weights of the wrong size are all that is wrong (`he-init`), or a sigmoid is
    a gate or makes the output. The output's is never touched. With PyTorch's default weights, that
    are for a linear unit with a sixth of the variance that ReLU needs, it would not help in a deep
    net: of 16 sick trainings ReLU with these repaired 3. So it is no change for a trained model.

    Glorot, Bordes and Bengio 2011 (ReLU); Maas et al. 2013 (LeakyReLU); He et al. 2015 (PReLU and
    the initialisation); Hendrycks and Gimpel 2016 (GELU).
    """

    to: str
    """Class of torch.nn: ReLU, LeakyReLU, PReLU, GELU or Tanh."""

    def __post_init__(self) -> None:
        if self.to not in _NAMES:
            raise ValueError(f"to must be one of {', '.join(_NAMES)}, got {self.to!r}")

    @property
    def name(self) -> str:
        """`swap-activation-relu`, `swap-activation-leaky-relu`, ..."""
        return f"swap-activation-{_NAMES[self.to]}"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return f"Swap the saturating hidden activations for {self.to}"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        saturated = {
            ("vanishing-gradient", "activation"),
            ("saturated-activation", "activation"),
            ("vanishing-over-time", "activation"),
        }
        if self.to == "Tanh":
            return frozenset(saturated)
        others = (
            "exploding-gradient",
            "signal-scale",
            "learns-nothing",
            "zero-gradient",
            "constant-output",
        )
        grows = {(finding, "activation") for finding in others}
        if self.to == "ReLU":
            return frozenset(saturated | grows)
        dies = {("dead-units", cause) for cause in ("activation", "learning-rate", "depth")}
        return frozenset(saturated | grows | dies)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        sick = self._sick(finding, record)
        where = {layer.name: _calls.of(record, layer.name) for layer in sick}
        modules = [
            name
            for name, calls in where.items()
            if all(_reading.replaceable(record, call) for call in calls)
        ]
        rest = [layer for layer in sick if layer.name not in modules]
        operations = [layer for layer in rest if _calls.swappable(record, layer)]
        advice = _calls.advice(rest, _OPERATIONS[self.to], record) if rest else ""
        new = f"torch.nn.{self.to}()"
        if self.to == "PReLU":  # it has a parameter, that must live where the others do
            new = "torch.nn.PReLU().to(next(model.parameters()))"
        parts = []
        if modules:
            parts.append(_code.replace_each(modules, f"model.set_submodule(name, {new})"))
        if operations:
            parts.append(_calls.swap(operations, new, record))
        init = [*self._init(sick, record)]
        if init:
            parts.append(_code.redraw(init, _DRAWS.get(self.to, _RELU)))
        if self.to == "PReLU":
            parts.append(_code.NEW_OPTIMIZER)
        body = "\n".join(parts)
        return Prescription(
            self.name,
            f"Swap {_kinds(sick)} for {self.to}",
            "\n".join(part for part in (advice, _calls.CLASS if operations else "", body) if part),
            runnable=len(operations) == len(rest),
            runs=body,
            answers=_reading.answers(finding, self),
        )

    def _sick(self, finding: Finding, record: Record) -> list[Layer]:
        layers = {call.layer.name: call.layer for call in record.calls}
        blamed = _reading.blamed(finding, self) or self._suspects(record)
        output = _reading.output_activations(record)
        known = [layers[name] for name in blamed if name in layers]
        inner = [layer for layer in known if layer.name not in output]
        if known and not inner:
            raise CannotPrescribe("the only saturating activation makes the model's output")
        own = _reading.canonical(self.to)
        sick = [
            layer for layer in inner if not layer.weighted and _reading.canonical(layer.kind) != own
        ]
        if not sick:
            raise CannotPrescribe("no saturating activation was found in the hidden layers")
        return sick

    def _suspects(self, record: Record) -> tuple[str, ...]:
        """What to swap when nothing was blamed: what saturates, or rectifiers with dead units."""
        saturating = [
            call
            for call in record.calls
            if _reading.canonical(call.layer.kind) in _reading.SATURATING
        ]
        if saturating or self.to in ("ReLU", "Tanh"):
            return _reading.names(saturating)
        return _reading.names(
            call for call in record.calls if call.active is not None and call.active.dead
        )

    def _init(self, swapped: Sequence[Layer], record: Record) -> tuple[str, ...]:
        """The layers whose weights to draw anew; not of a cell that is called in a loop, nor where
        one rectifier follows on another: what was right for it is right for the next."""
        kept = _reading.ACTIVATIONS - _reading.SATURATING
        names = {layer.name for layer in swapped if _reading.canonical(layer.kind) not in kept}
        return _reading.names(
            place
            for place in _reading.own_weights(record)
            # One of the user's own make is seen by the operations that its forward calls.
            if any({c.layer.name, c.layer.name.partition(":")[0]} & names for c in place.after)
            and len(_calls.of(record, place.layer.name)) == 1
        )


def _kinds(layers: Sequence[Layer]) -> str:
    counts = Counter(layer.kind for layer in layers)
    return ", ".join(f"{number} {kind}" for kind, number in counts.items())


REMEDIES = tuple(SwapActivation(to) for to in _NAMES)
CURES = ("activation-deep-sigmoid", "activation-softmax-inside")
DOES_NOT_CURE = ("large-relu-mlp",)
