from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from dirt import dirty, market, read, rows, times, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError
from pipeline.bars import BarConfig
from pipeline.calendars import Calendars
from pipeline.faults import (
    CHOICES,
    Found,
    Policy,
    Settled,
    absences,
    check,
    common_holidays,
    merged,
    moments,
    repeated_moments,
    settle,
)

DROPPING = Policy(unreadable="drop", conflict="drop", short_length=0)
SEEDS = st.integers(0, 2**31)


def counts(found: tuple[Found, ...]) -> dict[str, int]:
    """Give the count of each fault that was met."""
    return {f.name: f.count for f in found if f.count}


def fault(settled: Settled, name: str) -> Found:
    """Give what was found of one fault."""
    return next(f for f in settled.found if f.name == name)


def prices(frame: pl.DataFrame) -> pl.DataFrame:
    """Give the prices of rows, wherever they were read."""
    return frame.select("series_id", "time", "price")


def priced(*price: float | None, name: str = "S") -> pl.DataFrame:
    """Make daily rows of one series."""
    return rows({name: (times(len(price)), np.array(price, dtype=float))})


@settings(max_examples=15)
@given(SEEDS)
def test_known_faults_are_counted_and_the_clean_rows_come_back(seed: int) -> None:
    """Every fault put into clean rows is found, no other is, and what is left is what was clean."""
    clean = market(seed)
    read_rows, known = dirty(clean, seed)
    settled = settle(read_rows, DROPPING)
    assert counts(settled.found) == known
    assert prices(settled.rows).equals(prices(clean))
    assert settled.rows.columns == read_rows.columns


@settings(max_examples=10)
@given(SEEDS)
def test_neither_buckets_nor_the_order_of_series_matter(seed: int) -> None:
    """Series settled apart give together the rows and the counts of all at once, wherever the frame has its rows."""
    read_rows, _ = dirty(market(seed, series=6), seed)
    read_rows = read_rows.with_columns(
        pl.when(pl.col("time") == times(300)[77]).then(1.0).otherwise("price").alias("price")
    )
    policy = replace(DROPPING, repeat="drop", spike="drop")
    whole = settle(read_rows, policy)
    parts = [read_rows.filter(pl.col("series_id").is_in(names)) for names in (["S0", "S3"], ["S1", "S2", "S4", "S5"])]
    repeated = repeated_moments(moments(part) for part in parts)
    apart = [settle(part.sample(fraction=1, shuffle=True, seed=1), policy, repeated=repeated) for part in parts]
    assert pl.concat([s.rows for s in apart]).sort("series_id", "time").equals(whole.rows)
    assert merged([s.found for s in apart]) == merged([whole.found])


def test_examples_say_file_and_line() -> None:
    """The examples are the first rows with the fault, with the line at which each stands and what is wrong."""
    clean = market(0)
    bad = clean.with_columns(
        pl.when(pl.col("line").is_in([9, 500, 700, 800])).then(pl.lit("price 'abc'")).alias("unreadable")
    )
    found = fault(settle(bad, DROPPING), "unreadable")
    assert [(e.file, e.line, e.note) for e in found.examples] == [(0, line, "price 'abc'") for line in (9, 500, 700)]
    assert (found.count, found.dropped, found.series) == (4, 4, {"S0": 1, "S1": 1, "S2": 2})


def test_clean_rows_have_no_fault() -> None:
    """In a market without faults none is found."""
    assert counts(settle(market(1), Policy()).found) == {}


def test_refused_rows_are_counted_without_an_error() -> None:
    """With every policy at raise all is counted, and nothing is raised here."""
    read_rows, known = dirty(market(2), 2)
    refusing = Policy(**{name: "raise" for name, choices in CHOICES.items() if "raise" in choices})
    assert counts(settle(read_rows, refusing).found) == known


def test_oil_below_zero_is_not_positive_and_breaks_nothing() -> None:
    """A price below zero is met by its policy; kept, it goes through every check."""
    oil = priced(*walk(np.random.default_rng(0), 200), 18.27, -37.63, 10.01, *np.linspace(12, 18, 20))
    assert fault(settle(oil, Policy()), "non_positive").count == 1
    kept = settle(oil, Policy(non_positive="keep"))
    assert kept.rows["price"].min() == -37.63
    assert "split" not in counts(kept.found)


