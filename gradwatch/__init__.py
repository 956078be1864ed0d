"""gradwatch: the flight recorder and the doctor of a PyTorch training.

    with gradwatch.watch(model, optimizer, log_dir="runs/a") as watcher:
        ...                     # the training loop stays as it is
    print(watcher.report())

Importing this package imports no torch: the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradwatch.checkup import diagnose
    from gradwatch.core.finding import Cause, Finding, Severity
    from gradwatch.core.remedy import Prescription
    from gradwatch.core.report import Report
    from gradwatch.core.verdict import Verdict, Verdicts
    from gradwatch.trials import trial
    from gradwatch.watcher import Watcher, watch

__version__ = "0.1.0"

_HOMES = {
    "Cause": "gradwatch.core.finding",
    "Finding": "gradwatch.core.finding",
    "Severity": "gradwatch.core.finding",
    "Prescription": "gradwatch.core.remedy",
    "Report": "gradwatch.core.report",
    "Verdict": "gradwatch.core.verdict",
    "Verdicts": "gradwatch.core.verdict",
    "Watcher": "gradwatch.watcher",
    "diagnose": "gradwatch.checkup",
    "trial": "gradwatch.trials",
    "watch": "gradwatch.watcher",
}

__all__ = [
    "Cause",
    "Finding",
    "Prescription",
    "Report",
    "Severity",
    "Verdict",
    "Verdicts",
    "Watcher",
    "__version__",
    "diagnose",
    "trial",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name == "testing":  # a module, so that `gradwatch.testing.assert_trainable` works as it is
        return import_module("gradwatch.testing")
    if name not in _HOMES:
        raise AttributeError(f"module 'gradwatch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
