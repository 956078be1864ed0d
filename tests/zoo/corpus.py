"""The corpus: all cases, found by walking the files `cases_*.py` beside this one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tests.zoo.case import Case


def collect() -> dict[str, Case]:
    """Return every case by its name, in alphabetical order."""
    cases: dict[str, Case] = {}
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        for case in import_module(f"tests.zoo.{path.stem}").CASES:
            if case.name in cases:
                raise ValueError(f"two cases are named {case.name!r}: names have to be unique")
            cases[case.name] = case
    return dict(sorted(cases.items()))
