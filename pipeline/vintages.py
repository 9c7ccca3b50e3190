"""A store of vintages: values of series in time, each with the moment at which it became known.

Comes in: frames under `KEY` with columns of float64 values. Goes out: the values as known at a moment, sorted, what a
write has revised, and digests. May be imported by the price store and by ingest; the serving side never imports it
(polars).

On disk a store is a folder of Parquet files, a few for each hash bucket of series names (never one a series), and a
`manifest.json` that names the files in force. A write lays new files beside the old ones and then replaces the
manifest, atomically and last: whoever is killed before that leaves the old state, and after it the new. Rows of a
write become a file of their own, and those of the files before it that are not more than twice as large are merged
with it. So a bucket of n rows has at most log2(n) + 1 files, and a small write into a large store touches little.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from models.errors import ConfigError, DataError, SchemaError, TransientError, unknown
from pipeline.atomic import replacing
from pipeline.revisions import KEY, followed, news, ordered, revised
from pipeline.rows import UTC_TIME

FORMAT_VERSION = 2
REVISED_KEPT = 5_000
"""Revisions that a `WriteResult` shows; it counts all."""

_KEY_SCHEMA = pl.Schema({"series_id": pl.String, "time": UTC_TIME, "available_time": UTC_TIME})
_MANIFEST = "manifest.json"
_FILE = re.compile(r"bucket-\d{3}-\d{8}\.parquet|\.bucket-\d{3}-\d{8}\.parquet\.new")
_ROW_GROUP = 65_536
_NAMED = 50


@dataclass(frozen=True, kw_only=True)
class WriteResult:
    """What a write changed, in rows.

    Attributes
    ----------
    added : int
        Rows that were new.
    unchanged : int
        Rows that the store held already, and repeats inside the frame.
    revisions : int
        Of those added, the ones that follow another vintage of their (series, time).
    revised : DataFrame
        The first `REVISED_KEPT` of the revisions: `KEY`, and for each value `old_<value>` and `new_<value>`.
    """

    added: int
    unchanged: int
    revisions: int
    revised: pl.DataFrame = field(default_factory=_KEY_SCHEMA.to_frame, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file in force, its number of rows, and the span of its times in microseconds."""

    name: str
    rows: int
    first_time: int
    last_time: int

    def meets(self, first: int | None, end: int | None) -> bool:
        """Tell whether there may be rows from `first` on and before `end`."""
        return (first is None or self.last_time >= first) and (end is None or self.first_time < end)


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    """Which files are the store. `files` maps a bucket to its files; `serial` numbers the last file made."""

    serial: int
    buckets: int
    values: tuple[str, ...]
    files: dict[str, tuple[_File, ...]]

    @property
    def schema(self) -> pl.Schema:
        """Columns of the rows held."""
        return pl.Schema({**_KEY_SCHEMA, **dict.fromkeys(self.values, pl.Float64())})


@dataclass(frozen=True, kw_only=True)
class _Selection:
    """Which rows to read: of which series (None is all), from `start` on, before `end`, known at a moment."""

    names: tuple[str, ...] | None = None
    start: datetime | None = None
    end: datetime | None = None
    known_at: datetime | None = None

    @classmethod
    def of(
        cls,
        series: str | Iterable[str] | None,
        start: datetime | None,
        end: datetime | None,
        known_at: datetime | None = None,
    ) -> _Selection:
        """Select by names and moments as a caller gives them."""
        names = (series,) if isinstance(series, str) else None if series is None else tuple(dict.fromkeys(series))
        moments = {"start": start, "end": end, "known_at": known_at}
        return cls(names=names, **{name: _utc(moment) for name, moment in moments.items() if moment is not None})

    def files(self, manifest: _Manifest) -> list[tuple[_File, ...]]:
        """Take the files that may hold wanted rows, bucket by bucket."""
        names, held = self.names, manifest.files
        buckets = held if names is None else {str(bucket_of(name, manifest.buckets)) for name in names}
        first = None if self.start is None else _microseconds(self.start)
        end = None if self.end is None else _microseconds(self.end)
        spans = [tuple(file for file in held.get(b, ()) if file.meets(first, end)) for b in buckets]
        return [files for files in spans if files]

    def rows(self) -> list[pl.Expr]:
        """Say which rows are wanted."""
        time, rules = pl.col("time"), [pl.lit(True)]
        if self.names is not None:
            rules.append(pl.col("series_id").is_in(self.names))
        if self.start is not None:
            rules.append(time >= pl.lit(self.start, dtype=UTC_TIME))
        if self.end is not None:
            rules.append(time < pl.lit(self.end, dtype=UTC_TIME))
        if self.known_at is not None:
            rules.append(pl.col("available_time") <= pl.lit(self.known_at, dtype=UTC_TIME))
        return rules


