"""A `Verdict` says what a remedy did to a copy of the model, beside copies that did not get it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from gradwatch.core.finding import Finding, Severity
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one kind of copy, over the seeds that it was trained with."""

    losses: tuple[float, ...]
    """The loss at the end, one per seed: the median of its last tenth."""
    skills: tuple[float | None, ...]
    """How far the answers are better than the best constant one (0) on the way to the perfect one
    (1), per seed; None where that cannot be read from the loss."""
    steps: int
    """Optimizer steps that each was trained for."""
    findings: tuple[Finding, ...] = ()
    """What the detectors said at the end of the first seed's training."""
    bits: float | None = None
    """Bits that the gradient had lost (negative) on its way to the first layer, at the end."""
    seconds: float = 0.0
    """Time per step, unwatched."""
    parameters: int = 0
    """Trainable elements."""
    fell: tuple[bool, ...] = ()
    """Whether the loss fell by a twentieth of its beginning, or more, per seed."""

    held_skills: tuple[float | None, ...] = ()
    """The same as `skills` on batches that were held back, in evaluation mode, per seed."""

    @property
    def held_skill(self) -> float | None:
        """The median over the seeds; None where one is not known."""
        return _median(self.held_skills)

    @property
    def loss(self) -> float:
        """The median over the seeds."""
        return median(self.losses)

    @property
    def skill(self) -> float | None:
        """The median over the seeds; None where one is not known."""
        return _median(self.skills)

    @property
    def spread(self) -> float:
        """Largest minus smallest loss over the seeds."""
        return max(self.losses) - min(self.losses)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, JSON-ready."""
        return {
            "losses": list(self.losses),
            "skills": list(self.skills),
            "held_skills": list(self.held_skills),
            "steps": self.steps,
            "findings": [finding.to_json() for finding in self.findings],
            "bits": self.bits,
            "seconds": self.seconds,
            "parameters": self.parameters,
            "fell": list(self.fell),
        }

    @property
    def sick(self) -> bool:
        """Whether something worse than a note was found at its end."""
        return any(finding.severity >= Severity.WARNING for finding in self.findings)


def _median(skills: tuple[float | None, ...]) -> float | None:
    known = [skill for skill in skills if skill is not None]
    return median(known) if len(known) == len(skills) > 0 else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One remedy, or several together, as it was measured."""

    prescriptions: tuple[Prescription, ...]
    """What was done, in this order."""
    recommended: bool
    """Whether it helped more than doing nothing and than new weights."""
    reason: str
    """One sentence with numbers."""
    treated: Outcome
    untreated: Outcome
    steps_to_match: int | None = None
    """Steps after which it had the loss that the untreated copy had at its end; None if never."""
    model: Any = field(default=None, compare=False, repr=False)
    """A treated copy of the model, not trained: to go on with. It can be pickled."""

    @property
    def name(self) -> str:
        """The remedies' names, joined by " + "."""
        return " + ".join(one.remedy for one in self.prescriptions)

    @property
    def title(self) -> str:
        """What to do, in one line."""
        first, *rest = [one.title for one in self.prescriptions]
        return ", and ".join([first, *(title[:1].lower() + title[1:] for title in rest)])

    @property
    def code(self) -> str:
        """The change, as code for this model."""
        return "\n\n".join(one.code for one in self.prescriptions)

    @property
    def bits_recovered(self) -> float | None:
        """Bits of the gradient that the first layer gets more than in the untreated copy."""
        if self.treated.bits is None or self.untreated.bits is None:
            return None
        return self.treated.bits - self.untreated.bits

    @property
    def more_parameters(self) -> float:
        """Trainable elements in relation to the untreated copy, minus 1."""
        return self.treated.parameters / max(1, self.untreated.parameters) - 1

    @property
    def more_time(self) -> float:
        """Time per step in relation to the untreated copy, minus 1."""
        return self.treated.seconds / self.untreated.seconds - 1 if self.untreated.seconds else 0.0

    def apply_to(
        self, model: Any, optimizer: Any = None, *, loss_fn: Any = None, batches: Any = ()
    ) -> Treated:
        """Carry the change out on this very model, and return what to go on with.

        It executes the code of `code`, and so it changes the model in place where that does. The
        optimizer is needed only for changes of it; the loss function and batches where the code
        uses them. Changes that belong into each step (`per_step`) are left to the loop.

        Raises `CannotApply` when the code does not fit this model; it may have changed some of it.
        """
        from gradwatch.trying.treatment import apply

        return apply(self.prescriptions, model, optimizer, loss_fn=loss_fn, batches=batches)

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the model, JSON-ready."""
        return {
            "name": self.name,
            "title": self.title,
            "recommended": self.recommended,
            "reason": self.reason,
            "treated": self.treated.to_json(),
            "steps_to_match": self.steps_to_match,
            "bits_recovered": self.bits_recovered,
            "more_parameters": self.more_parameters,
            "more_time": self.more_time,
            "code": self.code,
            "prescriptions": [one.to_json() for one in self.prescriptions],
        }


class Treated(NamedTuple):
    """What a change has made of a model and of what trains it."""

    model: Any
    optimizer: Any
    loss_fn: Any


@dataclass(frozen=True, slots=True)
class Verdicts(Sequence[Verdict]):
    """The result of a trial: all verdicts, the best first."""

    verdicts: tuple[Verdict, ...]
    untreated: Outcome
    reseeded: Outcome | None
    """The control with new weights; None when it was not reached."""
    other: Verdict | None = None
    """The control with a remedy that was drawn at random from those that dropped out; None when
    none did or it was not reached."""
    report: Report | None = None
    """What was found in the untreated copy, with all that is prescribed."""
    dropped: tuple[str, ...] = ()
    """Candidates that dropped out of the first rounds, each with its loss there."""
    not_reached: tuple[str, ...] = ()
    """Candidates for which the budget did not last."""
    not_applied: tuple[str, ...] = ()
    """Candidates that could not be applied to this model, each with its reason."""
    seconds: float = 0.0
    summary: str = ""
    """The result in one sentence; "nothing helps" is one."""

    @property
    def recommended(self) -> tuple[Verdict, ...]:
        """Those that helped."""
        return tuple(verdict for verdict in self.verdicts if verdict.recommended)

    def to_json(self) -> dict[str, Any]:
        """Return what was measured, JSON-ready."""
        return {
            "summary": self.summary,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "untreated": self.untreated.to_json(),
            "reseeded": None if self.reseeded is None else self.reseeded.to_json(),
            "other": None if self.other is None else self.other.to_json(),
            "dropped": list(self.dropped),
            "not_reached": list(self.not_reached),
            "not_applied": list(self.not_applied),
            "seconds": self.seconds,
        }

    def __getitem__(self, index: Any) -> Any:
        return self.verdicts[index]

    def __len__(self) -> int:
        return len(self.verdicts)

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.verdicts)

    def __str__(self) -> str:
        from gradwatch.sinks.verdicts import to_text

        return to_text(self)
