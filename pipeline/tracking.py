"""Tracking: every retrain, its models, scores, figures and served file, in MLflow.

One parent run a retrain, one nested run a model; served files are versions of one registered model, and the
aliases `champion` and `challenger` say which are in use. Only MLflow's client interface is used, never its
active run or its global store, so that trackers on different stores live side by side. What MLflow would
serialise again is put back as it was: a registered file is bit for bit the file that was exported.

Comes in: parameters, scores, figures and ONNX files. Goes out: runs, versions and verified files. The only
file that knows mlflow, which it imports on first use (seconds); may be imported by flows.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from models.errors import ConfigError, IntegrityError, ModelError, StatecastError, TransientError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

RETRAIN_TAGS = ("data_sha256", "data_start", "data_end", "commit", "seed", "device")
"""What a retrain must say of itself, so that it can be repeated."""

MODEL_FILE = "model.onnx"
"""Name of the file inside an MLflow model of the ONNX flavour."""

_PASSING = {"TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where runs and models are recorded.

    Attributes
    ----------
    uri : str or None
        MLflow store: a database such as sqlite:///path or a server such as http://127.0.0.1:5000, whose account is
        taken from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. Left out: the environment's
        MLFLOW_TRACKING_URI, and where that is not set mlflow.db in the data folder.
    artifacts : Path or None
        Folder of a new experiment's files. Left out: artifacts in the data folder, or what the server chooses.
    experiment : str
        Name of the experiment that holds the runs.
    model : str
        Name of the registered model whose versions are served.
    """

    uri: str | None = None
    artifacts: Path | None = None
    experiment: str = "statecast"
    model: str = "statecast"

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise ConfigError("experiment must be a name; came an empty text")
        if not self.model.strip() or re.search(r"[/:]", self.model):
            raise ConfigError(f"model must be a name without / and :; came {self.model!r}")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered model file.

    Attributes
    ----------
    number : int
        Version in the registry, from 1.
    sha256 : str
        Digest of the file as it was exported.
    run_id : str
        Run that made it.
    """

    number: int
    sha256: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Registered:
    """One version as the registry shows it.

    Attributes
    ----------
    number : int
        Version in the registry, from 1.
    run_id : str
        Run that made it.
    created_time : datetime
        When it was registered, UTC.
    aliases : tuple of str
        Of `champion` and `challenger`, those that point at it.
    tags : dict of str
        What was said of it when it was registered, with the `sha256` of its file.
    """

    number: int
    run_id: str
    created_time: datetime
    aliases: tuple[str, ...]
    tags: dict[str, str]

    @property
    def sha256(self) -> str:
        """Digest of the file as it was exported; nothing for a version that another program registered."""
        return self.tags.get("sha256", "")


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A version that was taken out of the registry.

    Attributes
    ----------
    version : Registered
        As it was.
    file_deleted : bool
        Whether its file is gone too; a file in a folder that is not this data folder's stays, and so does one that
        another version has.
    """

    version: Registered
    file_deleted: bool


# ------------------------------------------------------------------------------------------------------- failures


@contextmanager
def _reported(action: str) -> Iterator[None]:
    """Raise failures of MLflow and its stores as errors of ours; those that may pass as transient ones."""
    _prepare_environment()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        kind = TransientError if _may_pass(error) else ModelError
        raise kind(f"MLflow could not {action}: {error}") from error


def _may_pass(error: BaseException | None) -> bool:
    """Say whether the cause of `error` is a service that did not answer or could not, or a locked database."""
    from requests import ConnectionError as NoConnection
    from requests import Timeout
    from requests.exceptions import RetryError
    from sqlalchemy.exc import OperationalError

    while error is not None:
        if isinstance(error, NoConnection | Timeout | RetryError | OperationalError):
            return True
        if getattr(error, "error_code", None) in _PASSING:
            return True
        error = error.__cause__ or error.__context__
    return False


def _prepare_environment() -> None:
    """Keep MLflow from telephoning, from chatting, and from retrying for minutes: retries belong to flows."""
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # errors are raised, and told once
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")


