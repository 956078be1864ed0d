"""The TensorBoard tab's server: finds the runs, tells what is in them, and nothing else."""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import subprocess
import sys
import tomllib
import warnings
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client, TestResponse

from gradwatch.core import catalog, specimens
from gradwatch.core.history import Columns, History, Pulse
from gradwatch.core.report import examine
from gradwatch.core.runfolder import RunWriter
from gradwatch.core.runfolder_format import SCHEMA
from gradwatch.core.runfolder_trial import write_trial
from gradwatch.core.verdict import Outcome, Verdicts
from gradwatch.viewer import norms, reading, runs
from gradwatch.viewer.loader import Loader
from gradwatch.viewer.plugin import Plugin

with warnings.catch_warnings():  # TensorBoard's own copy of an old package
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.backend.application import TensorBoardWSGIApp

DATA = "/data/plugin/gradwatch/"
HOSTILE = ("</script><img src=x onerror=alert(1)>".replace("/", "_"), "a\"b'c &amp;", "\u202eexe")


def write(run_dir: Path, past: History, steps: int | None = None) -> RunWriter:
    """Record a run: its exams, its pulses and what was found in them."""
    writer = RunWriter(run_dir, model="Net")
    for record in past.records:
        writer.add_record(record)
    writer.add_pulses(past.pulses[:steps])
    writer.add_report(examine(past, catalog.detectors(), (), model="Net"))
    return writer


def empty(run_dir: Path) -> None:
    """Record a run of which nothing is known yet."""
    RunWriter(run_dir, model="Net").add_pulses([pulse(0)])


def pulse(step: int) -> Pulse:
    return Pulse(step, COLUMNS, np.full(1, 2.0**-step, np.float32), np.zeros(0, np.float32))


COLUMNS = Columns(("body.weight",))


def server(logdir: Path | None, spec: str = "", prefix: str = "") -> Client:
    """TensorBoard's own application with the tab in it."""
    flags = Namespace(
        **{"logdir": str(logdir or ""), "logdir_spec": spec, "path_prefix": prefix},
        **{"samples_per_plugin": {}, "window_title": "", "generic_data": "true"},
    )
    return Client(TensorBoardWSGIApp(flags, [Loader()], data_provider=object()))


def get(client: Client, route: str, prefix: str = "", **query: Any) -> TestResponse:
    return client.get(f"{prefix}{DATA}{route}", query_string=query)


def names(client: Client, prefix: str = "") -> list[str]:
    found = get(client, "runs", prefix)
    assert found.status_code == 200
    return list(found.get_json()["runs"])


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the disk for every request."""
    monkeypatch.setattr(runs, "FRESH", 0.0)
    monkeypatch.setattr(runs, "SHARE", 1e9)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in this process: faster, where it is not the process that is tested."""
    monkeypatch.setattr(
        "gradwatch.viewer.plugin.answer",
        lambda folder, name, *steps: reading._packed(reading.data_of(folder, *steps), name),
    )


def test_a_sick_run_is_told_as_the_report_tells_it(tmp_path: Path) -> None:
    """Verdict, cause, prescription, and every number of the flight recorder: read elsewhere."""
    past = specimens.load("sigmoid-mlp")
    write(tmp_path / "sick", past)
    data = get(server(tmp_path), "data", run="sick").get_json()
    assert data["severity"] == "critical" and data["run"] == "sick"
    assert data["findings"][0]["name"] == "vanishing-gradient"
    assert "torch.nn.ReLU()" in data["prescriptions"][0]["code"]
    assert data["pulse"]["parameters"] == list(past.pulses[0].columns.parameters)
    assert data["pulse"]["steps"] == [each.step for each in past.pulses]


