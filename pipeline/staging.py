"""Staging: rows of any number of files spilled to disk by hash bucket, so that only one bucket is in memory at a time.

Comes in: lazy rows. Goes out: one frame a bucket, each with whole series, in the order read. Whatever is larger than
memory goes through polars' streaming engine into Parquet files of a folder that the caller throws away. Imported by
ingest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pipeline.rows import ORDER
from pipeline.vintages import bucket_of

BUCKETS = 64
"""Parts into which series are dealt; memory holds one of them."""

_BUCKET = "_bucket"
_LINES = 2**40
"""More lines than a file has."""


def spill(rows: pl.LazyFrame, folder: Path) -> None:
    """Write rows into one folder a bucket; the order read is kept as the column `ORDER`."""
    order = pl.col("file").cast(pl.Int64) * _LINES + pl.col("line")
    dealt = rows.with_columns(order.alias(ORDER), _bucket(pl.col("series_id")).alias(_BUCKET))
    target = pl.PartitionBy(folder, key=_BUCKET, include_key=False)
    dealt.sink_parquet(target, compression="lz4", mkdir=True, engine="streaming")


def buckets(folder: Path) -> Iterator[pl.DataFrame]:
    """Give what was spilled, bucket by bucket, sorted in the order read."""
    parts: dict[str, list[Path]] = {}
    for path in folder.rglob("*.parquet"):
        parts.setdefault(path.parent.name, []).append(path)
    for name in sorted(parts):
        yield pl.read_parquet(sorted(parts[name])).sort(ORDER, maintain_order=True)


def _bucket(names: pl.Expr) -> pl.Expr:
    return names.fill_null("").map_batches(_buckets, return_dtype=pl.Int32, is_elementwise=True)


def _buckets(names: pl.Series) -> pl.Series:
    unique = names.unique().sort()
    place = pl.Series([bucket_of(name, BUCKETS) for name in unique], dtype=pl.Int32)
    return place.gather(unique.search_sorted(names))
