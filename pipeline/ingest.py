"""Ingest: price files through named policies into the store, every fault located and counted.

Comes in: whatever `sources` opens. Goes out: rows in the store, and an `IngestReport`. One hash bucket of the series is
in memory at a time, and nothing is in force until everything is checked: a kill, or a policy that refuses, leaves the
old state. Imported by steps.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from models.errors import ConfigError, DataError, PolicyError
from pipeline import faults, staging
from pipeline.bars import BarConfig
from pipeline.calendars import Calendars
from pipeline.faults import CHOICES, Found, Policy, Settled
from pipeline.layout import Columns
from pipeline.prices import KEY, SCHEMA, PriceStore
from pipeline.report import Example, Fault, FileReport, IngestReport, SeriesReport
from pipeline.sources import SAMPLE, Opened, opened
from pipeline.tables import Format
from pipeline.vendors import VendorConfig
from pipeline.vintages import WriteResult

_SCRATCH = ".ingest-"
_ABANDONED_S = 86_400
"""Age from which what an ingest spilled is taken for the leftover of a killed one."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What to read, how, and what to do about each fault.

    Attributes
    ----------
    paths : tuple of str
        Files, folders and globs; or "sample"; or "epf", "yfinance" or "ccxt" and then what to read from there.
    columns : Columns
        Which column is what; whatever is left out is recognised by its name and said.
    format : Format
        How the files are written; whatever is left out is recognised and said.
    bars : BarConfig or None
        Bars to make of ticks, such as bars.every = "5m"; left out: rows are taken as they are.
    calendar : Calendars
        When the market is open; learned from the times of each series, or named.
    policy : Policy
        What to do about each fault.
    vendor : VendorConfig
        What to ask Yahoo or an exchange for.
    """

    paths: tuple[str, ...] = (SAMPLE,)
    columns: Columns = Columns()
    format: Format = Format()
    bars: BarConfig | None = None
    calendar: Calendars = Calendars()
    policy: Policy = Policy()
    vendor: VendorConfig = VendorConfig()

    def __post_init__(self) -> None:
        if not self.paths or isinstance(self.paths, str):
            raise ConfigError(f"paths must be a list of files, or [{SAMPLE!r}], not {self.paths!r}")

    @property
    def kept(self) -> Columns:
        """The columns to read: those named, and the volume where bars need it."""
        if (
            self.bars is None
            or not (self.bars.volume or self.bars.price == "vwap")
            or self.bars.volume_column in self.columns.values
        ):
            return self.columns
        return replace(self.columns, values=(*self.columns.values, self.bars.volume_column))


class RefusedError(PolicyError):
    """Faults were met whose policy is to raise; `report` tells of all of them."""

    def __init__(self, report: IngestReport) -> None:
        met = "; ".join(f"{f.name}: {f.count:,} found, first {f.examples[0]}" for f in report.refused)
        ways = "; ".join(
            f"ingest.policy.{f.name} = {' or '.join(repr(way) for way in CHOICES[f.name] if way != 'raise')}"
            for f in report.refused
        )
        super().__init__(f"{met}. The policy is to raise: nothing was written. Correct the rows, or choose {ways}")
        self.report = report


def ingest(
    config: IngestConfig,
    store: PriceStore,
    on_step: Callable[[str], None] = lambda _: None,
    *,
    dry: bool = False,
) -> tuple[IngestReport, WriteResult | None]:
    """Read what `config` names, put its rows through the policies, and add them to the store.

    Parameters
    ----------
    config : IngestConfig
    store : PriceStore
        Where rows go to. A price that differs from the one held is a further vintage, known from now on, unless the
        rows say when it was known.
    on_step : callable
        Told in words what begins.
    dry : bool
        Read and check only: nothing is written, and no policy refuses.

    Returns
    -------
    report : IngestReport
        What was read, kept and found.
    written : WriteResult or None
        What that changed in the store; None in a dry run.

    Raises
    ------
    SchemaError
        If a file does not show which columns are the time and the price.
    RefusedError
        If faults were met whose policy is "raise"; the store is as it was.
    DataError
        If a file cannot be found or read, or no row is left.
    """
    with _scratch(store.folder.parent) as scratch:
        source = opened(config.paths, config.kept, config.format, config.vendor, scratch)
        for number, (name, rows) in enumerate(zip(source.files, source.rows, strict=True)):
            on_step(f"reading {name}")
            _spill(rows, scratch / "buckets" / str(number), name)
        on_step("checking prices")
        account = _Account(config, source, _held(config, store))
        if dry:
            for _ in _settled(config, scratch, account):
                pass
            return account.report(), None
        written = _write(config, store, source, account, scratch)
        return account.report(), written


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Make a folder for what is spilled; what a killed ingest has left is removed, and a data folder left empty."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_SCRATCH}*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as name:
            yield Path(name)
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _spill(rows: pl.LazyFrame, folder: Path, name: str) -> None:
    try:
        staging.spill(rows, folder)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def _write(config: IngestConfig, store: PriceStore, source: Opened, account: _Account, scratch: Path) -> WriteResult:
    """Settle bucket after bucket and write it; everything comes in force at the end, or nothing."""
    with ExitStack() as writes:
        prices = writes.enter_context(store.prices.writing())
        covariates = writes.enter_context(store.covariates.writing()) if source.has_covariates else None
        for rows in _settled(config, scratch, account):
            prices.add(rows.select(SCHEMA.names()))
            if covariates is not None and source.values:
                covariates.add(rows.select(*KEY, *source.values))
        if covariates is not None and source.covariates is not None:
            covariates.add(source.covariates)
        report = account.report()
        if report.refused:
            raise RefusedError(report)
        if not report.rows_kept:
            raise DataError(_nothing(report))
        factors = account.factors(source)
        changed = store.adjust(factors).added if factors.height else 0
    store.describe(account.described())
    return account.rescaled(prices.result, factors) if changed else prices.result


def _settled(config: IngestConfig, scratch: Path, account: _Account) -> Iterator[pl.DataFrame]:
    """Put bucket after bucket through the policies, put down what they met, and give the rows that are left."""
    folder = scratch / "buckets"
    repeated = holidays = None
    if config.bars is None:
        counts = [(faults.moments(rows), faults.absences(rows, config.calendar)) for rows in staging.buckets(folder)]
        repeated = faults.repeated_moments(count for count, _ in counts)
        holidays = faults.common_holidays(count for _, count in counts)
    for rows in staging.buckets(folder):
        bucket = faults.settle(
            rows, config.policy, config.calendar, bars_of=config.bars, repeated=repeated, holidays=holidays
        )
        if config.bars is not None and account.held:
            going_on = _going_on(bucket.rows, config.bars, account.held)
            left_out = bucket.incomplete + bucket.rows.height - going_on.height
            bucket = replace(bucket, rows=going_on, incomplete=left_out)
        account.take(rows, bucket)
        yield bucket.rows


def _held(config: IngestConfig, store: PriceStore) -> frozenset[str]:
    """Name the series that the store holds, where bars are made that would go on from theirs."""
    if config.bars is None or not store.prices.exists():
        return frozenset()
    return frozenset(store.prices.series()["series_id"])


def _going_on(bars: pl.DataFrame, config: BarConfig, held: frozenset[str]) -> pl.DataFrame:
    """Leave out the first bar of a series that is held: the ticks before its first may have come in an earlier file.

    Bars of ticks or volume are counted from the first tick on: those of another file would be other bars.
    """
    again = bars["series_id"].is_in(list(held))
    if again.any() and config.every is None:
        raise DataError(
            f"{config.grid}: {bars.filter(again)['series_id'][0]} is in the store already, and bars of ticks or volume "
            "cannot go on from those of an earlier ingest. Ingest all files together into a new data folder"
        )
    return bars.filter(~(again & bars["series_id"].is_first_distinct()))


class _Account:
    """What was read and found, bucket after bucket."""

    def __init__(self, config: IngestConfig, source: Opened, held: frozenset[str]) -> None:
        self._config, self._source = config, source
        self.held = held
        self._found: list[tuple[Found, ...]] = [tuple(Found(name=name) for name in CHOICES)]
        self._files: list[pl.DataFrame] = [pl.DataFrame(schema={"file": pl.UInt32, "len": pl.UInt32})]
        self._series: list[pl.DataFrame] = []
        self._factors: list[pl.DataFrame] = []
        self._weekends: list[str] = []
        self._merged = self._forming = self._empty = self._early = 0

    def take(self, read: pl.DataFrame, settled: Settled) -> None:
        """Put down one bucket."""
        self._found.append(settled.found)
        self._files.append(read.group_by("file").len().cast({"len": pl.UInt32}))
        self._series.append(_series(read, settled))
        self._factors.append(settled.factors)
        self._weekends += settled.weekends
        self._merged += settled.merged
        self._forming += settled.incomplete
        self._early += int((settled.rows["available_time"] < settled.rows["time"]).sum())
        if self._config.bars is not None:
            self._empty += settled.rows["line"].null_count()

    def report(self) -> IngestReport:
        """Give the account of all buckets."""
        rows = dict(pl.concat(self._files).group_by("file").agg(pl.col("len").sum()).iter_rows())
        series = pl.concat(self._series).sort("series_id") if self._series else pl.DataFrame()
        files = zip(self._source.files, self._source.said, strict=True)
        return IngestReport(
            files=tuple(FileReport(file=f, rows=rows.get(k, 0), said=said) for k, (f, said) in enumerate(files)),
            rows_read=sum(rows.values()),
            rows_kept=int(series["rows_kept"].sum()) if series.height else 0,
            merged=self._merged,
            forming=self._forming,
            empty=self._empty,
            grid=self._config.bars.grid if self._config.bars else None,
            said=(*_weekends(sorted(self._weekends)), *_early(self._early)),
            others=self._source.others,
            series=tuple(SeriesReport(**row) for row in series.rows(named=True)),
            faults=told(faults.merged(self._found), self._config.policy, self._source.files),
        )

    def factors(self, source: Opened) -> pl.DataFrame:
        """Give the corporate actions that came beside the prices or were found in them, `KEY` and `factor`."""
        known = [part.with_columns(available_time=pl.col("time")) for part in self._factors if part.height]
        beside = [] if source.factors is None else [source.factors]
        columns = [*KEY, "factor"]
        return pl.concat([part.select(columns) for part in (*known, *beside)]) if known or beside else pl.DataFrame()

    def rescaled(self, written: WriteResult, factors: pl.DataFrame) -> WriteResult:
        """Add to what was revised the first price of each series that new factors apply to: it reads otherwise now."""
        first = pl.concat(self._series).select("series_id", pl.col("first_time").alias("time"))
        read_anew = first.filter(pl.col("series_id").is_in(factors["series_id"].implode()))
        return replace(written, revised=pl.concat([written.revised, read_anew], how="diagonal"))

    def described(self) -> pl.DataFrame:
        """Give what the store should know about each series that was kept."""
        grid = self._config.bars.grid if self._config.bars else None
        series = pl.concat(self._series).filter(pl.col("rows_kept") > 0)
        files = ", ".join(self._source.files[:3]) + (", ..." if len(self._source.files) > 3 else "")
        return series.select(
            "series_id",
            pl.lit(grid, pl.String).alias("grid"),
            "calendar",
            pl.lit(files).alias("source"),
            pl.lit(self._config.format.time_zone).alias("time_zone"),
        )


def _weekends(names: Sequence[str]) -> tuple[str, ...]:
    """Say which series were taken for closed at weekends."""
    if not names:
        return ()
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return (f"closed at weekends, being currencies by name: {', '.join(names[:5])}{more}",)


def _early(count: int) -> tuple[str, ...]:
    """Say that prices were known before their own time: right for auctions, else two columns are swapped."""
    return (f"{count:,} prices were known before their time, as where a day ahead is published",) if count else ()


def _series(read: pl.DataFrame, settled: Settled) -> pl.DataFrame:
    """Count by series what was read and kept."""
    moment = pl.col("time")
    before = read.filter(pl.col("series_id").is_not_null()).group_by("series_id").agg(pl.len().alias("rows_read"))
    after = settled.rows.group_by("series_id").agg(
        pl.len().alias("rows_kept"), moment.min().alias("first_time"), moment.max().alias("last_time")
    )
    words = pl.DataFrame(
        {"series_id": list(settled.calendars), "calendar": list(settled.calendars.values())},
        schema={"series_id": pl.String, "calendar": pl.String},
    )
    table = before.join(after, on="series_id", how="left").join(words, on="series_id", how="left")
    return table.with_columns(pl.col("rows_kept").fill_null(0))


def told(found: Sequence[Found], policy: Policy, files: Sequence[str]) -> tuple[Fault, ...]:
    """Say what was done about faults, and name the files of their examples; a row of no file is of the first."""
    return tuple(
        Fault(
            name=f.name,
            policy=getattr(policy, f.name),
            count=f.count,
            changed=f.changed,
            dropped=f.dropped,
            added=f.added,
            examples=tuple(_example(e, files) for e in f.examples),
            series=f.series,
        )
        for f in found
    )


def _example(found: faults.Example, files: Sequence[str]) -> Example:
    file = files[found.file or 0]
    return Example(
        file=file, line=found.line, series_id=found.series_id, time=found.time, price=found.price, note=found.note
    )


def _nothing(report: IngestReport) -> str:
    dropped = ", ".join(f"{f.name} {f.dropped:,}" for f in report.faults if f.dropped) or "none"
    files = ", ".join(file.file for file in report.files[:5])
    return f"none of {report.rows_read:,} rows of {files} is left; dropped: {dropped}."
