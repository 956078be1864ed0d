"""Full precision: weights in float32, whatever the matrix products are computed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading

_NARROW: Final = frozenset({"float16", "bfloat16"})
_WIDEN: Final = """\
model.float()
for layer in list(model.modules()):  # a forward may cast what it passes on
    layer.register_forward_pre_hook(InFloat32())
"""


@dataclass(frozen=True)
class FullPrecision:
    """Keep the weights, and what the optimizer remembers of them, in float32.

    bfloat16 has 8 significant bits: a step of less than a 256th of a weight rounds to nothing.
    float16 has 11, and nothing between 0 and 6e-8 or above 65504. The matrix products may stay in
    the narrow format, under `torch.autocast`; what is added up over many steps may not.

    Helps when: updates are rounded away, gradients or squares are 0 or infinite in the format of
    the weights.
    Does not help when: the weights are in float32 already, which is refused: under autocast in
    float16 scale the loss (`loss-scale`).

    Micikevicius et al. 2018, "Mixed Precision Training", section 3.1. Cost: twice the memory of the
    weights, and time, unless the forward pass runs under autocast.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "full-precision"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Keep the weights in float32"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = (
            "lost-updates",
            "non-finite",
            "flushed-gradients",
            "signal-scale",
            "learns-nothing",
            "constant-output",
        )
        return frozenset((finding, "precision") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change; raises `CannotPrescribe` where the weights are wide already."""
        formats = {p.dtype for p in record.parameters if p.trainable} & _NARROW
        operations = [name for name in _reading.blamed(finding, self) if ":" in name]
        if not formats and operations:
            return self._operations(finding, operations)
        if not formats:
            raise CannotPrescribe("no weight is known to be in float16 or bfloat16")
        narrow = " and ".join(sorted(formats))
        return Prescription(
            self.name,
            f"Keep the weights in float32, not in {narrow}",
            _code.definition("InFloat32") + f"{_WIDEN}"
            f"# Fast again: with torch.autocast(device, torch.{sorted(formats)[0]}) around the "
            "forward pass.\n" + _code.NEW_OPTIMIZER.replace("are not the same ones", "are wider"),
            runs=_WIDEN,
            answers=_reading.answers(finding, self),
        )

    def _operations(self, finding: Finding, names: list[str]) -> Prescription:
        """What a forward computes in a narrow format, though its weights are wide."""
        return Prescription(
            self.name,
            f"Compute {_code.counted(len(names), 'operation')} in float32",
            f"# {_code.mention(names)}\n"
            "# in the forward, make what they begin with wide, and leave out casts in between:\n"
            "#   state = state.float()          # not .half() or .bfloat16()\n"
            "#   total = torch.zeros(n, dtype=torch.float32)\n"
            "# Under torch.autocast, around them:\n"
            "#   with torch.autocast(x.device.type, enabled=False):\n"
            "#       y = operation(x.float())",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (FullPrecision(),)
CURES = ("half-adam-epsilon-is-zero", "half-norm-overflows")
DOES_NOT_CURE = ()