def test_nulls_are_dropped_kept_or_filled_from_the_past() -> None:
    """A missing price, NaN and infinity are one fault; fill takes the last price, also where rows came in disorder."""
    holes = priced(np.nan, 2, np.nan, np.inf, 5, 6)
    assert settle(holes, Policy()).rows["price"].to_list() == [2, 5, 6]
    assert settle(holes, Policy(null="keep")).rows["price"].to_list() == [None, 2, None, None, 5, 6]
    backward = holes.with_columns(order=-pl.col("order"))
    filled = settle(backward, Policy(null="fill"))
    assert filled.rows["price"].to_list() == [None, 2, 2, 2, 5, 6]
    assert fault(filled, "null").changed == 3


def test_spikes_are_dropped_or_filled() -> None:
    """A price half as much again for a day is a spike; drop takes the row away, fill puts the last price there."""
    clean = market(3, series=1)["price"].to_numpy()
    spiked = clean.copy()
    spiked[150] *= 1.5
    assert settle(priced(*spiked), Policy(spike="drop")).rows["price"].to_list() == np.delete(clean, 150).tolist()
    spiked[150] = spiked[149]
    filled = settle(priced(*spiked[:150], 1.5 * clean[150], *spiked[151:]), Policy(spike="fill"))
    assert filled.rows["price"].to_list() == spiked.tolist()


def test_splits_give_factors_and_leave_prices() -> None:
    """A split to be adjusted gives the factor for the prices before it; the rows stay as they are."""
    price = market(4, series=1)["price"].to_numpy().copy()
    price[:200] *= 4
    settled = settle(priced(*price), Policy(split="adjust"))
    (row,) = settled.factors.rows(named=True)
    assert (row["series_id"], row["time"]) == ("S", times(300)[200])
    assert row["factor"] == pytest.approx(0.25)
    assert settled.rows["price"].to_list() == price.tolist()
    assert settle(priced(*price), Policy()).factors.is_empty()


def test_units_are_adjusted_to_those_of_most_rows() -> None:
    """Prices in cents among dollars, a stretch and single days, come back as dollars."""
    clean = market(5, series=1)["price"].to_numpy()
    mixed = clean.copy()
    mixed[100:150] *= 100
    mixed[200:240:4] *= 100
    settled = settle(priced(*mixed), Policy(unit="adjust"))
    assert fault(settled, "unit").changed == 60
    np.testing.assert_allclose(settled.rows["price"].to_numpy(), clean)
    assert "spike" not in counts(settled.found)


def test_a_moment_repeats_only_if_every_series_does() -> None:
    """A copied row of three series is a repeat; one that a fourth series does not share is not, nor one of two."""
    copied = market(6, series=3).with_columns(
        pl.when(pl.col("time") == times(300)[50]).then(pl.col("price").shift(1)).otherwise("price").alias("price")
    )
    settled = settle(copied, Policy(repeat="drop"))
    assert (fault(settled, "repeat").count, fault(settled, "repeat").dropped) == (3, 3)
    other = market(7, series=1).with_columns(series_id=pl.lit("other"))
    assert "repeat" not in counts(settle(read(pl.concat([copied, other])), Policy()).found)
    assert "repeat" not in counts(settle(copied.filter(pl.col("series_id") != "S0"), Policy()).found)


def test_flat_stretches_keep_their_first_row() -> None:
    """Ten equal prices are one flat stretch, whose nine repeats are dropped; nine are none."""
    price = market(8, series=1)["price"].to_numpy().copy()
    price[50:60], price[80:89] = price[50], price[80]
    settled = settle(priced(*price), Policy(flat="drop"))
    assert (fault(settled, "flat").count, fault(settled, "flat").dropped) == (1, 9)
    assert settled.rows["time"].to_list() == [t for k, t in enumerate(times(300)) if not 50 < k < 60]


def test_gaps_are_filled_with_known_holes() -> None:
    """A missing working day becomes a row with a null price and no line."""
    clean = market(9, series=1)
    settled = settle(clean.filter(pl.col("time") != times(300)[42]), Policy(gap="fill"))
    assert (fault(settled, "gap").count, fault(settled, "gap").added) == (1, 1)
    assert settled.rows["time"].to_list() == times(300)
    hole = settled.rows.row(42, named=True)
    assert (hole["price"], hole["line"], hole["file"]) == (None, None, 0)
    assert fault(settled, "gap").examples[0].time == times(300)[42]


def test_a_dropped_null_is_no_gap() -> None:
    """A moment whose row had no price is not missing; where gaps are filled it is a known hole again."""
    clean = market(9, series=1)
    null = clean.with_columns(price=pl.when(pl.col("time") == times(300)[42]).then(None).otherwise("price"))
    assert counts(settle(null, Policy()).found) == {"null": 1}
    filled = settle(null, Policy(gap="fill"))
    assert (fault(filled, "gap").count, fault(filled, "gap").added) == (0, 1)
    assert filled.rows["time"].to_list() == times(300)


