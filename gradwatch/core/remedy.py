"""A `Remedy` answers the causes of findings with a change, as code for this model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record


class CannotPrescribe(Exception):
    """A remedy does not fit this model; the message says why, to be shown to the user."""


class CannotApply(Exception):
    """A prescription cannot be carried out on this model; the message says why."""


@dataclass(frozen=True, slots=True)
class Prescription:
    """A change to make, as code to paste."""

    remedy: str
    """The remedy's name, as `gradwatch explain` takes it."""
    title: str
    """What to do, in one line and as an imperative."""
    code: str
    """Python that does it; the names `torch`, `model` and (per step) `optimizer` are in scope."""
    runnable: bool = True
    """False when the code must be adapted by hand: the place is no module that can be replaced."""
    per_step: bool = False
    """True when it belongs between `backward()` and `optimizer.step()`, else before training."""
    runs: str = ""
    """What a trial executes in its place; empty where that is the code itself. It has the recorded
    `batches` and `loss_fn` in scope, too, and the classes of `gradwatch.remedies._modules`: a model
    that is treated with these can be pickled, and code that is pasted needs no gradwatch."""
    of_optimizer: bool = False
    """True when the code changes or replaces the `optimizer`, and so comes after it is made."""
    changes_loss: bool = False
    """True when losses before and after are no longer in the same units (another loss function,
    other targets): only what the answers are worth can be compared."""
    answers: str = ""
    """The finding and the cause that it answers: `vanishing-gradient: activation`."""

    def to_json(self) -> dict[str, Any]:
        """Return what there is to show and to paste, JSON-ready."""
        return {
            "remedy": self.remedy,
            "title": self.title,
            "code": self.code,
            "runnable": self.runnable,
            "per_step": self.per_step,
            "of_optimizer": self.of_optimizer,
            "changes_loss": self.changes_loss,
            "answers": self.answers,
        }

    def apply_to(
        self, model: Any, optimizer: Any = None, *, loss_fn: Any = None, batches: Any = ()
    ) -> Any:
        """Carry the change out on this very model; see `Verdict.apply_to`."""
        from gradwatch.trying.treatment import apply

        return apply((self,), model, optimizer, loss_fn=loss_fn, batches=batches)


class Remedy(Protocol):
    """One known cure. A configured one is a frozen dataclass; a file may hold several."""

    @property
    def name(self) -> str:
        """Name for the command line: `swap-activation-relu`."""
        ...

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        ...

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers: `{("vanishing-gradient", "activation")}`."""
        ...

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        ...
