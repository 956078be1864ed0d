"""The HTML report: a run as one file that needs no server, no network and no torch to be read.

Its content security policy allows the one script and the one style in it, by their hashes, and
nothing else; data is an island of JSON in which no character can end the element.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from gradwatch.core.history import History, Pulse
from gradwatch.core.report import Report
from gradwatch.core.runfolder_format import to_line
from gradwatch.core.whole_file import whole_file
from gradwatch.sinks._text import clean
from gradwatch.viewer.exams import Folder
from gradwatch.viewer.page_data import page_data

STATIC: Final = Path(__file__).with_name("static")
SCRIPTS: Final = (
    "dom.js",
    "paint.js",
    "scale.js",
    "loss.js",
    "heatmap.js",
    "cursor.js",
    "timeline.js",
    "ridge.js",
    "ratio.js",
    "tree.js",
    "ledger.js",
    "findings.js",
    "trial.js",
    "compare.js",
    "view.js",
    "app.js",
)
"""In the order of their imports: each imports from those before it only. The tab has one more,
`index.js`, which fetches what a report holds."""
_HARMLESS: Final = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def write_html(
    report: Report,
    history: History,
    path: str | os.PathLike[str],
    pulses: Iterable[Pulse] | None = None,
    beside: dict[str, Any] | None = None,
    folder: Folder | None = None,
) -> Path:
    """Write the page of a run, whole or not at all, and return its path.

    For a run folder: `run = runfolder.read(...)`, `write_html(run.report(catalog.remedies()),
    run.history, path, stream.pulses(), folder=stream)` with `stream = Stream(run.path)`; without
    the last two, of a long run only what a history keeps is shown. `beside` is what `compare_data`
    tells of this run and another.
    """
    text = page(report, history, pulses, beside, folder)
    with whole_file(path) as out:
        out.write(text)
    return Path(path)


def page(
    report: Report,
    history: History,
    pulses: Iterable[Pulse] | None = None,
    beside: dict[str, Any] | None = None,
    folder: Folder | None = None,
) -> str:
    """Return the page of a run."""
    style = (STATIC / "style.css").read_text(encoding="utf-8")
    script = bundle()
    data = {**page_data(report, history, pulses, folder), "beside": beside}
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    title = html.escape(f"gradwatch: {data['run'] or data['model']}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<div id="gradwatch"></div>
<noscript>
{_without_script(report, beside)}</noscript>
<script type="application/json" id="gradwatch-data">{island(data)}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def bundle() -> str:
    """Return the scripts as one: a page that was opened from a disk cannot import others."""
    sources = ((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return re.sub(r"^import [^;]*;\n|^export ", "", "\n".join(sources), flags=re.MULTILINE)


def island(data: object) -> str:
    """Return JSON that cannot end a script element, nor a line of one."""
    return to_line(data).rstrip("\n").translate(_HARMLESS)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _without_script(report: Report, beside: dict[str, Any] | None) -> str:
    """Return the findings for a browser that runs no script."""
    heads = ("Severity", "Finding", "Since step", "Why")
    rows = [
        (
            str(finding.severity),
            finding.summary,
            str(finding.since),
            "; ".join(cause.text for cause in finding.causes),
        )
        for finding in report.findings
    ]
    lines = [
        f"<h1>{_text(report.verdict)}</h1>",
        f"<p>Progress: {_text(report.progress.text)}.</p>",
    ]
    if beside is not None:
        lines.append(f"<p>Beside another run: {_text(beside['headline'])}.</p>")
    if report.trial is not None:
        lines.append(f"<p>Tried on copies: {_text(report.trial.summary)}</p>")
    if rows:
        lines += ["<table>", _row("th", heads), *(_row("td", row) for row in rows), "</table>"]
    return "".join(f"{line}\n" for line in lines)


def _row(tag: str, cells: tuple[str, ...]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in cells)}</tr>"


def _text(text: str) -> str:
    return html.escape(clean(text))
