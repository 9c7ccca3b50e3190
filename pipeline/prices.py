"""The price store: prices, covariates, corporate actions and what is known about each series, in one folder.

Comes in: frames under `KEY` (from ingest). Goes out: the prices known at a moment, adjusted and sorted, and digests of
them. May be imported by ingest, by the flows and by whatever prepares data for training; the serving side never
imports it (polars).

    <folder>/prices/         a store of vintages of `price`
    <folder>/covariates/     likewise, of any further columns
    <folder>/adjustments/    likewise, of `factor`
    <folder>/series.parquet  one row a series: grid, calendar, source, time zone
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.errors import DataError, SchemaError, unknown
from pipeline.adjustments import FACTOR, adjusted, checked
from pipeline.atomic import replacing
from pipeline.revisions import KEY, ordered
from pipeline.rows import UTC_TIME
from pipeline.vintages import VintageStore, WriteResult, bucket_of, digest, locked

__all__ = ["DESCRIPTION", "KEY", "SCHEMA", "UTC_TIME", "PriceStore", "WriteResult", "digest", "ordered"]

SCHEMA = pl.Schema({"series_id": pl.String, "time": UTC_TIME, "available_time": UTC_TIME, "price": pl.Float64})
"""Columns of a price frame. `price` is null where it is known that none was published."""

DESCRIPTION = pl.Schema(dict.fromkeys(("series_id", "grid", "calendar", "source", "time_zone"), pl.String()))
"""What is known about a series: its grid ("1d", "1h bars, empty: null"), the calendar of its market, where its prices
come from and the zone of its local times; null where nobody said."""


class PriceStore:
    """Prices on disk, as they were published and as they are comparable.

    Parameters
    ----------
    folder : str or Path
        The store. The first write creates it.
    buckets : int, 1 to 999
        Number of parts over which the series of a new store are spread.

    Attributes
    ----------
    prices, covariates, adjustments : VintageStore
        The three tables. To write several in one go, nest their `writing` blocks; each is atomic on its own.

    Raises
    ------
    DataError
        If the folder holds a store made by an earlier version.
    """

    def __init__(self, folder: str | Path, *, buckets: int = 64) -> None:
        self.folder = Path(folder)
        self.prices = VintageStore(self.folder / "prices", buckets=buckets)
        self.covariates = VintageStore(self.folder / "covariates", None, buckets=buckets)
        self.adjustments = VintageStore(self.folder / "adjustments", (FACTOR,), buckets=1)
        if (self.folder / "manifest.json").exists():
            raise DataError(
                f"price store {self.folder} was made by an earlier version, with one table in the folder itself: ingest"
                " the files again into a new folder."
            )

    def write(self, frame: pl.DataFrame, *, now: datetime | None = None) -> WriteResult:
        """Add prices, a frame in `SCHEMA`; `VintageStore.writing` and `Batch.add` say what is taken and refused."""
        return self.prices.write(frame, now=now)

    def adjust(self, factors: pl.DataFrame, *, now: datetime | None = None) -> WriteResult:
        """Add corporate actions: `KEY` and `factor`, which all prices before `time` are multiplied by when read.

        Raises
        ------
        DataError
            If a factor is missing, zero, negative, NaN or infinite; and as for prices.
        """
        with self.adjustments.writing(now=now) as batch:
            batch.add(factors)  # refuses what is no frame of factors
            checked(factors)
        return batch.result

    def read(
        self,
        series: str | Iterable[str] | None = None,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        known_at: datetime | None = None,
        adjusted: bool = True,
    ) -> pl.DataFrame:
        """Read the prices as they were known at a moment.

        Parameters
        ----------
        series, start, end, known_at
            As for `VintageStore.read`: all by default; times from `start` on and before `end`.
        adjusted : bool
            Multiply prices by the factors of the corporate actions after them, those beyond `end` included, that
            were known at `known_at`.

        Returns
        -------
        DataFrame
            Columns of `SCHEMA`, sorted by (series_id, time), which is unique.

        Raises
        ------
        DataError
            If a series is not in the store, or the folder is not a store.
        """
        prices = self.prices.read(series, start=start, end=end, known_at=known_at)
        return self._adjusted(prices, known_at) if adjusted else prices

    def clock(self, frame: pl.DataFrame) -> NDArray[np.int64]:
        """Give what the clock of each series' market shows at the times of a frame [R], microseconds; else UTC."""
        shown = frame["time"].to_physical().to_numpy().copy()
        for (zone,), held in self._descriptions().group_by("time_zone"):
            if zone is not None:
                rows = frame["series_id"].is_in(held["series_id"].implode()).to_numpy()
                local = frame["time"].dt.convert_time_zone(str(zone)).dt.replace_time_zone(None)
                shown[rows] = local.to_physical().to_numpy()[rows]
        return shown

    def describe(self, frame: pl.DataFrame) -> None:
        """Keep what is known about series: a new row for a series, or new texts where it has one.

        Parameters
        ----------
        frame : DataFrame
            `series_id`, once each, and any of the columns of `DESCRIPTION`; a null leaves what is held.

        Raises
        ------
        SchemaError
            If a column is unknown or no text.
        DataError
            If a series is missing or named twice.
        TransientError
            If another process is writing.
        """
        rows = _described(frame)
        with locked(self.folder):
            whole = self._descriptions().update(rows, on="series_id", how="full").sort("series_id")
            with replacing(self.folder / "series.parquet") as file:
                whole.write_parquet(file)

    def series(self) -> pl.DataFrame:
        """List the series by name: `rows` (distinct times), `first_time`, `last_time`, and what `DESCRIPTION` has."""
        listed = self.prices.series()
        return listed.join(self._descriptions(), on="series_id", how="left", maintain_order="left")

    def names(self, patterns: Sequence[str] = ("*",), part: tuple[int, int] = (0, 1)) -> list[str]:
        """Give the names of the series that match a pattern and fall into part k of n = `part`, sorted."""
        k, n = part
        return [
            name
            for name in self.prices.names()
            if bucket_of(name, n) == k and any(fnmatchcase(name, pattern) for pattern in patterns)
        ]

    def digest(self) -> str:
        """Compute the sha256 of what `read` gives; see the function `digest`."""
        return digest(self.read())

    def _adjusted(self, prices: pl.DataFrame, known_at: datetime | None) -> pl.DataFrame:
        if not self.adjustments.exists():
            return prices
        return adjusted(prices, self.adjustments.read(known_at=known_at))

    def _descriptions(self) -> pl.DataFrame:
        path = self.folder / "series.parquet"
        return pl.read_parquet(path) if path.exists() else DESCRIPTION.to_frame()


def _described(frame: pl.DataFrame) -> pl.DataFrame:
    """Bring a description to all the columns of `DESCRIPTION`, or say what is wrong with it."""
    for name, dtype in frame.schema.items():
        if name not in DESCRIPTION:
            raise SchemaError(unknown("column of the description of series", name, DESCRIPTION))
        if dtype not in (pl.String, pl.Null):
            raise SchemaError(f"column {name!r} of the description of series must be {pl.String()}, not {dtype}")
    if "series_id" not in frame.columns:
        raise SchemaError(unknown("column of the description of series", "series_id", frame.columns))
    bad = frame.filter(pl.col("series_id").is_null() | pl.col("series_id").is_duplicated())
    if bad.height:
        raise DataError(
            f"a description names each series once, but {bad.height} rows have no name or that of another row; the"
            f" first is {bad.row(0, named=True)}"
        )
    return pl.concat([DESCRIPTION.to_frame(), frame.cast(dict.fromkeys(frame.columns, pl.String))], how="diagonal")
