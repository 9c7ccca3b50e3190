"""Times as they are written in files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import SchemaError
from pipeline.moments import Moments, Unit, is_clock, is_time, joined, recognise

_LATE = datetime(2019, 12, 31, 23, 59, 58, tzinfo=UTC)


def _frame(cells: list | pl.Series) -> pl.LazyFrame:
    return pl.LazyFrame({"cell": cells}).with_columns(pl.lit("a").alias("series"))


def _recognise(
    cells: list | pl.Series, zone: str = "UTC", unit: Unit | None = None, day_first: bool | None = None
) -> Moments:
    return recognise(_frame(cells), where="prices.csv", time_zone=zone, unit=unit, day_first=day_first)


def _read(
    cells: list | pl.Series, zone: str = "UTC", unit: Unit | None = None, day_first: bool | None = None
) -> pl.DataFrame:
    form, frame = _recognise(cells, zone, unit, day_first), _frame(cells)
    read = form.read(frame, "cell", frame.collect_schema()["cell"], to="m")
    return read.select("m").unnest("m").collect(engine="streaming")


@pytest.mark.parametrize(
    "text",
    [
        "2019-12-31T23:59:58",
        "2019-12-31 23:59:58.000000",
        "2019/12/31 23:59:58Z",
        "2020-01-01T01:59:58+02:00",
        "2019-12-31 18:29:58 -0530",
        "31/12/2019 23:59:58",
        "12/31/2019 11:59:58 PM",
        "31.12.2019 23:59:58",
        "31-12-2019 23:59:58",
        "31-Dec-2019 23:59:58",
        "31 december 2019 23:59:58",
        "Dec 31, 2019 11:59:58 p.m.",
        "20191231235958",
        "20191231 235958",
        "20191231T235958Z",
        "1577836798",
        "1577836798.0",
        "1577836798000",
        "1577836798000000",
        "1577836798000000000",
        "1.577836798e12",
    ],
)
def test_a_moment_is_read_in_any_form(text: str) -> None:
    """The forms of one moment give one time."""
    assert _read([text])["time"].to_list() == [_LATE]


@settings(max_examples=40)
@given(
    st.lists(st.datetimes(datetime(1678, 1, 1), datetime(2261, 1, 1)), min_size=1, max_size=5),
    st.sampled_from(["%d/%m/%Y %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%fZ", "%d-%b-%Y %H:%M:%S.%f", "%Y%m%d%H%M%S%f"]),
)
def test_what_is_written_is_read_back(times: list[datetime], form: str) -> None:
    """Reading inverts writing to the microsecond, before 1970 too."""
    cells = [time.strftime(form) for time in times]
    assert _read(cells, day_first=True)["time"].to_list() == [time.replace(tzinfo=UTC) for time in times]


@settings(max_examples=40)
@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)), st.sampled_from(["s", "ms", "us", "ns"]))
def test_epochs_are_read_exactly_as_numbers_and_as_text(time: datetime, unit: Unit) -> None:
    """The size of an epoch tells its unit, and whole ones lose no digit."""
    microseconds = (time - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    count = microseconds * 1000 if unit == "ns" else microseconds // {"s": 10**6, "ms": 1000, "us": 1}[unit]
    kept = timedelta(microseconds=microseconds if unit == "ns" else count * {"s": 10**6, "ms": 1000, "us": 1}[unit])
    expected = [datetime(1970, 1, 1, tzinfo=UTC) + kept]
    assert _read([str(count)])["time"].to_list() == expected
    assert _read([count])["time"].to_list() == expected
    assert _recognise([count]).unit == unit


def test_seconds_with_a_fraction_keep_it() -> None:
    """Epochs as floats are rounded to the microsecond."""
    assert _read([1577836798.25])["time"].item() == _LATE + timedelta(seconds=0.25)
    assert _read(["1577836798.000001"])["time"].item() == _LATE + timedelta(microseconds=1)


def test_epochs_of_mixed_units_are_not_read() -> None:
    """A number of the size of another unit is no time, and the note says why; a named unit is believed."""
    read = _read([1577836798, 1577836799, 1577836800000])
    assert read["time"].null_count() == 1
    assert "ms among s" in read["note"][2]
    read = _read([1577836798000, 1577836798000, 1577836798])
    assert "s among ms" in read["note"][2]
    assert _read([1577836798000, 1577836798000, 1577836798], unit="ms")["time"].null_count() == 0
    assert _read([0, 60], unit="s")["time"].to_list()[1] == datetime(1970, 1, 1, 0, 1, tzinfo=UTC)


def test_small_numbers_are_no_epochs() -> None:
    """A column of years or of prices is not taken for seconds in 1970."""
    assert not is_time(pl.Series([1990, 1991, 1992]))
    assert not is_time(pl.Series(["1.5", "2.5"]))
    assert is_time(pl.Series([20190102, 20190103]))


@pytest.mark.parametrize("text", ["2019-02-30", "2019-13-01", "2019-01-01 25:00", "1066-10-14", "9999-12-31", "soon"])
def test_what_is_no_moment_is_null(text: str) -> None:
    """Days and hours that do not exist, and years that nanoseconds cannot hold, are not read."""
    assert _read(["2019-01-01", text, "2019-01-02"])["time"].is_null().to_list() == [False, True, False]


def test_the_type_of_a_typed_column_is_kept() -> None:
    """Dates, naive and zoned datetimes become UTC."""
    local = pl.Series([datetime(2019, 7, 1, 2)])
    assert _read(local, "Europe/Berlin")["time"].item() == datetime(2019, 7, 1, tzinfo=UTC)
    zoned = local.dt.replace_time_zone("Asia/Tokyo").cast(pl.Datetime("ns", "Asia/Tokyo"))
    assert _read(zoned, "Europe/Berlin")["time"].item() == datetime(2019, 6, 30, 17, tzinfo=UTC)
    assert _read(local.cast(pl.Date))["time"].item() == datetime(2019, 7, 1, tzinfo=UTC)


def test_a_local_time_that_the_clocks_skip_is_not_read() -> None:
    """On the day the clocks go forward an hour does not exist."""
    read = _read(["2019-03-31 01:59:00", "2019-03-31 02:30:00", "2019-03-31 03:00:00"], "Europe/Berlin")
    assert read["time"].to_list() == [
        datetime(2019, 3, 31, 0, 59, tzinfo=UTC),
        None,
        datetime(2019, 3, 31, 1, 0, tzinfo=UTC),
    ]
    assert "Europe/Berlin" in read["note"][1]


def test_a_local_time_that_comes_twice_is_the_first_and_says_when_the_second_is() -> None:
    """On the day the clocks go back the fold leads from the first to the second; an offset leaves no doubt."""
    read = _read(["2019-10-27 01:30:00", "2019-10-27 02:30:00", "2019-10-27 02:30:00+01:00"], "Europe/Berlin")
    assert read["fold"].to_list() == [timedelta(0), timedelta(hours=1), timedelta(0)]
    assert read["time"].to_list()[1:] == [
        datetime(2019, 10, 27, 0, 30, tzinfo=UTC),
        datetime(2019, 10, 27, 1, 30, tzinfo=UTC),
    ]


@settings(max_examples=40)
@given(st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)), min_size=1, max_size=20))
def test_local_times_agree_with_the_zone_of_python(times: list[datetime]) -> None:
    """Every local time that exists is one of the two moments that Python knows for it."""
    zone = ZoneInfo("America/New_York")
    read = _read([time.isoformat(" ") for time in times] + ["2019-01-01"], "America/New_York")
    for time, moment, fold in zip(times, read["time"], read["fold"], strict=False):
        first, second = (time.replace(tzinfo=zone, fold=f).astimezone(UTC) for f in (0, 1))
        if moment is None:
            assert first.astimezone(zone).replace(tzinfo=None) != time
        else:
            assert (moment, moment + fold) == (first, second)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["01/02/2019", "13/02/2019"], "day first"),
        (["02/01/2019", "02/13/2019"], "month first"),
        ([f"{d:02d}/04/2019" for d in range(1, 13)] + ["01/05/2019"], "day first"),
        ([f"{d:02d}/04/2019 {h:02d}:00" for d in (1, 2, 3) for h in (9, 12)], "day first"),
        ([f"04/{d:02d}/2019 {h:02d}:00" for d in (1, 2, 3) for h in (9, 12)], "month first"),
        (["03.04.2019", "04.04.2019"], "day first"),
        (["01/01/2019", "02/02/2019"], "day first"),
    ],
)
def test_day_or_month_first_is_told_by_the_file(cells: list[str], kind: str) -> None:
    """Fields above 12 tell; else the reading in which times are in order and evenly spaced."""
    assert _recognise(cells).kind == kind


def test_a_field_above_12_beyond_the_head_tells() -> None:
    """The whole file is asked before the order of its head."""
    cells = ["03/04/2019"] * 20_000 + ["04/13/2019"]
    assert _recognise(cells).kind == "month first"


def test_dates_that_may_have_the_day_or_the_month_first_are_refused() -> None:
    """The user is asked, and believed."""
    cells = ["03/04/2019", "04/04/2019", "05/04/2019"]
    with pytest.raises(SchemaError, match=r"ingest\.format\.day_first"):
        _recognise(cells)
    assert _read(cells, day_first=True)["time"][0] == datetime(2019, 4, 3, tzinfo=UTC)
    assert _read(cells, day_first=False)["time"][0] == datetime(2019, 3, 4, tzinfo=UTC)


def test_a_column_without_times_is_refused_with_the_known_forms() -> None:
    """The message shows a cell and what is known."""
    with pytest.raises(SchemaError, match=r"'soon'.*ISO 8601"):
        _recognise(["soon", "later"])


def test_a_clock_from_another_column_gets_its_zeros_back() -> None:
    """Digits of a time of day that were read as a number are filled up before they are joined to the date."""
    clocks = pl.Series([0, 93000, 160000])
    frame = pl.DataFrame({"d": ["20190102"] * 3, "t": clocks})
    text = frame.select(joined(pl.col("d"), pl.col("t"), clocks)).to_series().to_list()
    assert text == ["20190102 000000", "20190102 093000", "20190102 160000"]
    assert is_clock(clocks)
    assert is_clock(pl.Series(["09:30", "16:00:00"]))
    assert not is_clock(pl.Series(["2019-01-01"]))
