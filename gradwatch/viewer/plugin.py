"""The TensorBoard tab: the page of `gradwatch report`, with its data sent instead of built in.

It reads run folders and no event files, so it does not matter how TensorBoard reads those; it
imports no torch; and whatever is in a run folder, TensorBoard stays alive and says what is wrong.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tensorboard.backend import http_util  # type: ignore[import-untyped]  # no stubs
from tensorboard.plugins import base_plugin  # type: ignore[import-untyped]
from werkzeug import wrappers

from gradwatch.core.runfolder_format import to_line
from gradwatch.viewer.reading import LAST, answer
from gradwatch.viewer.report import SCRIPTS, STATIC
from gradwatch.viewer.runs import Runs, state

KEPT: Final = 4
"""Answers that are kept, so that a page that is opened again reads nothing anew."""
KEPT_BYTES: Final = 16 * 2**20
"""Bytes, compressed, that these may take together."""
PATIENCE: Final = 0.5
"""Seconds that TensorBoard's list of tabs waits for a first look at the disk."""
TYPES: Final = {".js": "text/javascript", ".css": "text/css"}


class Plugin(base_plugin.TBPlugin):  # type: ignore[misc]  # untyped
    """Serves the page, the list of runs and the data of one run, or of one beside another."""

    plugin_name = "gradwatch"

    def __init__(self, context: Any) -> None:
        flags = context.flags
        spec = getattr(flags, "logdir_spec", None)
        self._runs = Runs(None if spec else context.logdir, spec)
        self._answers: OrderedDict[tuple[str | int, ...], tuple[str, bytes]] = OrderedDict()
        self._reading = threading.Lock()  # one run at a time: memory stays bounded

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """Return the routes; a static file that is not among them does not exist."""
        files = (*SCRIPTS, "index.js", "style.css")
        return {
            "/runs": _get(self._list),
            "/data": _get(self._data),
            **{f"/static/{name}": _get(_static(STATIC / name)) for name in files},
        }

    def is_active(self) -> bool:
        """Return whether there is a run to show."""
        return self._runs.soon(PATIENCE)

    def frontend_metadata(self) -> Any:
        """Return how TensorBoard opens the page."""
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="gradwatch")

    def _list(self, request: wrappers.Request) -> wrappers.Response:
        if request.args:
            return _refuse(request, 400, "runs takes no parameters")
        return _respond(request, to_line({"runs": list(self._runs.find())}).encode())

    def _data(self, request: wrappers.Request) -> wrappers.Response:
        given = request.args.to_dict(flat=False)
        steps = [request.args.get("from", "0"), request.args.get("to", str(LAST))]
        if (
            not {"run"} <= given.keys() <= {"run", "with", "seen", "from", "to"}
            or any(len(values) > 1 for values in given.values())
            or not all(re.fullmatch("[0-9]{1,15}", step) for step in steps)
        ):
            return _refuse(request, 400, "data takes run, with, seen, from and to, once each")
        # A run, and perhaps another: neither is anything but a key of what was found.
        names = [request.args[key] for key in ("run", "with") if key in given]
        known = self._runs.find()
        if not all(name in known for name in names):
            return _refuse(request, 404, "no such run")
        runs = [(known[name], name) for name in names]
        first, last = map(int, steps)
        try:
            version = "-".join([*(state(folder) for folder, _ in runs), str(first), str(last)])
        except OSError:
            return _refuse(request, 404, "this run is gone")
        # Not 304: its answer has no type, and TensorBoard warns of those.
        unchanged = request.args.get("seen") == version
        body = b"{}" if unchanged else self._answer(version, runs, first, last)
        return _respond(request, body, version)

    def _answer(self, version: str, runs: list[tuple[Path, str]], first: int, last: int) -> bytes:
        with self._reading:
            run, *other = runs
            key: tuple[str | int, ...] = (*(name for _, name in runs), first, last)
            kept = self._answers.get(key)
            if kept is None or kept[0] != version:
                body = answer(*run, first, last, *(other[0] if other else ()))
                kept = self._answers[key] = (version, body)
            self._answers.move_to_end(key)
            while len(self._answers) > 1 and (
                len(self._answers) > KEPT
                or sum(len(body) for _, body in self._answers.values()) > KEPT_BYTES
            ):
                self._answers.popitem(last=False)
            return kept[1]


def _get(respond: Callable[[wrappers.Request], wrappers.Response]) -> Callable[..., Any]:
    """Make an app of what answers a request, for requests that change nothing."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        request = wrappers.Request(environ)
        allowed = request.method in ("GET", "HEAD")
        response = respond(request) if allowed else _refuse(request, 405, "only GET is allowed")
        return response(environ, start_response)

    return app


def _static(file: Path) -> Callable[[wrappers.Request], wrappers.Response]:
    def respond(request: wrappers.Request) -> wrappers.Response:
        content = file.read_bytes()
        return http_util.Respond(  # type: ignore[no-any-return]  # untyped
            request, content, TYPES[file.suffix]
        )

    return respond


def _respond(
    request: wrappers.Request, body: bytes, version: str | None = None
) -> wrappers.Response:
    return http_util.Respond(  # type: ignore[no-any-return]  # untyped
        request,
        body,
        "application/json",
        content_encoding="gzip" if body.startswith(b"\x1f\x8b") else None,
        headers=[("ETag", f'"{version}"')] if version else None,
    )


def _refuse(request: wrappers.Request, code: int, why: str) -> wrappers.Response:
    # In our own words: nothing of the request is repeated.
    return http_util.Respond(  # type: ignore[no-any-return]  # untyped
        request, why, "text/plain", code=code
    )