# ----------------------------------------------------------------------------------------------------------- runs


class Run:
    """A run that is being recorded. Names of files are paths inside the run, with their extension."""

    def __init__(self, client: MlflowClient, experiment: str, run_id: str) -> None:
        self._client = client
        self._experiment = experiment
        self.id = run_id

    @contextmanager
    def model(self, name: str, params: Mapping[str, Any]) -> Iterator[Run]:
        """Record one model of this retrain as a nested run; it ends with the block, as failed if that raises."""
        tags = {"mlflow.parentRunId": self.id, "model": name}
        with _recorded(self._client, self._experiment, name, params, tags) as run:
            yield run

    @_reported("record tags")
    def tags(self, tags: Mapping[str, object]) -> None:
        """Add tags, or replace them."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def curve(self, records: Iterable[Mapping[str, float | None]]) -> None:
        """Record training curves in one call: one record a step, metric name to value.

        The entry `step` numbers a record; a record without one is numbered by its position, from 0. None is NaN, as
        JSON has it.
        """
        rows = [(int(record.get("step", i) or 0), record) for i, record in enumerate(records)]
        self._metrics((k, v, step) for step, record in rows for k, v in record.items() if k != "step")

    def scores(self, table: Mapping[str, Mapping[str, float | None]]) -> None:
        """Record scores of series in one call: `table[series][metric]` as `metric.series`.

        The series `pooled` is all of them together and is recorded as `metric`. None is NaN, as JSON has it. Names do
        not depend on the model, so that runs can be compared by them. One row costs about a millisecond.
        """
        from pipeline.metrics import POOLED

        self._metrics(
            (metric if series == POOLED else f"{metric}.{series}", value, 0)
            for series, scores in table.items()
            for metric, value in scores.items()
        )

    def figure(self, figure: Figure | bytes, name: str) -> None:
        """Record a figure, or the bytes of a PNG, as `name`, such as `figures/calibration.png`."""
        if isinstance(figure, bytes):
            return self._write(name, figure)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "figure.png"
            figure.savefig(path, format="png")
            return self._write(name, path.read_bytes())

    def json(self, value: Any, name: str) -> None:
        """Record a value as JSON; NaN and infinity become null, numpy and dataclasses are understood."""
        import orjson

        options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        self._write(name, orjson.dumps(value, option=options))

    def text(self, text: str, name: str) -> None:
        """Record text, such as a verdict in Markdown."""
        self._write(name, text.encode())

    @_reported("record a file")
    def file(self, path: Path, folder: str = "") -> None:
        """Record a file under its own name, in a folder of the run."""
        self._client.log_artifact(self.id, str(path), folder or None)

    def _write(self, name: str, content: bytes) -> None:
        folder, _, base = name.rpartition("/")
        with TemporaryDirectory() as temporary:
            path = Path(temporary) / base
            path.write_bytes(content)
            self.file(path, folder)

    @_reported("record metrics")
    def _metrics(self, rows: Iterable[tuple[str, float | None, int]]) -> None:
        from mlflow.entities import Metric

        now = _now_ms()
        metrics = [
            Metric(metric_name(name), float("nan" if value is None else value), now, step) for name, value, step in rows
        ]
        self._client.log_batch(self.id, metrics=metrics)


def metric_name(name: str) -> str:
    """Turn any name into one that MLflow takes, the same one each time.

    Letters, digits and `_ - . /` stay; a name that must change, or is longer than 200, keeps apart from others by
    a digest at its end.

    >>> metric_name("crps.EUR_USD"), metric_name("crps.BRENT+1")
    ('crps.EUR_USD', 'crps.BRENT_1-c59c01')
    """
    safe = re.sub(r"[^A-Za-z0-9_\-./]", "_", name)[:200]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


@contextmanager
def _recorded(
    client: MlflowClient, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, object]
) -> Iterator[Run]:
    """Start a run, and end it with the block: finished, failed, or killed by an interrupt."""
    run = _started(client, experiment, name, params, tags)
    try:
        yield run
    except BaseException as error:
        with suppress(StatecastError):  # the first failure is the one to tell
            run.tags({"error": f"{type(error).__name__}: {error}"})
            _end(client, run.id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    _end(client, run.id, "FINISHED")


@_reported("start a run")
def _started(
    client: MlflowClient, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, object]
) -> Run:
    from mlflow.entities import Param

    texts = {key: str(value) for key, value in tags.items()}
    run_id = client.create_run(experiment, tags=texts, run_name=name).info.run_id
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
    return Run(client, experiment, run_id)


@_reported("end a run")
def _end(client: MlflowClient, run_id: str, status: str) -> None:
    client.set_terminated(run_id, status)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# -------------------------------------------------------------------------------------------------------- the store


class Tracker:
    """One MLflow store: its runs, and its registered model.

    The first use of a data folder creates a database there (seconds). An experiment keeps the artifact folder
    that it was created with: a data folder that has moved keeps its runs, but not their files.

    Raises
    ------
    TransientError
        The store did not answer, or its database was locked.
    ModelError
        The store is there but cannot be used.
    """

    def __init__(self, config: TrackingConfig, data_folder: Path) -> None:
        data_folder = data_folder.resolve()
        self.config = config
        self.uri = _store(config, data_folder)
        self._artifacts = (config.artifacts or data_folder / "artifacts").resolve()
        self._downloads = data_folder / "downloads"
        self._client = _connected(self.uri)
        self._experiment = self._opened()

    @property
    def _is_server(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    @_reported("open the experiment")
    def _opened(self) -> str:
        experiment = self._client.get_experiment_by_name(self.config.experiment)
        if experiment is not None:
            return experiment.experiment_id
        chosen_by_server = self._is_server and self.config.artifacts is None
        location = None if chosen_by_server else self._artifacts.as_uri()
        return self._client.create_experiment(self.config.experiment, artifact_location=location)

    @contextmanager
    def retrain(self, params: Mapping[str, Any], tags: Mapping[str, object], *, name: str = "retrain") -> Iterator[Run]:
        """Record one retrain as a parent run; it ends with the block, as failed if that raises.

        Parameters
        ----------
        params : flat mapping, as of `settings.flat`
        tags : mapping
            At least `RETRAIN_TAGS`.
        name : str
            What is recorded, before its time: a retrain, or a study.

        Raises
        ------
        ConfigError
            One of `RETRAIN_TAGS` is missing.
        """
        if missing := [tag for tag in RETRAIN_TAGS if tag not in tags]:
            raise ConfigError(f"a retrain is recorded with the tags {RETRAIN_TAGS}; missing: {missing}")
        named = f"{name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        shown = {"mlflow.source.git.commit": tags["commit"]}
        with _recorded(self._client, self._experiment, named, params, {**tags, **shown}) as run:
            yield run

    def run(self, run_id: str) -> Run:
        """Take up a run that has ended, to add to it."""
        return Run(self._client, self._experiment, run_id)

    @_reported("look for a run")
    def holds(self, run_id: str) -> bool:
        """Say whether a run is in this store, to its end."""
        from mlflow.exceptions import MlflowException

        try:
            info = self._client.get_run(run_id).info
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return (info.status, info.lifecycle_stage) == ("FINISHED", "active")

    @_reported("remove a run that was cut off")
    def discard(self, key: str) -> None:
        """Remove what is there of a retrain whose tag `key` has this value, and the runs of its models."""
        for parent in self._client.search_runs([self._experiment], f"tags.key = '{key}'"):
            inside = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
            for run in (*self._client.search_runs([self._experiment], inside), parent):
                self._client.delete_run(run.info.run_id)

    def page_of(self, run_id: str) -> str | None:
        """Give the address of a run's page; None where no server shows this store."""
        return f"{self.uri.rstrip('/')}/#/experiments/{self._experiment}/runs/{run_id}" if self._is_server else None

    @_reported("register the model")
    def log_model(self, run: Run, path: Path, tags: Mapping[str, object]) -> Version:
        """Record an ONNX file as the model of `run`, register it as a new version, and read it back.

        A file that was registered for this run already is not registered again.

        Parameters
        ----------
        path : the exported file, with all its weights inside
        tags : what the registry should show of the version

        Raises
        ------
        ModelError
            The file is not a valid ONNX model, or keeps weights outside itself.
        IntegrityError
            The store gave other bytes back than it was given.
        """
        from mlflow.entities import LoggedModelOutput

        sha256 = _sha256(path)
        for version in self.versions():
            if (version.run_id, version.sha256) == (run.id, sha256):
                return Version(number=version.number, sha256=sha256, run_id=run.id)
        logged = self._client.create_logged_model(self._experiment, self.config.model, source_run_id=run.id)
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            _save(path, folder, logged)
            self._client.log_model_artifacts(logged.model_id, str(folder))
        self._client.finalize_logged_model(logged.model_id, "READY")
        self._client.log_outputs(run.id, [LoggedModelOutput(logged.model_id, step=0)])
        number = self._registered(run, logged, {**tags, "sha256": sha256})
        version = Version(number=number, sha256=sha256, run_id=run.id)
        with TemporaryDirectory() as temporary:
            self._fetch(version, Path(temporary))
        return version

    def _registered(self, run: Run, logged: Any, tags: Mapping[str, object]) -> int:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.config.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # A models:/ source would be resolved through MLflow's global store, whichever that is.
        version = self._client.create_model_version(
            self.config.model,
            source=logged.artifact_location,
            run_id=run.id,
            tags={name: str(value) for name, value in tags.items()},
            model_id=logged.model_id,
        )
        return int(version.version)

    @_reported("set the aliases")
    def set_aliases(self, champion: int, challenger: int | None = None) -> None:
        """Point `champion` and `challenger` at versions; without a challenger that alias is taken away."""
        name = self.config.model
        self._client.set_registered_model_alias(name, "champion", str(champion))
        if challenger is None:
            self._client.delete_registered_model_alias(name, "challenger")
        else:
            self._client.set_registered_model_alias(name, "challenger", str(challenger))

    @_reported("read an alias")
    def current(self, alias: str) -> Version | None:
        """Find the version that `alias` points at; None where there is none."""
        number = self._aliases().get(alias)
        if number is None:
            return None
        version = self._client.get_model_version(self.config.model, str(number))
        return Version(number=int(number), sha256=version.tags.get("sha256", ""), run_id=version.run_id or "")

    @_reported("list the versions")
    def versions(self) -> list[Registered]:
        """List all versions of the registered model, the newest first; none where nothing was registered."""
        aliases = self._aliases()
        return [
            Registered(
                number=int(found.version),
                run_id=found.run_id or "",
                created_time=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
                aliases=tuple(sorted(alias for alias, number in aliases.items() if int(number) == int(found.version))),
                tags=dict(found.tags),
            )
            for found in self._found()
        ]

    @_reported("read a run")
    def settings(self, run_id: str) -> dict[str, str]:
        """Give the settings under which a model was made: those of the retrain whose run holds that of the model."""
        run = self._client.get_run(run_id)
        parent = run.data.tags.get("mlflow.parentRunId")
        return dict((run if parent is None else self._client.get_run(parent)).data.params)

    def _found(self) -> list[Any]:
        """Give MLflow's own records of the versions, the newest first."""
        quote = '"' if "'" in self.config.model else "'"
        found, token = [], None
        while True:
            page = self._client.search_model_versions(f"name={quote}{self.config.model}{quote}", page_token=token)
            found += page
            if not (token := page.token):
                return sorted(found, key=lambda version: -int(version.version))

    def _aliases(self) -> dict[str, str]:
        from mlflow.exceptions import MlflowException

        try:
            return dict(self._client.get_registered_model(self.config.model).aliases)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def prunable(self, keep: int, served: Collection[str]) -> list[Registered]:
        """List what `prune` would remove, the newest first.

        Parameters
        ----------
        keep : int
            How many of the newest versions stay, at least 1.
        served : collection of str
            Digests of files that serve or could be gone back to; versions that have one stay.
        """
        if keep < 1:
            raise ConfigError(f"keep must be at least 1, or nothing that could serve is left; came {keep}")
        return [v for v in self.versions()[keep:] if v.sha256 and not v.aliases and v.sha256 not in served]

    def prune(self, keep: int, served: Collection[str]) -> list[Removed]:
        """Remove old versions with their files, the oldest first; give what was removed.

        There stay the newest `keep`, those with an alias, those whose digest is in `served`, and those without a
        digest, which another program registered. A version goes before its file: a crash on the way leaves a file
        without a version, never a version without its file. Once more removes nothing.
        """
        wanted = reversed(self.prunable(keep, served))
        return [removed for version in wanted if (removed := self._removed(version)) is not None]

    @_reported("remove a version")
    def _removed(self, version: Registered) -> Removed | None:
        """Remove one version, then its file; None where it has gone, or has been given an alias meanwhile."""
        found = {int(one.version): one for one in self._found()}
        if str(version.number) in map(str, self._aliases().values()) or version.number not in found:
            return None
        gone = found.pop(version.number)
        self._client.delete_model_version(self.config.model, str(version.number))
        mine = self._may_delete(gone.source) and gone.source not in {other.source for other in found.values()}
        if mine:
            self._delete_files(gone)
        return Removed(version=version, file_deleted=mine)

    def _may_delete(self, source: str) -> bool:
        """Say whether files are this tracker's: a copied data folder names those of the folder it was copied from."""
        from mlflow.utils.file_utils import local_file_uri_to_path
        from mlflow.utils.uri import is_local_uri

        if not is_local_uri(source):
            return True
        return Path(local_file_uri_to_path(source)).resolve().is_relative_to(self._artifacts)

    def _delete_files(self, gone: Any) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(gone.source, tracking_uri=self.uri, registry_uri=self.uri).delete_artifacts()
        if gone.model_id:
            try:
                self._client.delete_logged_model(gone.model_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise

    @_reported("download the model")
    def download(self, alias: str) -> tuple[Path, str]:
        """Fetch the file that `alias` points at, bit for bit as it was exported: (path, sha256).

        Files are kept in `downloads` of the data folder under their digest, and checked each time.

        Raises
        ------
        ModelError
            No version has this alias.
        IntegrityError
            The store holds another file than the one that was registered.
        """
        version = self.current(alias)
        if version is None:
            raise ModelError(
                f"a version of {self.config.model!r} with the alias {alias!r} was expected in {self.uri}; "
                "there is none. Retrain and promote first"
            )
        kept = self._downloads / f"{version.sha256}.onnx"
        if not kept.exists() or _sha256(kept) != version.sha256:
            self._downloads.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self._downloads) as temporary:
                self._fetch(version, Path(temporary)).replace(kept)
        return kept, version.sha256

    def _fetch(self, version: Version, folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        source = self._client.get_model_version_download_uri(self.config.model, str(version.number))
        path = Path(
            download_artifacts(
                artifact_uri=f"{source.rstrip('/')}/{MODEL_FILE}",
                dst_path=str(folder),
                tracking_uri=self.uri,
                registry_uri=self.uri,
            )
        )
        if (came := _sha256(path)) != version.sha256:
            raise IntegrityError(
                f"version {version.number} of {self.config.model!r} in {self.uri} was registered with sha256 "
                f"{version.sha256 or 'unknown'}, its file has {came}. Do not serve it; retrain or restore the file"
            )
        return path

    def ui_command(self, port: int = 5000) -> str:
        """Give the one shell command that opens this store: MLflow on loopback, without telemetry."""
        python = shlex.quote(sys.executable)
        if self._is_server:
            return f"{python} -m webbrowser {shlex.quote(self.uri)}"
        # MLflow's job runner judges language models; without it the page is there in a third of the time
        environment = "DO_NOT_TRACK=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
        store, artifacts = shlex.quote(self.uri), shlex.quote(self._artifacts.as_uri())
        return (
            f"{environment} {python} -m mlflow ui --host 127.0.0.1 --port {port} --workers 1 "
            f"--backend-store-uri {store} --artifacts-destination {artifacts}"
        )


def _store(config: TrackingConfig, data_folder: Path) -> str:
    """Give the address of the store that is meant."""
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{data_folder.resolve() / 'mlflow.db'}"


def recorded(config: TrackingConfig, data_folder: Path) -> bool:
    """Say whether there may be a store, without making one: a server is not asked, a database is looked for."""
    uri = _store(config, data_folder)
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


@_reported("open its store")
def _connected(uri: str) -> MlflowClient:
    if uri.startswith("sqlite:///"):
        _refuse_no_database(Path(uri.removeprefix("sqlite:///")))
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _refuse_no_database(path: Path) -> None:
    """Refuse at once a path that can hold no database: MLflow would try for a hundred seconds."""
    import sqlite3
    from contextlib import closing

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        raise ModelError(f"an SQLite database was expected at {path}: {error}") from error


_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns in which MLflow keeps where files are."""


def places(database: Path) -> list[str]:
    """Give where an embedded store puts the files of its experiments, but for MLflow's own default one.

    Raises
    ------
    ModelError
        The database is not one of MLflow.
    """
    import sqlite3
    from contextlib import closing

    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as db:
            query = "SELECT DISTINCT artifact_location FROM experiments WHERE name != 'Default'"
            return [place for (place,) in db.execute(query)]
    except sqlite3.DatabaseError as error:
        raise ModelError(f"an MLflow store was expected at {database}: {error}") from error


def moved(database: Path, artifacts: Path) -> None:
    """Let the runs and models of an embedded store name their files in a folder, wherever these were recorded.

    Parameters
    ----------
    database : Path
        mlflow.db of a data folder; nobody may have it open.
    artifacts : Path
        The folder in which the files of all experiments are from now on.

    Raises
    ------
    ModelError
        The database is not one of MLflow.
    """
    import sqlite3
    from contextlib import closing

    here, before = artifacts.resolve().as_uri(), places(database)
    try:
        with closing(sqlite3.connect(database)) as db, db:
            for there in before:
                for table, column in _LOCATIONS:
                    db.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608  names of ours
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (here, len(there) + 1, there, len(there) + 1, f"{there}/"),
                    )
    except sqlite3.DatabaseError as error:
        raise ModelError(f"an MLflow store was expected at {database}: {error}") from error


# ------------------------------------------------------------------------------------------------- the model file


def _save(path: Path, folder: Path, logged: Any) -> None:
    """Write an MLflow model of the ONNX flavour whose file is `path`, byte for byte."""
    from mlflow import onnx as flavour
    from mlflow.models import Model

    graph = _checked(path)
    flavour.save_model(
        graph,
        str(folder),
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            run_id=logged.source_run_id,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
        ),
        signature=_signature(graph),
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in ("numpy", "onnx", "onnxruntime")],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    (folder / MODEL_FILE).write_bytes(path.read_bytes())


def _checked(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import uses_external_data

    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError as error:
        raise ModelError(f"an ONNX model was expected at {path}: {error}") from error
    if outside := [tensor.name for tensor in model.graph.initializer if uses_external_data(tensor)]:
        raise ModelError(f"{path} must hold all its weights; outside it are {outside}. Export it as one file")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"a valid ONNX model was expected at {path}: {error}") from error
    return model


def _signature(model: Any) -> ModelSignature:
    """Describe the inputs and outputs of a graph for MLflow; an axis without a fixed size is -1."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec
    from onnx.helper import tensor_dtype_to_np_dtype

    def schema(values: Iterable[Any]) -> Schema:
        tensors = [(value.name, value.type.tensor_type) for value in values]
        return Schema(
            [
                TensorSpec(tensor_dtype_to_np_dtype(t.elem_type), _shape(t), name)  # pyright: ignore[reportArgumentType]
                for name, t in tensors
            ]
        )

    return ModelSignature(inputs=schema(model.graph.input), outputs=schema(model.graph.output))


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
