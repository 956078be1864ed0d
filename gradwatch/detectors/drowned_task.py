"""Drowned task: of several heads one hardly has a say in the trunk, and learns nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import ClassVar

from gradwatch.core.answer import Answer, heads
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import progress
from gradwatch.core.record import Record
from gradwatch.detectors import _bonus, _ending, _outcome, _surplus


@dataclass(frozen=True, slots=True)
class _Head:
    """A head in one exam."""

    record: Record
    layer: str
    skill: float | None
    """What its answers are worth, where its loss can be read."""
    share: float
    """Its gradient in the trunk, over that of the head that has the largest."""
    moved: float | None
    """Update-to-weight ratio of its weights."""


@dataclass(frozen=True, slots=True)
class DrownedTask:
    """One task of several gets less than a hundredth of the gradient in the layers that all share,
    and does not learn.

    The sum of losses is ruled by the largest: a squared error in large units, or a weight that was
    meant for another scale (Kendall et al. 2018; Chen et al. 2018). Each output is looked at by
    itself: how large the gradient is that it sends into the trunk, and, where its loss is a
    cross-entropy, what its answers are worth. A task that learns with little is left in peace, and
    so is one that is switched off. Where the loss of a head cannot be read, it has to stand still
    with a thousandth of the gradient.

    A bonus for the entropy of a policy is a task, too: where the loss is next to nothing but that,
    what the policy earns is drowned in it. So is a penalty that is most of the first losses, if
    the steps have followed it alone.

    The loss as a whole falls meanwhile, so this is judged by the task.
    """

    name: ClassVar[str] = "drowned-task"

    share: float = 2.0**-7
    """Gradient in the trunk relative to the largest head's, typically."""
    skill: float = 0.05
    """Part of the way from the best constant answer to the right one that counts as learning,
    beyond what chance gave it at the start ..."""
    enough: float = 0.2
    """... and what is enough in any case."""
    rises: float = 0.01
    """Rise of that part, while it is judged, that is learning, though slow."""
    long: int = 60
    """Steps that it must have lasted to be critical."""
    steps: int = 30
    """Steps before which a task is not judged: the small ones are slow."""
    still: float = 1e-5
    """Update-to-weight ratio of a head that does not move, where its loss is not known."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge each head over the exams since it had time to learn."""
        whole = [(record.step, _heads(record)) for record in history]
        birth = {head.layer: head.skill for head in next((e for _, e in whole if e), [])}
        exams = [heads for step, heads in whole if step >= self.steps]
        names = dict.fromkeys(head.layer for heads in exams for head in heads)
        alone = {name: [h for e in exams for h in e if h.layer == name] for name in names}
        found = [
            streak
            for name, heads in alone.items()
            if (streak := self._drowned(heads, max(0.0, birth.get(name) or 0.0)))
        ]
        if not found:
            return self._outweighed(history) or self._penalised(history)
        worst = min(found, key=lambda streak: median(head.share for head in streak))
        head, records = worst[-1], tuple(head.record for head in worst)
        others = [h for h in exams[-1] if h.layer != head.layer]
        loudest = max(others, key=lambda h: h.share).layer if others else ""
        share = median(one.share for one in worst)
        going = progress(history)
        long = records[-1].step - records[0].step >= self.long
        learnt = (
            ""
            if head.skill is None
            else (f", and its answers are {max(0.0, head.skill):.0%} of the way to the right ones")
        )
        return (
            Finding(
                self.name,
                Severity.CRITICAL if long else Severity.WARNING,
                f"`{head.layer}` has {share:.2g} of the gradient of `{loudest}` in the layers that "
                f"they share{learnt}",
                (head.layer,),
                records[0].step,
                records[-1].step,
                (
                    Cause(
                        "loss",
                        f"In the sum of the losses that of `{loudest}` is so large that the other "
                        "drowns: weigh them, or scale the targets.",
                        (head.layer, loudest),
                        share=1.0,
                    ),
                ),
                f"The loss as a whole does not show it: {going.text}.",
                {"share": share} | ({} if head.skill is None else {"skill": head.skill}),
            ),
        )

    def _outweighed(self, history: History) -> tuple[Finding, ...]:
        going = progress(history)
        found = None if going.moving or history.last_step < self.steps else _bonus.bonus(history)
        if found is None:
            return ()
        long = found.records[-1].step - found.records[0].step >= self.long
        return (
            Finding(
                self.name,
                Severity.CRITICAL if long and going.moving is False else Severity.WARNING,
                f"the bonus for the policy's entropy is {found.bonus:.3g} for each nat, and its "
                f"advantages are of size {found.advantage:.2g}: it stays at {found.entropy:.0%} of "
                "the largest entropy",
                (),
                found.records[0].step,
                found.records[-1].step,
                (
                    Cause(
                        "loss",
                        "The bonus for the entropy is larger than what can be earned: a hundredth "
                        "of the advantages is usual.",
                        share=1.0,
                    ),
                ),
                f"Over {len(found.records)} exams; {going.text}.",
                {"bonus": found.bonus, "advantage": found.advantage},
            ),
        )

    def _penalised(self, history: History) -> tuple[Finding, ...]:
        """Something that is added to the loss is all that the steps have followed."""
        going = progress(history)
        if not _outcome.learns_little(history, going) or (going.skill or 0.0) > self.enough:
            return ()
        found = _surplus.surplus(history)
        if found is None:
            return ()
        nothing = (going.skill or 0.0) <= self.skill
        return (
            Finding(
                self.name,
                Severity.CRITICAL if nothing else Severity.WARNING,
                f"{found.first:.0%} of the first losses did not come from the answers; the steps "
                f"have taken {found.fell:.0%} of that away, and the answers are "
                f"{max(0.0, going.skill or 0.0):.0%} of the way to the right ones",
                (),
                found.records[0].step,
                found.records[-1].step,
                (
                    Cause(
                        "loss",
                        "A penalty (on weights, or on values inside of the net) is added that is "
                        "larger than what the answers could win: give it a smaller factor.",
                        share=1.0,
                    ),
                ),
                f"Over {len(found.records)} exams; {going.text}.",
                {"share": found.first, "fell": found.fell},
            ),
        )

    def _drowned(self, exams: list[_Head], birth: float) -> list[_Head]:
        """Return the exams up to the latest in which this head was drowned."""
        streak: list[_Head] = []
        for head in reversed(exams):
            if head.skill is not None:
                learnt = head.skill >= min(birth + self.skill, self.enough)
                bad = head.share <= 2 * self.share and not learnt
            else:
                small = head.share <= self.share / 8
                bad = small and head.moved is not None and head.moved < self.still
            if not bad:
                break
            streak.insert(0, head)
        # To be less wrong than before and no better than a constant is no learning; nor is chance.
        skills = [max(0.0, head.skill) for head in streak if head.skill is not None]
        rising = len(skills) > 1 and skills[-1] - skills[0] > self.rises
        rising = rising and all(one < after for one, after in pairwise(skills))
        lasts = _outcome.lasting([head.record for head in streak])
        if not lasts or rising or median(h.share for h in streak) > self.share:
            return []
        return streak


def _heads(record: Record) -> list[_Head]:
    """Return the heads of an exam that get a gradient, if there are several."""
    found = [(head, level) for head in heads(record.output) if (level := _level(record, head))]
    if len({name for _, (name, _) in found}) < 2:
        return []
    loudest = max(level for _, (_, level) in found)
    weights = {p.name: p.update_ratio for p in record.parameters}
    return [
        _Head(record, name, head.skill, level / loudest, weights.get(f"{name}.weight"))
        for head, (name, level) in found
    ]


def _level(record: Record, head: Answer) -> tuple[str, float] | None:
    """Return the layer that gives this output, and the norm of the gradient that it sends into
    what comes before it."""
    call = _ending.source(record, head)
    if call is None or call.gain is None or call.grad_output is None or not head.size > 0:
        return None
    return call.layer.name, float(call.grad_output.norm * 2.0**call.gain)


DETECTORS = (DrownedTask(),)
HEALTHY = ("digits-mlp", "multi-task-balanced", "multi-task-auxiliary")
SICK = ("multi-task-ink-in-large-units",)
