"""Vendors: bars from Yahoo Finance and from crypto exchanges, as rows for ingest.

What leaks or misleads at these sources is settled here, and `Fetched.said` tells it:

- The bar that is still forming is dropped: its price is not the one that the bar will have.
- An intraday bar stands at its *end*, the moment at which it is known. So does every bar of an exchange, which never
  closes: its day D stands at D + 1, 00:00 UTC. A daily bar of Yahoo stands at the date of its session; it is known 24
  hours after that day began at the exchange (`available_time`).
- Yahoo's `Close` is adjusted for every split up to today, so that a price fetched next year is another number. The
  splits are undone: prices are as traded, and each split is a factor that prices before it are multiplied by when
  read. Yahoo keeps prices in float32; digits beyond the seventh are noise and are rounded away. Dividends stay out.

Comes in: symbols and a `VendorConfig`. Goes out: `Fetched`. The one file that knows yfinance and ccxt, which are
imported when they are asked; knows polars; imported by sources. Nothing is tried twice: that is the flow's business.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from importlib import import_module
from typing import Any

import polars as pl

from models.errors import ConfigError, DataError, TransientError, unknown
from pipeline import clock
from pipeline.rows import READ, UTC_TIME

YAHOO_INTERVALS = ("1m", "2m", "5m", "15m", "30m", "60m", "90m", "1h", "1d")
"""Lengths of a bar that Yahoo gives and that are always equally long."""

PAGE = 1000
"""Bars asked for in one request to an exchange, which may give fewer."""

FACTORS = pl.Schema({"series_id": pl.String, "time": UTC_TIME, "available_time": UTC_TIME, "factor": pl.Float64})
"""Columns of the splits: prices before `time` are multiplied by `factor`, 0.25 for four new shares for one."""

_VALUES = ("open", "high", "low", "volume")
_PRICES = ("open", "high", "low", "price")
_BAR = ("open", "high", "low", "price", "volume")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_DIGITS = 7


@dataclass(frozen=True, kw_only=True)
class VendorConfig:
    """What to ask a vendor for.

    Attributes
    ----------
    start : str
        First time taken, ISO-8601, UTC where no offset stands.
    end : str or None
        Bars at this time and later are left out; by default everything up to now is taken.
    interval : str
        Length of a bar, a count and one of m, h, d, such as 5m, 1h or 1d. Yahoo has 1m of the last week only, bars
        of minutes for 60 days and of hours for two years.
    exchange : str
        Name of the exchange as ccxt has it; Yahoo does not look at it.
    limit : int
        Most bars of one pair that are taken from an exchange.

    Raises
    ------
    ConfigError
        On construction, when a field is outside its range.
    """

    start: str = "2015-01-01"
    end: str | None = None
    interval: str = "1d"
    exchange: str = "binance"
    limit: int = 100_000

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d{0,3}[mhd]", self.interval):
            raise ConfigError(f"interval must be a count and one of m, h, d, such as 1h or 1d, not {self.interval!r}")
        if self.limit < 1:
            raise ConfigError(f"limit must be at least 1 bar, not {self.limit}")
        if self.end is not None and clock.moment(self.start, "start") >= clock.moment(self.end, "end"):
            raise ConfigError(f"start must lie before end, got {self.start!r} and {self.end!r}")
        clock.moment(self.start, "start")

    @property
    def bar(self) -> timedelta:
        """Length of a bar."""
        return int(self.interval[:-1]) * _UNITS[self.interval[-1]]

    @property
    def wanted(self) -> pl.Expr:
        """The rows whose `time` lies in the span asked for."""
        late = pl.lit(False) if self.end is None else pl.col("time") >= clock.moment(self.end, "end")
        return (pl.col("time") >= clock.moment(self.start, "start")) & ~late


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a vendor gave.

    Attributes
    ----------
    rows : DataFrame
        Columns of `pipeline.rows.READ`, then `open`, `high`, `low` and `volume`; `price` is the close. Prices in the
        currency of the symbol, volume in shares or coins, both as traded. `line` counts the rows from 1.
    factors : DataFrame
        Splits, columns `FACTORS`.
    said : tuple of str
        What was taken, dropped and undone.
    """

    rows: pl.DataFrame
    factors: pl.DataFrame
    said: tuple[str, ...]


