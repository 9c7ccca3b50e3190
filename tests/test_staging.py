"""Rows spilled to disk by bucket come back whole and in order."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rows import ORDER, READ
from pipeline.staging import buckets, spill

NAMES = ("AAA", "BBB", "CCC", "DDD", "Ä/ö", "")


def rows(file: int, names: list[str | None]) -> pl.DataFrame:
    """Make rows of a file, one for each name."""
    count = len(names)
    lines = pl.int_range(2, count + 2, dtype=pl.Int64, eager=True)
    nothing = pl.Series([None] * count, dtype=READ["available_time"])
    columns = {
        "file": pl.Series([file] * count, dtype=pl.UInt32),
        "line": lines,
        "series_id": pl.Series(names, dtype=pl.String),
        "time": lines.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        "fold": pl.Series([0] * count, dtype=pl.Int64).cast(pl.Duration("us")),
        "available_time": nothing,
        "price": lines / 7,
        "unreadable": pl.Series([None if name else "no series" for name in names], dtype=pl.String),
    }
    return pl.DataFrame(columns)


@settings(max_examples=25)
@given(files=st.lists(st.lists(st.one_of(st.sampled_from(NAMES), st.none()), max_size=40), min_size=1, max_size=3))
def test_every_row_comes_back_once_in_the_order_read(files: list[list[str | None]], tmp_path_factory: object) -> None:
    """All rows of all files come back; a series is in one bucket, and its rows are in the order read."""
    folder: Path = tmp_path_factory.mktemp("staging")  # pyright: ignore[reportAttributeAccessIssue]
    frames = [rows(k, names) for k, names in enumerate(files)]
    for k, frame in enumerate(frames):
        spill(frame.lazy(), folder / str(k))
    parts = list(buckets(folder))
    whole = pl.concat([pl.Schema({**READ, ORDER: pl.Int64()}).to_frame(), *parts]).sort(ORDER)
    assert whole.drop(ORDER).equals(pl.concat(frames))
    assert all(part[ORDER].is_sorted() for part in parts)
    seen = [name for part in parts for name in part["series_id"].fill_null("").unique()]
    assert len(seen) == len(set(seen))