def test_runs_are_named_as_tensorboard_names_them(tmp_path: Path) -> None:
    """Nested ones by their path, the logdir itself by a dot; a spec's by its own names."""
    for run in ("a", "a/b/c", "d/e"):
        empty(tmp_path / run)
    (tmp_path / "d" / "gradwatch").mkdir()  # holds no run
    assert names(server(tmp_path)) == ["a", "a/b/c", "d/e"]
    assert names(server(tmp_path / "a")) == [".", "b/c"]
    spec = f"one:{tmp_path / 'a'},two:{tmp_path / 'd'},gs://bucket/x,{tmp_path / 'missing'}"
    client = server(None, spec)
    assert names(client) == ["one", "one/b/c", "two/e"]
    assert get(client, "data", run="two/e").status_code == 200
    assert names(server(None, str(tmp_path / "d"))) == ["e"]


def test_it_works_below_a_path_prefix(tmp_path: Path) -> None:
    """Behind a proxy every address begins with something of the proxy's."""
    empty(tmp_path / "a")
    client = server(tmp_path, prefix="/proxy/6006")
    assert names(client, "/proxy/6006") == ["a"]
    assert get(client, "runs").status_code == 404


def test_several_hundred_runs_are_listed_at_once(tmp_path: Path) -> None:
    """And each can be asked for."""
    empty(tmp_path / "run-0")
    for i in range(1, 400):
        shutil.copytree(tmp_path / "run-0", tmp_path / f"group-{i % 7}" / f"run-{i}")
    client = server(tmp_path)
    assert len(names(client)) == 400
    assert get(client, "data", run="group-3/run-381").get_json()["run"] == "group-3/run-381"


def test_links_that_lead_in_circles_end(tmp_path: Path) -> None:
    """A link is followed, and a folder is looked at once."""
    empty(tmp_path / "elsewhere" / "a")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "logs")
    assert names(server(tmp_path / "logs")) == ["linked/a"]