def yahoo(symbols: Sequence[str], config: VendorConfig, *, session: Any = None, now: datetime | None = None) -> Fetched:
    """Fetch bars of stocks, indices, funds, currencies or coins from Yahoo Finance.

    Parameters
    ----------
    symbols : sequence of str
        As Yahoo writes them: AAPL, ^GSPC, EURUSD=X.
    config : VendorConfig
    session : curl_cffi or requests session, optional
        What carries the requests; by default yfinance makes one.
    now : datetime, optional
        Bars that end later are still forming; by default the clock is looked at.

    Raises
    ------
    ConfigError
        When yfinance is not installed, or Yahoo has no such interval.
    DataError
        When Yahoo knows no prices of a symbol; the message names it.
    TransientError
        When Yahoo does not answer, or has had too many requests.
    """
    library = _library("yfinance")
    if config.interval not in YAHOO_INTERVALS:
        raise ConfigError(unknown("interval of Yahoo", config.interval, YAHOO_INTERVALS))
    library.config.debug.hide_exceptions = False  # else trouble in the network looks like a symbol without prices
    moment, daily, said, parts, factors = now or datetime.now(UTC), config.interval == "1d", [], [], []
    for symbol in symbols:
        bars = _as_traded(_history(library, symbol, config, session))
        end = pl.col("start") + config.bar
        bars = bars.with_columns(time="session" if daily else end, available_time=end)
        taken, words = _finished(bars, f"yahoo {symbol}", config, moment)
        parts.append((symbol, taken))
        factors.append(_splits(bars.filter(config.wanted), symbol, "session" if daily else "start"))
        said.append(words)
    said.append(
        "yahoo: prices are as traded, splits undone and given as factors; dividends are not taken into account; "
        + ("a daily bar stands at the date of its session" if daily else "a bar stands at its end")
    )
    return Fetched(rows=_rows(parts), factors=pl.concat(factors, how="vertical"), said=tuple(said))


def exchange(pairs: Sequence[str], config: VendorConfig, *, client: Any = None, now: datetime | None = None) -> Fetched:
    """Fetch bars of pairs such as BTC/USDT from an exchange, page after page, no faster than it allows.

    Parameters
    ----------
    pairs : sequence of str
        As ccxt writes them.
    config : VendorConfig
    client : ccxt exchange, optional
        By default one is made of `config.exchange`.
    now : datetime, optional
        Bars that end later are still forming; by default the clock is looked at.

    Raises
    ------
    ConfigError
        When ccxt is not installed, or knows no such exchange, or that has no such interval.
    DataError
        When the exchange has no such pair, or no bars of it in the span asked for.
    TransientError
        When the exchange does not answer, or has had too many requests.
    """
    library = _library("ccxt")
    if client is None:
        if config.exchange not in library.exchanges:
            raise ConfigError(unknown("exchange", config.exchange, library.exchanges))
        client = getattr(library, config.exchange)({"enableRateLimit": True})
    if config.interval not in (client.timeframes or {}):
        raise ConfigError(unknown(f"interval of {client.id}", config.interval, client.timeframes or {}))
    moment, said, parts = now or datetime.now(UTC), [], []
    with _answers(library, client.id):
        client.load_markets()
        for pair in pairs:
            _listed(client, pair)
            end = pl.col("start") + config.bar
            bars = _pages(client, pair, config, moment).with_columns(time=end, available_time=end)
            taken, words = _finished(bars, f"{client.id} {pair}", config, moment)
            parts.append((pair, taken))
            said.append(words + ("; there may be more: limit reached" if bars.height == config.limit else ""))
    said.append(f"{client.id}: a bar stands at its end, in UTC; that of a day at the midnight after it")
    return Fetched(rows=_rows(parts), factors=FACTORS.to_frame(), said=tuple(said))