def test_what_every_series_misses_is_a_holiday() -> None:
    """A day that none of three series has is no gap, in whatever buckets they are; one that a series has is."""
    holiday, missed = times(300)[42], times(300)[77]
    gone = (pl.col("time") == holiday) | ((pl.col("time") == missed) & (pl.col("series_id") != "S2"))
    read_rows = market(15, series=3).filter(~gone)
    whole = settle(read_rows, Policy())
    assert fault(whole, "gap").series == {"S0": 1, "S1": 1}
    assert {e.time for e in fault(whole, "gap").examples} == {missed}
    assert "ingest.calendar.name" in fault(whole, "gap").examples[0].note
    assert counts(check(prices(whole.rows), Policy())) == counts(whole.found)
    parts = read_rows.partition_by("series_id")
    holidays = common_holidays(absences(part, Calendars()) for part in parts)
    assert holidays["time"].to_list() == [holiday]
    assert merged([settle(part, Policy(), holidays=holidays).found for part in parts]) == merged([whole.found])
    two = read_rows.filter(pl.col("series_id") != "S2")
    assert fault(settle(two, Policy()), "gap").count == 4


def test_a_holiday_is_of_its_calendar_and_of_those_that_cover_it() -> None:
    """Series of other calendars, or that begin later, neither make nor undo a holiday; a named calendar has its own."""
    holiday = times(300)[42]
    shared = market(16, series=3).filter(pl.col("time") != holiday)
    always = [times(1)[0] + timedelta(days=k) for k in range(420)]
    coin = rows({"coin": (always, walk(np.random.default_rng(0), 420))})
    late = market(17, series=1).filter(pl.col("time") > times(300)[99]).with_columns(series_id=pl.lit("late"))
    both = read(pl.concat([shared, coin, late]))
    assert counts(settle(both, Policy()).found) == {}
    assert absences(both, Calendars(name="24/5")).is_empty()


def test_prices_of_closed_days_are_dropped() -> None:
    """A currency quoted each day of the week is closed at weekends, which is said; another name is not."""
    days = [datetime(2020, 1, 6, tzinfo=UTC) + timedelta(days=k) for k in range(140)]
    daily = {"EUR/USD": (days, walk(np.random.default_rng(0), 140)), "BTC": (days, walk(np.random.default_rng(1), 140))}
    settled = settle(rows(daily), Policy(closed="drop"))
    assert fault(settled, "closed").series == {"EUR/USD": 40}
    assert "EUR/USD" in settled.weekends[0]
    assert fault(settle(rows(daily), Policy(), Calendars(name="24/7")), "closed").count == 0


def test_short_series_are_dropped_whole() -> None:
    """A series under the least length is one fault, and all of its rows go."""
    settled = settle(pl.concat([market(10, series=1), priced(1, 2, 3, name="tiny")]), Policy(short="drop"))
    assert (fault(settled, "short").count, fault(settled, "short").dropped) == (1, 3)
    assert settled.rows["series_id"].unique().to_list() == ["S0"]


def test_the_second_hour_of_the_clocks_going_back_moves_on() -> None:
    """Of two rows with one local time, the second read is an hour later, and neither is a conflict."""
    twice = [datetime(2020, 10, 25, hour, tzinfo=UTC) for hour in (0, 0, 1, 2)]
    hours = rows({"S": (twice, np.array([1.0, 2.0, 3.0, 4.0]))}).with_columns(
        fold=pl.when(pl.col("time") == twice[0]).then(pl.duration(hours=1)).otherwise(pl.duration())
    )
    hours = hours.with_columns(
        time=pl.when(pl.col("line") > 3).then(pl.col("time") + pl.duration(hours=1)).otherwise("time")
    )
    settled = settle(hours, DROPPING)
    assert [t.hour for t in settled.rows["time"]] == [0, 1, 2, 3]
    assert counts(settled.found) == {}


def twice(*price: float) -> pl.DataFrame:
    """Make hours on the night that the clocks go back, one row a price: 1, then those given at 2:00, then 9 at 3:00."""
    night = [datetime(2020, 10, 25, hour, tzinfo=UTC) for hour in (0, *(1 for _ in price), 3)]
    hours = rows({"S": (night, np.array([1.0, *price, 9.0]))})
    return hours.with_columns(fold=pl.when(pl.col("time").dt.hour() == 1).then(pl.duration(hours=1)).otherwise("fold"))