@pytest.mark.usefixtures("fresh", "here")
def test_a_run_appears_and_grows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was appended is there at the next look; what has not changed is not sent again."""
    client = server(tmp_path)
    assert names(client) == []
    writer = RunWriter(tmp_path / "a", model="Net")
    assert names(client) == []  # it has written nothing yet
    for steps in (1, 5, 12):
        writer.add_pulses(map(pulse, range(steps)))
        assert names(client) == ["a"]
        answer = get(client, "data", run="a")
        assert answer.get_json()["pulse"]["steps"] == list(range(steps))
        again = get(client, "data", run="a", seen=answer.headers["ETag"].strip('"'))
        assert again.get_json() == {}
    assert "will become an error" not in caplog.text  # TensorBoard's validator of answers
    assert answer.get_json()["severity"] == "unknown"  # nobody judged it
    assert answer.get_json()["verdict"].startswith("Not judged")
    shutil.rmtree(tmp_path / "a")
    assert get(client, "data", run="a").status_code == 404


@pytest.mark.usefixtures("fresh", "here")
def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    """Answers to many runs do not pile up."""
    for i in range(9):
        empty(tmp_path / f"run-{i}")
    plugin = Plugin(TBContext(flags=Namespace(logdir_spec=""), logdir=str(tmp_path)))
    client = Client(plugin.get_plugin_apps()["/data"])
    for i in range(9):
        assert client.get("/", query_string={"run": f"run-{i}"}).status_code == 200
    assert [name for name, *_ in plugin._answers] == [f"run-{i}" for i in range(5, 9)]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", 400),
        ("?run=a&run=a", 400),
        ("?run=a&path=/etc/passwd", 400),
        ("?run=a&seen=1&seen=2", 400),
        ("?run=a&with=a&with=a", 400),
        ("?with=a", 400),
        ("?run=a&with=", 404),
        ("?run=a&with=b", 404),
        ("?run=b&with=a", 404),
        ("?run=a&with=../a", 404),
        ("?run=a&with=a/gradwatch", 404),
        ("?run=a&with=/etc/passwd", 404),
        ("?run=a&with=%00", 404),
        ("?run=a&with=<script>alert(1)</script>", 404),
        ("?seen=1", 400),
        ("?run=a&from=-1", 400),
        ("?run=a&to=1e9", 400),
        ("?run=a&from=\u0663", 400),
        ("?run=", 404),
        ("?run=b", 404),
        ("?run=../a", 404),
        ("?run=a/../a", 404),
        ("?run=/etc", 404),
        ("?run=a/gradwatch", 404),
        ("?run=%00", 404),
        ("?run=%ff%fe", 404),
        ("?run=<script>alert(1)</script>", 404),
        (f"?run={'a' * 5000}", 404),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_is_no_run_is_refused(tmp_path: Path, query: str, code: int) -> None:
    """With an error that repeats nothing of the request and names no path."""
    empty(tmp_path / "logs" / "a")
    empty(tmp_path / "a")
    client = server(tmp_path / "logs")
    answer = client.get(f"{DATA}data{query}")
    assert answer.status_code == code
    assert answer.mimetype == "text/plain" and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert str(tmp_path) not in answer.text and "<" not in answer.text and len(answer.text) < 60
    assert client.get(f"{DATA}data?run=a").status_code == 200  # alive


def test_nothing_can_be_changed(tmp_path: Path) -> None:
    """There is only reading."""
    client = server(tmp_path)
    for route in ("runs", "data?run=a", "static/app.js"):
        for method in ("POST", "PUT", "DELETE"):
            assert client.open(f"{DATA}{route}", method=method).status_code == 405
    assert client.get(f"{DATA}runs?logdir=/").status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "static/",
        "static/nothing.js",
        "static/../plugin.py",
        "static/%2e%2e/plugin.py",
        "static/..%2fplugin.py",
        "static//etc/passwd",
        "static/app.js/..",
        "plugin.py",
        "",
    ],
)
def test_only_the_page_s_own_files_are_served(tmp_path: Path, path: str) -> None:
    """By a list of their names: no path is made of what a request says."""
    client = server(tmp_path)
    answer = client.get(f"{DATA}{path}")
    assert answer.status_code == 404
    assert "import" not in answer.text
    for name, kind in (("index.js", "text/javascript"), ("style.css", "text/css")):
        file = get(client, f"static/{name}")
        assert file.status_code == 200 and file.mimetype == kind


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("here")
def test_hostile_names_of_runs_are_data(tmp_path: Path, name: str) -> None:
    """Sent as JSON that is never sniffed; what cannot be seen is escaped."""
    empty(tmp_path / name)
    client = server(tmp_path)
    (shown,) = names(client)
    assert shown.isprintable()
    assert shown == name or "\\u202e" in shown
    answer = get(client, "data", run=shown)
    assert answer.get_json()["run"] == shown
    assert answer.mimetype == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.usefixtures("here")
def test_a_name_that_is_no_text_can_be_asked_for(tmp_path: Path) -> None:
    """Bytes that no encoding explains, and a line end."""
    for raw in (b"\xff\xfe", b"two\nlines"):
        empty(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + raw)))
    client = server(tmp_path)
    assert names(client) == ["\\udcff\\udcfe", "two\\nlines"]
    for name in names(client):
        assert get(client, "data", run=name).status_code == 200


@pytest.mark.usefixtures("fresh", "here")
def test_a_trial_is_shown_when_it_is_there(tmp_path: Path) -> None:
    """Written after the training ended; one that cannot be read is said."""
    write(tmp_path / "a", specimens.load("sigmoid-mlp"))
    client = server(tmp_path)
    before = get(client, "data", run="a")
    assert before.get_json()["trial"] is None
    outcome = Outcome((2.3, math.nan), (0.0, None), 40)
    write_trial(tmp_path / "a" / "gradwatch", Verdicts((), outcome, None, summary="Nothing."))
    after = get(client, "data", run="a", seen=before.headers["ETag"].strip('"'))
    assert after.get_json()["trial"]["summary"] == "Nothing."
    assert after.get_json()["trial"]["controls"][0]["losses"] == [2.3, "nan"]
    (tmp_path / "a" / "gradwatch" / "trial.json").write_text("[")
    data = get(client, "data", run="a").get_json()
    assert data["trial"] is None and data["severity"] == "critical"
    assert any(note.startswith("trial.json: the trial could not") for note in data["notes"])


def test_a_run_beside_another(tmp_path: Path) -> None:
    """What `gradwatch diff` says of both, by their names in TensorBoard; read elsewhere."""
    for name in ("sigmoid-mlp", "digits-mlp"):
        write(tmp_path / "of" / name, specimens.load(name))
    client = server(tmp_path)
    answer = get(client, "data", run="of/sigmoid-mlp", **{"with": "of/digits-mlp"})
    beside = answer.get_json()["beside"]
    assert beside["headline"].startswith("B is better: critical in A and not in B: ")
    assert "vanishing-gradient" in beside["headline"]
    assert [run["severity"] for run in beside["runs"]] == ["critical", "healthy"]
    assert beside["runs"][1]["name"] == "of/digits-mlp"
    assert str(tmp_path) not in answer.text
    again = get(client, "data", run="of/sigmoid-mlp", seen=answer.headers["ETag"].strip('"'))
    assert "beside" not in again.get_json()  # not the same question


@pytest.mark.usefixtures("fresh", "here")
def test_a_run_is_read_anew_when_the_one_beside_it_has_grown(tmp_path: Path) -> None:
    empty(tmp_path / "a")
    writer = RunWriter(tmp_path / "b", model="Net")
    seen = ""
    client = server(tmp_path)
    for steps in (1, 4):
        writer.add_pulses(map(pulse, range(steps)))
        answer = get(client, "data", run="a", seen=seen, **{"with": "b"})
        assert answer.get_json()["beside"]["runs"][1]["step"] == steps - 1
        seen = answer.headers["ETag"].strip('"')
        assert get(client, "data", run="a", seen=seen, **{"with": "b"}).get_json() == {}


@pytest.mark.usefixtures("fresh", "here")
@pytest.mark.parametrize("how", ["truncated", "garbled", "header", "future"])
def test_a_damaged_run_beside_it_hides_nothing(tmp_path: Path, how: str) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, specimens.load("sigmoid-mlp"))
    damaged(tmp_path / "b" / "gradwatch", how)
    answer = get(server(tmp_path), "data", run="a", **{"with": "b"})
    data = answer.get_json()
    assert data["severity"] == "critical"
    if how == "future":
        assert data["beside"]["problem"].startswith("b cannot be read: seg-000.json was written by")
    elif how != "header":
        assert any(problem.startswith("B: seg-000") for problem in data["beside"]["problems"])
    assert str(tmp_path) not in answer.text


def damaged(folder: Path, how: str) -> None:
    for file in folder.iterdir():
        data = file.read_bytes()
        if how == "truncated":
            file.write_bytes(data if file.suffix == ".json" else data[: len(data) * 2 // 3])
        elif how == "garbled" and file.suffix != ".json":
            noise = np.random.default_rng(len(data)).bytes(len(data) // 3)
            file.write_bytes(data[: len(data) // 3] + noise + data[2 * len(data) // 3 :])
        elif how == "header" and file.name == "seg-000.json":
            file.write_bytes(b"\x00[[[")
        elif how == "future" and file.name == "seg-000.json":
            file.write_text(json.dumps({**json.loads(data), "schema": SCHEMA + 1, "x": {}}))


@pytest.mark.parametrize("how", ["truncated", "garbled", "header", "future"])
def test_of_a_damaged_run_the_rest_is_shown(tmp_path: Path, how: str) -> None:
    """What can be read is, the rest is said; a later version's run asks for an upgrade."""
    past = specimens.load("sigmoid-mlp")
    write(tmp_path / "a", past)
    write(tmp_path / "b", past)
    damaged(tmp_path / "a" / "gradwatch", how)
    client = server(tmp_path)
    answer = get(client, "data", run="a")
    assert answer.status_code == 200
    data = answer.get_json()
    if how in ("truncated", "garbled"):
        assert 0 < len(data["pulse"]["steps"]) <= len(past.pulses)
        assert any("seg-000" in note for note in data["notes"])
    elif how == "header":
        assert any("seg-000.json" in note for note in data["notes"])
    else:
        assert "pip install --upgrade gradwatch" in data["verdict"]
    assert str(tmp_path) not in answer.text
    assert get(client, "data", run="b").get_json()["severity"] == "critical"


