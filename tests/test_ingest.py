import gzip
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import ConfigError, DataError, PolicyError, SchemaError
from pipeline.ingest import CHOICES, Columns, IngestConfig, IngestReport, ingest, sample
from pipeline.prices import SCHEMA, PriceStore, digest

HEADER = "series_id,time,price\n"


def csv(folder: Path, *lines: str, header: str = HEADER, name: str = "prices.csv") -> str:
    """Write a CSV file and give its path."""
    path = folder / name
    path.write_text(header + "".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def met(report: IngestReport, fault: str) -> tuple[int, int]:
    """Give the count and the dropped rows of a fault."""
    (found,) = [f for f in report.faults if f.name == fault]
    return found.count, found.dropped


def utc(*when: int) -> datetime:
    """Give a moment in UTC."""
    return datetime(*when, tzinfo=UTC)  # type: ignore[misc]


def test_the_sample_arrives_with_its_holes_counted() -> None:
    """The bundled prices are the real ones; the 290 holidays of WTI are nulls, dropped and reported."""
    raw = sample()
    assert raw.filter(pl.col("price").is_null()).group_by("series_id").len().rows() == [("WTI", 290)]
    prices, report = ingest(IngestConfig())
    assert prices.schema == SCHEMA
    assert [(s.series_id, s.rows_read, s.rows_kept) for s in report.series] == [
        ("NASDAQ", 5031, 5031),
        ("SP500", 5031, 5031),
        ("WTI", 8611, 8321),
    ]
    assert met(report, "null") == (290, 290)
    assert str(report.faults[0].examples[0]) == "sample row 10095: WTI at 1986-02-17 00:00:00 = None"
    assert prices.filter(series_id="SP500", time=utc(2018, 12, 31))["price"].to_list() == [2506.850098]


def test_holes_of_the_sample_can_be_kept() -> None:
    """With null = keep all rows arrive, the holes as nulls."""
    prices, report = ingest(IngestConfig(null="keep"))
    assert prices["price"].null_count() == 290
    assert met(report, "null") == (290, 0)
    assert report.rows_kept == report.rows_read == prices.height == 18_673


def test_the_sample_goes_into_a_store_and_comes_back(tmp_path: Path) -> None:
    """What ingest gives is what the store takes and returns."""
    prices, _ = ingest(IngestConfig())
    store = PriceStore(tmp_path)
    assert store.write(prices).added == prices.height
    assert store.read().equals(prices)
    assert store.write(ingest(IngestConfig())[0]).added == 0


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2020-03-01", utc(2020, 3, 1)),
        ("2020/03/01 10:30", utc(2020, 3, 1, 10, 30)),
        ("2020-03-01T10:30:00.000250", utc(2020, 3, 1, 10, 30, 0, 250)),
        ("2020-03-01T10:30:00Z", utc(2020, 3, 1, 10, 30)),
        ("2020-03-01T10:30:00+02:00", utc(2020, 3, 1, 8, 30)),
    ],
)
def test_text_times_become_utc(tmp_path: Path, text: str, moment: datetime) -> None:
    """A time without a zone is UTC, one with an offset is converted."""
    prices, _ = ingest(IngestConfig(paths=(csv(tmp_path, f"a,{text},1.5"),)))
    assert prices.rows() == [("a", moment, moment, 1.5)]


def test_offsets_may_change_with_daylight_saving(tmp_path: Path) -> None:
    """Each row is converted by its own offset."""
    rows = ("a,2020-03-29T01:30:00+01:00,1", "a,2020-03-29T03:30:00+02:00,2")
    prices, _ = ingest(IngestConfig(paths=(csv(tmp_path, *rows),)))
    assert prices["time"].to_list() == [utc(2020, 3, 29, 0, 30), utc(2020, 3, 29, 1, 30)]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (pl.Date, utc(2020, 7, 1)),
        (pl.Datetime("ns"), utc(2020, 7, 1, 12)),
        (pl.Datetime("ms"), utc(2020, 7, 1, 12)),
        (pl.Datetime("us", "UTC"), utc(2020, 7, 1, 12)),
        (pl.Datetime("ms", "America/New_York"), utc(2020, 7, 1, 16)),
    ],
)
def test_typed_times_become_utc(tmp_path: Path, dtype: pl.DataType, expected: datetime) -> None:
    """Dates, naive and zoned datetimes of a Parquet file become microseconds UTC."""
    path = tmp_path / "prices.parquet"
    noon = pl.Series([datetime(2020, 7, 1, 12)])
    zone = getattr(dtype, "time_zone", None)
    time = noon.dt.replace_time_zone(zone).cast(dtype) if zone else noon.cast(dtype)
    pl.DataFrame({"series_id": [7], "time": time, "price": [3]}).write_parquet(path)
    prices, _ = ingest(IngestConfig(paths=(str(path),)))
    assert prices.rows() == [("7", expected, expected, 3.0)]
    assert prices.schema == SCHEMA


