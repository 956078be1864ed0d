"""Saturated activation: a bounded function is driven to where its slope is nearly zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress, takes_turns
from gradwatch.core.record import Record
from gradwatch.detectors import _depth, _inputs, _outcome, _sizes, _slopes, _softmaxes


@dataclass(frozen=True, slots=True)
class SaturatedActivation:
    """A tanh or sigmoid in the trunk passes on less than a tenth of what it could.

    Judged by its mean slope and not by its values: 0.9 is no saturation, and a sigmoid around 0.5
    loses its two bits without being saturated. Not looked at are gates (their output multiplies
    something), the last activation (the answer may well be certain), and functions without bounds.
    A saturated net that learns is left in peace; one that was born so and does not learn is
    reported even after its first steps have shaken it loose.

    A softmax inside of the model (attention, a router of experts) that was born decided is the same
    fault: the weights before it are so large that its choice is made, and no gradient changes it.

    The cause is the size of what comes in: weights that are too large (init), or inputs that were
    not scaled (data-scale; Glorot & Bengio 2010). When it came later it is the steps
    (learning-rate), or an output that is asked for values that it cannot reach (data-scale).
    """

    name: ClassVar[str] = "saturated-activation"

    slope: float = 0.1
    """Mean slope over the largest possible; for a standard normal input a tanh has 0.6."""
    large: float = 2.0
    """Size of weights from which on they were born too large; it should be 1, He's is 1.4."""

    much: float = 0.7
    """Skill from which on softmaxes that were born decided have done no harm."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams, or else the first ones of a training that learnt nothing."""
        going = progress(history)
        if history.latest is None:
            return ()
        if found := self._decided(history, going):
            return (found,)
        some = going.skill is not None and history.last_step >= _outcome.LONG
        if _outcome.learns(history, going) and not (some and (going.skill or 0.0) < self.much):
            return ()
        streak = _outcome.latest_streak(history, self._flat)
        born = () if streak else _outcome.first_streak(history, self._flat)
        if not streak and not born:
            return ()
        finding = self._finding(history, streak or born, going, now=bool(streak))
        if finding.cause == "learning-rate" and takes_turns(history):
            return ()  # of two adversaries, each is as sure as the other lets it be
        return (finding,)

    def _decided(self, history: History, going: Progress) -> Finding | None:
        """Softmaxes that were born decided, and still are where there was a second look."""
        first, latest = history.records[0], history.records[-1]
        softmaxes, layers = _softmaxes.decided(first)
        still = set(_softmaxes.decided(latest)[0]) & set(softmaxes)
        if not still or (going.skill or 0.0) >= self.much:
            return None
        if not _outcome.seen_enough(history, history.records):
            return None
        stuck = going.moving is False and history.last_step >= _outcome.LONG
        text = "What these layers give is so large that a softmax of it is decided from the start."
        return Finding(
            self.name,
            Severity.CRITICAL if stuck else Severity.WARNING,
            f"saturated: {_depth.listed(softmaxes)} ({len(softmaxes)} in all) were born decided, "
            "and pass next to no gradient on",
            (*layers, *softmaxes),
            first.step,
            latest.step,
            (Cause("init", text, layers, share=1.0),),
            f"It was born so; {going.text}.",
            {"layers": float(len(softmaxes))},
        )

    def _flat(self, record: Record) -> bool:
        return bool(_slopes.flat(record, self.slope))

    def _finding(
        self, history: History, streak: tuple[Record, ...], going: Progress, *, now: bool
    ) -> Finding:
        worst = streak[-1]
        found = _slopes.flat(worst, self.slope)
        layers = tuple(dict.fromkeys(worst.calls[i].layer.name for i, _ in found))
        slopes = [slope for _, slope in found]
        if now:
            severity, confidence = _outcome.verdict(streak, going)
            severity = max(severity, Severity.WARNING)
        else:
            severity, confidence = Severity.WARNING, f"It was born so; {going.text}."
        return Finding(
            self.name,
            severity,
            f"saturated: {_depth.listed(layers)} ({len(layers)} in all) pass on "
            f"{min(slopes):.1%} to {max(slopes):.1%} of the gradient that they could"
            + ("" if now else " at the start"),
            layers,
            streak[0].step,
            streak[-1].step if now else history.last_step,
            (self._cause(streak[0], history.records[0]),),
            confidence,
            {"slope": min(slopes), "layers": float(len(layers))},
        )

    def _cause(self, record: Record, born: Record) -> Cause:
        """Name the cause from the exam in which it began, and what the model was born with."""
        first = _slopes.flat(record, self.slope)[0][0]
        name = record.calls[first].layer.label
        before = [i for i, call in enumerate(record.calls[:first]) if call.layer.weighted]
        feeding = record.calls[before[-1]] if before else None
        received = feeding.output.rms if feeding is not None and feeding.output else None
        size = f": it gets values of size {received:.3g}" if received is not None else ""
        layers = (record.calls[first].layer.name,)
        large = feeding is not None and (_sizes.size(born, feeding) or 0.0) > self.large
        if record is not born and not large:
            if _slopes.ends_part(record, first):
                text = (
                    f"`{name}` gives the values: it is asked for some that it cannot reach{size}."
                )
                return Cause("data-scale", text, layers, share=1.0)
            text = f"`{name}` was not born so: the steps have made what it gets too large{size}."
            return Cause("learning-rate", text, layers, share=1.0)
        off = _inputs.off_scale(born)
        if off is not None and off.large:
            text = f"`{name}` is saturated because the inputs are too large{size}. {off.text}"
            return Cause("data-scale", text, layers, share=1.0)
        layers = layers if feeding is None else (feeding.layer.name,)
        return Cause("init", f"The weights before `{name}` are too large{size}.", layers, share=1.0)


DETECTORS = (SaturatedActivation(),)
HEALTHY = ("digits-mlp", "tanh-mlp", "gated-mlp", "pre-norm-transformer")
SICK = ("large-tanh-mlp", "scale-inputs-offset")
