"""What the remedies of a training share: how code gets at the recorded data.

A trial has recorded `batches`, of any form that a check-up takes. Who pastes code has a loop of
the ordinary kind, with `inputs` and `targets`: the same lines follow in both.
"""

from __future__ import annotations

from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.remedy import Remedy

RUN_INPUTS: Final = """\
several = [batch[0] if isinstance(batch, (tuple, list)) else batch for batch in batches]
several = [x[0] if isinstance(x, (tuple, list)) and len(x) == 1 else x for x in several]
if not several or not all(isinstance(inputs, torch.Tensor) for inputs in several):
    raise TypeError("the model gets no single tensor of inputs")
"""
CODE_INPUTS: Final = """\
# `inputs` are those of the training set, or of some thousand samples of it.
several = [inputs]
"""
RUN_TARGETS: Final = """\
several = [batch[1] for batch in batches if isinstance(batch, (tuple, list))]
if not several or not all(isinstance(targets, torch.Tensor) for targets in several):
    raise TypeError("the batches have no single tensor of targets")
"""
CODE_TARGETS: Final = """\
# `targets` are those of the training set, or of some thousand samples of it.
several = [targets]
"""
RUN_OUTPUT: Final = """\
import copy

from gradwatch.checking.batch import forward, fresh

with torch.no_grad():  # of a copy: running statistics stay as they are
    output = forward(copy.deepcopy(model), fresh(batches[0]))
"""
CODE_OUTPUT: Final = """\
import copy

with torch.no_grad():  # `inputs` are those of one step
    output = copy.deepcopy(model)(inputs)
"""
MOMENTS: Final = """\
if not all(values.is_floating_point() and values.isfinite().all() for values in several):
    raise TypeError("{what} are no finite floating-point numbers")
rows = torch.cat([{rows} for values in several]).double()
mean, std = rows.mean(0), rows.std(0, correction=0)
std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)  # what is constant stays so
"""
"""Mean and standard deviation of each column of `rows`, an expression of `values`."""


def asked(finding: Finding, remedy: Remedy) -> bool:
    """Whether the finding has a cause that the remedy treats; a trial asks for all others too."""
    return any((finding.name, cause.name) in remedy.treats for cause in finding.causes)
