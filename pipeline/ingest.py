"""Ingest: prices from files or from the bundled sample, every fault met by a policy, located and counted.

Comes in: CSV or Parquet files in long form (a row a price), or the S&P 500, NASDAQ and WTI oil prices that
ship with the arch package. Goes out: a price frame in `pipeline.prices.SCHEMA`, sorted, each key once, and an
`IngestReport`. Imported by the flows.

Times become UTC: a time without a zone is taken as UTC, a time with one is converted, digits finer than a
microsecond are cut. Text times must be ISO 8601, year first.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import polars as pl

from models.errors import ConfigError, DataError, PolicyError, SchemaError, unknown
from pipeline.prices import KEY, SCHEMA, UTC_TIME, ordered

SAMPLE = "sample"
"""In place of a path: the sample that ships with a dependency."""

CHOICES: dict[str, tuple[str, ...]] = {
    "null": ("raise", "drop", "keep"),
    "non_positive": ("raise", "drop", "keep"),
    "disorder": ("raise", "sort"),
    "duplicate": ("raise", "drop"),
    "conflict": ("raise", "keep_last"),
}
"""The faults, in the order in which they are met, and the policies to choose from."""

_MISSING = ("", ".", "NA", "N/A", "null", "None")
_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The user's names of the columns.

    Attributes
    ----------
    series_id : str
        Name of the series: text, or a number that is taken as text.
    time : str
        Moment of the price.
    price : str
        The price.
    available_time : str or None
        Moment at which the price became known; by default the moment of the price itself.
    """

    series_id: str = "series_id"
    time: str = "time"
    price: str = "price"
    available_time: str | None = None


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What to read, and what to do about each fault.

    Attributes
    ----------
    paths : tuple of str
        Files to read, .csv, .csv.gz or .parquet, in this order; "sample" is the bundled sample.
    columns : Columns
        The names of the columns in the files.
    null : {"drop", "keep", "raise"}
        A price that is missing, NaN or infinite; keep makes it a null, a known hole.
    non_positive : {"raise", "drop", "keep"}
        A price of zero or less; keep is for the asinh transform, log returns cannot take it.
    disorder : {"sort", "raise"}
        A row earlier in time than the row before it in the same series.
    duplicate : {"drop", "raise"}
        A row that another one repeats exactly.
    conflict : {"raise", "keep_last"}
        Rows of one series, time and available time whose prices differ; keep_last keeps the last one read.
    """

    paths: tuple[str, ...] = (SAMPLE,)
    columns: Columns = Columns()
    null: Literal["drop", "keep", "raise"] = "drop"
    non_positive: Literal["raise", "drop", "keep"] = "raise"
    disorder: Literal["sort", "raise"] = "sort"
    duplicate: Literal["drop", "raise"] = "drop"
    conflict: Literal["raise", "keep_last"] = "raise"

    def __post_init__(self) -> None:
        if not self.paths or isinstance(self.paths, str):
            raise ConfigError(f"paths must be a list of files, or [{SAMPLE!r}], not {self.paths!r}")
        for fault, choices in CHOICES.items():
            policy = getattr(self, fault)
            if policy not in choices:
                raise ConfigError(unknown(f"policy for {fault}", str(policy), choices))


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row as it was read. `row` counts from 1 at the first row of prices of `file`."""

    file: str
    row: int
    series_id: str
    time: datetime
    price: float | None

    def __str__(self) -> str:
        return f"{self.file} row {self.row}: {self.series_id} at {self.time:%Y-%m-%d %H:%M:%S} = {self.price}"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What one policy met: `count` rows with the fault, `dropped` of them, the first few of them."""

    name: str
    policy: str
    count: int
    dropped: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class SeriesReport:
    """What was read and kept of one series; the times are of the kept rows, None if none was."""

    series_id: str
    rows_read: int
    rows_kept: int
    first_time: datetime | None
    last_time: datetime | None


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """Account of an ingest: rows read = rows kept + the rows that the faults say were dropped.

    `faults` has one entry for each policy, met or not, in the order in which they were applied.
    """

    rows_read: int
    rows_kept: int
    series: tuple[SeriesReport, ...]
    faults: tuple[Fault, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values for JSON; times as ISO 8601 text."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: plain(item) for name, item in value.items()}
            if isinstance(value, list | tuple):
                return [plain(item) for item in value]
            return value.isoformat() if isinstance(value, datetime) else value

        return plain(asdict(self))

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Give a table of the faults: fault, policy, rows, dropped, first example; without a header."""
        return [
            (f.name, f.policy, str(f.count), str(f.dropped), str(f.examples[0]) if f.examples else "")
            for f in self.faults
        ]


