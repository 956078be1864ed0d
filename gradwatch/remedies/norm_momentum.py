"""The momentum of batch norms: running statistics that follow the batches."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Call, Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading


@dataclass(frozen=True)
class NormMomentum:
    """Set the momentum of the batch norms back to 0.1, and begin with fresh running statistics.

    In PyTorch it is the part of the new batch: running = (1 - momentum) * running + momentum * new.
    Frameworks that mean the part of the old call the same 0.9 or 0.99; with 0.001 it takes
    thousands of steps until the statistics have forgotten the 0 and 1 that they begin with, with 0
    they keep them for good, and with 1 they are those of the latest batch alone.

    Helps when: the loss falls in training and the model that is evaluated is another one.
    Does not help when: the momentum is an ordinary one, and the batches are of different kinds
    (sorted data, another domain) or of a few values (`group-norm`, larger batches): refused.

    Ioffe and Szegedy 2015, "Batch Normalization"; the note on momentum in PyTorch's documentation
    of BatchNorm1d. Cost: none.
    """

    momentum: float = 0.1
    """What they get: PyTorch's default."""
    low: float = 0.01
    """Momentum below which the statistics of the first hundred steps are not those of the data."""
    high: float = 0.5
    """Momentum above which they are those of a batch or two."""
    far: float = 0.2
    """Divergence of running statistics and batch in nats, as `norm-statistics` judges it."""
    settled: int = 10
    """Steps after which they should have begun to follow."""
    few: int = 4
    """Values per channel up to which no momentum helps."""

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "norm-momentum"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Set the momentum of the batch norms to 0.1"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("norm-statistics", "normalisation")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        blamed = _reading.blamed(finding, self)
        far = [
            call
            for call in record.calls
            if call.drift is not None
            and (call.layer.name in blamed or (self._late(record) and call.drift > self.far))
        ]
        if not far:
            raise CannotPrescribe("no running statistics are known to be far from the batches")
        if any(call.output is not None and self._few(call.output.count, call) for call in far):
            raise CannotPrescribe("a batch has too few values for each channel: see group-norm")
        names = _reading.names(far)
        body = f"""\
for name in {_code.listing(names)}:
    norm = model.get_submodule(name)
    if norm.momentum is not None and not {self.low!r} <= norm.momentum <= {self.high!r}:
        norm.momentum = {self.momentum!r}  # the part of the new batch, not of the old ones
        norm.reset_running_stats()"""
        check = f"""\
odd = [model.get_submodule(name).momentum for name in {_code.listing(names)}]
if all(m is None or {self.low!r} <= m <= {self.high!r} for m in odd):
    raise ValueError("the momentum is an ordinary one")
"""
        return Prescription(
            self.name,
            f"Set the momentum of {_code.counted(len(names), 'batch norm')} to {self.momentum:g}",
            f"{body}\n# If it was an ordinary one: shuffle, so that each batch is like all others.",
            runs=check + body,
            answers=_reading.answers(finding, self),
        )

    def _late(self, record: Record) -> bool:
        return record.step >= self.settled

    def _few(self, count: float, call: Call) -> bool:
        return count / (call.layer.weight_shape or (1,))[0] <= self.few


REMEDIES = (NormMomentum(),)
# A momentum shows when the model is evaluated, and not in the loss of the training.
CURES = ()
DOES_NOT_CURE = ("norm-batch-of-two",)
