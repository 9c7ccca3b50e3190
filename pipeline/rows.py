"""Rows: the columns of prices as they were read, before faults are met, and of prices that are kept.

Comes in: nothing. Goes out: schemas. Imported by whatever reads, checks or keeps prices.
"""

from __future__ import annotations

import polars as pl

UTC_TIME = pl.Datetime("us", "UTC")
"""Type of every time: microseconds, UTC."""

READ = pl.Schema(
    {
        "file": pl.UInt32,
        "line": pl.Int64,
        "series_id": pl.String,
        "time": UTC_TIME,
        "fold": pl.Duration("us"),
        "available_time": UTC_TIME,
        "price": pl.Float64,
        "unreadable": pl.String,
    }
)
"""Columns of rows as they were read; columns of further values, float64, may follow.

`file` is an index into the files of an ingest, and `line` counts from 1: lines of a text file, its header included, or
rows of another one. `fold` is what to add to a local time that the clocks show twice, if it is the second of its
series; zero elsewhere. `available_time` is null where it was not given, `price` where there is none. `unreadable` says
what could not be read, and is null where all could.
"""

ORDER = "order"
"""Name of the running number of a row over all files of an ingest, an Int64 that is added to `READ`."""