def test_what_ends_a_reading_ends_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too slow, too large, or killed: it is said."""
    empty(tmp_path / "a")
    monkeypatch.setattr(reading, "LONGEST", 0.001)
    data = get(server(tmp_path), "data", run="a").get_json()
    assert data["verdict"].startswith("This run cannot be read: ")
    assert data["severity"] == "unknown" and data["run"] == "a"


def test_a_remedy_of_somebody_else_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is shown without prescriptions."""
    write(tmp_path / "a", specimens.load("sigmoid-mlp"))

    def broken() -> Any:
        raise RuntimeError("not ours")

    monkeypatch.setattr(reading, "remedies", broken)
    data = reading.data_of(tmp_path / "a" / "gradwatch")
    assert data["severity"] == "critical" and data["prescriptions"] == []


@pytest.mark.usefixtures("here")
def test_a_long_run_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More steps than a history keeps: all of them, in bounded memory, and no spike is lost."""
    steps = 6000
    values = np.ones((steps, 3), np.float32)
    values[2500, 1] = 1e20
    columns, none = Columns(("a.weight", "b.weight", "c.weight")), np.zeros(0, np.float32)
    RunWriter(tmp_path / "a", model="Net").add_pulses(
        Pulse(step, columns, row, none) for step, row in enumerate(values)
    )
    shown = get(server(tmp_path), "data", run="a").get_json()["pulse"]
    assert shown["steps"] == list(range(steps)) and shown["merged"] == 1
    monkeypatch.setattr(norms, "MAX_NUMBERS", 1000)
    (tmp_path / "a" / "gradwatch" / "touched").touch()
    shown = get(server(tmp_path), "data", run="a").get_json()["pulse"]
    assert shown["merged"] == 32 and shown["steps"][-1] == steps - steps % 32
    query = {"run": "a", "from": 2400, "to": 2599}
    shown = get(server(tmp_path), "data", **query).get_json()["pulse"]
    assert shown["merged"] == 1 and shown["part"] and shown["steps"] == list(range(2400, 2600))


def test_the_entry_point_leads_to_the_loader() -> None:
    """What is declared can be loaded."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    declared = project["project"]["entry-points"]["tensorboard_plugins"]
    module, _, name = declared["gradwatch"].partition(":")
    assert getattr(import_module(module), name) is Loader


def test_the_loader_cannot_raise(caplog: pytest.LogCaptureFixture) -> None:
    """A tab that cannot be made is left out, and TensorBoard starts."""
    assert Loader().load(None) is None
    assert "could not be loaded" in caplog.text


def test_it_imports_no_torch() -> None:
    """TensorBoard starts as fast as without us; and the test can fail."""
    code = """
import sys
import gradwatch.viewer.loader
print("gradwatch.viewer.plugin" in sys.modules, "numpy" in sys.modules)
import gradwatch.viewer.plugin
from gradwatch.core.catalog import remedies
remedies()
print([name for name in ("torch", "rich", "lightning") if name in sys.modules])
import torch
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[1:3] == ["[]", "True"], done.stderr
    assert done.stdout.startswith("False ")


def test_the_answer_is_compressed_once(tmp_path: Path) -> None:
    """TensorBoard passes it on as it is to a browser that takes it."""
    empty(tmp_path / "a")
    url = f"{DATA}data?run=a"
    answer = server(tmp_path).get(url, headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer.data))["run"] == "a"
