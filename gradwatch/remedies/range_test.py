"""A range test: the learning rate that a copy of the model can bear is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.remedies import _reading

_LOSS: Final = """\
            inputs, targets = batch
            loss = loss_of(trained(inputs), targets)"""
_RUN_LOSS: Final = """\
            batch = fresh(batch)
            loss = loss_of(measure, forward(trained, batch), batch)"""
_TEST: Final = """\
import copy
import math


def range_test(low={low!r}, high={high!r}, steps={steps!r}):
    # A copy is trained while its rate grows from step to step.
    trained, stepper, {measure} = copy.deepcopy((model, optimizer, loss_fn))
    rates, losses, smooth = [], [], []
    for step in range(steps):
        rates.append(low * (high / low) ** (step / (steps - 1)))
        set_rate(stepper, rates[-1])
        batch = batches[step % len(batches)]
        try:
{loss}
        except ArithmeticError:
            break
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        smooth.append(sorted(losses[-3:])[len(losses[-3:]) // 2])  # batches differ
        if smooth[-1] - min(smooth) > 2 * abs(losses[0]):
            break
        stepper.zero_grad()
        loss.backward()
        stepper.step()
    best = smooth.index(min(smooth)) if smooth else 0
    if not smooth or smooth[0] - smooth[best] < 0.02 * abs(smooth[0]):
        raise ValueError("the loss falls at no learning rate")
    return rates[best] / 10


def set_rate(optimizer, rate):
    # Groups keep their relation to each other.
    largest = max(abs(group["lr"]) for group in optimizer.param_groups) or 1.0
    for group in optimizer.param_groups:
        group["lr"] = rate * (abs(group["lr"]) / largest or 1.0)


set_rate(optimizer, range_test())"""


@dataclass(frozen=True)
class FindLearningRate:
    """Train a copy for some steps with a rate that grows from tiny to huge, and take a tenth of
    the rate at which its loss is lowest.

    Below the right rate the loss does not move, above it it blows up: the lowest point is shortly
    before that. The optimizer, the batches and the loss are those of the training itself; each
    parameter group keeps its relation to the others.

    Helps when: the rate is wrong by an unknown factor, in either direction.
    Does not help when: the loss falls at no rate, which is said: the fault is not the rate. The
    rate of the first steps may be too high for later ones: add a warm-up or a decay.

    Smith 2017, "Cyclical Learning Rates for Training Neural Networks"; a tenth of the minimum is
    the rule of fastai. Cost: 40 steps.
    """

    low: float = 1e-7
    """The first rate."""
    high: float = 10.0
    """The last one."""
    steps: int = 40

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "find-learning-rate"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Find the learning rate by a range test"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        findings = (
            "stalled-updates",
            "oversized-updates",
            "exploding-gradient",
            "non-finite",
            "dead-units",
            "learns-nothing",
            "vanishing-gradient",
        )
        return frozenset((finding, "learning-rate") for finding in findings)

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the test: the same for every model."""
        options = {"low": self.low, "high": self.high, "steps": self.steps}
        code = _TEST.format(**options, measure="loss_of", loss=_LOSS)
        runs = _TEST.format(**options, measure="measure", loss=_RUN_LOSS)
        return Prescription(
            self.name,
            self.title,
            "# With `batches`, a list of some (inputs, targets), and `loss_fn`.\n" + code,
            runs="from gradwatch.checking.batch import forward, fresh, loss_of\n" + runs,
            of_optimizer=True,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (FindLearningRate(),)
CURES = ("lora-scale-too-large", "lr-adam-too-low")
DOES_NOT_CURE = ()
