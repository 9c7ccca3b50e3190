"""Tracking: runs, scores and model files recorded in real MLflow stores, and read back through MLflow."""

from __future__ import annotations

import doctest
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import numpy as np
import onnx
import pytest
from matplotlib.figure import Figure
from onnx import TensorProto, helper, numpy_helper

from models.errors import ConfigError, IntegrityError, ModelError, TransientError
from pipeline import tracking
from pipeline.tracking import RETRAIN_TAGS, Run, Tracker, TrackingConfig

pytestmark = [
    # mlflow 3.17 maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates
    pytest.mark.filterwarnings(
        "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
    ),
    # mlflow 3.17 warns of its own type hints when mlflow.pyfunc is imported
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

TAGS = dict.fromkeys(RETRAIN_TAGS, "x") | {"data_sha256": "a" * 64, "seed": 7}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """Open a store in a data folder whose name has a space."""
    return Tracker(TrackingConfig(), tmp_path_factory.mktemp("data folder"))


@pytest.fixture
def run(tracker: Tracker) -> Iterator[Run]:
    """Open one model's run."""
    with tracker.retrain({}, TAGS) as parent, parent.model("gru", {}) as child:
        yield child


def step_file(path: Path, weight: float = 1.0) -> Path:
    """Write a step with a batch axis, a scalar output and metadata: out = price + weight, state = |price|."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["price", "weight"], ["out"]),
            helper.make_node("Abs", ["price"], ["state"]),
            helper.make_node("ReduceSum", ["price"], ["total"], keepdims=0),
        ],
        "step",
        [helper.make_tensor_value_info("price", TensorProto.DOUBLE, ["B", 1])],
        [
            helper.make_tensor_value_info("out", TensorProto.DOUBLE, ["B", 1]),
            helper.make_tensor_value_info("state", TensorProto.DOUBLE, ["B", 1]),
            helper.make_tensor_value_info("total", TensorProto.DOUBLE, []),
        ],
        [numpy_helper.from_array(np.array([weight]), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"kind": "gru", "cut_off": "2026-01-01", "answer": "42"})
    onnx.save_model(model, path)
    return path


def sha256(path: Path) -> str:
    """Hash a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored(tracker: Tracker, run_id: str) -> Any:
    """Read a run back through MLflow."""
    return tracker._client.get_run(run_id)


def artifact(tracker: Tracker, run_id: str, name: str) -> bytes:
    """Read a file of a run back through MLflow."""
    with TemporaryDirectory() as folder:
        return Path(tracker._client.download_artifacts(run_id, name, folder)).read_bytes()


def test_importing_tracking_imports_no_mlflow() -> None:
    """The command line stays quick: mlflow comes with the first store, not with the module."""
    code = "import pipeline.tracking, sys; sys.exit(bool({'mlflow', 'numpy', 'onnx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_environment_names_the_store_where_the_settings_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLFLOW_TRACKING_URI stands in for a setting that is left out, and never for one that is given."""
    store = f"sqlite:///{tmp_path / 'shared.db'}"
    assert not tracking.recorded(TrackingConfig(), tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert Tracker(TrackingConfig(), tmp_path).uri == store
    assert tracking.recorded(TrackingConfig(), tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert Tracker(TrackingConfig(uri=store), tmp_path).uri == store
    assert not (tmp_path / "mlflow.db").exists()


def test_a_retrain_is_a_parent_with_a_run_for_each_model(tracker: Tracker) -> None:
    """Parameters and tags are kept, children name their parent, and every run ends finished."""
    params = {f"train.p{i}": i for i in range(120)}  # more than one MLflow batch holds
    with tracker.retrain(params, TAGS | {"commit": "abc"}) as parent:
        with parent.model("gru", {"hidden": 64}) as first, parent.model("ar", {"lags": [1, 24]}) as second:
            pass
        parent.tags({"winner": "gru"})
    top = stored(tracker, parent.id)
    assert top.data.params == {name: str(value) for name, value in params.items()}
    assert top.data.tags["data_sha256"] == "a" * 64
    assert top.data.tags["mlflow.source.git.commit"] == top.data.tags["commit"] == "abc"
    assert top.data.tags["winner"] == "gru"
    assert "mlflow.parentRunId" not in top.data.tags
    for child, name, kept in [(first, "gru", {"hidden": "64"}), (second, "ar", {"lags": "[1, 24]"})]:
        below = stored(tracker, child.id)
        assert below.data.tags["mlflow.parentRunId"] == parent.id
        assert (below.info.run_name, below.data.params) == (name, kept)
        assert below.info.status == "FINISHED"
    assert top.info.status == "FINISHED"


def test_a_retrain_says_where_it_came_from(tracker: Tracker) -> None:
    """A retrain without the digest of its data, or any other of the required tags, is refused by name."""
    tags = {name: value for name, value in TAGS.items() if name != "data_sha256"}
    with pytest.raises(ConfigError, match=r"missing: \['data_sha256'\]"), tracker.retrain({}, tags):
        pass


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_raises_ends_as_failed(tracker: Tracker, error: type[BaseException], status: str) -> None:
    """The error passes through unchanged, and both the model's run and the retrain say so."""
    ids: list[str] = []

    def retrain() -> None:
        with tracker.retrain({}, TAGS) as parent, parent.model("gru", {}) as child:
            ids.extend([parent.id, child.id])
            raise error("no prices")

    with pytest.raises(error, match="no prices"):
        retrain()
    assert [stored(tracker, i).info.status for i in ids] == [status, status]
    assert stored(tracker, ids[1]).data.tags["error"] == f"{error.__name__}: no prices"


def test_curves_keep_every_step(tracker: Tracker, run: Run) -> None:
    """A curve longer than one MLflow batch comes back in order, numbered by position or by `step`."""
    run.curve({"loss": 1 / (i + 1)} for i in range(1500))
    run.curve([{"step": 10, "val": 3.0}, {"step": 20, "val": float("nan")}, {"step": 30, "val": None}])
    loss = tracker._client.get_metric_history(run.id, "loss")
    assert sorted((m.step, m.value) for m in loss) == [(i, 1 / (i + 1)) for i in range(1500)]
    val = sorted(tracker._client.get_metric_history(run.id, "val"), key=lambda m: m.step)
    assert [m.step for m in val] == [10, 20, 30]
    assert np.isnan([m.value for m in val]).tolist() == [False, True, True]


def test_scores_have_the_same_names_for_every_model(tracker: Tracker, run: Run) -> None:
    """Pooled scores carry the bare name of the metric, those of a series end in the series."""
    run.scores({"pooled": {"crps": 0.5, "mae": 2.0}, "EUR": {"crps": 0.25}, "BRENT+1": {"crps": 0.125}})
    odd = tracking.metric_name("crps.BRENT+1")
    assert stored(tracker, run.id).data.metrics == {"crps": 0.5, "mae": 2.0, "crps.EUR": 0.25, odd: 0.125}


def test_different_names_stay_different_metrics() -> None:
    """Characters that MLflow refuses never make two series share a metric."""
    names = ["crps.a+b", "crps.a*b", "crps.a_b", "crps." + "x" * 300, "crps." + "x" * 301, "crps.é"]
    made = {tracking.metric_name(name) for name in names}
    assert len(made) == len(names)
    assert all(len(name) <= 250 and name.isascii() for name in made)


def test_artifacts_come_back_as_written(tracker: Tracker, run: Run, tmp_path: Path) -> None:
    """Figures, JSON, text and files are found under the given names."""
    figure = Figure()
    figure.subplots().plot([1, 2])
    run.figure(figure, "figures/pit.png")
    run.figure(b"\x89PNG bytes", "raw.png")
    run.json({"crps": np.float64("nan"), "rows": [{"model": "gru", "wins": np.int64(3)}]}, "verdict.json")
    run.text("**no skill** – é", "notes/verdict.md")
    (tmp_path / "train.log").write_text("epoch 1")
    run.file(tmp_path / "train.log", "logs")
    assert artifact(tracker, run.id, "figures/pit.png").startswith(b"\x89PNG")
    assert artifact(tracker, run.id, "raw.png") == b"\x89PNG bytes"
    verdict = json.loads(artifact(tracker, run.id, "verdict.json"))
    assert verdict == {"crps": None, "rows": [{"model": "gru", "wins": 3}]}
    assert artifact(tracker, run.id, "notes/verdict.md").decode() == "**no skill** – é"
    assert artifact(tracker, run.id, "logs/train.log") == b"epoch 1"


def test_a_registered_file_comes_back_bit_for_bit(tracker: Tracker, run: Run, tmp_path: Path) -> None:
    """The alias leads to the exported bytes, and the same file of the same run is registered once."""
    path = step_file(tmp_path / "step.onnx", 2.0)
    before = path.read_bytes()
    first, second = (tracker.log_model(run, path, {"kind": "gru"}) for _ in range(2))
    tracker.set_aliases(second.number)
    kept, digest = tracker.download("champion")
    assert second.number == first.number
    assert kept.read_bytes() == path.read_bytes() == before
    assert digest == sha256(path) == first.sha256
    assert tracker.current("champion") == second
    assert second.run_id == run.id


def test_bytes_that_onnx_would_write_otherwise_are_kept(tracker: Tracker, run: Run, tmp_path: Path) -> None:
    """A file whose fields are in another order is the same model, and still comes back as it was."""
    path = step_file(tmp_path / "step.onnx", 5.0)
    rest = path.read_bytes()
    assert rest[:2] == b"\x08\x09"  # field 1, the IR version, comes first; protobuf allows it last
    path.write_bytes(rest[2:] + rest[:2])
    assert onnx.load_model(path).SerializeToString() != path.read_bytes()
    tracker.set_aliases(tracker.log_model(run, path, {}).number)
    assert tracker.download("champion")[0].read_bytes() == path.read_bytes()


def test_a_registered_model_is_an_mlflow_model(tracker: Tracker, run: Run, tmp_path: Path) -> None:
    """MLflow itself finds the signature, the pinned requirements and a model that runs."""
    from mlflow import artifacts, pyfunc

    version = tracker.log_model(run, step_file(tmp_path / "step.onnx", 3.0), {"kind": "gru"})
    uri = tracker._client.get_model_version_download_uri("statecast", str(version.number))
    loaded = pyfunc.load_model(uri)
    assert str(loaded.metadata.get_input_schema()) == "['price': Tensor('float64', (-1, 1))]"
    outputs = loaded.metadata.get_output_schema()
    assert outputs is not None
    assert outputs.input_names() == ["out", "state", "total"]
    assert loaded.predict({"price": np.array([[1.0], [2.0]])})["out"].tolist() == [[4.0], [5.0]]
    requirements = Path(artifacts.download_artifacts(f"{uri}/requirements.txt")).read_text().split()
    assert f"onnx=={onnx.__version__}" in requirements
    assert {r.split("==")[0] for r in requirements} == {"mlflow", "numpy", "onnx", "onnxruntime"}
    tags = tracker._client.get_model_version("statecast", str(version.number)).tags
    assert (tags["kind"], tags["sha256"]) == ("gru", version.sha256)


def test_aliases_move_and_the_challenger_can_go(tracker: Tracker, run: Run, tmp_path: Path) -> None:
    """Champion and challenger point at versions; promoting without a challenger leaves none."""
    path = step_file(tmp_path / "step.onnx")
    old, new = (tracker.log_model(run, path, {}) for _ in range(2))
    tracker.set_aliases(old.number, new.number)
    assert (tracker.current("champion"), tracker.current("challenger")) == (old, new)
    tracker.set_aliases(new.number)
    assert (tracker.current("champion"), tracker.current("challenger")) == (new, None)
    with pytest.raises(ModelError, match="alias 'challenger' was expected"):
        tracker.download("challenger")
    with pytest.raises(ModelError, match="could not set the aliases"):
        tracker.set_aliases(10_000)


def test_a_file_changed_in_the_store_is_never_handed_out(tracker: Tracker, run: Run, tmp_path: Path) -> None:
    """A kept copy that was changed is fetched again; a changed store is refused."""
    version = tracker.log_model(run, step_file(tmp_path / "step.onnx", 4.0), {})
    tracker.set_aliases(version.number)
    kept, _ = tracker.download("champion")
    kept.write_bytes(b"not the model")
    assert sha256(tracker.download("champion")[0]) == version.sha256
    source = tracker._client.get_model_version_download_uri("statecast", str(version.number))
    inside = Path(urllib.request.url2pathname(source.removeprefix("file://"))) / tracking.MODEL_FILE
    step_file(inside, 4.5)
    kept.unlink()
    with pytest.raises(IntegrityError, match=f"was registered with sha256 {version.sha256}"):
        tracker.download("champion")
    assert not kept.exists()


def test_only_whole_onnx_files_are_registered(tracker: Tracker, run: Run, tmp_path: Path) -> None:
    """Bytes that are no model, an absent file and a model with weights outside are refused."""
    (tmp_path / "text.onnx").write_bytes(b"hello, this is not a model")
    with pytest.raises(ModelError, match=r"an ONNX model was expected at .*text\.onnx"):
        tracker.log_model(run, tmp_path / "text.onnx", {})
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"a valid ONNX model was expected at .*empty\.onnx"):
        tracker.log_model(run, tmp_path / "empty.onnx", {})
    with pytest.raises(ModelError, match=r"absent\.onnx"):
        tracker.log_model(run, tmp_path / "absent.onnx", {})
    model = onnx.load_model(step_file(tmp_path / "step.onnx"))
    onnx.save_model(model, tmp_path / "outside.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(ModelError, match=r"outside it are \['weight'\]"):
        tracker.log_model(run, tmp_path / "outside.onnx", {})


def test_stores_live_side_by_side(tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store given by URI, with its own names, shares nothing with another, nor with MLflow's global one."""
    monkeypatch.chdir(tmp_path)
    config = TrackingConfig(
        uri=f"sqlite:///{tmp_path}/sub/own.db", artifacts=tmp_path / "files", experiment="own", model="own"
    )
    other = Tracker(config, tmp_path / "data")
    assert other.current("champion") is None
    with other.retrain({}, TAGS) as parent:
        parent.text("hello", "a.txt")
        version = other.log_model(parent, step_file(tmp_path / "step.onnx"), {})
    other.set_aliases(version.number)
    again = Tracker(config, tmp_path / "data")
    assert again.download("champion")[1] == version.sha256
    assert artifact(again, parent.id, "a.txt") == b"hello"
    assert [p.name for p in (tmp_path / "files").rglob("*.txt") if p.name == "a.txt"] == ["a.txt"]
    with pytest.raises(ModelError):
        Run(tracker._client, "0", parent.id).tags({"a": 1})
    assert {p.name for p in tmp_path.iterdir()} == {"sub", "files", "data", "step.onnx"}


def test_a_store_that_does_not_answer_is_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is down may come back: trying again is worth it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TransientError, match="MLflow could not open the experiment"):
        Tracker(TrackingConfig(uri=f"http://127.0.0.1:{free_port()}"), tmp_path)


class Unable(BaseHTTPRequestHandler):
    """A server that answers each request with an error of its own, as one does that is just starting."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_error(500)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def test_a_server_that_cannot_answer_is_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers with errors of its own, request after request, may do better later."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Unable) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(TransientError, match="MLflow could not open the experiment"):
            Tracker(TrackingConfig(uri=f"http://127.0.0.1:{server.server_port}"), tmp_path)
        server.shutdown()
        thread.join()


def test_a_store_that_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    """A file that is something else stays as it is, and is not tried again for minutes."""
    (tmp_path / "mlflow.db").write_bytes(b"prices, prices" * 100)
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"SQLite database was expected at .*mlflow\.db"):
        Tracker(TrackingConfig(), tmp_path)
    assert time.monotonic() - started < 10
    assert (tmp_path / "mlflow.db").read_bytes() == b"prices, prices" * 100


def test_names_that_mlflow_cannot_hold_are_refused() -> None:
    """Names are checked where they are written, not at the end of a retrain."""
    with pytest.raises(ConfigError, match="model must be a name"):
        TrackingConfig(model="a/b")
    with pytest.raises(ConfigError, match="experiment must be a name"):
        TrackingConfig(experiment=" ")


def test_mlflow_is_kept_from_telephoning(tracker: Tracker) -> None:
    """Telemetry is off as MLflow itself sees it, not only because a test is running."""
    del tracker
    code = (
        "import os; [os.environ.pop(k, None) for k in list(os.environ) if k.startswith(('MLFLOW', 'DO_NOT', 'CI'))]\n"
        "from pipeline import tracking; tracking._prepare_environment()\n"
        "from mlflow.telemetry import utils; utils._IS_IN_CI_ENV_OR_TESTING = False\n"
        "raise SystemExit(not utils.is_telemetry_disabled())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_ui_command_serves_the_store_and_trackers(tracker: Tracker, tmp_path: Path, run: Run) -> None:
    """The printed command opens this store on loopback, and a tracker works through it as on a database."""
    path = step_file(tmp_path / "step.onnx", 6.0)
    tracker.set_aliases(tracker.log_model(run, path, {}).number)
    port = free_port()
    with served(tracker.ui_command(port), port, tmp_path / "ui.log"):
        remote = Tracker(TrackingConfig(uri=f"http://127.0.0.1:{port}", experiment="remote"), tmp_path / "far")
        assert remote.download("champion")[0].read_bytes() == path.read_bytes()
        with remote.retrain({"a": 1}, TAGS) as parent:
            parent.scores({"pooled": {"crps": 1.0}})
            parent.text("far", "a.txt")
            version = remote.log_model(parent, path, {})
        remote.set_aliases(version.number)
        assert artifact(remote, parent.id, "a.txt") == b"far"
        assert "webbrowser" in remote.ui_command()
        again = remote.log_model(parent, step_file(tmp_path / "newer.onnx", 7.0), {})
        remote.set_aliases(again.number)
        assert version.number in [r.version.number for r in remote.prune(1, set()) if r.file_deleted]
        assert [v.number for v in remote.versions()] == [again.number]
        version = again
    assert tracker.current("champion") == version
    assert stored(tracker, parent.id).data.metrics == {"crps": 1.0}


@pytest.fixture
def own(tmp_path: Path) -> Tracker:
    """Open a store of one's own, in a folder whose name has a space."""
    return Tracker(TrackingConfig(), tmp_path / "own folder")


def registered(tracker: Tracker, tmp_path: Path, count: int) -> list[tracking.Version]:
    """Register so many different files, the oldest first."""
    with tracker.retrain({}, TAGS) as parent, parent.model("gru", {}) as run:
        made = [step_file(tmp_path / f"{k}.onnx", float(k)) for k in range(count)]
        return [tracker.log_model(run, path, {"model": f"m{k}"}) for k, path in enumerate(made)]


def files(tracker: Tracker) -> list[Path]:
    """List the model files that the store has on disk."""
    return sorted(tracker._artifacts.rglob(tracking.MODEL_FILE))


def test_versions_are_listed_newest_first(own: Tracker, tmp_path: Path) -> None:
    """Each has its number, run, tags, digest and aliases; a registry without a model has none."""
    assert own.versions() == []
    made = registered(own, tmp_path, 3)
    own.set_aliases(made[0].number, made[2].number)
    found = own.versions()
    assert [(v.number, v.sha256, v.run_id) for v in found] == [(v.number, v.sha256, v.run_id) for v in made[::-1]]
    assert [v.aliases for v in found] == [("challenger",), (), ("champion",)]
    assert [v.tags["model"] for v in found] == ["m2", "m1", "m0"]
    assert all(v.created_time.tzinfo is not None for v in found)


def test_pruning_keeps_what_is_new_aliased_or_served(own: Tracker, tmp_path: Path) -> None:
    """The rest goes with its files; once more is harmless, and what is kept is still the file that was exported."""
    made = registered(own, tmp_path, 6)
    own.set_aliases(made[0].number, made[1].number)
    served = {made[2].sha256}
    assert [v.number for v in own.prunable(1, served)] == [made[4].number, made[3].number]
    removed = own.prune(1, served)
    assert [(r.version.number, r.file_deleted) for r in removed] == [(made[3].number, True), (made[4].number, True)]
    assert [v.number for v in own.versions()] == [made[k].number for k in (5, 2, 1, 0)]
    assert {sha256(path) for path in files(own)} == {made[k].sha256 for k in (5, 2, 1, 0)}
    assert own.prune(1, served) == []
    for number in (0, 1, 2, 5):
        own.set_aliases(made[number].number)
        kept, digest = own.download("champion")
        assert sha256(kept) == digest == made[number].sha256


def test_a_crash_while_pruning_leaves_no_version_without_its_file(
    own: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails under the deletion leaves a file too many; the next prune goes on with the next version."""
    made = registered(own, tmp_path, 3)

    def fails(_: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(own, "_delete_files", fails)
        with pytest.raises(ModelError, match="could not remove a version: the disk"):
            own.prune(1, set())
    assert [v.number for v in own.versions()] == [made[2].number, made[1].number]
    assert len(files(own)) == 3
    assert [r.version.number for r in own.prune(1, set())] == [made[1].number]
    assert {sha256(path) for path in files(own)} == {made[0].sha256, made[2].sha256}


def test_a_copied_folder_never_deletes_the_files_of_its_original(own: Tracker, tmp_path: Path) -> None:
    """Its records go, the files that lie in the original's folder stay and are reported."""
    registered(own, tmp_path, 2)
    shutil.copytree(tmp_path / "own folder", tmp_path / "copy")
    copy = Tracker(TrackingConfig(), tmp_path / "copy")
    assert [r.file_deleted for r in copy.prune(1, set())] == [False]
    assert (len(copy.versions()), len(own.versions()), len(files(own))) == (1, 2, 2)


def test_nothing_is_pruned_down_to_nothing(own: Tracker) -> None:
    """At least one version is kept."""
    with pytest.raises(ConfigError, match="at least 1"):
        own.prune(0, set())


def free_port() -> int:
    """Find a port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class served:  # noqa: N801
    """A shell command that serves on `port` while the block runs."""

    def __init__(self, command: str, port: int, log: Path) -> None:
        assert "--host 127.0.0.1" in command
        assert "DO_NOT_TRACK=true" in command
        self.log = log.open("wb")
        self.process = subprocess.Popen(
            ["sh", "-c", command], stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent
        )
        self.health = f"http://127.0.0.1:{port}/health"

    def __enter__(self) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.health, timeout=5).close()  # noqa: S310
            except OSError:
                time.sleep(0.2)
            else:
                return
        self.__exit__()
        pytest.fail(f"the server did not start: {Path(self.log.name).read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(60)
        self.log.close()


def test_the_examples_in_docstrings_hold() -> None:
    """Examples in docstrings are tests."""
    result = doctest.testmod(tracking)
    assert result.attempted > 0
    assert result.failed == 0
