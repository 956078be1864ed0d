"""A `Finding` says what is wrong, where, since when, how much, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from gradwatch.core.history import History


class Severity(IntEnum):
    """How much a finding matters; ordered, so that `max` gives the worst."""

    NOTE = 0
    """Unusual, and no harm is seen."""
    WARNING = 1
    """The training will be held back if nothing changes; every prediction at initialisation."""
    CRITICAL = 2
    """The training is held back by it now."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason for a finding, with its share in the damage."""

    name: str
    """`activation`, `init`, `depth`, `numerics`, `learning-rate`, ...: what remedies `treat`."""
    text: str
    """One sentence with numbers."""
    layers: tuple[str, ...] = ()
    """Names of the layers responsible, in execution order."""
    bits: float | None = None
    """Bits of the gradient that it takes (negative) or adds (positive)."""
    share: float | None = None
    """Its part of the whole, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One complaint about a training. Numbers are for machines, sentences for people."""

    name: str
    """The complaint: `vanishing-gradient`, ..."""
    severity: Severity
    summary: str
    """One sentence: what, where and how much."""
    layers: tuple[str, ...] = ()
    """Where: layer names in execution order, the worst place first if it is one place."""
    since: int = 0
    """First step at which it was seen without interruption since."""
    until: int = 0
    """Last step at which it was seen."""
    causes: tuple[Cause, ...] = ()
    """Why, the largest share first."""
    confidence: str = ""
    """What the verdict rests on, and what could not be known."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    because_of: str = ""
    """Name of the finding that this one follows from; empty for a root."""

    @property
    def cause(self) -> str:
        """The name of the main cause; empty when none could be named."""
        return self.causes[0].name if self.causes else ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-ready data (see `from_json`)."""
        return {
            "name": self.name,
            "severity": str(self.severity),
            "summary": self.summary,
            "layers": list(self.layers),
            "since": self.since,
            "until": self.until,
            "causes": [
                {
                    "name": cause.name,
                    "text": cause.text,
                    "layers": list(cause.layers),
                    "bits": cause.bits,
                    "share": cause.share,
                }
                for cause in self.causes
            ],
            "confidence": self.confidence,
            "numbers": dict(self.numbers),
            "because_of": self.because_of,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Finding:
        """Read what `to_json` wrote; keys that are not known are ignored."""
        causes = tuple(
            Cause(
                str(cause["name"]),
                str(cause["text"]),
                tuple(cause["layers"]),
                cause["bits"],
                cause["share"],
            )
            for cause in data["causes"]
        )
        return Finding(
            str(data["name"]),
            Severity[str(data["severity"]).upper()],
            str(data["summary"]),
            tuple(data["layers"]),
            int(data["since"]),
            int(data["until"]),
            causes,
            str(data["confidence"]),
            dict(data["numbers"]),
            str(data.get("because_of", "")),
        )


class Detector(Protocol):
    """Reads a run's history and says what is wrong with it. Pure: no torch, no state.

    A configured one is a frozen dataclass whose fields are its thresholds.
    """

    def __call__(self, history: History, /) -> tuple[Finding, ...]:
        """Return the findings as of the latest step; none for a healthy run."""
        ...
