"""Thousands of series refitted, walked forward, compared and promoted in parts, on one Dask worker and on two.

Daily GARCH prices with Student t shocks are written to the price store once. Each run is the whole side-by-side retrain
in a fresh data folder over that store, against one embedded Prefect server; runs with different numbers of workers
alternate. Workers have one thread and are warm: their start and imports are timed apart, as `cold_s`. Where other work
shares the machine, `cpu_*` says more than `wall_s`. One JSON line a run.

    python benchmarks/scale.py [--series 10000] [--days 750] [--parts 8] [--workers 1 2] [--rounds 2] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.embedded import environment

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")

import numpy as np
import orjson
import polars as pl

from pipeline.config import Config
from pipeline.ingest import IngestConfig
from pipeline.prices import SCHEMA, PriceStore
from pipeline.scale_config import ScaleConfig
from pipeline.vintages import bucket_of

START = datetime(2023, 1, 1, tzinfo=UTC)
BUCKETS = 64

Row = dict[str, Any]


def returns(series: int, days: int) -> np.ndarray:
    """Draw log returns [N, T] of GARCH(1, 1) with Student t(6) shocks, about 1 % a day."""
    rng = np.random.default_rng(0)
    variance, drawn = np.full(series, 1e-4), np.zeros((series, days))
    for t in range(days):
        drawn[:, t] = np.sqrt(variance) * rng.standard_t(6, series) / np.sqrt(6 / 4)
        variance = 0.05e-4 + 0.07 * drawn[:, t] ** 2 + 0.88 * variance
    return drawn


def write(folder: Path, series: int, days: int) -> None:
    """Write the prices bucket by bucket, and one row of them as the file that a retrain ingests."""
    names = np.array([f"S{k:05}" for k in range(series)])
    price = np.round(100 * np.exp(np.cumsum(returns(series, days), axis=1)), 4)
    day = pl.DataFrame({"time": [START + timedelta(k) for k in range(days)]})
    bucket = np.array([bucket_of(name, BUCKETS) for name in names])
    with PriceStore(folder / "prices", buckets=BUCKETS).prices.writing() as batch:
        for k in np.unique(bucket):
            keys = pl.DataFrame({"series_id": names[bucket == k]}).join(day, how="cross")
            values = pl.Series("price", price[bucket == k].ravel())
            batch.add(keys.select("series_id", "time", available_time="time").with_columns(values).cast(SCHEMA))
    (folder / "last.csv").write_text(f"series_id,time,price\n{names[0]},{day['time'][-1]:%Y-%m-%d},{price[0, -1]}\n")


class Clock:
    """A watcher that keeps how long each step of the flow itself lasts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = ("", time.perf_counter())

    def begins(self, what: str, epochs: int = 0) -> None:  # noqa: ARG002
        """Close the step before."""
        (before, since), now = self._last, time.perf_counter()
        self.seconds[before] = self.seconds.get(before, 0.0) + now - since
        self._last = (what.partition(": ")[2].split(" ")[0] or what.split(" ", maxsplit=1)[0], now)

    def ingested(self, result: object) -> None:
        """Take no note: the prices are in the store before."""


def imports() -> None:
    """Import what tasks need, which each worker does once."""
    import flows.side_by_side  # noqa: F401


def spent() -> tuple[float, float]:
    """Give the CPU seconds of this process, and the most memory that it had, in MB."""
    return time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


@contextmanager
def cluster(workers: int) -> Iterator[tuple[Any, float]]:
    """Start workers as the flow does, and warm them; give a client and the seconds that this took."""
    from distributed import Client, LocalCluster

    from flows.side_by_side import local

    begun = time.perf_counter()
    with LocalCluster(**local(workers)) as made, Client(made) as client:
        client.run(imports)
        yield client, time.perf_counter() - begun


def run(store: Path, folder: Path, options: argparse.Namespace, parts: int, workers: int) -> Row:
    """Retrain once, and say what it took."""
    from flows.side_by_side import retrain

    folder.mkdir()
    (folder / "prices").symlink_to(store / "prices")
    config = Config(
        folder=folder, models=tuple(options.models), parts=parts, ingest=IngestConfig(paths=(str(store / "last.csv"),))
    )
    with cluster(workers) as (client, cold):
        clock = Clock()
        before, mine, wall = client.run(spent), time.process_time(), time.perf_counter()
        done = retrain(replace(config, scale=ScaleConfig(address=client.cluster.scheduler_address)), clock)
        clock.begins("end")
        wall, mine, after = time.perf_counter() - wall, time.process_time() - mine, client.run(spent)
    assert len(done) == parts
    return {
        "series": options.series,
        "parts": parts,
        "workers": workers,
        "cold_s": cold,
        "wall_s": wall,
        "cpu_workers_s": [after[k][0] - before[k][0] for k in after],
        "cpu_flow_s": mine,
        "waited_s": clock.seconds,
        "peak_worker_mb": max(memory for _, memory in after.values()),
        "peak_flow_mb": spent()[1],
        "load": os.getloadavg()[0],
        "promoted": sorted(one.promoted.model for one in done.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=750)
    parser.add_argument("--models", nargs="+", default=["last_value", "ar_t"])
    parser.add_argument("--parts", type=int, nargs="+", default=[8])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the files are laid for the time of the run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        os.environ |= environment(folder)
        (folder / "prefect").mkdir()
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            client.api_healthcheck()
        begun = time.perf_counter()
        write(folder, options.series, options.days)
        print(orjson.dumps({"written": options.series * options.days, "s": time.perf_counter() - begun}).decode())
        for turn in range(options.rounds):
            for parts in options.parts:
                for workers in options.workers:
                    row = run(folder, folder / f"{turn}-{parts}-{workers}", options, parts, workers)
                    print(orjson.dumps(row).decode(), flush=True)


if __name__ == "__main__":
    main()
