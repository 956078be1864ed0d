"""What the browser tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gradwatch.core.history import History
from gradwatch.core.report import Report
from gradwatch.viewer.report import write_html


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of this machine; GRADWATCH_REQUIRE_BROWSER=1 makes its absence a failure."""
    missing = ""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "the package playwright is not installed"
    else:
        missing = "" if executable else "neither chromium nor google-chrome is on the path"
    if missing:
        if os.environ.get("GRADWATCH_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open the page of a run; anything on the console, any error and any request fails."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900})

    def opened(report: Report, history: History, **more: Any) -> Any:
        file = write_html(report, history, tmp_path / "report.html", **more)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda request: (
                None if request.url in (file.as_uri(), "data:,") else wrong.append(request.url)
            ),
        )
        page.goto(file.as_uri())
        page.wait_for_selector("[data-gw-ready]", state="attached", timeout=20_000)
        return page

    yield opened
    context.close()
    assert wrong == []
