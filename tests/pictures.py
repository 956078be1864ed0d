"""The pictures of the README, of real runs: `python -m tests.pictures` makes them anew.

It trains a deep net of sigmoids on digits, tries remedies on copies of it, trains the net again
with the one that is recommended, and photographs the page and the tab, light and dark. A minute or
two; needs playwright and the system's Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image  # TensorBoard needs it, so it is there
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.core import catalog, runfolder
from gradwatch.core.runfolder_stream import Stream
from gradwatch.data import digits
from gradwatch.viewer.report import write_html
from tests.viewer.tensorboard_server import tensorboard

FOLDER: Final = Path(__file__).parents[1] / "examples" / "pictures"
SCHEMES: Final = ("light", "dark")
WIDTH: Final = 1120
HEIGHT: Final = 1100
"""CSS pixels of a picture at most."""
LARGEST: Final = 150_000
"""Bytes of a picture."""
STEPS: Final = 300


def main() -> None:
    """Train, photograph, and say how large the pictures are."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        record(folder / "runs")
        photograph(folder)
    for file in sorted(FOLDER.glob("*.png")):
        size = file.stat().st_size
        print(f"{file.name:22} {size / 1000:6.1f} kB{'  TOO LARGE' if size > LARGEST else ''}")


# --- the runs --------------------------------------------------------------------------------


def record(runs: Path) -> None:
    """Record a training that gets nowhere with its trial, and the same one repaired."""
    torch.manual_seed(0)
    model = net()
    repaired = net()
    repaired.load_state_dict(model.state_dict())
    batches = sample()
    train(model, batches, runs / "sigmoid")
    untrained = net()
    untrained.load_state_dict(repaired.state_dict())
    verdicts = gradwatch.trial(
        untrained,
        F.cross_entropy,
        batches[:32],
        optimizer=sgd(untrained),
        budget=60.0,
        log_dir=runs / "sigmoid",
    )
    print(verdicts)
    best = verdicts.recommended[0]
    repaired, optimizer, _ = best.apply_to(repaired, sgd(repaired), loss_fn=F.cross_entropy)
    train(repaired, batches, runs / "repaired", optimizer)


def net() -> nn.Sequential:
    """Return ten layers with a sigmoid after each: the first ones get no gradient."""
    layers: list[nn.Module] = []
    for _ in range(10):
        layers += [nn.Linear(64, 64), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def sample() -> list[tuple[Tensor, Tensor]]:
    """Return the batches of the training, in their order."""
    images, labels = map(torch.from_numpy, digits())
    inputs = images.reshape(len(images), -1)
    inputs = (inputs - inputs.mean()) / inputs.std()
    picked = [torch.randint(len(inputs), (64,)) for _ in range(STEPS)]
    return [(inputs[chosen], labels[chosen]) for chosen in picked]


def train(
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    log_dir: Path,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    optimizer = optimizer or sgd(model)
    loss_fn = nn.CrossEntropyLoss()
    with gradwatch.watch(model, optimizer, loss_fn=loss_fn, log_dir=log_dir):
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
            optimizer.step()


# --- the pictures ----------------------------------------------------------------------------


def photograph(folder: Path) -> None:
    """Take every picture in both schemes."""
    from playwright.sync_api import sync_playwright

    page = folder / "sigmoid.html"
    run, stream = runfolder.read(folder / "runs" / "sigmoid"), Stream(folder / "runs" / "sigmoid")
    write_html(run.report(catalog.remedies()), run.history, page, stream.pulses(), folder=stream)
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        sys.exit("neither chromium nor google-chrome is on the path")
    with (
        sync_playwright() as playwright,
        tensorboard(folder, f"--logdir={folder / 'runs'}") as address,
    ):
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for scheme in SCHEMES:
            report(browser, page.as_uri(), scheme)
            tab(browser, address, scheme)
        browser.close()


def report(browser: Any, address: str, scheme: str) -> None:
    """Take the parts of the page that two pictures have room for."""
    parts = {
        "page": "header, #findings, #findings article:first-of-type, #trial",
        "map": "#pulse, #ledger",
    }
    for name, shown in parts.items():
        page = browser.new_page(viewport={"width": WIDTH, "height": 700}, color_scheme=scheme)
        page.goto(address)
        page.wait_for_selector("[data-gw-ready]", state="attached")
        page.evaluate(
            """shown => document.querySelectorAll(
                "#gradwatch > header, main > section, #findings article, #trial details, footer"
            ).forEach((each) => { each.hidden = !each.matches(shown); })""",
            shown,
        )
        page.wait_for_timeout(200)
        size = page.locator("#gradwatch").bounding_box()
        height = min(HEIGHT, size["height"] - 24)  # what is below the last part
        save(page.screenshot(full_page=True, clip={**size, "y": 0, "height": height}), name, scheme)
        page.close()


def tab(browser: Any, address: str, scheme: str) -> None:
    """Take the tab in TensorBoard, with the repaired run beside the sick one."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=scheme)
    page.goto(f"{address}#gradwatch&p.gradwatch.run=sigmoid&p.gradwatch.with=repaired")
    frame = page.frame_locator("iframe")
    frame.locator('#gradwatch[data-gw-with="repaired"]').wait_for(timeout=60_000)
    dark = scheme == "dark"
    page.evaluate("on => document.body.classList.toggle('dark-mode', on)", dark)
    page.wait_for_timeout(500)
    save(page.screenshot(), "tab", scheme)
    page.close()


def save(picture: bytes, name: str, scheme: str) -> None:
    """Write a picture with 256 colours, which makes it small and looks the same."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(
        FOLDER / f"{name}-{scheme}.png", optimize=True
    )


if __name__ == "__main__":
    main()