@pytest.mark.parametrize("price", [(2.0, 3.0), (2.0, 2.0), (2.0, 2.0, 3.0, 3.0), (2.0, 3.0, 2.0, 3.0)])
def test_an_hour_read_twice_is_the_same_newest_first(price: tuple[float, ...]) -> None:
    """Upwards or downwards in a file, copied or not, the rows of the two hours are told apart, and none clashes."""
    for hours in (twice(*price), read(twice(*price).reverse())):
        settled = settle(hours, DROPPING)
        assert settled.rows["price"].to_list() == [1.0, price[0], price[-1], 9.0]
        assert [t.hour for t in settled.rows["time"]] == [0, 1, 2, 3]
        assert not {"conflict", "gap"} & set(counts(settled.found))


@pytest.mark.parametrize(("price", "fault_"), [((2.0, 2.0, 2.0), "duplicate"), ((2.0, 3.0, 4.0), "conflict")])
def test_rows_of_an_hour_that_cannot_be_told_apart_stay(price: tuple[float, ...], fault_: str) -> None:
    """Three copies are duplicates and three prices a conflict: none of them is moved."""
    settled = settle(twice(*price), DROPPING)
    assert fault_ in counts(settled.found)
    assert [t.hour for t in settled.rows["time"]] == [0, 1, 3]


def test_rows_that_share_their_time_look_like_trades() -> None:
    """The note of a conflict names bars where more than one row in twenty shares its time."""
    trades = rows({"S": ([t for t in times(50) for _ in range(2)], walk(np.random.default_rng(0), 100))})
    assert "ingest.bars.every" in fault(settle(trades, DROPPING), "conflict").examples[0].note
    one = read(pl.concat([market(11, series=1), market(12, series=1).head(1)]))
    assert fault(settle(one, DROPPING), "conflict").examples[0].note == ""


def test_trades_become_bars_before_keys_are_checked() -> None:
    """Trades of one time stamp, some equal, are neither duplicates nor conflicts once bars are made of them."""
    stamps = [t for t in times(400, step=timedelta(minutes=1)) for _ in range(3)]
    settled = settle(
        rows({"S": (stamps, np.repeat([5.0, 5.0, 6.0, 4.0], 300))}), DROPPING, bars_of=BarConfig(every="1h")
    )
    assert not {"duplicate", "conflict"} & set(counts(settled.found))
    assert settled.rows.height == 6
    assert settled.merged + settled.incomplete + settled.rows.height == 1200


def test_vintages_are_no_conflict_and_the_last_is_checked() -> None:
    """A spike that a later vintage corrects is none; both rows stay."""
    clean = market(13, series=1)
    first = clean.with_columns(available_time=pl.col("time"))
    wrong = first.with_columns(price=pl.when(pl.col("line") == 150).then(pl.col("price") * 2).otherwise("price"))
    fixed = first.filter(pl.col("line") == 150).with_columns(available_time=pl.col("time") + pl.duration(days=2))
    assert counts(settle(wrong, Policy()).found) == {"spike": 1}
    both = settle(read(pl.concat([wrong, fixed])), Policy())
    assert counts(both.found) == {"disorder": 1}
    assert both.rows.height == 301


def test_checking_stored_prices_finds_what_settling_finds() -> None:
    """The check of stored prices counts what ingest counts for series, whatever the policies say."""
    price = market(14, series=1)["price"].to_numpy().copy()
    price[100] *= 2
    price[200:220] = price[200]
    dropping = Policy(spike="drop", flat="drop")
    assert counts(check(prices(priced(*price)), dropping)) == counts(settle(priced(*price), Policy()).found)


def test_no_rows_have_no_faults() -> None:
    """An empty bucket settles to nothing, with every fault at zero."""
    settled = settle(market(0).clear(), Policy())
    assert [f.name for f in settled.found] == list(CHOICES)
    assert settled.rows.is_empty()
    assert not counts(settled.found)


@pytest.mark.parametrize("wrong", [{"spike": "dorp"}, {"jump_scales": float("nan")}, {"flat_length": 1}])
def test_a_wrong_policy_is_refused(wrong: dict[str, object]) -> None:
    """An unknown policy and a threshold out of range are errors of configuration."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Policy(**wrong)  # type: ignore[arg-type]


def test_the_default_is_the_first_choice() -> None:
    """Of each fault the default is the first policy listed."""
    assert {name: getattr(Policy(), name) for name in CHOICES} == {name: choice[0] for name, choice in CHOICES.items()}
