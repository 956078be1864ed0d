"""What must start at once imports no torch; and no module hides a public function."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "tensorboard", "tensorflow", "lightning", "transformers", "wandb")
LIGHT = """
import gradwatch, gradwatch.cli, gradwatch.core.report, gradwatch.core.runfolder
import gradwatch.core.specimens, gradwatch.sinks.console, gradwatch.sinks.runfolder
import gradwatch.core.comparison, gradwatch.core.runfolder_stream
import gradwatch.sinks.diff, gradwatch.sinks.export, gradwatch.sinks.markdown, gradwatch.sinks.wandb
import gradwatch.viewer.report
from gradwatch.core import catalog
catalog.detectors(), catalog.remedies(), catalog.names()
gradwatch.Finding, gradwatch.Report, gradwatch.Severity, gradwatch.__version__
"""
EVERYTHING = """
import pkgutil, gradwatch
for info in pkgutil.walk_packages(gradwatch.__path__, "gradwatch."):
    if not info.name.endswith("__main__"):
        __import__(info.name)
"""


def run(code: str) -> str:
    """Run Python code in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def heavy_after(code: str) -> str:
    return run(f"{code}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])")


def test_reports_detectors_and_remedies_import_no_torch() -> None:
    """`gradwatch report`, `explain` and the TensorBoard server start at once."""
    assert heavy_after(LIGHT) == "[]"


def test_the_check_for_torch_can_fail() -> None:
    """The test above sees torch when it is there."""
    assert "torch" in heavy_after(f"{LIGHT}\ngradwatch.watch")


def test_no_module_hides_a_public_name() -> None:
    """Importing every submodule leaves `gradwatch.watch` what it is: a function."""
    hidden = f"""{EVERYTHING}
from types import ModuleType
print([n for n in gradwatch.__all__ if isinstance(getattr(gradwatch, n), ModuleType)])
assert callable(gradwatch.watch)
"""
    assert run(hidden) == "[]"


def test_every_public_name_exists() -> None:
    """Each name in `__all__` can be loaded, `dir` lists it, and others are an error."""
    assert (
        run("""
import gradwatch
assert [getattr(gradwatch, name) for name in gradwatch.__all__]
assert set(dir(gradwatch)) >= set(gradwatch.__all__)
try:
    gradwatch.no_such_name
except AttributeError as error:
    print(error)
""")
        == "module 'gradwatch' has no attribute 'no_such_name'"
    )