def test_columns_are_mapped_from_the_users_names(tmp_path: Path) -> None:
    """The user's names are renamed, other columns are left out, and vintages keep their available time."""
    header = "released,close,volume,ticker,day\n"
    rows = ("2020-01-03,10.5,7,a,2020-01-01", "2020-01-01,10.0,7,a,2020-01-01")
    columns = Columns(series_id="ticker", time="day", price="close", available_time="released")
    prices, report = ingest(IngestConfig(paths=(csv(tmp_path, *rows, header=header),), columns=columns))
    start = utc(2020, 1, 1)
    assert prices.rows() == [("a", start, start, 10.0), ("a", start, start + timedelta(days=2), 10.5)]
    assert met(report, "conflict") == (0, 0)


def test_a_missing_column_is_named_with_what_there_is(tmp_path: Path) -> None:
    """The message has the file, our column, the nearest and all names of the file."""
    path = csv(tmp_path, "a,2020-01-01,1", header="series_id,date,prices\n")
    with pytest.raises(SchemaError, match=r"prices.csv: .*\(for time\) 'time'.* Known: date, prices, series_id"):
        ingest(IngestConfig(paths=(path,)))
    with pytest.raises(SchemaError, match=r"\(for price\) 'price': did you mean 'prices'\?"):
        ingest(IngestConfig(paths=(path,), columns=Columns(time="date")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,01/02/2020,1", r"time must be ISO 8601.*; 1 rows are not, the first is row 2: '01/02/2020'"),
        ("a,1577836800,1", r"time must be ISO 8601.* row 2: '1577836800'"),
        ("a,2020-01-02,1;5", r"prices must be numbers .* row 2: '1;5'"),
        ('a,2020-01-02,"1,500"', r"prices must be numbers .* row 2: '1,500'"),
        (",2020-01-02,1", r"1 rows lack series_id or time .* row 2"),
        ("a,,1", r"1 rows lack .* row 2"),
    ],
)
def test_values_that_cannot_be_read_are_located(tmp_path: Path, line: str, message: str) -> None:
    """A value that is no time, no price or no name is refused with its row, never guessed."""
    with pytest.raises(DataError, match=message):
        ingest(IngestConfig(paths=(csv(tmp_path, "a,2020-01-01,1", line),)))


def test_wrong_types_of_a_parquet_file_are_refused(tmp_path: Path) -> None:
    """A count as time, a flag as price and a fraction as name say what they should be."""
    path = str(tmp_path / "prices.parquet")
    good = {"series_id": ["a"], "time": [date(2020, 1, 1)], "price": [1.0]}
    for bad, message in (
        ({"time": [1577836800]}, "Convert a count of seconds first"),
        ({"price": [True]}, "prices must be numbers, not Boolean"),
        ({"series_id": [0.5]}, "text or integers, not Float64"),
    ):
        pl.DataFrame(good | bad).write_parquet(path)
        with pytest.raises(SchemaError, match=message):
            ingest(IngestConfig(paths=(path,)))


