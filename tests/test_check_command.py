"""`gradwatch check`: exit codes, what it prints, and what it says of a factory that is no good."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gradwatch.cli import main

FACTORIES = """
import torch
from torch import nn

from gradwatch.data import digits


def batch():
    images, labels = digits()
    return torch.from_numpy(images[:32]).reshape(-1, 64), torch.from_numpy(labels[:32])


def stack(depth, activation):
    layers = []
    for i in range(depth):
        layers += [nn.Linear(32 if i else 64, 32), activation()]
    return nn.Sequential(*layers, nn.Linear(32, 10)), nn.CrossEntropyLoss(), batch()


def sigmoids():
    print("making twenty sigmoids")
    return stack(20, nn.Sigmoid)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.Sigmoid()) for _ in range(20)
        )

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)

    @classmethod
    def build(cls):
        return cls(), nn.CrossEntropyLoss(), batch()


def small():
    return stack(1, nn.ReLU)


def raises():
    return helper()


def helper():
    raise KeyError("no such data set")


def asks(size):
    return size


def leaves():
    raise SystemExit(0)


def pair():
    return stack(1, nn.ReLU)[0], batch()


def nothing():
    pass


def no_parameters():
    return nn.ReLU(), nn.CrossEntropyLoss(), batch()


def wrong_size():
    return nn.Linear(3, 10), nn.CrossEntropyLoss(), batch()


class Broken(nn.Linear):
    def forward(self, x):
        return super().forward(x.to_dense_matrix())


def broken():
    return Broken(64, 10), nn.CrossEntropyLoss(), batch()


def not_finite():
    model, loss, (inputs, labels) = stack(1, nn.ReLU)
    return model, loss, (inputs / 0, labels)


number = 3
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Be in the directory of a project that is not installed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checked").mkdir()
    (tmp_path / "checked" / "__init__.py").touch()
    (tmp_path / "checked" / "models.py").write_text(FACTORIES, encoding="utf-8")
    (tmp_path / "checked" / "unfinished.py").write_text("import no_such_package", encoding="utf-8")
    (tmp_path / "checked" / "script.py").write_text("raise SystemExit(3)", encoding="utf-8")
    path = list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in [name for name in sys.modules if name.partition(".")[0] == "checked"]:
        del sys.modules[name]


Out = pytest.CaptureFixture[str]


