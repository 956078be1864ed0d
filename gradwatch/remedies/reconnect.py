"""Reconnect: let the gradient reach the parameters that it was cut off from."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.remedies import _code, _reading


@dataclass(frozen=True)
class Reconnect:
    """Take away what cuts the graph between these layers and the loss, or freeze the layers.

    Helps when: a `.detach()`, `.data`, `.item()`, a `torch.no_grad()` or NumPy stands between them
    and the loss, or an argmax or a rounding, which have no gradient; or the module is made and
    never called.
    Does not help when: they are unused on purpose: `requires_grad_(False)` says so.
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
        return frozenset({("disconnected-parameters", "disconnection")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return where to look; the code that cuts the graph is the user's."""
        layers = _reading.blamed(finding, self)
        called = {call.layer.name for call in record.calls}
        where = (
            f"after {layers[-1]!r}, the last of them that is called"
            if layers and layers[-1] in called
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


REMEDIES = (Reconnect(),)