def test_missing_and_infinite_prices_are_nulls(tmp_path: Path) -> None:
    """Empty, NaN, inf and the usual words for missing are one fault; kept, they are nulls."""
    words = ("", "NaN", "inf", "-inf", "NA", "N/A", ".", "null", " ")
    rows = [f"a,2020-01-{k + 1:02d},{word}" for k, word in enumerate(words)] + ["a,2020-02-01, 2.5 "]
    path = csv(tmp_path, *rows)
    prices, report = ingest(IngestConfig(paths=(path,)))
    assert prices["price"].to_list() == [2.5]
    assert met(report, "null") == (9, 9)
    kept, report = ingest(IngestConfig(paths=(path,), null="keep"))
    assert kept["price"].to_list() == [None] * 9 + [2.5]
    assert met(report, "null") == (9, 0)
    with pytest.raises(PolicyError, match=r"null: 9 of 10 rows \(.*row 1: a at 2020-01-01.*choose null = 'drop'"):
        ingest(IngestConfig(paths=(path,), null="raise"))


def test_prices_of_zero_or_less_are_met_by_their_policy(tmp_path: Path) -> None:
    """They are refused by default with the rows named, and can be dropped or kept."""
    path = csv(tmp_path, "a,2020-01-01,1", "a,2020-01-02,0", "a,2020-01-03,-37.63")
    message = r"non_positive: 2 of 3 rows \(.* row 2: a at 2020-01-02 .* = 0.0; .*'raise'.* 'drop' or 'keep'"
    with pytest.raises(PolicyError, match=message):
        ingest(IngestConfig(paths=(path,)))
    assert ingest(IngestConfig(paths=(path,), non_positive="drop"))[0]["price"].to_list() == [1.0]
    prices, report = ingest(IngestConfig(paths=(path,), non_positive="keep"))
    assert prices["price"].to_list() == [1.0, 0.0, -37.63]
    assert met(report, "non_positive") == (2, 0)


def test_rows_out_of_order_are_sorted_and_counted(tmp_path: Path) -> None:
    """Order is judged within a series: interleaved series are in order, a step back in time is not."""
    interleaved = ("a,2020-01-01,1", "b,2018-01-01,5", "a,2020-01-02,2", "b,2018-01-02,6")
    path = csv(tmp_path, *interleaved, "a,2019-12-31,0.5")
    prices, report = ingest(IngestConfig(paths=(path,)))
    assert prices["price"].to_list() == [0.5, 1, 2, 5, 6]
    assert met(report, "disorder") == (1, 0)
    assert report.faults[2].examples[0].row == 5
    with pytest.raises(PolicyError, match=r"disorder: 1 of 5 rows .*row 5: a at 2019-12-31"):
        ingest(IngestConfig(paths=(path,), disorder="raise"))


def test_exact_repeats_are_dropped_or_refused(tmp_path: Path) -> None:
    """A row given three times is kept once, and two repeats are counted."""
    path = csv(tmp_path, "a,2020-01-01,1", "a,2020-01-02,2", "a,2020-01-01,1", "a,2020-01-01,1")
    prices, report = ingest(IngestConfig(paths=(path,)))
    assert prices["price"].to_list() == [1, 2]
    assert met(report, "duplicate") == (2, 2)
    with pytest.raises(PolicyError, match="duplicate: 2 of 4 rows"):
        ingest(IngestConfig(paths=(path,), duplicate="raise"))


def test_two_prices_for_one_moment_are_a_conflict(tmp_path: Path) -> None:
    """Both rows are shown; keep_last keeps the one that was read last, files in their order."""
    first = csv(tmp_path, "a,2020-01-01,1.5", "a,2020-01-02,2", name="first.csv")
    second = csv(tmp_path, "a,2020-01-01,1.25", name="second.csv")
    message = r"conflict: 2 of 3 rows \(.*first.csv row 1: .* = 1.5; .*second.csv row 1: .* = 1.25\)"
    with pytest.raises(PolicyError, match=message):
        ingest(IngestConfig(paths=(first, second)))
    prices, report = ingest(IngestConfig(paths=(first, second), conflict="keep_last"))
    assert prices["price"].to_list() == [1.25, 2]
    assert met(report, "conflict") == (2, 1)
    reverse, _ = ingest(IngestConfig(paths=(second, first), conflict="keep_last"))
    assert reverse["price"].to_list() == [1.5, 2]


