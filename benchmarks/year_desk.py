"""The desk of a simulated year: price files, a tracking server, and for each pool a live stream and a worker.

All of it is real: files that grow, processes that can be killed, a server on loopback that can be stopped.

Comes in: prices of pools. Goes out: `Desk`. Imported by year.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from models.errors import StatecastError
from pipeline import champions
from pipeline.config import Config
from pipeline.settings import load
from pipeline.sources import sample
from pipeline.steps import Ingested

POWER = """
transform = "asinh"
models = ["last_value", "ar_t", "arx"]
fit.arx = { lags = 24, seasons = [24, 168], residuals = "t" }
"""
STOCKS = """
models = ["last_value", "ar_t", "garch", "egarch"]
"""
FEW = ("AAPL", "JPM", "KO", "PFE", "XOM")
"""Stocks of the pool, where the file holds them."""

PATIENCE_S = 600.0
"""Seconds after which what is waited for has failed."""

_ENTRY = "from flows.cli import main; main()"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A group of series: its prices (series, time, price), in order of time, and its settings."""

    name: str
    prices: pl.DataFrame
    settings: str

    @property
    def series(self) -> list[str]:
        """Names of the series."""
        return self.prices["series"].unique().sort().to_list()

    def between(self, begin: datetime, end: datetime) -> pl.DataFrame:
        """Take the prices from a moment on, up to another one."""
        return self.prices.filter(pl.col("time").is_between(begin, end, closed="left"))


def pools(power: Path | None, stocks: Path | None) -> list[Pool]:
    """Read the prices of each pool; without files the bundled sample is one."""
    found = []
    if power is not None:
        found.append(Pool(name="power", prices=_prices(pl.read_parquet(power)), settings=POWER))
    if stocks is not None:
        frame = pl.read_parquet(stocks)
        few = frame.filter(pl.col("series_id").is_in(FEW))
        found.append(Pool(name="stocks", prices=_prices(few if few.height else frame), settings=STOCKS))
    if not found:
        found.append(Pool(name="sample", prices=_prices(sample()), settings=STOCKS))
    return found


def _prices(frame: pl.DataFrame) -> pl.DataFrame:
    when = "timestamp" if "timestamp" in frame.columns else "time"
    moment = pl.col(when).cast(pl.Datetime("us")).dt.replace_time_zone(None)
    taken = frame.select(series=pl.col("series_id").cast(pl.String), time=moment, price="price")
    return taken.drop_nulls().sort("time", "series")


# -------------------------------------------------------------------------------------------------- a pool's stream


