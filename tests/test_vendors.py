"""Bars of vendors: what leaks is dropped, times say when a price is known, splits are undone.

No network: the libraries' own code runs on the answers in `recorded`, which a real HTTP session is given.
"""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import ccxt
import orjson
import polars as pl
import pytest
import requests
import yfinance
from requests.adapters import BaseAdapter

from models.errors import ConfigError, DataError, TransientError
from pipeline.rows import READ
from pipeline.vendors import FACTORS, VendorConfig, exchange, yahoo

RECORDED = Path(__file__).parent / "recorded"
SINCE = VendorConfig(start="2020-08-27", interval="1d")
HOURS = VendorConfig(start="2020-01-01", interval="1h")
# yfinance 1.7 sorts in place, which pandas 3.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")

LATER = datetime(2026, 1, 1, tzinfo=UTC)


def recorded(name: str) -> bytes:
    """Read an answer."""
    return (RECORDED / f"{name}.json").read_bytes()


class Wire(BaseAdapter):
    """Answer requests from files instead of the network; `down` answers nothing, `code` another status."""

    def __init__(self, *, down: bool = False, code: int = 200) -> None:
        super().__init__()
        self.down, self.code = down, code
        self.asked: list[str] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Answer one request."""
        assert request.url is not None
        self.asked.append(request.url)
        if self.down:
            raise requests.exceptions.ConnectionError(f"no route to {request.url}", request=request)
        response = requests.Response()
        response.url, response.request, parts = request.url, request, urlsplit(request.url)
        response.status_code, body = self.answer(parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()})
        response.reason, response.raw = HTTPStatus(response.status_code).phrase, io.BytesIO(body)
        response.headers["Content-Type"] = "application/json"
        return response

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        """Find the status and the body for a path."""
        if self.code != HTTPStatus.OK:
            return self.code, b'{"code":-1003,"msg":"Too many requests."}'
        if path.endswith("/chart/AAPL"):
            return self.code, recorded(f"yahoo_AAPL_{query['interval']}")
        if "/chart/" in path or "/finance/quote" in path:
            return 404, recorded("yahoo_unknown")
        if path == "/api/v3/exchangeInfo":
            return self.code, recorded("binance_exchangeInfo")
        if path == "/api/v3/klines":
            bars = orjson.loads(recorded("binance_klines_BTCUSDT_1h"))
            later = [b for b in bars if b[0] >= int(query["startTime"])]
            return self.code, orjson.dumps(later[: self.page] if self.heeds else bars)
        return self.code, b'{"symbols":[]}' if "exchangeInfo" in path else b""

    heeds = True
    """Whether the exchange looks at the start that is asked for."""

    page = 2
    """Bars that the exchange gives at once, fewer than are asked for."""

    def close(self) -> None:
        """Nothing is open."""


def wired(wire: Wire) -> requests.Session:
    """Make a session whose requests end in `wire`."""
    session = requests.Session()
    session.mount("https://", wire)
    return session


def binance(wire: Wire) -> Any:
    """Make ccxt's exchange with such a session."""
    client = ccxt.binance({"enableRateLimit": True})
    client.session = wired(wire)
    return client


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path) -> Iterator[None]:
    """Keep yfinance's memory of time zones and cookies inside the test, and its log quiet."""
    yfinance.set_tz_cache_location(str(tmp_path))
    logging.getLogger("yfinance").disabled = True
    data = yfinance.data.YfData()
    data.cache_get.cache_clear()
    data._cookie = data._crumb = None
    yield
    logging.getLogger("yfinance").disabled = False


def test_yahoo_prices_are_as_traded_and_the_split_is_a_factor() -> None:
    """Before the 4:1 split the closes are those of the day (500.04, 499.23), and the factor brings them back."""
    got = yahoo(["AAPL"], SINCE, session=wired(Wire()), now=LATER)
    assert got.rows["price"].to_list() == [500.04, 499.23, 129.04, 134.18, 131.4]
    assert got.rows["open"].to_list()[:3] == [508.57, 504.05, 127.58]
    assert got.rows["volume"].to_list()[:3] == [38_888_100, 46_907_500, 225_702_700]
    assert got.factors.schema == FACTORS
    split = datetime(2020, 8, 31, tzinfo=UTC)
    assert got.factors.select("series_id", "time", "factor").rows() == [("AAPL", split, 0.25)]
    adjusted = got.rows.select(pl.when(pl.col("time") < split).then(pl.col("price") * 0.25).otherwise("price"))
    assert adjusted.to_series().to_list() == pytest.approx([125.01, 124.8075, 129.04, 134.18, 131.4])