def digest(frame: pl.DataFrame, values: Sequence[str] = ("price",)) -> str:
    """Compute the sha256 of a frame's content, whatever the order of its rows.

    The bytes hashed are, after sorting by `KEY`: the JSON list of [series, number of rows], then the columns
    `time`, `available_time` (int64 microseconds) and the `values` (float64, null as NaN), each little-endian. So
    it does not depend on the order or the portions in which rows were written, on the number of buckets, nor
    on the versions of polars and Parquet.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    rows = ordered(frame.select(*KEY, *values), "time", "available_time")
    counts = rows.group_by("series_id", maintain_order=True).len().rows()
    sha = hashlib.sha256(json.dumps(counts).encode())
    for column in ("time", "available_time"):
        sha.update(rows[column].to_physical().to_numpy().astype("<i8", copy=False).tobytes())
    for column in values:
        sha.update(rows[column].to_numpy().astype("<f8", copy=False).tobytes())
    return sha.hexdigest()


def bucket_of(series: str, buckets: int) -> int:
    """Place a series by a hash that is the same on every machine and in every version."""
    return zlib.crc32(series.encode()) % buckets


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and hold the right to write into it; the system takes it back from a process that dies.

    Raises
    ------
    TransientError
        If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise TransientError(f"another process is writing to store {folder}: try again when it is done.") from error
    finally:
        os.close(handle)


class VintageStore:
    """Values on disk: incremental, idempotent and atomic to write, vintage by vintage to read.

    One process writes at a time (a second one gets a `TransientError`); any number read meanwhile, each
    seeing one whole state.

    Parameters
    ----------
    folder : str or Path
        The store. The first write creates it.
    values : tuple of str, optional
        Names of the value columns, float64. None takes those that frames bring, and more of them later on.
    buckets : int, 1 to 999
        Number of parts over which series are spread when the store is created. An existing store keeps the
        number in its manifest.
    """

    def __init__(self, folder: str | Path, values: tuple[str, ...] | None = ("price",), *, buckets: int = 64) -> None:
        if not 1 <= buckets <= 999:
            raise ConfigError(f"buckets must be between 1 and 999, not {buckets}")
        self.folder = Path(folder)
        self.values = values
        self._buckets = buckets

    def exists(self) -> bool:
        """Tell whether anything was ever written."""
        return (self.folder / _MANIFEST).exists()

    def write(self, frame: pl.DataFrame, *, now: datetime | None = None) -> WriteResult:
        """Add the rows of one frame; see `writing` and `Batch.add`."""
        with self.writing(now=now) as batch:
            batch.add(frame)
        return batch.result

    @contextlib.contextmanager
    def writing(self, *, now: datetime | None = None) -> Iterator[Batch]:
        """Write any number of frames that come in force together, when the block ends without an error.

        Parameters
        ----------
        now : datetime, optional
            Moment at which values become known that revise others and do not say when; by default the present.
            A naive datetime is UTC.

        Raises
        ------
        TransientError
            If another process is writing.
        DataError
            If the folder holds something that is no store.
        """
        with locked(self.folder):
            batch = Batch(self.folder, self._manifest_or_new(), self.values, now or datetime.now(UTC))
            try:
                yield batch
                if batch.result.added or not self.exists():
                    self._publish(batch.manifest)
            finally:
                self._sweep()

    def read(
        self,
        series: str | Iterable[str] | None = None,
        *,
        columns: Sequence[str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        known_at: datetime | None = None,
    ) -> pl.DataFrame:
        """Read the values as they were known at a moment.

        Parameters
        ----------
        series : str or iterable of str, optional
            Names to read; all by default.
        columns : sequence of str, optional
            Columns to return, of `KEY` and the values; all by default.
        start, end : datetime, optional
            Times from `start` on and before `end`. A naive datetime is UTC.
        known_at : datetime, optional
            Rows with a later `available_time` are left out, and of the others the latest vintage of each
            (series, time) is taken. By default everything is known.

        Returns
        -------
        DataFrame
            Sorted by (series_id, time), which is unique. A value that was never given is null.

        Raises
        ------
        DataError
            If a series is not in the store, or the folder is not a store.
        SchemaError
            If a column is not in the store.
        """
        selection = _Selection.of(series, start, end, known_at)
        manifest, rows = self._collect(lambda manifest: _scan(self.folder, manifest, selection, columns))
        self._refuse_absent(selection.names, rows)
        return ordered(rows).select(_chosen(columns, manifest))

    def scan(
        self,
        series: str | Iterable[str] | None = None,
        *,
        columns: Sequence[str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        known_at: datetime | None = None,
    ) -> pl.LazyFrame:
        """Give what `read` reads as a lazy frame, to be collected before the next write.

        Series come in the order of their buckets, the rows of each in order of time; a name that is not in the store
        has no rows. Give series and times here rather than filter the result: they choose the files and the row groups
        that are read.
        """
        manifest = self._manifest()
        rows = _scan(self.folder, manifest, _Selection.of(series, start, end, known_at), columns)
        return rows.select(_chosen(columns, manifest))

    def vintages(
        self,
        series: str | Iterable[str] | None = None,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pl.DataFrame:
        """Read every vintage there is, sorted by `KEY`; otherwise as `read`."""
        selection = _Selection.of(series, start, end)
        _, rows = self._collect(lambda manifest: _scan(self.folder, manifest, selection, every=True))
        self._refuse_absent(selection.names, rows)
        return ordered(rows)

    def series(self) -> pl.DataFrame:
        """List the series by name: `series_id`, `rows` (distinct times), `first_time`, `last_time`."""
        time = pl.col("time")
        span = (pl.len().cast(pl.Int64).alias("rows"), time.min().alias("first_time"), time.max().alias("last_time"))

        def summary(manifest: _Manifest) -> pl.LazyFrame:
            rows = _scan(self.folder, manifest, _Selection(), ("series_id", "time"))
            return rows.group_by("series_id").agg(*span).sort("series_id")

        return self._collect(summary)[1]

    def names(self) -> list[str]:
        """Give the names of the series, sorted."""
        _, rows = self._collect(
            lambda m: _scan(self.folder, m, _Selection(), (), every=True).select("series_id").unique()
        )
        return sorted(rows["series_id"])

    def digest(self) -> str:
        """Compute the sha256 of everything held, all vintages included; see the function `digest`."""
        manifest, rows = self._collect(lambda manifest: _scan(self.folder, manifest, _Selection(), every=True))
        return digest(rows, manifest.values)

    def _collect(self, plan: Callable[[_Manifest], pl.LazyFrame]) -> tuple[_Manifest, pl.DataFrame]:
        """Read the state in force; if a write sweeps its files away meanwhile, the new state."""
        while True:
            manifest = self._manifest()
            try:
                return manifest, plan(manifest).collect()
            except FileNotFoundError as error:
                if self._manifest() == manifest:
                    raise DataError(
                        f"store {self.folder} is damaged: {error}. Restore the file or ingest into a new folder."
                    ) from error

    def _refuse_absent(self, names: Iterable[str] | None, rows: pl.DataFrame) -> None:
        """Refuse names that have no rows because the store does not hold them at all."""
        absent = set(names or ()) - set(rows["series_id"].unique())
        if not absent:
            return
        known = self.names()
        if strange := absent.difference(known):
            name = min(strange)
            near = known if len(known) <= _NAMED else difflib.get_close_matches(name, known, n=10)
            raise DataError(unknown("series", name, near) + f" (one of {len(known)} in store {self.folder})")

    def _publish(self, manifest: _Manifest) -> None:
        """Put a manifest in force: the one moment at which a write happens."""
        content = {"format": "statecast vintages", "format_version": FORMAT_VERSION, **asdict(manifest)}
        with replacing(self.folder / _MANIFEST) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")

    def _manifest(self) -> _Manifest:
        path = self.folder / _MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _refuse_version(self.folder, content["format_version"])
            files = {b: tuple(_File(**file) for file in held) for b, held in content["files"].items()}
            values = tuple(content["values"])
            manifest = _Manifest(serial=content["serial"], buckets=content["buckets"], values=values, files=files)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{self.folder} is not a store: it has no {_MANIFEST}. Ingest prices into it first."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is not the manifest of a store: {error!r}") from error
        if self.values is not None and self.values != values:
            raise DataError(f"store {self.folder} holds {', '.join(values)}, not {', '.join(self.values)}")
        return manifest

    def _manifest_or_new(self) -> _Manifest:
        if self.exists():
            return self._manifest()
        names = {path.name for path in self.folder.iterdir()} - {f".{_MANIFEST}.new"}
        foreign = [name for name in names if not _FILE.fullmatch(name)]
        if foreign:
            raise DataError(
                f"{self.folder} is not a store but holds other files ({min(foreign)}, ...):"
                " choose an empty or a new folder."
            )
        return _Manifest(serial=0, buckets=self._buckets, values=self.values or (), files={})

    def _sweep(self) -> None:
        """Remove the bucket files that are not in force: old ones, and what a failed write has left."""
        held = self._manifest().files.values() if self.exists() else ()
        current = {file.name for files in held for file in files}
        for path in list(self.folder.iterdir()):
            if _FILE.fullmatch(path.name) and path.name not in current:
                path.unlink()


class Batch:
    """A write in progress, made by `VintageStore.writing`: what was added comes in force when its block ends.

    Attributes
    ----------
    result : WriteResult
        What was added so far.
    manifest : _Manifest
        The files that will be the store.
    """

    def __init__(self, folder: Path, manifest: _Manifest, values: tuple[str, ...] | None, now: datetime) -> None:
        self.result = WriteResult(added=0, unchanged=0, revisions=0)
        self.manifest = manifest
        self._folder = folder
        self._values = values
        self._now = _utc(now)

    def add(self, frame: pl.DataFrame) -> None:
        """Add the rows of `frame` that are not held yet.

        Memory holds the frame and, one bucket at a time, the rows held of the same times: frames of whole
        buckets (`bucket_of`) are the cheapest. An error may leave a part of the frame in the batch: let it end the
        block.

        A row without `available_time` that is the first of its (series, time) was known from its own `time` on. If
        its values differ from the latest vintage held, it is a revision, known from `now` on; if not, it is unchanged.
        A row with `available_time` is a vintage of that moment, whatever else is held. Values of columns that the
        frame does not have stay as they were in the vintage before.

        Parameters
        ----------
        frame : DataFrame
            `KEY` and the values, in any order of rows; `available_time` may be null. Further columns are ignored, or
            become values where the store takes those that frames bring.

        Raises
        ------
        SchemaError
            If a column is missing or has the wrong type.
        PolicyError
            If values differ for the same (series, time, available_time).
        DataError
            If a series or time is null, or a value NaN or infinite.
        """
        given = self._values or tuple(c for c in frame.columns if c not in KEY)
        rows = _checked(frame, given)
        values = tuple(dict.fromkeys((*self.manifest.values, *given)))
        self.manifest = replace(self.manifest, values=values)
        before = self.result.added
        for bucket, part in _by_bucket(rows, self.manifest.buckets).items():
            self._settle(bucket, part)
        fresh = self.result.added - before
        self.result = replace(self.result, unchanged=self.result.unchanged + rows.height - fresh)

    def _settle(self, bucket: str, part: pl.DataFrame) -> None:
        """Add what is new of one bucket."""
        held = self._held(bucket, part)
        fresh = news(held, part, self._now)
        if fresh.height:
            self._append(bucket, fresh)
            self._count(fresh.height, revised(held, fresh))

    def _held(self, bucket: str, part: pl.DataFrame) -> pl.DataFrame:
        """Read the vintages held of the series and the span of times of `part`."""
        first, last = _span(part)
        files = [f for f in self.manifest.files.get(bucket, ()) if f.meets(first, last + 1)]
        time = pl.col("time").to_physical().is_between(first, last)
        names = pl.col("series_id").is_in(part["series_id"].unique().to_list())
        return _open(self._folder, files, self.manifest.schema).filter(time, names).collect()

    def _append(self, bucket: str, fresh: pl.DataFrame) -> None:
        """Write a file of the new rows and of the files before it that are not more than twice as large."""
        files, small, rows = list(self.manifest.files.get(bucket, ())), [], fresh.height
        while files and files[-1].rows <= 2 * rows:
            small.append(files.pop())
            rows += small[-1].rows
        before = _open(self._folder, small, self.manifest.schema).collect()
        whole = ordered(pl.concat([before, fresh]), "time", "available_time") if small else fresh
        serial = self.manifest.serial + 1
        name = f"bucket-{int(bucket):03d}-{serial:08d}.parquet"
        with replacing(self._folder / name) as file:
            whole.write_parquet(file, row_group_size=_ROW_GROUP)
        first, last = _span(whole)
        made = _File(name=name, rows=rows, first_time=first, last_time=last)
        self.manifest = replace(self.manifest, serial=serial, files={**self.manifest.files, bucket: (*files, made)})

    def _count(self, added: int, revisions: pl.DataFrame) -> None:
        """Count what was added, and keep what it revised."""
        was = self.result
        shown = pl.concat([was.revised, revisions], how="diagonal").head(REVISED_KEPT)
        added, count = was.added + added, was.revisions + revisions.height
        self.result = WriteResult(added=added, unchanged=was.unchanged, revisions=count, revised=shown)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _microseconds(moment: datetime) -> int:
    return pl.Series([moment], dtype=UTC_TIME).to_physical()[0]


def _span(rows: pl.DataFrame) -> tuple[int, int]:
    """Give the first and the last time in microseconds."""
    return rows.select(pl.min("time").to_physical().alias("first"), pl.max("time").to_physical().alias("last")).row(0)


def _chosen(columns: Sequence[str] | None, manifest: _Manifest) -> list[str]:
    """Name the columns to return, or say which there are."""
    known = manifest.schema.names()
    for name in columns or ():
        if name not in known:
            raise SchemaError(unknown("column of the store", name, known))
    return known if columns is None else list(columns)


def _open(folder: Path, files: Iterable[_File], schema: pl.Schema) -> pl.LazyFrame:
    """Scan files; a value column that came later than a file is null in it."""
    paths = [folder / file.name for file in files]
    return pl.scan_parquet(paths, schema=schema, missing_columns="insert") if paths else schema.to_frame().lazy()


def _scan(
    folder: Path,
    manifest: _Manifest,
    selection: _Selection,
    columns: Sequence[str] | None = None,
    *,
    every: bool = False,
) -> pl.LazyFrame:
    """Plan a reading: `KEY` and the chosen values, each bucket sorted by `KEY`, all vintages or the latest ones."""
    parts = [manifest.schema.to_frame().lazy()]
    for files in selection.files(manifest):
        rows = _open(folder, files, manifest.schema).filter(*selection.rows())
        rows = rows.sort(KEY) if len(files) > 1 else rows
        parts.append(rows if every else rows.filter(~followed()))
    values = [c for c in _chosen(columns, manifest) if c not in KEY]
    return pl.concat(parts).select(*KEY, *values)


def _refuse_version(folder: Path, version: int) -> None:
    if version > FORMAT_VERSION:
        raise DataError(
            f"store {folder} has format version {version}; this statecast reads {FORMAT_VERSION}. Update statecast."
        )
    if version < FORMAT_VERSION:
        raise DataError(
            f"store {folder} has format version {version}, made by an earlier version; this statecast reads"
            f" {FORMAT_VERSION}: ingest the files again into a new folder."
        )


def _checked(frame: pl.DataFrame, values: tuple[str, ...]) -> pl.DataFrame:
    """Take `KEY` and the values, or say what is wrong with them."""
    if not values:
        raise SchemaError(f"a frame of values needs a column beside {', '.join(KEY)}, and has none")
    for name, dtype in {**_KEY_SCHEMA, **dict.fromkeys(values, pl.Float64())}.items():
        if name not in frame.columns:
            raise SchemaError(unknown("column of the frame", name, frame.columns))
        if frame.schema[name] != dtype:
            raise SchemaError(f"column {name!r} must be {dtype}, not {frame.schema[name]}")
    broken = pl.any_horizontal(pl.col("series_id", "time").is_null(), *(~pl.col(c).is_finite() for c in values))
    bad = frame.with_row_index("row").filter(broken)
    if bad.height:
        raise DataError(
            f"{bad.height} rows have no series_id or time, or a {' or '.join(values)} that is NaN or infinite;"
            f" the first is {bad.row(0, named=True)}. Clean them through ingest."
        )
    return frame.select(*KEY, pl.col(values) + 0.0)  # -0.0 becomes 0.0: equal values have equal bits


def _by_bucket(rows: pl.DataFrame, buckets: int) -> dict[str, pl.DataFrame]:
    names = rows["series_id"].unique()
    place = pl.Series([str(bucket_of(n, buckets)) for n in names], dtype=pl.String)
    keyed = rows.with_columns(pl.col("series_id").replace_strict(names, place).alias("bucket"))
    parts = keyed.partition_by("bucket", as_dict=True, include_key=False)
    return {str(bucket): part for (bucket,), part in sorted(parts.items())}
