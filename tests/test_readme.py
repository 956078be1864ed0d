"""The README is true: its code runs, and the output that it shows is what is printed."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?"


def blocks(language: str) -> list[str]:
    """Return the README's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def names() -> dict[str, Any]:
    """Return what the snippets take as given: a model in training, sick enough to be noticed."""
    layers = [layer for _ in range(12) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(16, 4))
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.05),
        "loss_fn": nn.CrossEntropyLoss(),
        "batches": [(torch.randn(8, 16), torch.randint(4, (8,))) for _ in range(60)],
    }


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_every_snippet_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), names())
    assert capsys.readouterr().out.strip(), "every snippet prints what came of it"


def test_the_output_block_is_what_the_example_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same words, and numbers within 10 %: another machine rounds its sums elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["plain_pytorch.py"])
    runpy.run_path(str(ROOT / "examples" / "plain_pytorch.py"), run_name="__main__")
    shown, _, rest = blocks("text")[0].partition("[...")
    printed = capsys.readouterr().out
    assert rest, "the block says where it was cut"
    assert words(printed)[: len(words(shown))] == words(shown)
    numbers = [float(number) for number in re.findall(NUMBER, shown)]
    assert [float(number) for number in re.findall(NUMBER, printed)][: len(numbers)] == (
        pytest.approx(numbers, rel=0.1, abs=0.1)
    )


def words(text: str) -> list[str]:
    """Return the words of a report without its numbers, bars and line breaks."""
    return re.sub(rf"{NUMBER}|[░▁▂▃▄▅▆▇█]+", " ", text).split()


def test_the_two_commands_are_there_to_copy() -> None:
    """`.ci/run` runs exactly these lines; each of them makes the environment that it needs."""
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv ")]
    assert len(commands) == 2
    assert all("-c constraints.txt" in command for command in commands)
    assert commands[0].endswith("gradwatch demo")
    assert commands[1].endswith("pytest")


def test_every_picture_is_there_in_light_and_dark() -> None:
    """Small, described, and one for each of the reader's colours; `tests.pictures` makes them."""
    found = re.findall(
        r'<picture>\n  <source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)">\n'
        r'  <img src="([^"]+)" alt="[^"]{20,}">\n</picture>',
        README,
    )
    assert len(found) == README.count("<picture>") == README.count("<img") > 0
    for dark, light in found:
        assert dark == light.replace("-light.png", "-dark.png") != light
        for picture in (dark, light):
            data = (ROOT / picture).read_bytes()
            assert data.startswith(b"\x89PNG") and len(data) < 150_000
    made = {str(file.relative_to(ROOT)) for file in (ROOT / "examples" / "pictures").iterdir()}
    assert made == {picture for pair in found for picture in pair}


def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
