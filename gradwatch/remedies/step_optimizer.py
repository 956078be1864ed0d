"""A step of the optimizer: the gradients that backward leaves have to be used."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _reading, _training


@dataclass(frozen=True)
class StepOptimizer:
    """Call `step()` after each backward pass, on an optimizer of this model's own parameters.

    `backward()` only writes gradients: weights move in `step()`. An optimizer holds the tensors
    that it was made with, so that it moves nothing of a copy, of a model that was built anew, or
    whose parameters were replaced since.

    Helps when: gradients arrive and no weight changes at all.
    Does not help when: weights move little: that is the learning rate (`find-learning-rate`). A
    trial makes its own steps, so that it cannot be tried there.

    PyTorch's tutorial "Optimizing Model Parameters": zero_grad, backward, step.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "step-optimizer"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Step an optimizer of these parameters after each backward pass"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("stalled-updates", "disconnection")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the loop; raises `CannotPrescribe` where the weights are moved."""
        moved = [p for p in record.parameters if p.update is not None and p.update.squares > 0]
        if moved or not _training.asked(finding, self):
            raise CannotPrescribe("the gradients are used: weights change in a step")
        return Prescription(
            self.name,
            self.title,
            "# Does the optimizer hold the parameters of this model? These it does not:\n"
            '#   held = {id(p) for group in optimizer.param_groups for p in group["params"]}\n'
            "#   print([name for name, p in model.named_parameters() if id(p) not in held])\n"
            "# If there are any, make it when the model is complete (built, copied, moved):\n"
            "#   optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)\n"
            "# If there are none, look whether step() is reached, and for zero_grad() before it:\n"
            "#   optimizer.zero_grad()\n"
            "#   loss.backward()\n"
            "#   optimizer.step()  # with a GradScaler: scaler.step(optimizer); scaler.update()",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (StepOptimizer(),)
CURES = ()
DOES_NOT_CURE = ()
