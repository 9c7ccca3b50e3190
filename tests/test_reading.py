"""Price files of any form, read back as what was written."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ConfigError, DataError, SchemaError
from pipeline.reading import Columns, Format, Reading, find, read
from pipeline.rows import READ, UTC_TIME

_START = datetime(2019, 1, 25, tzinfo=UTC)
_WRITE_TIME: dict[str, Callable[[datetime], str]] = {
    "ISO": lambda time: time.isoformat(),
    "ISO with a blank": lambda time: f"{time:%Y-%m-%d %H:%M}",
    "day first": lambda time: f"{time:%d/%m/%Y %H:%M}",
    "month first": lambda time: f"{time:%m/%d/%Y %I:%M %p}",
    "dots": lambda time: f"{time:%d.%m.%Y %H:%M:%S}",
    "named": lambda time: f"{time:%d-%b-%Y %H:%M}",
    "compact": lambda time: f"{time:%Y%m%d%H%M%S}",
    "s": lambda time: str(int(time.timestamp())),
    "ms": lambda time: str(int(time.timestamp()) * 10**3),
    "us": lambda time: str(int(time.timestamp()) * 10**6),
    "ns": lambda time: str(int(time.timestamp()) * 10**9),
}


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


def _read(path: Path, columns: Columns | None = None, form: Format | None = None) -> Reading:
    return read(path, 0, columns or Columns(), form or Format(), path.parent)


def _rows(text: str | bytes, folder: Path, columns: Columns | None = None, form: Format | None = None) -> pl.DataFrame:
    path = folder / "prices.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return _read(path, columns, form).rows.collect(engine="streaming")


@st.composite
def _prices(draw: st.DrawFn) -> pl.DataFrame:
    """Draw a table of two to four series at the same moments, prices in cents and some of them missing."""
    names = draw(
        st.lists(st.sampled_from(["AUD", "Müller, AG", "7203", "a b", "NA"]), min_size=2, max_size=4, unique=True)
    )
    steps = draw(st.lists(st.integers(1, 60 * 24 * 40), min_size=3, max_size=8))
    times = [_START + timedelta(minutes=sum(steps[: i + 1])) for i in range(len(steps))]
    cents = st.one_of(st.none(), st.integers(-(10**7), 10**9))
    rows = [
        (name, time, None if (n := draw(cents)) is None else n / 100) for time in [_START, *times] for name in names
    ]
    frame = pl.DataFrame(rows, {"series_id": pl.String, "time": UTC_TIME, "price": pl.Float64}, orient="row")
    first = pl.int_range(pl.len()) < len(names)  # each column holds a number
    return frame.with_columns(pl.when(first).then(pl.lit(1234.5)).otherwise("price").alias("price"))


def _written(price: float | None, decimal: str, grouped: bool) -> str:
    if price is None:
        return ""
    text = f"{price:,.2f}" if grouped else f"{price:.2f}"
    return text if decimal == "." else text.translate(str.maketrans(".,", ",."))


@settings(max_examples=60)
@given(
    prices=_prices(),
    delimiter=st.sampled_from(",;\t|"),
    decimal=st.sampled_from(".,"),
    grouped=st.booleans(),
    time=st.sampled_from(list(_WRITE_TIME)),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    compression=st.sampled_from(list(_COMPRESS)),
    wide=st.booleans(),
)
def test_what_is_written_in_any_dialect_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    prices: pl.DataFrame,
    delimiter: str,
    decimal: str,
    grouped: bool,
    time: str,
    encoding: str,
    compression: str,
    wide: bool,
) -> None:
    """Delimiter, decimal sign, form of time, encoding, compression and layout change nothing; nor does the engine."""
    out = io.StringIO()
    write = csv.writer(out, delimiter=delimiter)
    texts = prices.select(
        "series_id",
        pl.Series("time", [_WRITE_TIME[time](moment) for moment in prices["time"]]),
        pl.Series("price", [_written(price, decimal, grouped) for price in prices["price"]]),
    )
    table = texts.pivot("series_id", index="time", values="price") if wide else texts
    write.writerows([table.columns, *table.rows()])
    path = tmp_path_factory.mktemp("dialect") / f"prices.csv{compression}"
    path.write_bytes(_COMPRESS[compression](out.getvalue().encode(encoding)))

    reading = _read(path)
    rows = reading.rows.collect(engine="streaming")
    assert rows.schema == READ
    assert rows.select("series_id", "time", "price").equals(prices)
    assert rows["unreadable"].null_count() == rows.height
    width = len(table.columns) - 1 if wide else 1
    assert rows["line"].to_list() == [2 + i // width for i in range(rows.height)]
    assert reading.rows.collect(engine="in-memory").equals(rows)


@settings(max_examples=20)
@given(prices=_prices(), ending=st.sampled_from([".parquet", ".pq", ".arrow", ".feather", ".ipc"]), wide=st.booleans())
def test_typed_files_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, prices: pl.DataFrame, ending: str, wide: bool
) -> None:
    """Parquet and Arrow keep their types, and lines count rows from 1."""
    table = prices.pivot("series_id", index="time", values="price") if wide else prices
    path = tmp_path_factory.mktemp("typed") / f"prices{ending}"
    table.write_parquet(path) if ending in (".parquet", ".pq") else table.write_ipc(path)
    rows = _read(path).rows.collect(engine="streaming")
    assert rows.select("series_id", "time", "price").equals(prices)
    width = len(table.columns) - 1 if wide else 1
    assert rows["line"].to_list() == [1 + i // width for i in range(rows.height)]


@pytest.mark.parametrize("compression", list(_COMPRESS))
def test_json_lines_are_read(tmp_path: Path, compression: str) -> None:
    """A row is an object; one that is none is shown, a key that is absent is missing."""
    lines = [
        {"symbol": "A", "ts": 1577836800, "price": 1.5, "note 'x'.y": 1},
        {"symbol": "B", "ts": 1577836801, "price": "1,000.5"},
        {"symbol": "B", "ts": 1577836802, "price": None},
        {"symbol": "B", "ts": 1577836803},
        {"symbol": "B", "ts": 1577836804, "price": "abc", "note 'x'.y": 2},
    ]
    text = "\n".join([*map(json.dumps, lines), "", "{broken", "[1]", "7"]) + "\n"
    path = tmp_path / f"prices.jsonl{compression}"
    path.write_bytes(_COMPRESS[compression](text.encode()))
    rows = _read(path, Columns(values=("note 'x'.y",))).rows.collect(engine="streaming")
    assert rows["price"].to_list() == [1.5, 1000.5, None, None, None, None, None, None]
    assert rows["note 'x'.y"].to_list() == [1.0, None, None, None, 2.0, None, None, None]
    assert rows["line"].to_list() == [1, 2, 3, 4, 5, 7, 8, 9]
    assert rows["unreadable"].to_list() == [None] * 4 + ["price 'abc'", "line '{broken'", "line '[1]'", "line '7'"]


def test_cells_that_cannot_be_read_are_shown_with_their_line(tmp_path: Path) -> None:
    """No bad cell raises, none becomes a plain null, and none takes the rest of its row with it."""
    text = (
        "# prices\nseries_id,time,price,volume,as_of\n"
        "A,2019-01-01,1,10,2019-01-02\n"
        "A,31/31/2020,2,10,2019-01-02\n"
        "A,2019-01-02,abc,x,soon\n"
        ",2019-01-03,3,10,\n"
        "A,,4,NA,\n\n"
        "A,2019-01-04,5\n"
        "A,2019-01-05,NaN,,2019-01-06\n\n"
    )
    rows = _rows(text, tmp_path, Columns(values=("volume",)))
    assert rows.columns == [*READ, "volume"]
    assert dict(rows.select("line", "unreadable").rows()) == {
        3: None,
        4: "time '31/31/2020'",
        5: "available_time 'soon'; volume 'x'; price 'abc'",
        6: "no series",
        7: "no time",
        9: "line 'A,2019-01-04,5'",
        10: None,
    }
    assert rows["price"].to_list() == [1, 2, None, 3, 4, None, None]
    assert rows["volume"].to_list() == [10, 10, None, 10, None, None, None]
    assert rows["available_time"][6] == datetime(2019, 1, 6, tzinfo=UTC)


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12), max_size=8))
def test_every_line_is_a_row_whatever_it_holds(tmp_path_factory: pytest.TempPathFactory, junk: list[str]) -> None:
    """Lines of junk among good ones are unreadable rows or comments or blank, and the good ones are not harmed."""
    good = [f"2019-01-{day:02d};{day}" for day in range(10, 29)]
    kept = [line for line in junk if (bare := line.strip(" \t;")) and not bare.startswith("#")]
    rows = _rows(
        "\n".join(["time;price", *good, *junk, *good]),
        tmp_path_factory.mktemp("junk"),
        Columns(),
        Format(delimiter=";"),
    )
    assert rows.height == 2 * len(good) + len(kept)
    fine = rows.filter(pl.col("unreadable").is_null() & pl.col("price").is_not_null())
    assert fine.height >= 2 * len(good)
    assert set(rows["line"].head(len(good))) == set(range(2, 2 + len(good)))
    assert rows["line"].tail(len(good)).to_list() == [2 + len(good) + len(junk) + i for i in range(len(good))]


def test_bad_cells_of_a_wide_table_keep_their_line_and_series(tmp_path: Path) -> None:
    """Cells come line by line in the order of the columns; a bad one does not take its column out of the table."""
    rows = _rows("date,A,B\n2019-01-01,1,2\n2019-01-02,x,3\nsoon,4,5\n2019-01-03,6\n", tmp_path)
    cells = list(zip(rows["line"], rows["series_id"], rows["unreadable"], strict=True))
    assert cells[:6] == [
        (2, "A", None),
        (2, "B", None),
        (3, "A", "price 'x'"),
        (3, "B", None),
        (4, "A", "time 'soon'"),
        (4, "B", "time 'soon'"),
    ]
    assert set(rows["unreadable"][6:]) == {"line '2019-01-03,6'"}


def test_a_file_without_series_is_one_that_is_named_after_it(tmp_path: Path) -> None:
    """The name has no ending, and the guess is said."""
    path = tmp_path / "BRK.B.csv.gz"
    path.write_bytes(gzip.compress(b"date,close\n2019-01-01,1\n"))
    reading = _read(path)
    assert reading.rows.collect()["series_id"].to_list() == ["BRK.B"]
    assert any("'BRK.B', after the name of the file" in words for words in reading.said)


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("BTCUSDT-trades-2014-01-08.csv", "BTCUSDT-trades"),
        ("BTCUSDT-1m-2014-01.csv", "BTCUSDT-1m"),
        ("ESZ_201412.csv", "ESZ_201412"),
        ("EURUSD_20140131.csv", "EURUSD"),
        ("2014-01-08.csv", "2014-01-08"),
        ("IBM-2014.csv", "IBM-2014"),
        ("X-201413.csv", "X-201413"),
    ],
)
def test_a_day_or_month_in_the_name_of_a_file_makes_no_series_of_its_own(
    tmp_path: Path, name: str, series: str
) -> None:
    """The files of many days go on with one series; a name that is only a day, or a month of delivery, stays."""
    (tmp_path / name).write_text("date,close\n2019-01-01,1\n")
    assert _read(tmp_path / name).rows.collect()["series_id"].to_list() == [series]


@pytest.mark.parametrize("cell", ["1.2504K", "12.50%", "1.2 Mio"])
def test_a_column_in_which_no_cell_is_a_number_is_refused(tmp_path: Path, cell: str) -> None:
    """The message names the column and shows a cell."""
    with pytest.raises(SchemaError, match=rf"'close' holds '{cell}', which is no number"):
        _rows(f"date;close\n2019-01-01;{cell}\n2019-01-02;{cell}\n", tmp_path)


def test_the_code_of_a_currency_after_a_number_is_passed_over(tmp_path: Path) -> None:
    """The number before it is read with the decimal sign of the file."""
    rows = _rows("date;close\n2019-01-01;1250,40 EUR\n2019-01-02;1.251,4 EUR\n", tmp_path)
    assert rows["price"].to_list() == [1250.4, 1251.4]


def test_a_comma_that_may_be_a_thousand_is_settled_by_the_user(tmp_path: Path) -> None:
    """A factor of 1000 is asked for, and the answer is taken."""
    text = "date\tclose\n2019-01-01\t1,250\n2019-01-02\t1,300\n"
    with pytest.raises(SchemaError, match=r"prices\.csv: numbers like '1,250' may be 1250 or 1\.25"):
        _rows(text, tmp_path)
    assert _rows(text, tmp_path, form=Format(decimal=","))["price"].to_list() == [1.25, 1.3]
    assert _rows(text, tmp_path, form=Format(decimal="."))["price"].to_list() == [1250, 1300]


def test_what_is_guessed_is_said(tmp_path: Path) -> None:
    """Delimiter, decimal sign, columns, form of times and zone."""
    path = tmp_path / "prices.txt"
    path.write_text("Datum;Eröffnung;Close;Volume\n31.12.2019 10:00;1,5;2,5;7\n", encoding="cp1252")
    said = "\n".join(_read(path, form=Format(time_zone="Europe/Berlin")).said)
    for words in (
        "cp1252",
        "delimiter ';'",
        "decimal comma",
        "time: column 'Datum'",
        "price: column 'Close' (also numeric: Eröffnung, Volume)",
        "day first (31.12.2019 10:00), Europe/Berlin -> UTC",
    ):
        assert words in said


def test_local_times_carry_their_fold(tmp_path: Path) -> None:
    """An hour that comes twice and one that does not come reach the rows."""
    text = "time,price\n2019-10-27 02:30,1\n2019-10-27 02:30,2\n2019-03-31 02:30,3\n"
    rows = _rows(text, tmp_path, form=Format(time_zone="Europe/Berlin"))
    assert rows["fold"].to_list() == [timedelta(hours=1), timedelta(hours=1), timedelta(0)]
    assert rows["time"].to_list() == [datetime(2019, 10, 27, 0, 30, tzinfo=UTC)] * 2 + [None]
    assert "the clocks skip it" in rows["unreadable"][2]


def test_a_file_without_header_is_read_from_its_first_line(tmp_path: Path) -> None:
    """The first row is a row."""
    rows = _rows("20190102 170000;1.25;0\n20190102 170100;1.5;0\n", tmp_path)
    assert rows["line"].to_list() == [1, 2]
    assert rows["price"].to_list() == [1.25, 1.5]
    assert rows["time"][1] == datetime(2019, 1, 2, 17, 1, tzinfo=UTC)


def test_a_strange_byte_beyond_the_head_does_not_spoil_the_names(tmp_path: Path) -> None:
    """The whole file decides on the encoding, not its head."""
    text = "series_id,time,price\n" + "A,2019-01-01,1\n" * 100_000 + "Müller,2019-01-01,1\n"
    rows = _rows(text.encode("cp1252"), tmp_path)
    assert rows["series_id"][-1] == "Müller"


def test_wide_characters_without_a_mark_are_recognised(tmp_path: Path) -> None:
    """UTF-16 is known by its zero bytes, whichever comes first; a single zero byte is no sign of it."""
    text = "time,price\n2019-01-01,1\n2019-01-02,2\n"
    for encoding in ("utf-16-le", "utf-16-be"):
        assert _rows(text.encode(encoding), tmp_path)["price"].to_list() == [1, 2]
    assert _rows(text + "\0,3\n", tmp_path)["unreadable"].to_list() == [None, None, "time '\0'"]


def test_a_head_that_is_well_formed_does_not_bind_what_follows(tmp_path: Path) -> None:
    """A bad cell far beyond the sample is shown with its line."""
    text = "time,price\n" + "2019-01-01,1\n" * 30_000 + "2019-01-01,abc\n"
    rows = _rows(text, tmp_path)
    assert rows.filter(pl.col("unreadable").is_not_null()).select("line", "unreadable").rows() == [
        (30_002, "price 'abc'")
    ]


def test_files_are_found_in_folders_and_by_patterns(tmp_path: Path) -> None:
    """Folders are searched in order, strange files in them passed over, each file is found once."""
    for name in ("b.csv", "a.csv.gz", "sub/c.parquet", "sub/notes.md", ".hidden.csv", "x[1].csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = ["a.csv.gz", "b.csv", "sub/c.parquet", "x[1].csv"]
    assert find([str(tmp_path)]) == [tmp_path / name for name in names]
    assert find([str(tmp_path / "b.csv"), str(tmp_path / "**/*")]) == [
        tmp_path / n for n in ("b.csv", *names[:1], *names[2:])
    ]
    assert find([str(tmp_path / "x[1].csv")]) == [tmp_path / "x[1].csv"]


@pytest.mark.parametrize(
    ("path", "message"),
    [("none.csv", "looked from"), ("*.json", "looked from"), ("notes.md", r"Known: \.csv"), ("sub", r"Known: \.csv")],
)
def test_paths_that_lead_to_nothing_are_refused(tmp_path: Path, path: str, message: str) -> None:
    """The message says what was looked for, or which endings are known."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/x.gz").touch()
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataError, match=message):
        find([str(tmp_path / path)])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("a.csv", b"date,price\n", "header but no rows"),
        ("a.jsonl", b"7\n", "no JSON objects"),
        ("a.csv.gz", b"date,price\n2019-01-01,1\n", "cannot be read"),
        ("a.csv.xz", lzma.compress(b"date,price\n2019-01-01,1\n")[:-8], "cannot be read"),
        ("a.csv.zst", b"date,price\n2019-01-01,1\n", "cannot be read"),
        ("a.parquet", b"date,price\n2019-01-01,1\n", "cannot be read"),
        ("a.arrow", b"date,price\n2019-01-01,1\n", "cannot be read"),
        ("a.xls", b"", "ending"),
    ],
)
def test_files_that_hold_nothing_or_something_else_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """Empty and damaged files and those that are not what their ending says are named."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        _read(tmp_path / name)


def test_columns_of_other_types_are_refused(tmp_path: Path) -> None:
    """Truth values are no prices, and floats name no series."""
    time = pl.Series([_START])
    for columns in ({"time": time, "price": [True]}, {"time": time, "price": [1.0], "symbol": [1.5]}):
        pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
        with pytest.raises(SchemaError, match="must"):
            _read(tmp_path / "a.parquet")


def test_settings_out_of_range_are_refused() -> None:
    """Each message says what was expected."""
    for bad in ({"delimiter": ";;"}, {"decimal": "x"}, {"unit": "h"}, {"encoding": "klingon"}, {"time_zone": "Mars"}):
        with pytest.raises(ConfigError):
            Format(**bad)


def test_a_second_series_far_below_the_head_is_not_merged_into_the_first(tmp_path: Path) -> None:
    """A column of words that is constant in the sample and changes below it is asked for, as one that changes there."""
    days = pl.datetime_range(datetime(1970, 1, 1), datetime(2004, 1, 1), "1d", eager=True)
    table = pl.concat([pl.DataFrame({"Land": name, "day": days, "close": 1.5}) for name in ("Australia", "Brazil")])
    table.write_csv(tmp_path / "fx.csv")
    with pytest.raises(SchemaError, match=r"column 'Land' holds words \(.*ingest.columns.series_id = 'Land'"):
        _read(tmp_path / "fx.csv")
    table.filter(pl.col("Land") == "Brazil").write_csv(tmp_path / "brazil.csv")
    assert _read(tmp_path / "brazil.csv").rows.collect()["series_id"].unique().to_list() == ["brazil"]
