"""The price store: every price of every series, with the moment at which it became known.

Comes in: price frames in `SCHEMA` (from ingest). Goes out: the prices known at a moment, sorted, and
digests of them. May be imported by ingest, by the flows and by whatever prepares data for training; the
serving side never imports it (polars).

On disk a store is a folder of Parquet files, one a hash bucket of series names (never one a series), and a
`manifest.json` that names the files in force. A write lays new files beside the old ones and then replaces
the manifest, atomically and last: whoever is killed before that leaves the old state, and after it the new.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from models.errors import ConfigError, DataError, PolicyError, SchemaError, TransientError, unknown

UTC_TIME = pl.Datetime("us", "UTC")
"""Type of every time: microseconds, UTC."""

SCHEMA = pl.Schema({"series_id": pl.String, "time": UTC_TIME, "available_time": UTC_TIME, "price": pl.Float64})
"""Columns of a price frame. `price` is null where it is known that none was published."""

KEY = ("series_id", "time", "available_time")
"""What identifies a row: one price of one moment, as it was known from `available_time` on."""

FORMAT_VERSION = 1
_BUCKET_FILE = re.compile(r"bucket-\d{3}-\d{6}\.parquet")


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
        Of those added, further vintages of a (series, time) that has another.
    """

    added: int
    unchanged: int
    revisions: int


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    """Which files are the store. `files` maps a bucket to the name of its file; empty buckets have none."""

    generation: int
    buckets: int
    files: dict[str, str]


def ordered(frame: pl.DataFrame, *by: str) -> pl.DataFrame:
    """Sort by series name and then by the columns `by`; rows equal in all of them keep their order.

    Names are compared through their rank, which is several times faster than comparing strings.
    """
    rank = pl.Enum(frame["series_id"].unique().sort())
    return frame.sort(pl.col("series_id").cast(rank), *by, maintain_order=True)