def _library(name: str) -> Any:
    """Import an optional library."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed ({error}). Run: pip install 'statecast[vendors]'") from error


def _history(library: Any, symbol: str, config: VendorConfig, session: Any) -> pl.DataFrame:
    """Fetch the bars of a symbol up to now, whatever end is wanted: later splits are in their prices.

    Asked from a day before the start, since sessions east of Greenwich begin on the day before in UTC.

    Returns
    -------
    DataFrame
        `start` and `session` (the date of the session at the exchange), open, high, low, price, volume, and `split`,
        new shares for an old one, 0 on most days.
    """
    begin = clock.moment(config.start, "start") - timedelta(days=1)
    try:
        ticker = library.Ticker(symbol, session=session)
        table = ticker.history(start=begin, interval=config.interval, auto_adjust=False, actions=True, keepna=True)
    except (library.exceptions.YFException, json.JSONDecodeError, OSError) as error:  # all of HTTP's are an OSError
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == HTTPStatus.NOT_FOUND or isinstance(error, library.exceptions.YFTickerMissingError):
            raise DataError(
                f"Yahoo has no prices of {symbol!r} in bars of {config.interval} since {config.start} ({error}). Look "
                "the symbol up on finance.yahoo.com, or ask for a later start"
            ) from error
        raise TransientError(f"Yahoo did not answer for {symbol!r} ({error!r}). Try again later") from error
    names = {
        "open": "Open",
        "high": "High",
        "low": "Low",
        "price": "Close",
        "volume": "Volume",
        "split": "Stock Splits",
    }
    local = table.index.tz_localize(None).as_unit("us")
    times = {"start": table.index.as_unit("us").tz_convert("UTC").tz_localize(None), "session": local.normalize()}
    columns = {name: time.to_numpy() for name, time in times.items()}
    columns |= {ours: table[theirs].to_numpy(dtype="float64") for ours, theirs in names.items()}
    utc = pl.col(*times).dt.replace_time_zone("UTC")
    return pl.DataFrame(columns).with_columns(utc, pl.col(*_BAR).fill_nan(None))


def _as_traded(bars: pl.DataFrame) -> pl.DataFrame:
    """Undo in each bar the splits that came after it."""
    split = pl.when(pl.col("split") > 0).then("split").otherwise(1.0)
    later = split.cum_prod(reverse=True).shift(-1, fill_value=1.0)
    return bars.with_columns((pl.col(*_PRICES) * later).round_sig_figs(_DIGITS), (pl.col("volume") / later).round())


def _splits(bars: pl.DataFrame, symbol: str, time: str) -> pl.DataFrame:
    """Take the splits as factors, known when the session begins."""
    columns = {"series_id": pl.lit(symbol), "time": time, "available_time": "start", "factor": 1 / pl.col("split")}
    return bars.filter(pl.col("split") > 0).select(**columns)


@contextmanager
def _answers(library: Any, name: str) -> Iterator[None]:
    """Turn ccxt's errors into ours."""
    try:
        yield
    except library.OperationFailed as error:
        raise TransientError(f"{name} did not answer ({error!r:.300}). Try again later") from error
    except library.BaseError as error:
        raise DataError(f"{name} refused what was asked ({error!r:.300}). Check the pair and the interval") from error


def _listed(client: Any, pair: str) -> None:
    if pair not in client.markets:
        nearest = difflib.get_close_matches(pair, client.markets, n=5, cutoff=0.3)
        raise DataError(f"{client.id} has no pair {pair!r}; nearest: {', '.join(nearest) or 'none'}. Name one of them")


def _pages(client: Any, pair: str, config: VendorConfig, now: datetime) -> pl.DataFrame:
    """Fetch bars from the start on until the end, the limit, or a page without bars.

    Returns
    -------
    DataFrame
        `start`, open, high, low, price, volume; ascending, each bar once.
    """
    bar = config.bar // timedelta(milliseconds=1)
    until = _milliseconds(now if config.end is None else clock.moment(config.end, "end"))
    since, bars = _milliseconds(clock.moment(config.start, "start")) - bar, []
    while since < until and len(bars) < config.limit:
        page = client.fetch_ohlcv(pair, config.interval, since, PAGE)  # ccxt sorts, and drops what lies before since
        if not page:
            break
        bars += page
        since = page[-1][0] + bar
    schema = {"start": pl.Int64} | dict.fromkeys(_BAR, pl.Float64)
    table = pl.DataFrame(bars[: config.limit], schema=schema, orient="row")
    return table.with_columns((pl.col("start") * 1000).cast(pl.Datetime("us", "UTC")))


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _finished(bars: pl.DataFrame, who: str, config: VendorConfig, now: datetime) -> tuple[pl.DataFrame, str]:
    """Take the bars that were wanted and are no longer forming; say how many, and from when to when."""
    wanted = bars.filter(config.wanted)
    taken = wanted.filter(pl.col("available_time") <= now)
    if taken.is_empty():
        raise DataError(
            f"{who}: no finished bar of {config.interval} from {config.start} to {config.end or 'now'}. Ask for "
            "another span: bars may begin later"
        )
    first, last = taken["time"][0], taken["time"][-1]
    words = f"{who}: {taken.height} bars of {config.interval}, {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    forming = wanted.height - taken.height
    return taken, words + (f"; {forming} left out that was still forming" if forming else "")


def _rows(parts: list[tuple[str, pl.DataFrame]]) -> pl.DataFrame:
    """Lay the bars of all symbols out as ingest takes them."""
    named = [bars.with_columns(series_id=pl.lit(name)) for name, bars in parts]
    rows = pl.concat(named, how="diagonal").with_row_index("line", offset=1)
    blank = {"file": pl.lit(0), "fold": pl.lit(timedelta(0)), "unreadable": pl.lit(None)}
    return rows.with_columns(**blank).select(*(pl.col(n).cast(t) for n, t in READ.items()), *_VALUES)
