"""Reconnect: let the gradient reach the parameters that it was cut off from."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading


@dataclass(frozen=True)
class Reconnect:
    """Take away what cuts the graph between these layers and the loss, or freeze the layers.

    Helps when: a `.detach()`, `.data`, `.item()`, a `torch.no_grad()` or NumPy stands between them
    and the loss, or an argmax or a rounding, which have no gradient; or the module is made and
    never called.
    Does not help when: they are unused on purpose: `requires_grad_(False)` says so. Where a
    gradient reaches every parameter that is trained it is refused.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "reconnect"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Reconnect the parameters that no gradient reaches"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = ("disconnected-parameters", "disconnected-state", "zero-gradient")
        return frozenset((finding, "disconnection") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return where to look: the code that cuts the graph is the user's; raises
        `CannotPrescribe` where nothing is cut off."""
        layers = _reading.blamed(finding, self) or _unreached(record)
        if not layers:
            raise CannotPrescribe("a gradient reaches every parameter that is trained")
        called = {call.layer.name for call in record.calls}
        where = (
            f"after {layers[-1]!r}, the last of them that is called"
            if layers[-1] in called
            else "in forward(): these modules are made and not called"
        )
        return Prescription(
            self.name,
            self.title,
            f"# Look {where}:\n"
            "# .detach(), .data, .item(), .numpy(), torch.no_grad(), argmax, round.\n"
            f"# If they are to stay as they are:\n"
            f"# for name in {_code.listing(layers)}:\n"
            "#     model.get_submodule(name).requires_grad_(False)",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


def _unreached(record: Record) -> tuple[str, ...]:
    """The layers whose parameters no gradient reached."""
    missed = (p.name for p in record.parameters if p.trainable and not p.reached)
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in missed))


REMEDIES = (Reconnect(),)
CURES = ()
DOES_NOT_CURE = ()