def test_the_last_of_a_conflict_is_the_last_even_after_a_repeat(tmp_path: Path) -> None:
    """In 1, 2, 1 the last price read is 1: dropping the repeat must not make it 2."""
    path = csv(tmp_path, "a,2020-01-01,1", "a,2020-01-01,2", "a,2020-01-01,1")
    prices, _ = ingest(IngestConfig(paths=(path,), conflict="keep_last"))
    assert prices["price"].to_list() == [1]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 5), st.sampled_from(["", "-1", "0", "1", "2", "nan"])),
        min_size=1,
        max_size=30,
    )
)
def test_ingest_equals_a_loop_and_every_row_is_accounted_for(tmp_path: Path, rows: list[tuple[str, int, str]]) -> None:
    """Dropping policies keep the last positive price of each key, and read = kept + dropped."""
    path = csv(tmp_path, *[f"{s},2020-01-{d:02d},{p}" for s, d, p in rows])
    expected = {(s, d): float(p) for s, d, p in rows if p in ("1", "2")}
    config = IngestConfig(paths=(path,), non_positive="drop", conflict="keep_last")
    if not expected:
        with pytest.raises(DataError, match=f"none of {len(rows)} rows of .* is left; dropped: null"):
            ingest(config)
        return
    prices, report = ingest(config)
    got = {(s, t.day): p for s, t, _, p in prices.rows()}
    assert got == expected
    assert len(got) == prices.height == report.rows_kept == sum(s.rows_kept for s in report.series)
    assert report.rows_read == len(rows) == report.rows_kept + sum(f.dropped for f in report.faults)


def test_csv_compressed_csv_and_parquet_give_the_same_prices(tmp_path: Path) -> None:
    """The format of a file does not change one bit of its content."""
    rows = sample()
    plain, packed, parquet = (tmp_path / n for n in ("p.csv", "p.csv.gz", "p.parquet"))
    rows.write_csv(plain)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    rows.write_parquet(parquet)
    digests = {digest(ingest(IngestConfig(paths=(str(p),)))[0]) for p in (plain, packed, parquet)}
    assert digests == {digest(ingest(IngestConfig())[0])}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A missing file, an unknown ending, an empty and a broken file say which they are."""
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(b"PAR1 and then nothing")
    for path, message in (
        (str(tmp_path / "absent.csv"), r"no file '.*absent.csv' \(looked from"),
        (csv(tmp_path, name="prices.xlsx"), r"prices.xlsx must end in .csv, .csv.gz or .parquet"),
        (csv(tmp_path, header="", name="empty.csv"), "empty.csv cannot be read"),
        (csv(tmp_path, name="bare.csv"), "none of 0 rows"),
        (str(torn), "torn.parquet cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            ingest(IngestConfig(paths=(path,)))


def test_the_report_is_plain_json_and_a_table(tmp_path: Path) -> None:
    """The report can be written as JSON and shown as one line a fault; a series without a price is in it."""
    path = csv(tmp_path, "a,2020-01-01,1", "b,2020-01-01,", "a,2020-01-02,", "a,2020-01-03,", "a,2020-01-04,")
    _, report = ingest(IngestConfig(paths=(path,)))
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["series"] == [
        {
            "series_id": "a",
            "rows_read": 4,
            "rows_kept": 1,
            "first_time": "2020-01-01T00:00:00+00:00",
            "last_time": "2020-01-01T00:00:00+00:00",
        },
        {"series_id": "b", "rows_read": 1, "rows_kept": 0, "first_time": None, "last_time": None},
    ]
    assert [e["row"] for e in plain["faults"][0]["examples"]] == [2, 3, 4]
    table = report.rows()
    assert [row[0] for row in table] == list(CHOICES)
    assert table[0] == ("null", "drop", "4", "4", f"{path} row 2: b at 2020-01-01 00:00:00 = None")


def test_settings_that_do_not_exist_are_refused() -> None:
    """An unknown policy gets the nearest one; paths must be a list, and not empty."""
    with pytest.raises(ConfigError, match=r"unknown policy for null 'dorp': did you mean 'drop'\?"):
        IngestConfig(null="dorp")  # type: ignore[arg-type]
    for paths in ((), "prices.csv"):
        with pytest.raises(ConfigError, match="paths must be a list of files"):
            IngestConfig(paths=paths)  # type: ignore[arg-type]
