"""Electricity prices of the open-access benchmark (epftoolbox), read as published.

Lago, Marcjasz, De Schutter and Weron (2021), Applied Energy 293, 116983, doi:10.1016/j.apenergy.2021.116983: a CSV for
each market (NP, PJM, BE, FR, DE), 24 rows a day: the hour in which delivery begins, on the market's naive clock, the
day-ahead price, and two forecasts that are published before the auction. The second and further names of the header
have a blank in front and differ from market to market: columns are taken by their place.

What is known when. The 24 prices of day D are published together at noon of D - 1 (`PRICES_KNOWN`), the forecasts for
D at 10:00 of D - 1 (`COVARIATES_KNOWN`), between that and the prices: whoever forecasts the prices of D has the
forecasts for D and the prices up to D - 1. The benchmark gives no such hours and its clock has no summer time; these
two are chosen for all markets alike, and the clock is labelled UTC without a shift. Prices may be negative.

Comes in: a file or a folder of them. Goes out: `Epf`, two frames. Knows polars; imported by sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl

from models.errors import DataError, SchemaError, unknown

PRICES_KNOWN = timedelta(hours=12)
"""Hour of the day before delivery at which its prices are known."""

COVARIATES_KNOWN = timedelta(hours=10)
"""Hour of the day before delivery at which its covariates are known."""

COVARIATES = ("exog_1", "exog_2")
"""Names of the covariates, in the order of the published columns."""

_VALUES = ("price", *COVARIATES)
_COLUMNS = ("time", *_VALUES)
_MISSING = ("", "NA", "NaN", "nan")


@dataclass(frozen=True, kw_only=True)
class Epf:
    """The benchmark's markets, sorted by (series_id, time), each of which is there once.

    Attributes
    ----------
    prices : DataFrame
        Columns `series_id`, `time`, `available_time`, `price` (currency a MWh; null where none was published).
    covariates : DataFrame
        Columns `series_id`, `time`, `available_time`, `exog_1`, `exog_2` (float64, null where missing), known ahead:
        `available_time` lies before the moment at which the prices of the same `time` become known.
    said : tuple of str
        What a reader should know: which column is which covariate, hours that are missing, what was assumed.
    """

    prices: pl.DataFrame
    covariates: pl.DataFrame
    said: tuple[str, ...]


def read(path: Path) -> Epf:
    """Read a market's file, or all .csv and .parquet files of a folder.

    Parameters
    ----------
    path : Path
        A CSV as published, whose market is named by the file (NP.csv); a Parquet file with `series_id`, `timestamp`
        (naive), `price`, `exog_1`, `exog_2`; or a folder.

    Raises
    ------
    SchemaError
        When a file has other columns, or a cell is no hour or no number; the message names the line.
    DataError
        When there is no file, a market stands in two files, or an hour is repeated or out of order.
    """
    said: list[str] = []
    markets: dict[str, pl.DataFrame] = {}
    for file in files(path):
        rows = _published(file, said) if file.suffix == ".csv" else _long(file)
        for market in rows.partition_by("series_id", maintain_order=True):
            name = market["series_id"][0]
            if name in markets:
                raise DataError(f"{file}: market {name} was read from another file already. Keep one of them")
            said += _checked(market, f"{file} ({name})")
            markets[name] = market
    if not markets:
        raise DataError(f"{path}: expected hours of a market, got none. Give files of the benchmark, such as NP.csv")
    said.append(
        f"clocks are as published, labelled UTC; prices are taken to be known at {PRICES_KNOWN} and covariates at "
        f"{COVARIATES_KNOWN} of the day before delivery"
    )
    rows = pl.concat([markets[name] for name in sorted(markets)])
    prices, covariates = _known(rows, PRICES_KNOWN, "price"), _known(rows, COVARIATES_KNOWN, *COVARIATES)
    return Epf(prices=prices, covariates=covariates, said=tuple(said))


def files(path: Path) -> list[Path]:
    """Find the files of a path: itself, or those of a folder, sorted."""
    if path.is_file() and path.suffix in (".csv", ".parquet"):
        return [path]
    found = sorted(p for p in path.glob("*") if p.suffix in (".csv", ".parquet")) if path.is_dir() else []
    if not found:
        raise DataError(f"{path}: expected a .csv or .parquet file, or a folder of them (looked from {Path.cwd()})")
    return found


def _published(file: Path, said: list[str]) -> pl.DataFrame:
    """Read a CSV of the benchmark by the place of its columns; lines count from 1, the header's."""
    try:
        text = pl.read_csv(file, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{file} cannot be read: {error}. Give a file of the benchmark as published") from error
    names = [name.strip() for name in text.columns]
    if len(names) != len(_COLUMNS):
        raise SchemaError(
            f"{file}: expected four columns, the hour, the price and two forecasts, such as Date, Price, Grid load "
            f"forecast, Wind power forecast; got {', '.join(names)}. Other tables are ingested as ordinary prices"
        )
    said.append(f"{file.name}: price is {names[1]!r}, exog_1 {names[2]!r}, exog_2 {names[3]!r}")
    text.columns = list(_COLUMNS)
    text = text.with_columns(pl.all().str.strip_chars().replace(list(_MISSING), [None] * len(_MISSING)))
    hour = pl.col("time").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    rows = text.with_columns(hour, *_numbers()).with_row_index("line", offset=2)
    for name in _COLUMNS:
        wrong = rows["line"].filter(rows[name].is_null() & (text[name].is_not_null() | (name == "time")))
        if len(wrong):
            expected = "an hour such as 2013-01-01 00:00:00" if name == "time" else "a number"
            raise SchemaError(
                f"{file} line {wrong[0]}: expected {expected} as {name}, got {text[name][wrong[0] - 2]!r}; "
                f"{len(wrong)} lines are so. Correct them"
            )
    return rows.with_columns(series_id=pl.lit(file.stem))


def _long(file: Path) -> pl.DataFrame:
    """Read the long form; lines are rows, from 1."""
    table = pl.read_parquet(file)
    for name in ("series_id", "timestamp", *_VALUES):
        if name not in table.columns:
            raise SchemaError(f"{file}: {unknown('column', name, table.columns)}. Name it so")
    if table["timestamp"].dtype not in (pl.Datetime("us"), pl.Datetime("ms"), pl.Datetime("ns")):
        raise SchemaError(f"{file}: timestamp must be a datetime without a zone, not {table['timestamp'].dtype}")
    return table.with_row_index("line", offset=1).select(
        "line",
        pl.col("series_id").cast(pl.String),
        pl.col("timestamp").dt.cast_time_unit("us").alias("time"),
        *_numbers(),
    )


def _numbers() -> list[pl.Expr]:
    """Make the values numbers, null where they are none or not finite."""
    numbers = {name: pl.col(name).cast(pl.Float64, strict=False) for name in _VALUES}
    return [pl.when(number.is_finite()).then(number).alias(name) for name, number in numbers.items()]


def _checked(market: pl.DataFrame, where: str) -> list[str]:
    """Refuse hours that are none, repeated or out of order; say which are missing, and which values are."""
    time = pl.col("time")
    step = market.with_columns(step=time.diff(), place=time - time.dt.truncate("1h"))
    wrong = step.filter(time.is_null() | (pl.col("place") != timedelta(0)) | (pl.col("step") <= timedelta(0)))
    if wrong.height:
        line, hour = wrong.row(0, named=True)["line"], wrong["time"][0]
        raise DataError(
            f"{where} line {line}: expected full hours, each once and in order, got {hour} after "
            f"{step.filter(pl.col('line') < line)['time'].max()}; {wrong.height} lines are so. The benchmark has 24 "
            "rows a day, without summer time"
        )
    said = []
    days = market.group_by(day=time.dt.date(), maintain_order=True).agg(pl.len(), pl.col("line").first())
    partial = days.filter(pl.col("len") != 24)
    whole = (days["day"][-1] - days["day"][0]).days + 1
    if partial.height or whole != days.height:
        first = step.filter(pl.col("step") > timedelta(hours=1))
        at = f", the first before line {first['line'][0]} ({first['time'][0]})" if first.height else ""
        said.append(f"{where}: {partial.height} days have fewer than 24 hours and {whole - days.height} are absent{at}")
    for name in _VALUES:
        missing = market.filter(pl.col(name).is_null())
        if missing.height:
            said.append(
                f"{where}: {missing.height} values of {name} are missing, the first at line {missing['line'][0]}"
            )
    return said


def _known(rows: pl.DataFrame, hour: timedelta, *values: str) -> pl.DataFrame:
    """Take some values with the moment, on the day before delivery, at which they are known."""
    time = pl.col("time").dt.replace_time_zone("UTC")
    known = (time.dt.truncate("1d") - timedelta(days=1) + hour).alias("available_time")
    return rows.select("series_id", time, known, *values)
