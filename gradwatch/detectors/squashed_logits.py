"""Squashed logits: what the loss takes for logits cannot become large, whatever the net learns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.answer import Answer
from gradwatch.core.answers import answers
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.losses import BINARY, CROSS_ENTROPY
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _ending, _outcome, _pinned


@dataclass(frozen=True, slots=True)
class _Squash:
    """Why the logits stay small."""

    text: str
    layers: tuple[str, ...]
    width: float
    """The largest logit minus the smallest, at most."""
    certain: bool = True
    """Whether it is a mistake by itself, and not only if the training suffers from it."""
    fixed: bool = True
    """Whether the width is one that nothing can exceed, and not only the one that was seen."""


@dataclass(frozen=True, slots=True)
class SquashedLogits:
    """A cross-entropy is given numbers that cannot become large.

    It takes differences of logits of 5 and more to be sure of a class. Probabilities (a softmax or
    a sigmoid before a loss that applies its own), cosines, a tanh, or logits divided by a
    temperature that is too high cannot give them: the loss of ten classes cannot fall below 1.46
    if it is given probabilities, and the gradient that reaches the net is small and says little.

    Where outputs are compared with one another, or with another model's, the division is inside of
    the loss: then it is seen in a loss that stays at that of guessing, or in its size, and in a
    gradient that says that other outputs would change next to nothing.

    What the loss is, is read from the gradient at the output, inside the model or after it. A
    softmax or a sigmoid too many is said at once; a range or a temperature only if the training
    gets nowhere, or if the loss would be far lower with the same logits times a number.
    """

    name: ClassVar[str] = "squashed-logits"

    floor: float = 0.1
    """Part of a constant answer's loss below which no logits of that range can get it."""
    gain: float = 0.15
    """Part of a constant answer's loss that a multiple of the same logits has to save."""
    temperature: float = -3.3
    """Bits by which products after the last weights make the logits smaller: a tenth."""
    rise: float = 0.01
    """Skill gained since the start with which an answer that is still nothing is on its way."""
    high: float = 0.3
    """Part of a constant answer's loss that is a high floor for the best one."""
    near: float = 0.2
    """Part of the way down to the floor that is left where it is as good as reached."""
    small: float = 0.5
    """Standard deviation of logits over the batch that is too small to tell classes apart."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the latest exams whose loss is known, or the loss where its kind is not."""
        if (going := progress(history)).moving is False and (pinned := _pinned.pinned(history)):
            return (self._divided(pinned, going),)
        found = [
            (record, answer, self._squash(record, answer)) for record, answer in answers(history)
        ]
        judged = [one for one in found if one[1].kind in (CROSS_ENTROPY, BINARY)]
        streak: list[tuple[Record, Answer, _Squash]] = []
        for record, answer, squash in reversed(judged):
            if squash is None:
                break
            streak.insert(0, (record, answer, squash))
        if not streak:
            return ()
        since = [record for record, _, _ in found if record.step >= streak[0][0].step]
        if 2 * len(streak) < len(since):  # a single exam looked like such a loss
            return ()
        records = tuple(record for record, _, _ in streak)
        _, answer, squash = streak[-1]
        predicted = history.checkup and not squash.fixed
        if not squash.certain and not predicted and not self._suffers(streak, going):
            return ()
        severity, confidence = self._verdict(records, going)
        floor = self._floor(answer, squash.width)
        summary = f"the {answer.kind} is given {squash.text}: it "
        summary += f"cannot fall below {floor:.3g}" if squash.fixed else f"is {answer.loss:.4g}"
        return (
            Finding(
                self.name,
                severity,
                f"{summary}, and for a constant answer it is {answer.constant:.4g}",
                squash.layers,
                records[0].step,
                records[-1].step,
                (Cause("loss", f"The loss is given {squash.text}.", squash.layers, share=1.0),),
                confidence,
                {"floor": floor, "loss": answer.loss, "constant": answer.constant},
            ),
        )

    def _divided(self, pinned: _pinned.Pinned, going: Progress) -> Finding:
        severity, confidence = _outcome.verdict(pinned.records, going)
        return Finding(
            self.name,
            severity,
            pinned.summary,
            (),
            pinned.records[0].step,
            pinned.records[-1].step,
            (Cause("loss", pinned.why, share=1.0),),
            confidence,
            pinned.numbers,
        )

    def _squash(self, record: Record, answer: Answer) -> _Squash | None:
        """Return what keeps the logits of this exam small, if anything does."""
        if answer.kind not in (CROSS_ENTROPY, BINARY) or not answer.constant > 0:
            return None
        last = _ending.bounded(record) if answer.outputs == 1 else None
        where = () if last is None else (last.layer.name,)
        if answer.through == "temperature":
            text = "logits that were divided by so much that they are almost nothing"
            return _Squash(text, (), 0.0, fixed=False)
        if answer.through:
            return _Squash(f"the result of a {answer.through}, and applies its own", (), 1.0)
        if answer.kind == CROSS_ENTROPY and answer.probabilities:
            return _Squash("probabilities, and applies a softmax of its own", where, 1.0)
        unit = answer.low >= 0 and answer.high <= 1
        if answer.kind == BINARY and unit and last is not None:
            return _Squash("probabilities, and applies a sigmoid of its own", where, 1.0)
        ends = _ending.ending(record)
        if last is not None and ends[-1] is last:
            low, high = _ending.RANGES[last.layer.kind]
            text = f"the outputs of `{last.layer.label}`, which are from {low:.0f} to {high:.0f}"
            return _Squash(text, where, high - low, certain=False)
        bits, scaled = _ending.rescaled_bits(record)
        if bits <= self.temperature and answer.varying < self.small:
            text = f"logits that were made {2.0**-bits:.3g} times smaller in `{scaled[-1]}`"
            width = answer.high - answer.low
            return _Squash(text, scaled, width, certain=False, fixed=False)
        if max(-answer.low, answer.high) <= 1.0001 and _normalised(record):
            return _Squash("cosines, which are from -1 to 1", (), 2.0, certain=False)
        return None

    def _suffers(self, streak: list[tuple[Record, Answer, _Squash]], going: Progress) -> bool:
        """Whether the range is what holds it back: the logits press against it."""
        latest = streak[-3:]
        if not _outcome.lasting([record for record, _, _ in streak]):
            return False
        fixed = latest[-1][2].fixed
        if fixed and all(self._ends_at(a, self._floor(a, s.width)) for _, a, s in latest):
            return True
        if self._rises(streak):
            return False
        if all(self._floor(a, s.width) < self.floor * a.constant for _, a, s in latest):
            return False
        if not fixed:
            return going.moving is False
        return self._pressing(latest)

    def _ends_at(self, answer: Answer, floor: float) -> bool:
        """Whether the loss has come down as far as it can, and that is not far."""
        near = answer.loss - floor < self.near * (answer.constant - floor)
        return near and floor > self.high * answer.constant

    def _rises(self, streak: list[tuple[Record, Answer, _Squash]]) -> bool:
        """Whether the answers become better, slowly and all the time: logits grow in the end."""
        skills = [answer.skill or 0.0 for _, answer, _ in streak]
        return skills[-1] == max(skills) and skills[-1] - skills[0] > self.rise

    def _pressing(self, latest: list[tuple[Record, Answer, _Squash]]) -> bool:
        return all(a.loss - a.cool_loss > self.gain * a.constant for _, a, _ in latest)

    @staticmethod
    def _floor(answer: Answer, width: float) -> float:
        """The best loss with logits in a range of that width."""
        others = (answer.classes if answer.kind == CROSS_ENTROPY else 2) - 1
        if answer.kind == BINARY and answer.low >= 0:  # never below 0: of no, it can never be sure
            return 0.5 * (math.log(2) + math.log1p(math.exp(-width)))
        return math.log1p(max(1, others) * math.exp(-width))

    @staticmethod
    def _verdict(records: tuple[Record, ...], going: Progress) -> tuple[Severity, str]:
        severity, confidence = _outcome.verdict(records, going)
        if severity == Severity.NOTE:
            return Severity.WARNING, f"It learns as far as it can: {going.text}."
        return severity, confidence


def _normalised(record: Record) -> bool:
    """Whether something is divided by its norm after the last module with weights."""
    last = max(
        (i for i, c in enumerate(record.calls) if c.layer.weighted and not c.layer.functional),
        default=-1,
    )
    kinds = {call.layer.kind for call in record.calls[last + 1 :] if call.layer.functional}
    return "linalg_vector_norm" in kinds or "norm" in kinds


DETECTORS = (SquashedLogits(),)
HEALTHY = ("digits-mlp", "output-log-softmax-twice", "output-cosine-scaled", "output-confident")
SICK = ("output-softmax-twice-deep", "output-temperature-too-high")
