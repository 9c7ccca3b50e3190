"""S2: what it costs to keep, extend and read the prices of a hundred thousand series.

Random walks of 250 days are written bucket by bucket, as ingest does, then read, extended by one day at a time and
listed. The peers hold the same rows: one Parquet file through polars, where extending means writing it again, and a
Hive folder a series, at 2,000 series, the layout that this store avoids. Reading one series is the median of many
different ones.

    python benchmarks/store.py [--series 100000] [--days 250] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.prices import SCHEMA, PriceStore
from pipeline.vintages import bucket_of

BUCKETS = 64
START = datetime(2024, 1, 1, tzinfo=UTC)
HIVE_SERIES = 2_000


def panel(names: list[str], first: int, days: int) -> pl.DataFrame:
    """Make a price frame of random walks, from day number `first` on."""
    rng = np.random.default_rng([first, bucket_of(names[0], 2**32)])
    steps = np.cumsum(0.01 * rng.normal(size=(len(names), days)), axis=1)
    day = pl.datetime_range(START + timedelta(first), START + timedelta(first + days - 1), time_unit="us", eager=True)
    rows = pl.DataFrame({"series_id": names}).join(pl.DataFrame({"time": day}), how="cross")
    price = pl.Series(np.round(100 * np.exp(steps), 4).ravel())
    return rows.select("series_id", "time", pl.col("time").alias("available_time"), price.alias("price")).cast(SCHEMA)


def buckets(names: list[str]) -> Iterator[list[str]]:
    """Deal names into the buckets of a store."""
    dealt: list[list[str]] = [[] for _ in range(BUCKETS)]
    for name in names:
        dealt[bucket_of(name, BUCKETS)].append(name)
    yield from filter(None, dealt)


def seconds(act: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def megabytes(folder: Path) -> float:
    """Add up the files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def typical(read: Callable[[str], pl.DataFrame], names: list[str], days: int, times: int = 30) -> float:
    """Give the median seconds of reading one series, a different one each time."""
    picked = names[:: max(1, len(names) // times)]
    assert read(picked[0]).height == days
    return statistics.median(seconds(lambda name=name: read(name)) for name in picked)


def show(label: str, value: float, unit: str = "s", note: str = "") -> None:
    print(f"  {label:34} {value:10.3f} {unit:3} {note}", flush=True)


def store(folder: Path, names: list[str], days: int) -> None:
    """Measure the price store."""
    prices = PriceStore(folder, buckets=BUCKETS)
    spent = 0.0
    with prices.prices.writing() as batch:
        for part in buckets(names):
            frame = panel(part, 0, days)
            spent += seconds(lambda frame=frame: batch.add(frame))
    rows = batch.result.added
    show("write", spent, note=f"{rows:,} rows, bucket by bucket")
    show("size", megabytes(folder), "MB", f"{len(list(folder.rglob('*.parquet')))} files")
    show("read one series", typical(prices.read, names, days))
    show("read all", seconds(prices.read))
    show("series()", seconds(prices.series))
    extend(prices, names, days)
    show("read one series, extended", typical(prices.read, names, days + 10))
    show("read all, extended", seconds(prices.read), note=f"{len(list(folder.rglob('*.parquet')))} files")


def extend(prices: PriceStore, names: list[str], days: int) -> None:
    """Append one row a series, ten days in turn, and write the last day again."""
    frames = [panel(names, days + k, 1) for k in range(10)]
    spent = [seconds(lambda frame=frame: prices.write(frame)) for frame in frames]
    show("append one day", statistics.median(spent), note=f"median of 10, the dearest {max(spent):.3f} s")
    show("the same day again", seconds(lambda: prices.write(frames[-1])), note="nothing new")
    revised = frames[-1].with_columns(pl.col("price") + 1, available_time=pl.lit(None, SCHEMA["time"]))
    show("that day revised", seconds(lambda: prices.write(revised)), note="every row a revision")


def one_file(folder: Path, names: list[str], days: int) -> None:
    """Measure one Parquet file, sorted by series, without vintages, checks or safety."""
    frame = pl.concat([panel(part, 0, days) for part in buckets(names)]).sort("series_id", "time")
    path = folder / "prices.parquet"
    show("write", seconds(lambda: frame.write_parquet(path)))
    show("size", megabytes(folder), "MB")
    show("read one series", typical(lambda n: pl.scan_parquet(path).filter(series_id=n).collect(), names, days))
    show("read all", seconds(lambda: pl.read_parquet(path)))
    text, day = folder / "prices.csv", panel(names, days, 1)
    spent = seconds(lambda: frame.write_csv(text))
    show("as CSV", spent, note=f"{text.stat().st_size / 1e6:.0f} MB")
    show("append one day", seconds(lambda: rewrite(path, day)), note="read, sort, write")


def rewrite(path: Path, day: pl.DataFrame) -> None:
    """Extend one Parquet file."""
    pl.concat([pl.read_parquet(path), day]).sort("series_id", "time").write_parquet(path)


def hive(folder: Path, names: list[str], days: int) -> None:
    """Measure a folder a series."""
    frame, day = panel(names, 0, days), panel(names, days, 1)
    target = pl.PartitionBy(folder, key="series_id", include_key=False)
    show("write", seconds(lambda: frame.lazy().sink_parquet(target, mkdir=True)))
    show("size", megabytes(folder), "MB", f"{len(list(folder.rglob('*.parquet')))} files")
    show("read one series", typical(lambda n: pl.read_parquet(folder / f"series_id={n}"), names, days))
    show("read all", seconds(lambda: pl.read_parquet(folder / "**/*.parquet", hive_partitioning=True)))
    show("append one day", seconds(lambda: lay_beside(folder, day)), note="a second file in each folder")


def lay_beside(folder: Path, day: pl.DataFrame) -> None:
    """Add a file to the folder of each series."""
    for (name,), rows in day.partition_by("series_id", as_dict=True, include_key=False).items():
        rows.write_parquet(folder / f"series_id={name}" / "1.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=250)
    parser.add_argument("--folder", type=Path, help="where the files are laid for the time of the run")
    options = parser.parse_args()
    names = [f"S{k:06d}" for k in range(options.series)]
    few = names[:HIVE_SERIES]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, polars {pl.__version__}")
    for title, measure, held in (
        ("price store", store, names),
        ("one Parquet file", one_file, names),
        ("price store", store, few),
        ("a folder a series", hive, few),
    ):
        print(f"{title}, {len(held):,} series x {options.days} days")
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure(Path(folder), held, options.days)


if __name__ == "__main__":
    main()
