"""Hooks that can be copied and pickled with the model without following it.

A deep copy (EMA, SWA) or a pickle of a model carries its hooks along. A closure breaks the pickle,
and a bound method clones the whole watcher; these become inert instead.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn
from torch.utils.hooks import RemovableHandle

_DELICATE: Final = (nn.TransformerEncoderLayer, nn.MultiheadAttention)


class Hook:
    """Calls `function(owner, *args)` while its owner lives, and returns None whatever it returns.

    A hook that returned something would replace the user's output or gradient.
    """

    __slots__ = ("__weakref__", "_function", "_owner")

    def __init__(self, owner: Any, function: Callable[..., None]) -> None:
        self._owner: Final = weakref.ref(owner)
        self._function: Final = function

    def __call__(self, *args: Any) -> None:
        owner = self._owner()
        if owner is not None:
            self._function(owner, *args)

    def __deepcopy__(self, memo: object) -> InertHook:
        return InertHook()

    def __copy__(self) -> InertHook:
        return InertHook()

    def __reduce__(self) -> tuple[type[InertHook], tuple[()]]:
        return InertHook, ()


class InertHook:
    """What a copied `Hook` becomes: it does nothing."""

    __slots__ = ()

    def __call__(self, *args: Any) -> None:
        return None


class ModuleHooks:
    """Forward hooks on many modules: put on together, taken off together.

    `enter(owner, name, args, kwargs)` runs before and `leave(owner, name, args, output)` after
    each call, the latter also when the call raised (then with None).
    """

    def __init__(
        self, owner: Any, enter: Callable[..., None] | None, leave: Callable[..., None]
    ) -> None:
        self._owner = weakref.ref(owner)
        self._enter = enter
        self._leave = leave
        self._handles: dict[str, list[RemovableHandle]] = {}
        self._known: dict[str, weakref.ref[nn.Module]] = {}
        self._suspended: dict[str, nn.Module] = {}
        self._delicate: dict[str, nn.Module] = {}

    def install(self, modules: Mapping[str, nn.Module]) -> None:
        """Put the hooks on those that do not have them: a module may be added or replaced later."""
        for name, module in modules.items():
            known = self._known.get(name)
            if known is not None and known() is module:
                continue
            self._known[name] = weakref.ref(module)
            self._put_on(name, module)
            if isinstance(module, _DELICATE):
                inner = dict(module.named_modules(prefix=name))
                self._delicate |= {key: one for key, one in inner.items() if key in modules}

    def remove(self) -> None:
        """Take every hook off, the suspended ones for good."""
        self._suspended.clear()
        self._delicate.clear()
        self._known.clear()
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles.clear()

    def suspend(self) -> None:
        """Take hooks off the modules that compute on another path when they see one: in a
        validation step a TransformerEncoderLayer does so for hooks anywhere inside it."""
        for name, module in self._delicate.items():
            for handle in self._handles.pop(name, ()):
                handle.remove()
                self._suspended[name] = module

    def resume(self) -> None:
        """Put back what `suspend` took off."""
        suspended, self._suspended = self._suspended, {}
        for name, module in suspended.items():
            self._put_on(name, module)

    def _put_on(self, name: str, module: nn.Module) -> None:
        owner, enter, leave = self._owner(), self._enter, self._leave
        if owner is None:
            return
        handles = self._handles[name] = []
        if enter is not None:

            def entering(owner: Any, module: nn.Module, args: Any, kwargs: Any) -> None:
                enter(owner, name, args, kwargs)

            handles.append(
                module.register_forward_pre_hook(Hook(owner, entering), with_kwargs=True)
            )

        def leaving(owner: Any, module: nn.Module, args: Any, output: Any) -> None:
            leave(owner, name, args, output)

        handles.append(module.register_forward_hook(Hook(owner, leaving), always_call=True))
