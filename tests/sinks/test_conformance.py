"""Every sink takes every report, and two closes."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console as RichConsole

from gradwatch.core.catalog import modules
from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import Columns, Pulse
from gradwatch.core.record import Call, Layer, Parameter, Record
from gradwatch.core.remedy import Prescription
from gradwatch.core.report import Report
from gradwatch.core.sink import Sink
from gradwatch.core.stats import OCTAVES, Stats
from gradwatch.sinks.console import Console
from gradwatch.sinks.latest import Latest
from gradwatch.sinks.logger import LoggerScalars
from gradwatch.sinks.runfolder import RunFolder
from gradwatch.sinks.tensorboard import TensorBoard


class Logger:
    """What Lightning's loggers have."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        assert all(math.isfinite(value) for value in metrics.values())


EXAMPLES: dict[str, Callable[[Path], Sink]] = {
    "Console": lambda path: Console(RichConsole(file=StringIO())),
    "Latest": lambda path: Latest(),
    "LoggerScalars": lambda path: LoggerScalars(Logger()),
    "RunFolder": RunFolder,
    "TensorBoard": TensorBoard,
}
"""A sink that needs more than a folder brings a function `example(path)` in its module."""
NEEDS = {"WandB": "wandb"}


def sinks() -> dict[str, Callable[[Path], Sink]]:
    """Return how each sink of the package is made."""
    found: dict[str, Callable[[Path], Sink]] = {}
    for module in modules("gradwatch.sinks"):
        for name, thing in vars(module).items():
            own = isinstance(thing, type) and thing.__module__ == module.__name__
            if own and hasattr(thing, "write") and hasattr(thing, "close"):
                found[name] = getattr(module, "example", None) or EXAMPLES[name]
    return found


def made(name: str, path: Path) -> Sink:
    if (package := NEEDS.get(name)) and importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed")
    return sinks()[name](path)


def stats(value: float, nans: int = 0) -> Stats:
    octaves = np.zeros(OCTAVES, np.int64)
    octaves[70] = 4
    return Stats(4 + nans, 0, nans, 0, value, value * value, octaves, abs(value))


def report(step: int, value: float, nans: int = 0) -> Report:
    layer = Layer('a"|</script>', "Linear", weighted=True)
    call = Call(layer, 0, None, -1.0, "", True, stats(value, nans), stats(value, nans))
    parameter = Parameter(f"{layer.name}.weight", (2, 2), gradient=stats(value, nans))
    record = Record(step, (call,), (parameter,), loss=value, clip_ratio=1.0)
    columns = Columns((parameter.name,))
    norms, outputs = np.array([value], np.float32), np.zeros(0, np.float32)
    pulses = tuple(Pulse(s, columns, norms, outputs, value, True) for s in range(step, step + 2))
    return Report("Net", step, record=record, pulses=pulses)


HEALTHY = report(0, 1.0)
SICK = replace(
    report(10, 1e-12),
    findings=(
        Finding(
            "vanishing-gradient",
            Severity.CRITICAL,
            "57 bits are lost",
            ('a"|</script>',),
            causes=(Cause("depth", "it is deep", bits=-math.inf, share=math.nan),),
            numbers={"bits": math.nan},
        ),
    ),
    prescriptions=(Prescription("swap", "Swap it", "swap()"),),
    notes=("something was not seen",),
)
NAN = report(20, math.nan, 3)
INFINITE = report(30, math.inf)
EMPTY = Report("Net", -1)
BARE = Report("Net", 40, record=Record(40))


@pytest.fixture(autouse=True)
def no_run_stays_active() -> Iterator[None]:
    """A run of wandb belongs to the whole process until somebody finishes it."""
    yield
    if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
        wandb.run.finish()


@pytest.mark.parametrize("name", sorted(sinks()))
def test_a_sink_takes_every_report_and_two_closes(name: str, tmp_path: Path) -> None:
    """Healthy, sick, NaN, infinite and empty ones, the same one twice, and none after another."""
    sink = made(name, tmp_path)
    for one in (EMPTY, HEALTHY, HEALTHY, SICK, NAN, INFINITE, BARE, EMPTY):
        sink.write(one)
    sink.close()
    sink.close()


@pytest.mark.parametrize("name", sorted(sinks()))
def test_a_sink_that_was_never_written_to_can_be_closed(name: str, tmp_path: Path) -> None:
    made(name, tmp_path).close()


def test_the_sinks_are_found() -> None:
    assert {*EXAMPLES, "WandB"} <= set(sinks())