def as_json(capsys: Out, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a check with --json; returns the exit code and the object."""
    code = main(["check", *arguments, "--json"])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1

    def strict(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return code, json.loads(out, parse_constant=strict)


def test_a_net_that_does_not_train_fails_and_the_page_says_why(capsys: Out) -> None:
    assert main(["check", "checked.models:sigmoids", "--steps", "60"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("FAIL checked.models:sigmoids\nDoes not train: the loss went from 2.")
    assert "a constant output reaches 2." in " ".join(out.split())
    assert "vanishing-gradient" in out and "What to try" in out
    assert "\x1b" not in out
    assert err == "making twenty sigmoids\n"  # standard output is for the result


def test_a_net_that_trains_passes(capsys: Out) -> None:
    assert main(["check", "checked.models:Residual.build", "--steps", "40"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("PASS checked.models:Residual.build\nTrains: the loss went from ")
    assert err == ""


def test_one_object_of_json_has_it_all(capsys: Out) -> None:
    code, data = as_json(capsys, "checked.models:small", "--steps", "60")
    assert code == 0
    assert data["factory"] == "checked.models:small"
    assert (data["passed"], data["trained"]) == (True, True)
    assert data["losses"]["first"] > 2 > data["losses"]["last"]
    assert data["losses"]["steps"] == 60
    assert 2 < data["baseline"] < 2.4
    assert data["verdict"] and data["reason"]
    assert (data["findings"], data["prescriptions"], data["notes"]) == ([], [], [])


def test_what_is_not_finite_is_strict_json_too(capsys: Out) -> None:
    code, data = as_json(capsys, "checked.models:not_finite")
    assert code == 1
    assert not data["trained"]
    assert data["losses"] == {"first": "nan", "last": "nan", "steps": 1}
    assert data["findings"][0]["name"] == "non-finite"


def test_before_training_it_predicts_and_a_prediction_fails_only_on_request(capsys: Out) -> None:
    sick = "checked.models:sigmoids", "--init-only"
    code, data = as_json(capsys, *sick)
    assert code == 0
    assert (data["passed"], data["trained"], data["losses"]) == (True, None, None)
    assert data["findings"][0]["severity"] == "warning"
    assert data["prescriptions"][0]["code"]
    code, data = as_json(capsys, *sick, "--fail-on", "warning")
    assert (code, data["passed"]) == (1, False)
    assert main(["check", "checked.models:small", "--init-only", "--fail-on", "warning"]) == 0
    assert capsys.readouterr().out.startswith("PASS checked.models:small\n\ngradwatch: Sequential")


def test_the_result_is_no_matter_of_luck(capsys: Out) -> None:
    """The factory makes the same weights every time."""
    results = [as_json(capsys, "checked.models:small", "--steps", "20") for _ in range(2)]
    assert results[0] == results[1]


def test_a_terminal_sees_a_progress_bar(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["check", "checked.models:small", "--steps", "20"])
    out, err = capsys.readouterr()
    assert "training a copy with Adam" in err
    assert "training a copy" not in out


BAD = {
    "checked.models": ("must be written pkg.mod:factory, got 'checked.models'",),
    "checked.models:": ("must be written pkg.mod:factory",),
    "checked/models.py:small": ("got the file 'checked/models.py': try checked.models:small",),
    "checkd.models:small": ("no module is called 'checkd' (looked for checkd.models:small",),
    "checked.model:small": ("no module is called 'checked.model'",),
    "checked.unfinished:f": (
        "importing checked.unfinished for checked.unfinished:f raised ModuleNotFoundError",
        "unfinished.py:1 in <module>",
        "import no_such_package",
    ),
    "checked.script:main": ("raised SystemExit: 3", "script.py:1", "raise SystemExit(3)"),
    "checked.models:smal": ("checked.models has no 'smal'; did you mean small?",),
    "checked.models:number": ("checked.models:number must be callable, it is 3",),
    "checked.models:asks": ("must be callable without arguments: asks() missing 1",),
    "checked.models:raises": (
        "checked.models:raises raised KeyError: 'no such data set'",
        "in raises",
        "return helper()",
        "in helper",
        'raise KeyError("no such data set")',
    ),
    "checked.models:leaves": ("raised SystemExit: 0", "in leaves", "raise SystemExit(0)"),
    "checked.models:pair": (
        "must return (model, loss_fn, batch), it returned a tuple of 2 (Sequential, tuple)",
    ),
    "checked.models:nothing": ("must return (model, loss_fn, batch), it returned None",),
    "checked.models:no_parameters": (
        "what checked.models:no_parameters gives: model must have parameters, ReLU has none",
    ),
    "checked.models:wrong_size": ("the forward of Linear raised RuntimeError: mat1 and mat2",),
    "checked.models:broken": (
        "the forward of Broken raised AttributeError",
        "in forward",
        "x.to_dense_matrix()",
    ),
}


@pytest.mark.parametrize("init_only", [False, True], ids=["train", "init-only"])
@pytest.mark.parametrize("factory", BAD)
def test_what_is_wrong_with_a_factory_is_said(capsys: Out, factory: str, init_only: bool) -> None:
    """Exit code 2, nothing on stdout, and on stderr the factory, the reason and its own frames."""
    assert main(["check", factory, *["--init-only"] * init_only]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gradwatch check: ")
    first, *others = BAD[factory]
    assert first in err.splitlines()[0]
    assert all(any(text in line for line in err.splitlines()[1:]) for text in others)
    assert len(err.splitlines()) == 1 + 4 * ("helper" in err) + 2 * (
        bool(others) and "helper" not in err
    )


@pytest.mark.parametrize("option", [["--steps", "19"], ["--steps", "x"], ["--fail-on", "death"]])
def test_an_option_that_makes_no_sense_is_named(capsys: Out, option: list[str]) -> None:
    assert main(["check", "checked.models:small", *option]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert option[0] in err and option[1] in err
    assert len(err.splitlines()) == 1


def test_a_process_of_its_own_checks_the_current_directory() -> None:
    """As an installed command, whose path has not the current directory on it."""
    command = [sys.executable, "-P", "-m", "gradwatch", "check", "checked.models:small"]
    done = subprocess.run(
        [*command, "--steps", "30"],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PASS checked.models:small\n")


@pytest.mark.parametrize("option", [(), ("--init-only",)])
def test_what_was_found_is_recorded_on_request(
    capsys: Out, tmp_path: Path, option: tuple[str, ...]
) -> None:
    """As a run that `gradwatch report` shows; a place that cannot be written to is said first."""
    command = ["check", "checked.models:sigmoids", "--steps", "30", *option]
    main([*command, "--log-dir", str(tmp_path / "run")])
    capsys.readouterr()
    main(["report", str(tmp_path / "run")])
    assert "vanishing-gradient" in capsys.readouterr().out
    (tmp_path / "file").touch()
    assert main([*command, "--log-dir", str(tmp_path / "file")]) == 2
    assert "check: --log-dir must be a folder to write to" in capsys.readouterr().err


@pytest.mark.slow
def test_remedies_are_tried_on_request(
    capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gradwatch.checking.command.BUDGET", 12.0)
    sick = "checked.models:sigmoids", "--steps", "60", "--try-remedies"
    assert main(["check", *sick, "--log-dir", str(tmp_path)]) == 1, (
        "the model as it is does not train, whatever would help"
    )
    page = capsys.readouterr().out
    assert "Tried on copies" in page and "untreated" in page
    main(["report", str(tmp_path), "--markdown"])
    assert "Tried on copies: " in capsys.readouterr().out
    tried = as_json(capsys, *sick)[1]["trial"]
    assert tried["untreated"]["losses"]
    assert tried["verdicts"] or tried["not_reached"]


def test_nothing_is_tried_on_a_net_that_trains(capsys: Out) -> None:
    assert main(["check", "checked.models:small", "--try-remedies"]) == 0
    assert "Tried" not in capsys.readouterr().out
