"""Another activation function: the answer to saturation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Layer, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading

_NAMES: Final = {"ReLU": "relu", "LeakyReLU": "leaky-relu", "PReLU": "prelu", "GELU": "gelu"}
_OPERATIONS: Final = {
    "ReLU": "torch.relu(...)",
    "LeakyReLU": "torch.nn.functional.leaky_relu(...)",
    "PReLU": "self.act(...) with an own torch.nn.PReLU()",
    "GELU": "torch.nn.functional.gelu(...)",
}


@dataclass(frozen=True)
class SwapActivation:
    """Replace saturating hidden activations (Sigmoid, Tanh) by one that passes gradients on.

    The slope of a sigmoid is at most 1/4, so each one takes at least 2 bits from the gradient, and
    far more where it saturates; tanh has slope 1 at 0 and takes bits only away from it. ReLU has
    slope 1 for positive inputs and 0 for others. LeakyReLU and PReLU keep a small slope there (a
    fixed 0.01, or learnt), so that no unit can die. GELU is smooth, and usual in transformers.

    Helps when: hidden layers are sigmoids or saturated tanhs.
    Does not help alone: PyTorch's default weights are for a linear unit with a sixth of the
    variance that ReLU needs, so a deep ReLU net still vanishes: add `he-init` or a normalisation.
    Sigmoids that are gates, or that make the output, belong where they are; the output's is never
    touched. In 77 sick trainings ReLU for sigmoid or tanh repaired 3 of the 16 it could be applied
    to, LeakyReLU for ReLU 2 of 46.

    Glorot, Bordes and Bengio 2011 (ReLU); Maas et al. 2013 (LeakyReLU); He et al. 2015 (PReLU);
    Hendrycks and Gimpel 2016 (GELU).
    """

    to: str
    """Class of torch.nn: ReLU, LeakyReLU, PReLU or GELU."""

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
        return frozenset({("vanishing-gradient", "activation")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        sick = self._sick(finding, record)
        modules, operations = [], []
        for layer in sick:
            calls = [call for call in record.calls if call.layer.name == layer.name]
            if all(_reading.replaceable(record, call) for call in calls):
                modules.append(layer.name)
            else:
                operations.append(layer)
        parts = [self._replace(modules)] if modules else []
        parts += self._by_hand(operations, record) if operations else []
        return Prescription(
            self.name,
            f"Swap {_kinds(sick)} for {self.to}",
            "\n".join(parts),
            runnable=not operations,
            answers=_reading.answers(finding, self),
        )

    def _sick(self, finding: Finding, record: Record) -> list[Layer]:
        layers = {call.layer.name: call.layer for call in record.calls}
        blamed = _reading.blamed(finding, self) or tuple(
            name
            for name, layer in layers.items()
            if _reading.canonical(layer.kind) in _reading.SATURATING
        )
        output = _reading.output_activations(record)
        known = [layers[name] for name in blamed if name in layers]
        inner = [layer for layer in known if layer.name not in output]
        if known and not inner:
            raise CannotPrescribe("the only saturating activation makes the model's output")
        sick = [layer for layer in inner if layer.kind != self.to]
        if not sick:
            raise CannotPrescribe("no saturating activation was found in the hidden layers")
        return sick

    def _replace(self, names: Sequence[str]) -> str:
        # PReLU has a parameter: it must live where the others do.
        new = f"torch.nn.{self.to}()"
        if self.to == "PReLU":
            new = "torch.nn.PReLU().to(next(model.parameters()))"
        code = _code.replace_each(names, f"model.set_submodule(name, {new})")
        if self.to == "PReLU":
            code += f"\n{_code.NEW_OPTIMIZER}"
        return code + "\n# The weights should now suit it: see the remedy he-init."

    def _by_hand(self, operations: Sequence[Layer], record: Record) -> list[str]:
        lines = ["# To change by hand, since no module of this model that can be replaced does it:"]
        groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for layer in operations:
            path = layer.name.rpartition(":")[0] if layer.functional else layer.name
            groups[path, layer.kind].append(layer.name)
        for (path, kind), names in groups.items():
            lines += [
                f"#   in the forward of {_module(path, record)} write {_OPERATIONS[self.to]}",
                f"#   instead of {kind!r} ({_code.mention(names)}).",
            ]
        return lines


def _module(path: str, record: Record) -> str:
    kind = next((call.layer.kind for call in record.calls if call.layer.name == path), "")
    what = repr(path) if path else "the model"
    return f"{what} (class {kind!r})" if kind else what


def _kinds(layers: Sequence[Layer]) -> str:
    counts = Counter(layer.kind for layer in layers)
    return ", ".join(f"{number} {kind}" for kind, number in counts.items())


REMEDIES = tuple(SwapActivation(to) for to in _NAMES)