def ingest(config: IngestConfig) -> tuple[pl.DataFrame, IngestReport]:
    """Read the files of `config` and put their rows through its policies.

    Returns
    -------
    prices : DataFrame
        Columns of `pipeline.prices.SCHEMA`, sorted by (series_id, time, available_time), which is unique.
    report : IngestReport
        What was read, kept and found.

    Raises
    ------
    SchemaError
        If a column is missing, or holds values that are no times or no prices.
    PolicyError
        If a fault whose policy is "raise" occurs.
    DataError
        If a file cannot be found or read, a row lacks its series or a time, or no row is left.
    """
    files = [_read(path, config.columns) for path in config.paths]
    return _settled(pl.concat(files), config)


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


def _read(path: str, columns: Columns) -> pl.DataFrame:
    """Read one file: `SCHEMA` with the file's name and the row's number in front."""
    if path == SAMPLE:
        rows = sample().with_columns(available_time=pl.col("time"))
    else:
        rows = _typed(_raw(Path(path), columns), path)
    rows = rows.with_row_index("row", offset=1).with_columns(pl.lit(path).alias("file"))
    keyless = rows.filter(pl.any_horizontal(pl.col(*KEY).is_null()))
    if keyless.height:
        raise DataError(
            f"{path}: {keyless.height} rows lack {' or '.join(KEY)}; the first is row {keyless['row'][0]}:"
            f" {keyless.select(KEY).row(0, named=True)}. Fill or remove them."
        )
    return rows.select("file", "row", *SCHEMA)


