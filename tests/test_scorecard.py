"""Forecasts given out by a stream against prices in a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest

from models.errors import DataError
from models.observation import LEVELS
from pipeline import scorecard as module
from pipeline.prices import SCHEMA, PriceStore
from pipeline.quantile_scores import quantile_crps
from pipeline.scorecard import scorecard

PRICES = {"AAA": [100.0, 101.0, 99.0, 103.0], "BBB": [1.0, 1.1, 1.2, 1.1]}
SPREAD = np.array(LEVELS) - 0.5


@pytest.fixture
def store(tmp_path: Path) -> PriceStore:
    """Give a store of four days of two series."""
    days = pl.datetime_range(pl.datetime(2026, 1, 1), pl.datetime(2026, 1, 4), "1d", time_zone="UTC", eager=True)
    rows = [pl.DataFrame({"series_id": name, "time": days, "price": prices}) for name, prices in PRICES.items()]
    frame = pl.concat(rows).with_columns(available_time=pl.col("time")).select(SCHEMA.names()).cast(dict(SCHEMA))
    made = PriceStore(tmp_path / "prices")
    made.write(frame)
    return made


def line(series: str, day: int, middle: float, *, version: int = 1, width: float = 4.0, sequence: int = 0) -> bytes:
    """Write a forecast of two steps, as a stream does."""
    quantiles = (middle + width * SPREAD).tolist()
    told = {"series": series, "origin_time": f"2026-01-{day:02}T00:00:00.000000Z", "sequence": sequence, "model": "ar"}
    told |= {"sha256": "0", "version": version, "median": [middle] * 2, "quantiles": [quantiles, quantiles]}
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def test_forecasts_meet_the_next_price_of_their_series(tmp_path: Path, store: PriceStore) -> None:
    """Scores are those of hand: CRPS and error as shares of the last value's, coverage by whether it lies inside."""
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join([line("AAA", 1, 100.0), line("AAA", 2, 101.0), line("AAA", 3, 99.0)]))
    (scored,) = scorecard(out, store)
    quantile = np.array([[100.0], [101.0], [99.0]]) + 4.0 * SPREAD
    crps = quantile_crps(np.array([101.0, 99.0, 103.0]), quantile)
    assert (scored.model, scored.version, scored.outcomes) == ("ar", 1, 3)
    assert (scored.first, scored.last) == ("2026-01-01 00:00:00", "2026-01-03 00:00:00")
    assert scored.rcrps == pytest.approx(crps.sum() / 7.0)
    assert scored.rmae == pytest.approx(1.0)
    assert scored.coverage_50 == pytest.approx(1 / 3)
    assert scored.coverage_80 == pytest.approx(1 / 3)
    assert scored.coverage_95 == pytest.approx(1 / 3)


def test_a_version_has_a_row_and_series_count_by_their_outcomes(tmp_path: Path, store: PriceStore) -> None:
    """Shares are taken within a series, whose unit is its own, and averaged by outcomes."""
    out = tmp_path / "out.jsonl"
    lines = [line("AAA", 1, 102.0), line("BBB", 1, 1.1), line("BBB", 2, 1.2), line("BBB", 1, 1.0, version=2)]
    out.write_bytes(b"".join(lines))
    first, second = scorecard(out, store)
    assert (first.version, first.outcomes, second.version, second.outcomes) == (1, 3, 2, 1)
    assert first.rmae == pytest.approx((1.0 + 2 * 0.0) / 3)
    assert second.rmae == pytest.approx(1.0)


def test_what_has_no_outcome_yet_is_left_out(tmp_path: Path, store: PriceStore) -> None:
    """Unknown series, origins that are not in the store, the last price, and a line that is being written."""
    out = tmp_path / "out.jsonl"
    out.write_bytes(line("CCC", 1, 1.0) + line("AAA", 4, 103.0) + line("AAA", 9, 1.0) + line("AAA", 1, 100.0)[:40])
    assert scorecard(out, store) == []
    out.write_bytes(b"")
    assert scorecard(out, store) == []


def test_of_forecasts_from_one_time_the_last_counts(tmp_path: Path, store: PriceStore) -> None:
    """Several ticks of one time are one price in the store, and the forecast after the last of them is its."""
    out = tmp_path / "out.jsonl"
    out.write_bytes(line("AAA", 1, 90.0) + line("AAA", 1, 101.0, sequence=1))
    (scored,) = scorecard(out, store)
    assert (scored.outcomes, scored.rmae) == (1, 0.0)


def test_only_the_end_of_a_long_file_is_read(
    tmp_path: Path, store: PriceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of a line at which the reading begins is passed over."""
    out = tmp_path / "out.jsonl"
    lines = [line("AAA", 1, 100.0), line("AAA", 2, 101.0), line("AAA", 3, 99.0)]
    out.write_bytes(b"".join(lines))
    monkeypatch.setattr(module, "TAIL_BYTES", len(lines[1]) + len(lines[2]) + 10)
    assert scorecard(out, store)[0].outcomes == 2


def test_what_holds_no_forecasts_is_refused(tmp_path: Path, store: PriceStore) -> None:
    """Another file is named with what is expected."""
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"series,price\nAAA,1\n")
    with pytest.raises(DataError, match="expected forecasts of single prices, as `statecast stream --out` writes"):
        scorecard(out, store)
