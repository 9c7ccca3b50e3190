from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from dirt import read
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError, SchemaError
from pipeline.bars import BarConfig, bars

START = datetime(2020, 1, 6, tzinfo=UTC)
SEEDS = st.integers(0, 2**31)
PRICES = ["close", "open", "high", "low", "mean", "vwap"]


def ticks(seed: int, number: int = 200) -> pl.DataFrame:
    """Draw trades of two series within some hours; half of them share their time with another."""
    rng = np.random.default_rng(seed)
    second = np.sort(rng.integers(0, 3600, (2, number // 2)).repeat(2, axis=1) * 5, axis=1)
    frame = pl.DataFrame(
        {
            "series_id": np.repeat(["A", "B"], number),
            "time": [START + timedelta(seconds=int(s)) for s in second.ravel()],
            "price": np.round(100 + rng.standard_normal(2 * number), 1),
            "volume": rng.integers(1, 9, 2 * number).astype(float),
        }
    )
    return read(frame)


def priced(part: list[dict[str, Any]], kind: str) -> float:
    """Give the price of the ticks of one bar, one by one."""
    price, volume = [t["price"] for t in part], [t["volume"] for t in part]
    weighted = sum(p * v for p, v in zip(price, volume, strict=True)) / sum(volume)
    all_of = {"close": price[-1], "open": price[0], "high": max(price), "low": min(price), "vwap": weighted}
    return {**all_of, "mean": sum(price) / len(price)}[kind]


def naive(rows: list[dict[str, Any]], config: BarConfig) -> list[tuple[datetime, float, float]]:
    """Make the bars of one series tick by tick: end, price, volume."""
    length = {"1m": 60, "15m": 900, "1h": 3600}.get(config.every or "", 0)
    parts: dict[Any, list[dict[str, Any]]] = {}
    amount = done = 0.0
    for k, tick in enumerate(rows):
        if length:
            bar = int((tick["time"] - START).total_seconds()) // length
        else:
            if k == 0 or tick["time"] != rows[k - 1]["time"]:
                done = amount
            amount += 1 if config.ticks else tick["volume"]
            bar = int(done // (config.ticks or config.volume or 1))
        parts.setdefault(bar, []).append(tick)
    size = config.ticks or config.volume
    last = max(parts)
    whole = {b: p for b, p in parts.items() if b < last or (size and amount >= (last + 1) * size)}
    end = {b: START + timedelta(seconds=(b + 1) * length) if length else p[-1]["time"] for b, p in whole.items()}
    return [(end[b], priced(p, config.price), sum(t["volume"] for t in p)) for b, p in whole.items()]


SIZES = [{"every": "1m"}, {"every": "15m"}, {"every": "1h"}, {"ticks": 1}, {"ticks": 7}, {"volume": 20.0}]


@settings(max_examples=40)
@given(SEEDS, st.sampled_from(SIZES), st.sampled_from(PRICES))
def test_bars_are_those_of_a_naive_loop(seed: int, size: dict[str, Any], price: str) -> None:
    """End, price and volume of every bar are those of going through the ticks one by one."""
    config = BarConfig(**size, price=price, empty="skip")  # type: ignore[arg-type]
    rows = ticks(seed)
    made = bars(rows, config)
    assert made.rows.columns == rows.columns
    for name in ("A", "B"):
        expected = naive(rows.filter(series_id=name).rows(named=True), config)
        found = made.rows.filter(series_id=name)
        assert found["time"].to_list() == [bar[0] for bar in expected]
        np.testing.assert_allclose(found["price"], [bar[1] for bar in expected])
        np.testing.assert_allclose(found["volume"], [bar[2] for bar in expected])


@settings(max_examples=30)
@given(SEEDS, st.sampled_from(SIZES), st.integers(10, 150))
def test_the_future_leaves_finished_bars_as_they_are(seed: int, size: dict[str, Any], cut: int) -> None:
    """Bars that are finished before some moment stay bit for bit when everything from that moment on is garbage."""
    rows = ticks(seed).filter(series_id="A")
    moment = rows["time"][cut]
    garbage = rows.with_columns(
        pl.when(pl.col("time") >= moment).then(pl.col("price") * 1e6).otherwise("price").alias("price"),
        pl.when(pl.col("time") >= moment).then(1e4).otherwise("volume").alias("volume"),
    )
    config = BarConfig(**size)
    early, other = bars(rows.filter(pl.col("time") < moment), config).rows, bars(garbage, config).rows
    assert other.head(early.height).equals(early)


@settings(max_examples=20)
@given(SEEDS, st.sampled_from(SIZES))
def test_every_tick_is_accounted_for(seed: int, size: dict[str, Any]) -> None:
    """Ticks are bars, ticks merged with others, or ticks of a last bar that is not finished; bar times are unique."""
    rows = ticks(seed)
    made = bars(rows, BarConfig(**size, empty="skip"))
    assert made.rows.height + made.merged + made.incomplete == rows.height
    assert not made.rows.select("series_id", "time").is_duplicated().any()


def hourly() -> pl.DataFrame:
    """Make bars of an hour from ticks at 0:10, 0:20, 1:00 and 4:30."""
    minutes, price = [10, 20, 60, 270], [1.0, 2.0, 3.0, 4.0]
    moments = [START + timedelta(minutes=m) for m in minutes]
    rows = read(pl.DataFrame({"series_id": "A", "time": moments, "price": price, "volume": [1.0, 1.0, 5.0, 1.0]}))
    return bars(rows, BarConfig(every="1h")).rows


def test_a_bar_is_named_by_its_end_and_leaves_the_tick_there_to_the_next() -> None:
    """A tick at one o'clock is not in the bar that ends then; line and order of a bar are those of its last tick."""
    made = hourly()
    assert [t.hour for t in made["time"]] == [1, 2]
    assert made["price"].to_list() == [2.0, 3.0]
    assert made["line"].to_list() == [3, 4]


def test_hours_without_a_tick_are_holes_or_nothing_or_carried() -> None:
    """An empty bar is a null price, no row, or the last price with no volume."""
    far = [10, 20, 60, 270, 330]
    rows = read(
        pl.DataFrame(
            {
                "series_id": "A",
                "time": [START + timedelta(minutes=m) for m in far],
                "price": [1.0, 2.0, 3.0, 4.0, 5.0],
                "volume": [1.0, 1.0, 5.0, 1.0, 1.0],
            }
        )
    )
    made = {empty: bars(rows, BarConfig(every="1h", empty=empty)).rows for empty in ("null", "skip", "carry")}
    assert made["null"]["price"].to_list() == [2.0, 3.0, None, None, 4.0]
    assert made["skip"]["price"].to_list() == [2.0, 3.0, 4.0]
    assert made["carry"]["price"].to_list() == [2.0, 3.0, 3.0, 3.0, 4.0]
    assert made["carry"]["volume"].to_list() == [2.0, 5.0, 0.0, 0.0, 1.0]


def test_a_bar_is_available_no_earlier_than_its_ticks() -> None:
    """A bar becomes known at its end, or when its last tick did if that was later; where none is given it is null."""
    rows = ticks(0).filter(series_id="A")
    late = rows.with_columns(available_time=pl.col("time") + pl.duration(hours=2))
    made = bars(late, BarConfig(every="15m", empty="skip")).rows
    assert (made["available_time"] > made["time"]).all()
    assert bars(rows, BarConfig(every="15m")).rows["available_time"].null_count() > 0


def test_bars_of_nothing_are_nothing() -> None:
    """Without ticks there are no bars, of any kind."""
    for size in SIZES:
        assert bars(ticks(0).clear(), BarConfig(**size)).rows.is_empty()


def test_bars_by_volume_need_a_volume() -> None:
    """Without the column the error names it."""
    with pytest.raises(SchemaError, match="volume"):
        bars(ticks(0).drop("volume"), BarConfig(volume=5.0))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"every": "1m", "ticks": 5}, {"every": "1mo"}, {"every": "0m"}, {"ticks": 0}, {"volume": -1.0}],
)
def test_bars_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """No size, two of them, or one out of range is an error of configuration."""
    with pytest.raises(ConfigError):
        BarConfig(**wrong)


def test_an_unknown_kind_of_price_is_refused() -> None:
    """The error lists the kinds that there are."""
    with pytest.raises(ConfigError, match="close, high, low, mean, open, vwap"):
        BarConfig(every="1m", price="last")  # type: ignore[arg-type]
