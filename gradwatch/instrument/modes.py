"""Keeping our own operations out of what the user does with operations.

A dispatch mode sees every operation that runs under it, ours too: selective checkpointing would
hand the recomputation our results for the user's, a FLOP counter would count us, a tracer trace us.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.utils._python_dispatch import _disable_current_modes

_TRACERS = (
    torch._C._TorchDispatchModeKey.FAKE,
    torch._C._TorchDispatchModeKey.PROXY,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
)


def tracing() -> bool:
    """Whether no real numbers are computed at the moment: there is nothing to see."""
    if torch.compiler.is_compiling():  # first: the compiler must not trace what follows
        return True
    return torch._C._len_torch_dispatch_stack() > 0 and any(
        torch._C._get_dispatch_mode(key) is not None for key in _TRACERS
    )


def active() -> bool:
    """Whether a mode of the user is on: asked in every hook, so it has to be cheap."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())


@contextmanager
def unseen() -> Iterator[None]:
    """Run operations that no mode of the user sees."""
    with ExitStack() as stack:
        if torch._C._len_torch_dispatch_stack() > 0:
            stack.enter_context(_disable_current_modes())
        stack.enter_context(torch._C.DisableTorchFunction())
        yield
