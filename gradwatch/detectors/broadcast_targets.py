"""Broadcast targets: every output is compared with the targets of all samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.losses import FITS
from gradwatch.core.progress import progress
from gradwatch.core.record import Record
from gradwatch.core.shared_target import Target, shared_target
from gradwatch.detectors import _outcome


@dataclass(frozen=True, slots=True)
class BroadcastTargets:
    """A loss compares outputs of shape [N, 1] with targets of shape [N], or the other way round.

    Broadcasting makes N x N differences of them: each output is compared with the targets of all
    samples, so that nothing but their mean (for an absolute error their median) can be learnt.

    It shows in the gradient at the output, which then depends on the output alone, as if all
    samples of the batch had one and the same target. There are losses that have such a target on
    purpose: those of adversaries (0 and 1), penalties, the one return of an episode. So the
    target has to change with the batch, and the loss has to be larger than the outputs can tell by
    what is the variance of the targets; or, if each step sees all the data, larger by always the
    same. Without a loss the target has to change with batches of one size, while the training gets
    nowhere. A loss that reads several outputs is left in peace.
    """

    name: ClassVar[str] = "broadcast-targets"

    exams: int = 3
    """Exams that must show it, and all of the latest ones."""
    many: int = 5
    """Exams in which the gradient rises with the output, and not along a line, that show it while
    the loss falls."""
    samples: int = 8
    """Samples of a batch from which on one order of theirs is no chance: of 8 there are 40320."""
    varies: float = 1e-3
    """Change of the common target from batch to batch, relative to the targets' own spread or,
    where that is not known, to the size of the outputs; a constant one has rounding, 1e-6."""
    excess: float = 0.01
    """Part of the loss that the outputs do not explain, at least."""
    same: float = 1e-3
    """Relative difference up to which what they do not explain is always the same."""
    one_sided: float = 0.5
    """Mean of the gradient, over its root mean square, that it does not have in all exams: that of
    a logistic loss, whose slope has one sign, is 0.5 and more."""
    steps: int = 40
    """Steps that it must have lasted to be critical."""

    fallen: float = 0.9
    """Part of the loss that is gone where nobody can speak of a mean that is all that is learnt."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge all exams: the shapes do not change during a run."""
        seen: list[tuple[Record, Target]] = []
        for record in history:
            if not record.output:
                continue
            target = shared_target(record.output, record.loss)
            if target is None or target.samples < self.samples:
                seen.clear()
            elif target.shape:
                seen.append((record, target))
        if len(seen) < self.exams:
            return ()
        going = progress(history)
        targets = [target for _, target in seen]
        known = [target for target in targets if math.isfinite(target.excess)]
        if known:
            found = self._unexplained(known) and (self._changes(known) or self._always(known))
        else:
            one_size = len({target.samples for target in targets}) == 1
            # That the loss falls to that of the median does not speak against it.
            shown = not going.moving or sum(t.shape == "rising" for t in targets) >= self.many
            found = one_size and shown and self._changes(targets) and self._both_signs(seen)
        records = tuple(record for record, _ in seen)
        if going.moving and going.begin > 0 and going.fall >= self.fallen * going.begin:
            return ()
        if not found or not _outcome.lasting(records):
            return ()
        long = records[-1].step - records[0].step >= self.steps
        stuck = long and (going.moving is False or bool(known))
        affine = all(target.shape == "affine" for target in targets)
        what = "mean" if affine else "median"
        summary = "the loss compares each output with the targets of all samples of the batch"
        return (
            Finding(
                self.name,
                Severity.CRITICAL if stuck else Severity.WARNING,
                f"{summary}: nothing but their {what} can be learnt",
                (),
                records[0].step,
                records[-1].step,
                (
                    Cause(
                        "loss",
                        "Outputs and targets have different shapes, such as [N, 1] and [N], and "
                        "are broadcast to [N, N]: give both the same shape.",
                        share=1.0,
                    ),
                ),
                f"In {len(seen)} exams the gradient at the output depends on the output alone; "
                f"{going.text}.",
                {"target": targets[-1].value, "samples": float(targets[-1].samples)},
            ),
        )

    def _changes(self, targets: Sequence[Target]) -> bool:
        """Whether what all samples are compared with changes from batch to batch."""
        values = [t.value for t in targets if math.isfinite(t.value)]
        if len(values) < self.exams:
            return False
        size = median(math.sqrt(t.excess) if t.excess > 0 else t.size for t in targets)
        middle = median(values)
        apart = median(abs(value - middle) for value in values)
        return apart > self.varies * max(size, FITS * abs(middle))

    def _both_signs(self, seen: Sequence[tuple[Record, Target]]) -> bool:
        """Whether some outputs are too high and some too low for the common target: the slope of a
        logistic loss has one sign, and its target is never reached."""
        pulls = [abs(r.answer.pull) for r, _ in seen if r.answer is not None]
        return min(pulls, default=1.0) < self.one_sided

    def _unexplained(self, targets: Sequence[Target]) -> bool:
        return all(target.excess > self.excess * target.loss for target in targets)

    def _always(self, targets: Sequence[Target]) -> bool:
        """Whether what is left of the loss is always the same, while the rest of it changes."""
        left = [target.excess for target in targets]
        rest = [target.loss - target.excess for target in targets]
        if len(left) < self.exams:
            return False
        even = max(left) - min(left) <= self.same * min(left)
        return even and max(rest) - min(rest) > 10 * self.same * min(left)


DETECTORS = (BroadcastTargets(),)
HEALTHY = ("digits-mlp", "scale-targets-huber", "dqn-huber-loss")
SICK = ("targets-broadcast",)