def test_a_split_after_the_end_is_still_undone() -> None:
    """Prices up to before the split are as traded, though no row and no factor of the split is given."""
    got = yahoo(["AAPL"], VendorConfig(start="2020-08-27", end="2020-08-31"), session=wired(Wire()), now=LATER)
    assert got.rows["price"].to_list() == [500.04, 499.23]
    assert got.factors.height == 0


def test_a_session_stands_at_its_date_and_is_known_when_its_day_is_over() -> None:
    """The rows are those that ingest takes: midnight UTC of the session, known 24 hours after New York's midnight."""
    got = yahoo(["AAPL"], SINCE, session=wired(Wire()), now=LATER)
    assert dict(list(got.rows.schema.items())[: len(READ)]) == dict(READ)
    assert got.rows.columns[len(READ) :] == ["open", "high", "low", "volume"]
    assert got.rows["line"].to_list() == [1, 2, 3, 4, 5]
    first = got.rows.row(0, named=True)
    assert first["time"] == datetime(2020, 8, 27, tzinfo=UTC)
    assert first["available_time"] == datetime(2020, 8, 28, 4, tzinfo=UTC)
    assert any("dividends are not" in words for words in got.said)


@pytest.mark.parametrize(("hour", "count"), [(20, 4), (23, 4), (28, 5)])
def test_the_session_of_today_is_left_out_until_its_day_is_over(hour: int, count: int) -> None:
    """On 2 September, during and after the session, its bar may still change; from midnight in New York it is taken."""
    now = datetime(2020, 9, 2 + hour // 24, hour % 24, tzinfo=UTC)
    got = yahoo(["AAPL"], SINCE, session=wired(Wire()), now=now)
    assert got.rows.height == count
    assert ("1 left out that was still forming" in got.said[0]) == (count == 4)


def test_an_intraday_bar_stands_at_its_end() -> None:
    """The bar of 9:30 in New York is known, and stands, at 10:30; the one of 10:30 is not there at 11."""
    config = VendorConfig(start="2020-09-01", interval="1h")
    got = yahoo(["AAPL"], config, session=wired(Wire()), now=datetime(2020, 9, 2, 15, tzinfo=UTC))
    assert got.rows["time"].to_list()[-1] == datetime(2020, 9, 2, 14, 30, tzinfo=UTC)
    assert got.rows["time"].equals(got.rows["available_time"], check_names=False)
    assert got.rows["price"].to_list()[-1] == 136.01


def test_a_symbol_that_yahoo_does_not_know_is_named() -> None:
    """A symbol before it does not hide it, and it is no trouble of the network, however often it is asked for."""
    for symbol in ("AAPPL", "GOOOG", "MFST"):
        with pytest.raises(DataError, match=rf"Yahoo has no prices of '{symbol}'"):
            yahoo(["AAPL", symbol], SINCE, session=wired(Wire()), now=LATER)


@pytest.mark.parametrize("wire", [Wire(down=True), Wire(code=429)], ids=["down", "too many requests"])
def test_trouble_in_the_network_is_transient(wire: Wire) -> None:
    """The flow may try again; a vendor that does not answer is not a symbol without prices."""
    with pytest.raises(TransientError, match="Yahoo did not answer"):
        yahoo(["AAPL"], SINCE, session=wired(wire), now=LATER)
    with pytest.raises(TransientError, match="binance did not answer"):
        exchange(["BTC/USDT"], HOURS, client=binance(wire), now=LATER)


def test_bars_of_an_exchange_are_paged_and_stand_at_their_end() -> None:
    """Pages are put together, each bar once; hour 0 stands at 1:00, when its close is known."""
    wire = Wire()
    got = exchange(["BTC/USDT"], HOURS, client=binance(wire), now=datetime(2020, 1, 1, 4, tzinfo=UTC))
    assert sum("klines" in url for url in wire.asked) == 2
    assert got.rows["price"].to_list() == [7177.02, 7216.27, 7242.85, 7209.83]
    assert got.rows["time"].to_list() == [datetime(2020, 1, 1, hour, tzinfo=UTC) for hour in (1, 2, 3, 4)]
    assert got.rows["volume"][0] == pytest.approx(511.814901)
    assert got.rows["series_id"].unique().to_list() == ["BTC/USDT"]
    assert got.factors.height == 0


def test_an_exchange_that_gives_the_same_bars_again_ends_the_pages() -> None:
    """Some exchanges give their latest bars whatever start is asked for: each is taken once, and the asking ends."""
    wire = Wire()
    wire.heeds = False
    got = exchange(["BTC/USDT"], HOURS, client=binance(wire), now=LATER)
    assert got.rows["time"].dt.hour().to_list() == [1, 2, 3, 4]
    assert sum("klines" in url for url in wire.asked) == 2


def test_the_forming_bar_of_an_exchange_is_dropped_and_said() -> None:
    """At 3:59 the bar that began at 3:00 has a price, which is not its close."""
    got = exchange(["BTC/USDT"], HOURS, client=binance(Wire()), now=datetime(2020, 1, 1, 3, 59, tzinfo=UTC))
    assert got.rows["price"].to_list() == [7177.02, 7216.27, 7242.85]
    assert "3 bars of 1h" in got.said[0]
    assert "1 left out that was still forming" in got.said[0]


def test_the_limit_bounds_what_is_asked_for_and_is_said() -> None:
    """With a limit of one page nothing further is fetched."""
    wire = Wire()
    config = VendorConfig(start="2020-01-01", interval="1h", limit=2)
    got = exchange(["BTC/USDT"], config, client=binance(wire), now=LATER)
    assert (got.rows.height, sum("klines" in url for url in wire.asked)) == (2, 1)
    assert "limit reached" in got.said[0]


def test_a_pair_that_is_not_listed_gets_the_nearest() -> None:
    """The message names the pair and the one that was meant."""
    with pytest.raises(DataError, match=r"binance has no pair 'BTC/USTD'; nearest: BTC/USDT"):
        exchange(["BTC/USTD"], HOURS, client=binance(Wire()), now=LATER)


def test_a_span_without_bars_is_refused() -> None:
    """Nothing is not taken for an answer."""
    config = VendorConfig(start="2021-01-01", end="2021-02-01", interval="1h")
    with pytest.raises(DataError, match="no finished bar of 1h from 2021-01-01 to 2021-02-01"):
        exchange(["BTC/USDT"], config, client=binance(Wire()), now=LATER)


def test_wrong_settings_are_refused_with_what_is_right() -> None:
    """Interval, span, limit, exchange: each message names the choices."""
    with pytest.raises(ConfigError, match="count and one of m, h, d"):
        VendorConfig(interval="1wk")
    with pytest.raises(ConfigError, match="start must lie before end"):
        VendorConfig(start="2020-01-02", end="2020-01-01")
    with pytest.raises(ConfigError, match="start: expected a time of ISO 8601"):
        VendorConfig(start="yesterday")
    with pytest.raises(ConfigError, match="at least 1 bar"):
        VendorConfig(limit=0)
    with pytest.raises(ConfigError, match="unknown interval of Yahoo '4h'"):
        yahoo(["AAPL"], VendorConfig(interval="4h"), session=wired(Wire()))
    with pytest.raises(ConfigError, match="unknown exchange 'binanse': did you mean 'binance'"):
        exchange(["BTC/USDT"], VendorConfig(exchange="binanse"))
    with pytest.raises(ConfigError, match="unknown interval of binance '7h'"):
        exchange(["BTC/USDT"], VendorConfig(interval="7h"), client=binance(Wire()))


def test_a_missing_library_says_what_to_install() -> None:
    """Without the extra packages the module imports, and a call says how to get them."""
    code = (
        "import sys; sys.modules['ccxt'] = sys.modules['yfinance'] = None\n"
        "from models.errors import ConfigError\n"
        "from pipeline.vendors import VendorConfig, exchange, yahoo\n"
        "for ask in (yahoo, exchange):\n"
        "    try: ask(['A'], VendorConfig())\n"
        "    except ConfigError as error: assert \"pip install 'statecast[vendors]'\" in str(error)\n"
        "    else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