def _raw(path: Path, columns: Columns) -> pl.DataFrame:
    """Read the mapped columns, renamed to ours; those of a CSV as text."""
    if not path.is_file():
        raise DataError(f"no file {str(path)!r} (looked from {Path.cwd()})")
    try:
        scan = _scan(path)
        names = scan.collect_schema().names()
        chosen = [pl.col(_present(path, ours, theirs, names)).alias(ours) for ours, theirs in _map(columns)]
        return scan.select(chosen).collect()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _scan(path: Path) -> pl.LazyFrame:
    if path.name.endswith(".parquet"):
        return pl.scan_parquet(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return pl.scan_csv(path, infer_schema=False)
    raise DataError(f"{path} must end in .csv, .csv.gz or .parquet")


def _map(columns: Columns) -> list[tuple[str, str]]:
    given = {field.name: getattr(columns, field.name) for field in fields(columns)}
    return [(ours, given[ours] or columns.time) for ours in SCHEMA]


def _present(path: Path, ours: str, theirs: str, names: list[str]) -> str:
    if theirs not in names:
        raise SchemaError(f"{path}: {unknown(f'column (for {ours})', theirs, names)}. Map it in `columns`.")
    return theirs


def _typed(raw: pl.DataFrame, path: str) -> pl.DataFrame:
    """Bring the four columns to the types of `SCHEMA`."""
    typed = raw.select(
        _text(raw["series_id"], path),
        _moment(raw["time"], path),
        _moment(raw["available_time"], path),
        _number(raw["price"], path),
    )
    assert typed.schema == SCHEMA
    return typed


def _text(values: pl.Series, path: str) -> pl.Series:
    if not (values.dtype in (pl.String, pl.Categorical, pl.Enum) or values.dtype.is_integer()):
        raise SchemaError(f"{path}: series names must be text or integers, not {values.dtype}")
    return values.cast(pl.String)


def _number(values: pl.Series, path: str) -> pl.Series:
    if values.dtype == pl.String:
        text = values.str.strip_chars()
        text = text.set(text.is_in(_MISSING), None)
        number = text.cast(pl.Float64, strict=False)
        _refuse(text, number, f"{path}: prices must be numbers with a decimal point")
        return number
    if not (values.dtype.is_numeric() or values.dtype == pl.Null):
        raise SchemaError(f"{path}: prices must be numbers, not {values.dtype}")
    return values.cast(pl.Float64)


def _moment(values: pl.Series, path: str) -> pl.Series:
    if values.dtype == pl.String:
        text = values.str.strip_chars()
        iso = text.set(~text.str.contains(r"^\d{4}[-/]"), None)
        moment = iso.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
        _refuse(text, moment, f"{path}: {values.name} must be ISO 8601, year first, all rows in one form")
        return moment
    if values.dtype == pl.Date:
        return values.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if not isinstance(values.dtype, pl.Datetime):
        raise SchemaError(
            f"{path}: {values.name} must be a date, a datetime or ISO 8601 text, not {values.dtype}."
            " Convert a count of seconds first: its unit and epoch cannot be guessed."
        )
    naive = values.dtype.time_zone is None
    return (values.dt.replace_time_zone("UTC") if naive else values).cast(UTC_TIME)


def _refuse(text: pl.Series, parsed: pl.Series, rule: str) -> None:
    """Raise where a text that is there could not be parsed."""
    bad = (text.is_not_null() & parsed.is_null()).arg_true()
    if len(bad):
        raise SchemaError(f"{rule}; {len(bad)} rows are not, the first is row {bad[0] + 1}: {text[bad[0]]!r}")


def _settled(read: pl.DataFrame, config: IngestConfig) -> tuple[pl.DataFrame, IngestReport]:
    """Put rows in file order through the policies, in the order of `CHOICES`."""
    series, time, price = pl.col("series_id"), pl.col("time"), pl.col("price")
    early = (series == series.shift(1)) & (time < time.shift(1))
    repeated = pl.all_horizontal(_equals(-1, *KEY, "price"))  # the last repeat stays: it counts for keep_last
    clashing = pl.all_horizontal(_equals(1, *KEY)) | pl.all_horizontal(_equals(-1, *KEY))
    replaced = pl.all_horizontal(_equals(-1, *KEY))

    meet = _Policies(config)
    rows = meet("null", read.with_row_index("order"), ~price.is_finite().fill_null(False))
    rows = rows.with_columns(pl.when(price.is_finite()).then(price))
    rows = meet("non_positive", rows, price <= 0)
    rows = meet("disorder", ordered(rows), early)
    rows = meet("duplicate", ordered(rows, *KEY[1:], "price"), repeated)
    rows = meet("conflict", ordered(rows, *KEY[1:], "order"), clashing, replaced)
    if not rows.height:
        counts = ", ".join(f"{fault.name} {fault.dropped}" for fault in meet.faults)
        raise DataError(f"none of {read.height} rows of {', '.join(config.paths)} is left; dropped: {counts}.")
    return rows.select(SCHEMA.names()), _report(read, rows, meet.faults)


def _equals(shift: int, *columns: str) -> list[pl.Expr]:
    """Say where columns equal those of the row before (shift 1) or after (shift -1)."""
    return [pl.col(c).eq_missing(pl.col(c).shift(shift)) for c in columns]


class _Policies:
    """The policies of a config, and what they have met so far."""

    def __init__(self, config: IngestConfig) -> None:
        self.config = config
        self.faults: list[Fault] = []

    def __call__(self, name: str, rows: pl.DataFrame, found: pl.Expr, dropped: pl.Expr | None = None) -> pl.DataFrame:
        """Apply the policy for one fault to the rows `found`; a dropping one takes away `dropped` of them."""
        policy = getattr(self.config, name)
        located = rows.filter(found)
        head = located.select("file", "row", "series_id", "time", "price").head(_EXAMPLES)
        examples = tuple(Example(**row) for row in head.rows(named=True))
        if policy == "raise" and located.height:
            raise PolicyError(
                f"{name}: {located.height} of {rows.height} rows ({'; '.join(map(str, examples))}"
                f"{'; ...' if located.height > _EXAMPLES else ''}) and the policy is 'raise'."
                f" Correct them, or choose {name} = {' or '.join(map(repr, CHOICES[name][1:]))}."
            )
        kept = rows.remove(found if dropped is None else dropped) if policy in ("drop", "keep_last") else rows
        self.faults.append(
            Fault(
                name=name,
                policy=policy,
                count=located.height,
                dropped=rows.height - kept.height,
                examples=examples,
            )
        )
        return kept


def _report(read: pl.DataFrame, kept: pl.DataFrame, faults: list[Fault]) -> IngestReport:
    time = pl.col("time")
    before = read.group_by("series_id").agg(pl.len().alias("rows_read"))
    after = kept.group_by("series_id").agg(
        pl.len().alias("rows_kept"), time.min().alias("first_time"), time.max().alias("last_time")
    )
    table = before.join(after, on="series_id", how="left").with_columns(pl.col("rows_kept").fill_null(0))
    return IngestReport(
        rows_read=read.height,
        rows_kept=kept.height,
        series=tuple(SeriesReport(**row) for row in table.sort("series_id").rows(named=True)),
        faults=tuple(faults),
    )
