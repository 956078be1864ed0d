"""How far the running statistics of a batch normalisation are from the batch that it is given.

In training a batch is normalised by its own mean and variance, in evaluation by the running ones:
where these are far from those, the model that is evaluated is not the one that was trained.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from gradwatch.instrument.kernel import observable

CHANNEL: Final = 1
"""The dimension of a batch that holds its channels."""


@torch.no_grad()
def drift(module: nn.Module, args: tuple[Any, ...]) -> Tensor | None:
    """Return the Kullback-Leibler divergence, in nats, of the normal distribution with the running
    statistics from the one with this batch's, of the median channel, as a scalar on the device.

    None for what is no batch normalisation in training mode with running statistics. To be called
    before the forward pass, which mixes this batch into them.
    """
    if not isinstance(module, _BatchNorm) or not module.training or not args:
        return None
    mean, variance, batch = module.running_mean, module.running_var, args[0]
    if mean is None or variance is None or is_lazy(mean) or not isinstance(batch, Tensor):
        return None
    if not observable(batch) or batch.ndim < 2 or batch.shape[CHANNEL] != mean.numel():
        return None
    values = batch.detach().float()
    own, middle = torch.var_mean(
        values, [d for d in range(batch.ndim) if d != CHANNEL], correction=0
    )
    ratio = (own + module.eps) / (variance.float() + module.eps)
    shift = (middle - mean.float()).square() / (variance.float() + module.eps)
    distance = 0.5 * (ratio + shift - 1 - ratio.log())
    # A channel that gives the same everywhere (dead) tells nothing of the statistics.
    return torch.where(own > 0, distance, 0).median().double()
