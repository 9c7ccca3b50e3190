"""Sources: where prices come from, each as lazy rows of one form.

Comes in: the paths of the settings: files, folders and globs, or a source by name in front of what it takes. Goes out:
`Opened`. Imported by ingest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import polars as pl

from models.errors import ConfigError
from pipeline import epf, reading, vendors
from pipeline.layout import Columns
from pipeline.rows import READ
from pipeline.tables import Format
from pipeline.vendors import VendorConfig

SAMPLE, EPF, YAHOO, EXCHANGE = "sample", "epf", "yfinance", "ccxt"
"""Sources by name. A file of such a name is meant by ./name."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What is to be read: lazy rows of each file, and what came beside the prices.

    Attributes
    ----------
    files : list of str
        Names, in the order of the index `file` of the rows.
    rows : list of LazyFrame
        Columns of `pipeline.rows.READ` and the `values`, one frame a file.
    said : list of tuple of str
        What was recognised in each file, in words.
    values : tuple of str
        Further columns of the rows.
    others : tuple of str
        Columns of numbers in the files that were not read.
    covariates, factors : DataFrame or None
        Values and corporate actions with available times of their own.
    """

    files: list[str]
    rows: list[pl.LazyFrame]
    said: list[tuple[str, ...]]
    values: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    covariates: pl.DataFrame | None = None
    factors: pl.DataFrame | None = None

    @property
    def has_covariates(self) -> bool:
        """Whether anything beside prices came."""
        return bool(self.values) or self.covariates is not None


def opened(paths: Sequence[str], columns: Columns, form: Format, vendor: VendorConfig, workspace: Path) -> Opened:
    """Open what `paths` name: without reading it, where it is a file.

    Raises
    ------
    ConfigError
        A source lacks what it takes.
    DataError
        A file is missing or cannot be read.
    TransientError
        A vendor did not answer.
    """
    source, *rest = paths
    if source == SAMPLE:
        return _table(SAMPLE, sample(), ("real prices that ship with the arch package",))
    if source in (EPF, YAHOO, EXCHANGE) and not rest:
        raise ConfigError(f"{source}: expected what to read after it, such as {_EXAMPLES[source]!r}")
    if source == EPF:
        return _epf(rest)
    if source in (YAHOO, EXCHANGE):
        return _vendor(source, rest, vendor)
    return _files(paths, columns, form, workspace)


_EXAMPLES = {
    EPF: "statecast ingest epf NP.csv",
    YAHOO: "statecast ingest yfinance AAPL",
    EXCHANGE: "statecast ingest ccxt BTC/USDT",
}


def sample() -> pl.DataFrame:
    """Load the bundled sample: daily S&P 500 and NASDAQ 1999-2018 and WTI crude oil 1986-2019, in US dollars.

    They are real prices that ship with the arch package, by Yahoo Finance (adjusted closes) and the Federal
    Reserve Bank of St. Louis (DCOILWTICO). The holidays of WTI, 290 of 8611 rows, are nulls.

    Returns
    -------
    DataFrame
        Columns `series_id`, `time` (UTC), `price` (float64, null where none was published).
    """
    sources = {"SP500": ("sp500", "Adj Close"), "NASDAQ": ("nasdaq", "Adj Close"), "WTI": ("wti", "DCOILWTICO")}
    frames = []
    for series, (module, column) in sources.items():
        price = import_module(f"arch.data.{module}").load()[column]
        time = pl.Series(price.index.to_numpy()).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        frames.append(
            pl.DataFrame({"time": time, "price": pl.Series(price.to_numpy()).fill_nan(None)}).select(
                pl.lit(series).alias("series_id"), "time", "price"
            )
        )
    return pl.concat(frames)


def _files(paths: Sequence[str], columns: Columns, form: Format, workspace: Path) -> Opened:
    found = reading.find(paths)
    read = [reading.read(path, index, columns, form, workspace) for index, path in enumerate(found)]
    return Opened(
        files=[str(path) for path in found],
        rows=[one.rows for one in read],
        said=[one.said for one in read],
        values=columns.values,
        others=tuple(dict.fromkeys(name for one in read for name in one.others)),
    )


def _table(
    name: str, rows: pl.DataFrame, said: tuple[str, ...], *, index: int = 0, factors: pl.DataFrame | None = None
) -> Opened:
    """Give rows that are in memory as those of one file; columns that they lack are filled up."""
    header = 1 if name.endswith(".csv") else 0
    lacking = {
        "file": pl.lit(index, pl.UInt32),
        "line": pl.int_range(1 + header, pl.len() + 1 + header, dtype=pl.Int64),
        "fold": pl.lit(0).cast(pl.Duration("us")),
        "available_time": pl.lit(None, READ["available_time"]),
        "unreadable": pl.lit(None, pl.String),
    }
    filled = rows.with_columns(**{k: v for k, v in lacking.items() if k not in rows.columns})
    values = tuple(name for name in rows.columns if name not in READ)
    return Opened(
        files=[name], rows=[filled.select(*READ, *values).lazy()], said=[said], values=values, factors=factors
    )


def _epf(paths: Sequence[str]) -> Opened:
    files = [path for name in paths for path in epf.files(Path(name))]
    read = [epf.read(path) for path in files]
    opened = [
        _table(str(path), one.prices, one.said, index=k) for k, (path, one) in enumerate(zip(files, read, strict=True))
    ]
    return Opened(
        files=[str(path) for path in files],
        rows=[one.rows[0] for one in opened],
        said=[one.said for one in read],
        covariates=pl.concat([one.covariates for one in read], how="diagonal"),
    )


def _vendor(source: str, names: Sequence[str], vendor: VendorConfig) -> Opened:
    read = (vendors.yahoo if source == YAHOO else vendors.exchange)(names, vendor)
    return _table(source, read.rows, read.said, factors=read.factors)