def digest(frame: pl.DataFrame) -> str:
    """Compute the sha256 of a price frame's content, whatever the order of its rows.

    The bytes hashed are, after sorting by `KEY`: the JSON list of [series, number of rows], then the columns
    `time`, `available_time` (int64 microseconds) and `price` (float64, null as NaN), each little-endian. So
    it does not depend on the order or the portions in which rows were written, on the number of buckets, nor
    on the versions of polars and Parquet.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    rows = ordered(frame.select(SCHEMA.names()), "time", "available_time")
    counts = rows.group_by("series_id", maintain_order=True).len().rows()
    sha = hashlib.sha256(json.dumps(counts).encode())
    for column in ("time", "available_time"):
        sha.update(rows[column].to_physical().to_numpy().astype("<i8", copy=False).tobytes())
    sha.update(rows["price"].to_numpy().astype("<f8", copy=False).tobytes())
    return sha.hexdigest()


class PriceStore:
    """Prices on disk: incremental, idempotent and atomic to write, vintage by vintage to read.

    One process writes at a time (a second one gets a `TransientError`); any number read meanwhile, each
    seeing one whole state.

    Parameters
    ----------
    folder : str or Path
        The store. The first write creates it.
    buckets : int, 1 to 999
        Number of files over which series are spread when the store is created. An existing store keeps the
        number in its manifest.
    """

    def __init__(self, folder: str | Path, *, buckets: int = 16) -> None:
        if not 1 <= buckets <= 999:
            raise ConfigError(f"buckets must be between 1 and 999, not {buckets}")
        self.folder = Path(folder)
        self._buckets = buckets

    def write(self, frame: pl.DataFrame) -> WriteResult:
        """Add the rows of `frame` that the store does not hold yet.

        Writing the same rows again touches no file. A price that differs from the one held for the same
        (series, time) is another vintage if its `available_time` differs, and both are kept.

        Parameters
        ----------
        frame : DataFrame
            Columns of `SCHEMA`, in any order of rows; further columns are ignored.

        Raises
        ------
        SchemaError
            If a column is missing or has the wrong type.
        PolicyError
            If two prices differ for the same (series, time, available_time); nothing is written.
        DataError
            If a key is null, a price is NaN or infinite, or the folder holds something that is no store.
        TransientError
            If another process is writing.
        """
        rows = _checked(frame)
        with self._locked():
            try:
                return self._merge(rows)
            finally:
                self._sweep()

    def read(self, series: str | Iterable[str] | None = None, *, known_at: datetime | None = None) -> pl.DataFrame:
        """Read the prices as they were known at a moment.

        Parameters
        ----------
        series : str or iterable of str, optional
            Names to read; all by default.
        known_at : datetime, optional
            Rows with a later `available_time` are left out, and of the others the latest vintage of each
            (series, time) is taken. A naive datetime is UTC. By default everything is known.

        Returns
        -------
        DataFrame
            Columns of `SCHEMA`, sorted by (series_id, time), which is unique.

        Raises
        ------
        DataError
            If a series is not in the store, or the folder is not a store.
        """
        rows = self._rows([series] if isinstance(series, str) else series)
        if known_at is not None:
            moment = known_at.astimezone(UTC) if known_at.tzinfo else known_at.replace(tzinfo=UTC)
            rows = rows.filter(pl.col("available_time") <= pl.lit(moment, dtype=UTC_TIME))
        following = [pl.col(c).eq_missing(pl.col(c).shift(-1)) for c in ("series_id", "time")]
        return rows.filter(~pl.all_horizontal(following))

    def series(self) -> pl.DataFrame:
        """List the series by name: `series_id`, `rows` (distinct times), `first_time`, `last_time`."""
        time = pl.col("time")
        summary = (
            time.n_unique().alias("rows"),
            time.min().alias("first_time"),
            time.max().alias("last_time"),
        )
        return self._rows().group_by("series_id", maintain_order=True).agg(*summary)

    def digest(self) -> str:
        """Compute the sha256 of everything held, all vintages included; see the function `digest`.

        For the digest of what a model was trained on, call the function on what `read` returned.
        """
        return digest(self._rows())

    def _rows(self, series: Iterable[str] | None = None) -> pl.DataFrame:
        """Read all vintages of some series, sorted by `KEY`."""
        names = None if series is None else list(dict.fromkeys(series))
        rows = self._scan(names)
        absent = set(names or ()) - set(rows["series_id"].unique())
        if absent:
            known = self._scan(None)["series_id"].unique()
            raise DataError(unknown("series", min(absent), known) + f" (price store {self.folder})")
        return ordered(rows)  # each file is sorted by time already

    def _scan(self, names: list[str] | None) -> pl.DataFrame:
        """Read files of the state in force; if a write sweeps them away meanwhile, those of the new state."""
        manifest = self._manifest()
        buckets = manifest.files if names is None else {str(_bucket(n, manifest.buckets)) for n in names}
        paths = [self.folder / name for bucket, name in manifest.files.items() if bucket in buckets]
        if not paths:
            return SCHEMA.to_frame()
        wanted = True if names is None else pl.col("series_id").is_in(names)
        try:
            return pl.scan_parquet(paths).filter(wanted).collect()
        except FileNotFoundError as error:
            if self._manifest() != manifest:
                return self._scan(names)
            raise DataError(
                f"price store {self.folder} is damaged: {error}. Restore the file or ingest into a new store."
            ) from error

    def _merge(self, rows: pl.DataFrame) -> WriteResult:
        """Write the buckets that `rows` changes, then put them in force."""
        old = self._manifest_or_new()
        files, added, revisions = dict(old.files), 0, 0
        for bucket, part in _by_bucket(rows, old.buckets).items():
            held = pl.read_parquet(self.folder / files[bucket]) if bucket in files else SCHEMA.to_frame()
            merged = _merged(held, part)
            if merged.height == held.height:
                continue
            files[bucket] = f"bucket-{int(bucket):03d}-{old.generation + 1:06d}.parquet"
            merged.write_parquet(self.folder / files[bucket])
            _sync(self.folder / files[bucket])
            added += merged.height - held.height
            revisions += _vintages(merged) - _vintages(held)
        if added or not old.generation:
            self._publish(_Manifest(generation=old.generation + 1, buckets=old.buckets, files=files))
        return WriteResult(added=added, unchanged=rows.height - added, revisions=revisions)

    def _publish(self, manifest: _Manifest) -> None:
        """Put a manifest in force: the one moment at which a write happens."""
        content = {"format": "statecast prices", "format_version": FORMAT_VERSION, **asdict(manifest)}
        fresh = self.folder / "manifest.json.new"
        fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        _sync(fresh)
        os.replace(fresh, self.folder / "manifest.json")
        _sync(self.folder)

    def _manifest(self) -> _Manifest:
        path = self.folder / "manifest.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format_version"]
            if version > FORMAT_VERSION:
                raise DataError(
                    f"price store {self.folder} has format version {version}; this statecast reads up to"
                    f" {FORMAT_VERSION}. Update statecast."
                )
            return _Manifest(**{field.name: content[field.name] for field in fields(_Manifest)})
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{self.folder} is not a price store: it has no manifest.json. Ingest prices into it first."
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not the manifest of a price store: {error!r}") from error

    def _manifest_or_new(self) -> _Manifest:
        if (self.folder / "manifest.json").exists():
            return self._manifest()
        names = {path.name for path in self.folder.iterdir()} - {"manifest.json.new"}
        foreign = [name for name in names if not _BUCKET_FILE.fullmatch(name)]
        if foreign:
            raise DataError(
                f"{self.folder} is not a price store but holds other files ({min(foreign)}, ...):"
                " choose an empty or a new folder."
            )
        return _Manifest(generation=0, buckets=self._buckets, files={})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the right to write; the system takes it back from a process that dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise TransientError(
                f"another process is writing to price store {self.folder}: try again when it is done."
            ) from error
        finally:
            os.close(handle)

    def _sweep(self) -> None:
        """Remove the bucket files that are not in force: old ones, and what a failed write has left."""
        current = set(self._manifest().files.values()) if (self.folder / "manifest.json").exists() else set()
        for path in self.folder.glob("bucket-*.parquet"):
            if _BUCKET_FILE.fullmatch(path.name) and path.name not in current:
                path.unlink()


def _checked(frame: pl.DataFrame) -> pl.DataFrame:
    """Take the columns of `SCHEMA`, or say what is wrong with them."""
    for name, dtype in SCHEMA.items():
        if name not in frame.columns:
            raise SchemaError(unknown("column of the price frame", name, frame.columns))
        if frame.schema[name] != dtype:
            raise SchemaError(f"column {name!r} must be {dtype}, not {frame.schema[name]}")
    price = pl.col("price")
    bad = frame.with_row_index("row").filter(pl.any_horizontal(pl.col(*KEY).is_null()) | ~price.is_finite())
    if bad.height:
        raise DataError(
            f"{bad.height} rows have no {', '.join(KEY)} or a price that is NaN or infinite; the first is"
            f" {bad.row(0, named=True)}. Clean them through ingest."
        )
    return frame.select(*KEY, price + 0.0)  # -0.0 becomes 0.0: equal prices have equal bits


def _bucket(series: str, buckets: int) -> int:
    """Place a series by a hash that is the same on every machine and in every version."""
    return zlib.crc32(series.encode()) % buckets


def _by_bucket(rows: pl.DataFrame, buckets: int) -> dict[str, pl.DataFrame]:
    names = rows["series_id"].unique()
    place = pl.Series([str(_bucket(n, buckets)) for n in names], dtype=pl.String)
    keyed = rows.with_columns(pl.col("series_id").replace_strict(names, place).alias("bucket"))
    parts = keyed.partition_by("bucket", as_dict=True, include_key=False)
    return {str(bucket): part for (bucket,), part in sorted(parts.items())}


def _merged(held: pl.DataFrame, part: pl.DataFrame) -> pl.DataFrame:
    """Unite rows, sorted by `KEY`, each once; refuse two prices under one key."""
    rows = ordered(pl.concat([held, part]), "time", "available_time", "price")
    same_key = pl.all_horizontal(pl.col(c).eq_missing(pl.col(c).shift(1)) for c in KEY)
    same_price = pl.col("price").eq_missing(pl.col("price").shift(1))
    clash = rows.with_columns(pl.col("price").shift(1).alias("other")).filter(same_key & ~same_price)
    if clash.height:
        first = clash.row(0, named=True)
        raise PolicyError(
            f"conflict: {clash.height} rows give another price for the same series, time and available_time;"
            f" the first is {first['series_id']} at {first['time']}: {first['other']} and {first['price']},"
            f" both available at {first['available_time']}. Give a revised price a later available_time, or"
            " settle it in ingest (conflict = 'keep_last')."
        )
    return rows.filter(~(same_key & same_price))


def _vintages(rows: pl.DataFrame) -> int:
    """Count the rows, sorted by `KEY`, that are a further vintage of their (series, time)."""
    same = pl.all_horizontal(pl.col(c).eq_missing(pl.col(c).shift(1)) for c in ("series_id", "time"))
    return rows.filter(same).height


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
