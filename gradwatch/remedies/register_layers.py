"""Register the layers: weights that the model does not know of are never trained."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading


@dataclass(frozen=True)
class RegisterLayers:
    """Keep layers in `nn.ModuleList` or `nn.ModuleDict`, made once in `__init__`.

    A module knows its layers by its attributes. Those in a plain list, tuple or dict, or made in
    each forward pass, are used and get gradients, but `parameters()`, `to()`, `state_dict()` and so
    the optimizer do not see them.

    Helps when: operations multiply by weights that belong to no module of the model.
    Does not help when: those weights belong to another model that is not to be trained: then
    compute with it under `torch.no_grad()`.

    PyTorch's documentation of ModuleList. Cost: none.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "register-layers"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Make the layers part of the model"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("forgotten-parameters", "disconnection")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return where to look; raises `CannotPrescribe` where all weights are the model's."""
        foreign = [call for call in record.calls if call.layer.foreign]
        if not foreign:
            raise CannotPrescribe("every weight that is used belongs to the model")
        names = _reading.names(foreign)
        paths = dict.fromkeys(name.rpartition(":")[0] for name in names)
        where = ", ".join(repr(path) if path else "the model" for path in paths)
        return Prescription(
            self.name,
            f"Make the layers of {_code.counted(len(names), 'operation')} part of the model",
            f"# {_code.mention(names)}:\n"
            f"# in the class of {where}, in __init__, and not in forward():\n"
            "#   self.layers = torch.nn.ModuleList([...])       # not [...] or (...)\n"
            "#   self.branches = torch.nn.ModuleDict({...})     # not {...}\n"
            "#   self.scale = torch.nn.Parameter(...)           # for a single tensor\n"
            "# then make the optimizer. Do they appear in model.named_parameters()?",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (RegisterLayers(),)
CURES = ()
DOES_NOT_CURE = ()
