"""Who may import whom. The waist knows no torch, so a report is there at once."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import gradwatch

ROOT = Path(gradwatch.__file__).parent
CORE = "numpy gradwatch.core"
TORCH = f"torch {CORE} gradwatch.instrument"
CHECKUP = "gradwatch.checking.batch gradwatch.checking.patient gradwatch.checking.constant"
# Layer: what it may import at the top, and what in addition inside of functions. The longest
# matching name counts; everything may import the standard library, and itself.
LAYERS = {
    "gradwatch": ("", ""),
    "gradwatch.core": (CORE, ""),
    "gradwatch.core.report": (CORE, "gradwatch.sinks.console"),  # print(watcher.report())
    "gradwatch.core.remedy": (CORE, "gradwatch.trying.treatment"),  # prescription.apply_to(model)
    "gradwatch.core.verdict": (  # print(trial(...)), verdict.apply_to(model)
        CORE,
        "gradwatch.sinks.verdicts gradwatch.trying.treatment",
    ),
    "gradwatch.data": ("numpy", ""),
    "gradwatch.detectors": (CORE, ""),
    "gradwatch.remedies": (CORE, "torch"),
    "gradwatch.remedies._modules": ("torch", ""),
    "gradwatch.sinks": (CORE, ""),
    "gradwatch.sinks.console": (f"{CORE} rich gradwatch.sinks._text", ""),
    "gradwatch.sinks.verdicts": (
        f"{CORE} rich gradwatch.sinks._text gradwatch.sinks.console",
        "",
    ),
    "gradwatch.sinks.diff": (f"{CORE} rich gradwatch.sinks._text", ""),
    "gradwatch.sinks.export": (f"{CORE} gradwatch.sinks._text", ""),
    "gradwatch.sinks.markdown": (f"{CORE} gradwatch.sinks._text", ""),
    "gradwatch.sinks.wandb": (f"{CORE} gradwatch.sinks._text", "wandb"),
    "gradwatch.sinks.tensorboard": (f"torch tensorboard {CORE} gradwatch.sinks._text", ""),
    "gradwatch.viewer": (f"{CORE} gradwatch.sinks._text", ""),
    "gradwatch.viewer.loader": ("tensorboard", "gradwatch.viewer.plugin"),
    "gradwatch.viewer.plugin": (f"tensorboard werkzeug {CORE} gradwatch.viewer", ""),
    "gradwatch.demo": (
        f"torch rich {CORE} gradwatch.data gradwatch.sinks gradwatch.viewer gradwatch.watcher",
        "",
    ),
    "gradwatch.instrument": (TORCH, ""),
    "gradwatch.watcher": (f"{TORCH} gradwatch.detectors gradwatch.remedies", "gradwatch.sinks"),
    "gradwatch.checking": ("", ""),
    "gradwatch.checking.batch": ("torch", ""),
    "gradwatch.checking.constant": ("torch", ""),
    "gradwatch.checking.patient": ("torch numpy gradwatch.checking.batch", ""),
    "gradwatch.checkup": (f"{TORCH} {CHECKUP}", ""),
    "gradwatch.trying": (
        f"{TORCH} {CHECKUP} rich gradwatch.remedies._modules gradwatch.watcher",
        "",
    ),
    "gradwatch.trials": (f"{TORCH} {CHECKUP} gradwatch.checkup gradwatch.trying", ""),
    "gradwatch.recording": (f"{TORCH} {CHECKUP} gradwatch.trials gradwatch.trying", ""),
    "gradwatch.testing": (f"{TORCH} {CHECKUP} gradwatch.watcher gradwatch.sinks._text", ""),
    "gradwatch.checking.command": (
        f"{CORE} rich gradwatch.sinks {CHECKUP} gradwatch.checkup gradwatch.testing "
        "gradwatch.trials gradwatch.trying",
        "",
    ),
    "gradwatch.callback": (
        f"{TORCH} {CHECKUP} gradwatch.recording gradwatch.sinks gradwatch.watcher",
        "",
    ),
    "gradwatch.lightning": (
        f"{TORCH} gradwatch.callback gradwatch.recording gradwatch.sinks gradwatch.watcher",
        "",
    ),
    "gradwatch.huggingface": (
        f"{TORCH} {CHECKUP} transformers gradwatch.callback gradwatch.recording gradwatch.sinks "
        "gradwatch.watcher",
        "",
    ),
    "gradwatch.cli": (CORE, "gradwatch rich torch"),
    "gradwatch.__main__": ("gradwatch.cli", ""),
}


def within(name: str, packages: str) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages.split())


def imports(tree: ast.AST, nested: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield what is imported, and whether inside of a function; types alone do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, nested) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import: {ast.unparse(node)}"
            # `from package import module` imports the module; a name from it imports the package.
            yield from ((f"{node.module}.{alias.name}", nested) for alias in node.names)
        else:
            function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(node, nested or function)


def violations(module: str, source: str) -> list[str]:
    layer = max((name for name in LAYERS if within(module, name)), key=len)
    if layer == "gradwatch" != module:
        return [f"{module} belongs to no layer: add it to LAYERS"]
    top, inside = LAYERS[layer]
    found = []
    for name, nested in imports(ast.parse(source)):
        allowed = f"{top} {inside} {layer}" if nested else f"{top} {layer}"
        if layer == "gradwatch":
            allowed = top
        standard = name.partition(".")[0] in sys.stdlib_module_names
        if not (standard or name == "gradwatch.__version__" or within(name, allowed)):
            found.append(f"{module} may not import {name}{' in a function' * nested}")
    return found


def test_every_module_imports_its_own_layer_and_those_below_only() -> None:
    """The import table of the design holds, inside of functions too."""
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        found += violations(module, file.read_text(encoding="utf-8"))
    assert found == []


def test_a_violation_is_seen() -> None:
    """The test above can fail: at the top, in a function, in a class, and for a stray module."""
    lazy = "def f():\n    import torch"
    assert violations("gradwatch.core.stats", "import torch.nn") != []
    assert violations("gradwatch.core.stats", lazy) != []
    assert violations("gradwatch.core.stats", "class A:\n    from rich import text") != []
    assert violations("gradwatch.core.history", "from gradwatch import watcher") != []
    assert violations("gradwatch.core.history", "import gradwatch.sinks.console") != []
    assert violations("gradwatch.detectors.x", "from gradwatch.remedies import y") != []
    assert violations("gradwatch.remedies.x", "import torch") != []
    assert violations("gradwatch.cli", "import gradwatch.watcher") != []
    assert violations("gradwatch", "import gradwatch.core.stats") != []
    assert violations("gradwatch.stray", "") != []
    assert violations("gradwatch.remedies.x", lazy) == []
    assert violations("gradwatch.core.report", "import numpy, json") == []