class Live:
    """The stream of a pool: `statecast stream` in a process of its own, over a file that grows."""

    def __init__(self, settings: Path, pool: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._settings, self._pool = ("-c", str(settings), "--set", f"pool={pool}"), pool
        self.ticks, self.out, self.journal = folder / "ticks.jsonl", folder / "out.jsonl", folder / "journal"
        self._said, self.fed = folder / "said", 0
        self.ticks.touch()

    def start(self) -> None:
        """Begin, or go on from the journal."""
        given = [str(self.ticks), "--follow", "--warm", "--out", str(self.out), "--journal", str(self.journal)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY, "stream", *given, *self._settings], stderr=self._said.open("ab")
        )

    def feed(self, rows: pl.DataFrame) -> None:
        """Let ticks come."""
        moment = pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        lines = rows.select("series", moment, "price").write_ndjson()
        with self.ticks.open("a") as file:
            file.write(lines)
        self.fed += rows.height

    def caught_up(self) -> None:
        """Wait until every tick has its forecast, or was refused."""
        self._until(lambda: self._answered() >= self.fed, f"{self.fed} forecasts")

    def serves(self, version: int) -> None:
        """Wait until a version of the champion serves."""
        self._until(lambda: any(n.get("version", 0) >= version for n in self.notes("swap")), f"version {version}")

    def ended(self) -> int:
        """Wait for the process to end by itself; give its exit code."""
        return self.process.wait(PATIENCE_S)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the process; give its exit code."""
        self.process.send_signal(how)
        return self.ended()

    def reconcile(self, series: str) -> None:
        """Compute the states of a restated series anew, between a stop and a start."""
        command = [sys.executable, "-c", _ENTRY, "reconcile", series, "--journal", str(self.journal), *self._settings]
        subprocess.run(command, check=True, capture_output=True)

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """Read what was told beside the ticks."""
        path = self.journal / "notes.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [note for note in map(orjson.loads, lines) if note["kind"] == kind]

    def refused(self) -> list[dict[str, Any]]:
        """Read the dead letters."""
        path = self.journal / "dead-letters.jsonl"
        return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def _answered(self) -> int:
        return sum(p.read_bytes().count(b"\n") for p in (self.out, self.journal / "dead-letters.jsonl") if p.exists())

    def _until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not done():
            if self.process.poll() is not None or time.monotonic() > end:
                said = self._said.read_text()[-2000:]
                raise RuntimeError(f"stream of {self._pool}: expected {what}, got {self._answered()} answers; {said}")
            time.sleep(0.05)


# -------------------------------------------------------------------------------------------------- a pool's worker


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a retrain of a pool ended: what it gave, or its error; both None where the process was killed."""

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class _Told:
    """Tells the clock what begins."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def ingested(self, result: Ingested) -> None:
        """Leave prices to the clock."""

    def begins(self, what: str, epochs: int = 0) -> None:  # noqa: ARG002  the form of a watch
        self._pipe.send(("begins", what))

    def epoch(self, record: object) -> None:
        """Leave epochs out."""

    def refitted(self, done: int) -> None:
        """Leave refits out."""


def work(pipe: Any) -> None:
    """Be the worker: retrain a pool whenever asked."""
    from flows.retrain import follow

    while True:
        config, ingested = pipe.recv()
        try:
            done = follow(config, ingested, _Told(pipe))
        except Exception as error:  # whatever it is: the clock says whether it was to be expected
            transient = isinstance(error, StatecastError) and error.transient
            pipe.send(("failed", {"error": type(error).__name__, "transient": transient, "text": str(error)}))
            continue
        decision = None if done.compared is None else done.compared.decision
        told = {"model": done.promoted.model, "version": done.promoted.version, "sha256": done.promoted.sha256}
        told |= {"changed": done.promoted.changed, "reason": done.promoted.reason}
        told |= {"decided": decision and decision.model, "numbers": decision and decision.numbers}
        pipe.send(("done", told))


@dataclass
class Worker:
    """A process that retrains a pool."""

    config: Config
    process: Any = None
    pipe: Any = None
    begun: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Begin, in the place of one that has died."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, ingested: Ingested) -> None:
        """Let a retrain begin."""
        self.begun = []
        self.pipe.send((self.config, ingested))

    def outcome(self, kill_at: int | None = None) -> Outcome:
        """Wait for the end of a retrain; kill the process as its step number `kill_at` begins."""
        while True:
            kind, told = self.pipe.recv()
            if kind == "done":
                return Outcome(result=told)
            if kind == "failed":
                return Outcome(error=told)
            self.begun.append(told)
            if len(self.begun) == kill_at:
                os.kill(self.process.pid, signal.SIGKILL)
                self.process.join()
                return Outcome()


# ---------------------------------------------------------------------------------------------------------- the desk


class Tracking:
    """An MLflow server on loopback."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self._command = [sys.executable, "-m", "mlflow", "server", *store, *where]
        self._said = folder / "said"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin, and wait until it answers."""
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = os.environ | {"DO_NOT_TRACK": "true"} | quiet
        said = self._said.open("ab")
        self._process = subprocess.Popen(
            self._command, stdout=said, stderr=said, env=environment, start_new_session=True
        )
        end = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"MLflow server: expected an answer at {self.uri}; {self._said.read_text()[-2000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End the server and the processes that it has started."""
        if self._process is None or self._process.poll() is not None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(PATIENCE_S)

    def _answers(self) -> bool:
        try:
            asked = HTTPConnection("127.0.0.1", self.port, timeout=5)
            asked.request("GET", "/health")
            return asked.getresponse().status == 200
        except OSError:
            return False


class Desk:
    """Everything of a deployment; prices are known up to `start` when it opens."""

    def __init__(self, home: Path, pools: list[Pool], begin: datetime, start: datetime) -> None:
        self.home, self.pools, self.now = home, {pool.name: pool for pool in pools}, start
        self.begin = begin
        self.tracking = Tracking(home / "tracking")
        settings = home / "year.toml"
        settings.write_text(self._settings())
        self.config = load(Config, settings)
        (home / "source").mkdir()
        for name in self.pools:
            self.write_source(name)
        self.live = {name: Live(settings, name, home / "live" / name) for name in self.pools}
        self.workers = {name: Worker(self.config.of(name)) for name in self.pools}

    def _settings(self) -> str:
        sources = orjson.dumps([str(self.source(name)) for name in self.pools]).decode()
        parts = [
            f'folder = "{self.home / "data"}"',
            f'ingest = {{ paths = {sources}, policy = {{ non_positive = "keep" }} }}',
            f'tracking = {{ uri = "{self.tracking.uri}" }}',
            # so long a history that the states of a new champion are those of a walk over all prices
            'stream = { max_series = 16, history = 60000, rules = { series = "closed", jump = "accept" } }',
        ]
        for pool in self.pools.values():
            parts += [f"[pools.{pool.name}]", f"series = {orjson.dumps(pool.series).decode()}", pool.settings]
        return "\n".join(parts)

    def source(self, name: str) -> Path:
        """Give the file in which the prices of a pool come."""
        return self.home / "source" / f"{name}.csv"

    def write_source(self, name: str) -> None:
        """Let the file hold all prices of a pool that are known now."""
        self.pools[name].between(self.begin, self.now).write_csv(self.source(name))

    def serving(self, name: str) -> champions.Published:
        """Say which file serves a pool."""
        config = self.config.of(name)
        return champions.current(config.folder / "champions", config.champion)

    def close(self) -> None:
        """End every process."""
        for live in self.live.values():
            if hasattr(live, "process") and live.process.poll() is None:
                live.process.kill()
                live.process.wait()
        for worker in self.workers.values():
            if worker.process is not None:
                worker.process.kill()
        self.tracking.stop()
