"""Peak memory and rate of `statecast ingest` on a CSV that grows, beside the bare streaming engine and pandas.

Run: python benchmarks/ingest.py [--megabytes 200 800] [--series 500]

Each ingest is a process of its own. Its memory is what no file backs: pages of the CSV that the system keeps mapped
are not counted, for it may take them back. `import` is what the process holds before it reads anything. The floor is
polars' streaming engine that types the columns of the same file and writes one Parquet file; the peer is pandas, which
reads the whole file.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

FLOOR = """
import polars as pl, sys
rows = pl.scan_csv(sys.argv[1], infer_schema=False)
time = pl.col("time").str.to_datetime(time_unit="us", time_zone="UTC")
rows.select("series_id", time, pl.col("price").cast(pl.Float64)).sink_parquet(sys.argv[2] + "/floor.parquet")
"""
PEER = """
import pandas as pd, sys
rows = pd.read_csv(sys.argv[1], parse_dates=["time"]).sort_values(["series_id", "time"])
rows.to_parquet(sys.argv[2] + "/peer.parquet")
"""
EMPTY = "from pipeline import steps"


def write(path: Path, megabytes: int, series: int) -> int:
    """Write hours of a random walk of each series, in order of time, until the file is so large; give its rows."""
    rng, rows, hour = np.random.default_rng(0), 0, np.datetime64("2000-01-01T00", "us")
    names = [f"S{k:05d}" for k in range(series)]
    price = np.full(series, 100.0)
    with path.open("wb") as file:
        file.write(b"series_id,time,price\n")
        while file.tell() < megabytes * 1_000_000:
            hours = hour + np.arange(100) * np.timedelta64(3_600_000_000, "us")
            path_TB = price * np.exp(np.cumsum(0.002 * rng.standard_normal((100, series)), axis=0))
            frame = pl.DataFrame(
                {"series_id": names * 100, "time": np.repeat(hours, series), "price": path_TB.ravel().round(4)}
            )
            frame.write_csv(file, include_header=False)
            price, hour, rows = path_TB[-1], hours[-1] + np.timedelta64(3_600_000_000, "us"), rows + 100 * series
    return rows


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command; give its seconds and its peak memory in megabytes, as looked at 50 times a second."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, own_kilobytes(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.perf_counter() - started, peak / 1024


def own_kilobytes(pid: int) -> int:
    """Read the memory of a process that no file backs; 0 where it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[200, 800], help="sizes of the CSV")
    parser.add_argument("--series", type=int, default=500)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, polars {pl.__version__}")
    seconds, peak = measured([sys.executable, "-c", EMPTY])
    print(f"import: {seconds:.1f} s, {peak:,.0f} MB")
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory(prefix="statecast-") as folder:
            path = Path(folder) / "prices.csv"
            rows = write(path, megabytes, options.series)
            print(f"\n{megabytes:,} MB, {rows:,} rows, {options.series:,} series")
            statecast = [str(Path(sys.executable).with_name("statecast")), "ingest", str(path), "-f", f"{folder}/desk"]
            for name, command in (
                ("statecast ingest", statecast),
                ("polars streaming, no checks", [sys.executable, "-c", FLOOR, str(path), folder]),
                ("pandas, no checks", [sys.executable, "-c", PEER, str(path), folder]),
            ):
                seconds, peak = measured(command)
                print(f"  {name:28} {seconds:7.1f} s  {rows / seconds / 1e3:7,.0f} k rows/s  peak {peak:7,.0f} MB")


if __name__ == "__main__":
    main()
