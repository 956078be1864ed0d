"""Learns nothing: after many steps the answers are no better than one that is always the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import ClassVar

from gradwatch.core.answer import Answer
from gradwatch.core.answers import answers
from gradwatch.core.finding import Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress, takes_turns
from gradwatch.core.record import Record
from gradwatch.detectors._suspects import suspect


@dataclass(frozen=True, slots=True)
class LearnsNothing:
    """The answers are worth no more than the best one that never looks at its input.

    The safety net under all other detectors: it says that something is wrong where none of them
    can say what. The loss of the best constant answer is known from the targets of each examined
    batch, for cross-entropies and squared errors. A loss that has fallen to just that value has
    fallen for the output's bias alone.

    Hard tasks have plateaus, so that it takes 50 steps, a loss that does not fall, and the average
    over all exams of that time. It is critical when the second half of at least 100 steps has
    brought nothing. The cause is a suspicion: steps, inputs, weights or a number format that are
    out of the ordinary; else the data, labels that do not belong to the inputs, or inputs that say
    nothing of them.
    """

    name: ClassVar[str] = "learns-nothing"

    steps: int = 50
    """Steps after which a training is judged."""
    grace: int = 20
    """First steps that do not count."""
    exams: int = 4
    """Exams whose answers are needed."""
    once: float = 0.15
    """Skill in any one exam that says that it had learnt something."""
    skill: float = 0.03
    """Part of the way from the best constant answer to the right one that is still nothing."""
    little: float = 0.05
    """The same that is hardly anything, in the second half of a long run whose loss stays."""
    near: float = 0.1
    """Part of a constant answer's loss by which answers may be worse than it, and near it."""
    errors: float = 2.0
    """Standard errors by which the mean of the exams is above nothing."""
    worse: float = 0.5
    """Part of a constant answer's loss, and of the loss at the beginning, by which both have to be
    exceeded by answers that became worse."""
    long: int = 100
    """Steps of a run whose second half has to bring something."""
    flat: float = 0.05
    """Where a constant answer's loss is not known: the part of its beginning by which a loss may
    have changed and still count as staying."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge all exams since the first steps."""
        last = history.last_step
        going = progress(history)
        seen = [
            (record, answer)
            for record, answer in answers(history)
            if record.step >= self.grace and answer.skill is not None
        ]
        if going.moving or last < self.steps or takes_turns(history):
            return ()
        if not seen:
            return self._flat(history, going)
        if len(seen) < self.exams:
            return ()
        if lost := self._lost(history, seen, going):
            return lost
        half = len(seen) // 2
        each = [answer.skill or 0.0 for _, answer in seen]
        early, late = (_skill([a for _, a in part]) for part in (seen[:half], seen[half:]))
        noise = self.errors * stdev(each) / len(each) ** 0.5
        better = median(each[half:]) >= self.skill or mean(each) > noise or max(each) > self.once
        # From far below a constant answer up to it, it has only learnt what is constant.
        rising = late - early > max(self.skill, noise) and not -self.near < late < self.skill
        hardly = self._hardly(history, seen, going)
        if (better or rising) and not hardly:
            return ()
        answer = seen[-1][1]
        constant = mean(a.constant for _, a in seen)
        bound = mean(each) + noise
        if bound >= 2 * self.skill and not hardly:  # too noisy to tell a little from nothing
            return ()
        sure = bound < self.skill and not (better or rising)
        sure = sure and not answer.assumed and not self._below(history, *seen[-1])
        long = sure and last + 1 >= self.long and seen[half][0].step <= (last + 1) / 2 + self.grace
        return (
            Finding(
                self.name,
                Severity.CRITICAL if long else Severity.WARNING,
                f"after {last + 1} steps the answers are no better than one that is the same for "
                f"every sample: the {answer.kind} is {(1 - late) * constant:.4g}, and that of the "
                f"best constant answer {constant:.4g}",
                (),
                next((r.step for r, _ in seen if r.step >= self.steps), seen[-1][0].step),
                seen[-1][0].step,
                (suspect(history.records[0], seen[-1][0]),),
                f"Over {len(seen)} exams; {going.text}.",
                {"skill": late, "constant": constant},
            ),
        )

    def _hardly(
        self, history: History, seen: Sequence[tuple[Record, Answer]], going: Progress
    ) -> bool:
        """Whether a long run has brought so little that it is worth a warning, though it may be
        more than nothing: no exam of its second half shows much, and the loss stays."""
        late = [a.skill or 0.0 for r, a in seen if r.step >= history.last_step / 2]
        long = history.last_step + 1 >= self.long and len(late) >= self.exams
        return (
            long and going.moving is False and max(late) <= self.once and median(late) < self.little
        )

    def _lost(
        self, history: History, seen: Sequence[tuple[Record, Answer]], going: Progress
    ) -> tuple[Finding, ...]:
        """Answers that have become far worse than constant ones, whatever they were before."""
        late = [answer for record, answer in seen if record.step >= history.last_step / 2]
        if len(late) < self.exams or going.moving is not False:
            return ()
        each = [answer.skill or 0.0 for answer in late]
        if max(each) >= 0 or median(each) > -self.worse or any(a.assumed for a in late):
            return ()
        rise = going.fall < -self.worse * abs(going.begin)
        if not rise:
            return ()
        record = seen[-1][0]
        return (
            Finding(
                self.name,
                Severity.CRITICAL if history.last_step + 1 >= self.long else Severity.WARNING,
                f"after {history.last_step + 1} steps the answers are worse than one that is the "
                f"same for every sample: the {late[-1].kind} is {late[-1].loss:.4g}, and that of "
                f"the best constant answer {late[-1].constant:.4g}",
                (),
                next(r.step for r, _ in seen if r.step >= history.last_step / 2),
                record.step,
                (suspect(history.records[0], record),),
                f"In all {len(late)} exams of the second half; {going.text}.",
                {"skill": median(each), "constant": late[-1].constant},
            ),
        )

    def _below(self, history: History, record: Record, answer: Answer) -> bool:
        """Whether the latest losses of all steps (exams are few) are below a constant's."""
        _, losses = history.losses()
        if not record.loss or not answer.loss or losses.size < self.long // 2:
            return False
        told = float(median(losses[-(losses.size // 3) :].tolist()))
        return told * answer.loss / record.loss < (1 - self.skill) * answer.constant

    def _flat(self, history: History, going: Progress) -> tuple[Finding, ...]:
        """Where nobody knows what a constant answer is worth: a loss that stays where it began."""
        latest = history.latest
        _, losses = history.losses()
        stays = going.moving is False and going.begin > 0 and not going.diverged
        flat = stays and abs(going.fall) <= self.flat * going.begin and float(losses.min()) > 0
        if latest is None or not flat or _error_falls(history) or history.last_step + 1 < self.long:
            return ()
        return (
            Finding(
                self.name,
                Severity.WARNING,
                f"after {history.last_step + 1} steps the loss is where it began, at "
                f"{going.begin:.4g}",
                (),
                min(self.long, latest.step),
                latest.step,
                (suspect(history.records[0], latest),),
                f"{going.text.capitalize()}; what a constant answer would have is not known.",
                {"fall": going.fall / going.begin},
            ),
        )


def _error_falls(history: History) -> bool:
    """Whether the gradient at the output has become smaller all the same: something that does not
    change may have been added to the loss."""
    sizes = [a.size for _, a in answers(history) if a.size > 0]
    return len(sizes) >= 6 and median(sizes[-3:]) < 0.8 * median(sizes[:3])


def _skill(found: Sequence[Answer]) -> float:
    """What some answers are worth together: loss and constant answer are of the same batches."""
    return 1 - sum(a.loss for a in found) / sum(a.constant for a in found)


DETECTORS = (LearnsNothing(),)
HEALTHY = ("digits-mlp", "resnet", "output-nll", "warm-up")
SICK = ("output-softmax-twice-deep", "skip-gram-both-tables-zero")
