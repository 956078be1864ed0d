"""What can detect, cure and show: built-ins by walking their package, others by entry points.

No list is kept anywhere: a new detector or remedy is one new file.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from gradwatch.core.finding import Detector
from gradwatch.core.remedy import Remedy


def detectors() -> tuple[Detector, ...]:
    """Return every detector with its default thresholds."""
    return tuple(_all("gradwatch.detectors", "DETECTORS"))


def remedies() -> tuple[Remedy, ...]:
    """Return every remedy."""
    return tuple(_all("gradwatch.remedies", "REMEDIES"))


def names() -> tuple[str, ...]:
    """Return every name that `explain` knows, sorted."""
    return tuple(sorted(thing.name for thing in _things()))


def explain(name: str) -> str:
    """Return what a detector or a remedy does, and why: a remedy's title, and the docstring of
    its class.

    Raises `KeyError` for a name that is not known.
    """
    for thing in _things():
        if thing.name == name:
            title = f"{thing.title}.\n\n" if hasattr(thing, "title") else ""
            return title + (inspect.getdoc(type(thing)) or "")
    raise KeyError(name)


def modules(package: str) -> Iterator[ModuleType]:
    """Import and yield the public modules of a package, in the order of their names."""
    path = import_module(package).__path__
    for info in sorted(pkgutil.iter_modules(path), key=lambda info: info.name):
        if not info.name.startswith("_"):
            yield import_module(f"{package}.{info.name}")


def _things() -> Iterator[Any]:
    yield from detectors()
    yield from remedies()


def _all(package: str, attribute: str) -> Iterator[Any]:
    for module in modules(package):
        yield from getattr(module, attribute, ())
    for entry in entry_points(group=package):
        yield entry.load()
