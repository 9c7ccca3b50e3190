"""A client of the service: send ticks until they are committed, once each; read forecasts and events.

Every request of ticks has an id. When a reply is lost, the same request goes again under the same id, and the server
gives the same answer without taking a line twice.

    with Client("http://127.0.0.1:8080", token) as client:
        for answer in client.send([("EURUSD=X", "2024-01-31T16:00:00Z", 1.0817)]):
            print(answer.forecasts[0]["median"])

Comes in: ticks. Goes out: answers. Knows the standard library and orjson only; imported by nobody here.
"""

from __future__ import annotations

import http.client
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson

from models.errors import ConfigError, DataError, ModelError, StatecastError, TransientError

Tick = tuple[str, str | int, float | None]
"""Series, time (ISO-8601 or whole microseconds since 1970), price; None says that none was published."""

_AGAIN = frozenset({408, 429, 502, 503, 504})
_MOST_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """Settings of a client."""

    lines: int = 1000
    """Ticks of one request, 1 to 1,000,000; the server has a bound of its own."""
    attempts: int = 8
    """Times that a request is sent at most, 1 to 1000."""
    first_wait_s: float = 0.1
    """Wait before the second attempt; each further one is twice as long, and half of it is chance."""
    longest_wait_s: float = 10.0
    """Longest wait, also where the server asks for a longer one."""
    timeout_s: float = 60.0
    """Seconds without a byte after which a connection counts as lost."""

    def __post_init__(self) -> None:
        ranges = {
            "lines": (1, 1_000_000),
            "attempts": (1, 1000),
            "first_wait_s": (0, 3600),
            "longest_wait_s": (0, 3600),
            "timeout_s": (0.001, 3600),
        }
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"client.{name} is {getattr(self, name)!r}; expected {least} to {most}")


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What came of one request of ticks."""

    request: str
    """The id under which it was sent."""
    accepted: int
    forecasts: list[dict[str, Any]]
    """One for each accepted tick, in the order of arrival; step s is for the s-th tick of that series after it."""
    refused: list[dict[str, Any]]
    """Dead letters; `line` counts the ticks of this request as the server does."""
    counts: dict[str, int]
    repeated: bool
    """Whether the server had answered this id before."""
    attempts: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """News from the server."""

    name: str
    data: Any


class Client:
    """A connection to a service, opened again whenever it is lost. For one thread.

    Parameters
    ----------
    url : str
        http://host:port or https://host:port.
    token : str, optional
        Bearer token.
    config : ClientConfig, optional
    """

    def __init__(self, url: str, token: str | None = None, *, config: ClientConfig | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
            raise ConfigError(f"client: {url!r} is no address of a service; expected http://host:port")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.config = config or ClientConfig()
        self._open = lambda: kind(parts.hostname or "", parts.port, timeout=self.config.timeout_s)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._connection: http.client.HTTPConnection | None = None
        self._chance = random.Random()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def send(self, ticks: Iterable[Tick], *, request: str | None = None) -> Iterator[Sent]:
        """Send ticks in requests of at most `lines`, in their order; each answer is given when it is committed.

        Parameters
        ----------
        ticks : iterable of (series, time, price)
        request : str, optional
            Beginning of the ids, which are counted from 0. Given again with the same ticks, after a crash of the
            sender, everything that was committed is answered as before and nothing is taken twice.

        Raises
        ------
        TransientError
            When the attempts are used up; the request may have been taken, and its id is in the message.
        DataError
            When the server refuses a request as a whole.
        ConfigError
            When the token or the address is refused.
        """
        begin, rest = request or uuid.uuid4().hex, iter(ticks)
        for number in count():
            some = list(islice(rest, self.config.lines))
            if not some:
                return
            lines = [orjson.dumps({"series": s, "time": t, "price": p}) for s, t, p in some]
            yield self._send(b"\n".join(lines) + b"\n", f"{begin}-{number}")

    def forecast(self, series: str) -> dict[str, Any] | None:
        """Give the last forecast of a series, None where there is none."""
        try:
            return orjson.loads(self._ask("GET", f"/forecasts/{quote(series, safe='')}")[2])
        except _MissingError:
            return None

    def series(self) -> Iterator[dict[str, Any]]:
        """Go through the series in the order of their first tick."""
        after: str | None = ""
        while after is not None:
            page = orjson.loads(self._ask("GET", f"/series?{urlencode({'after': after, 'limit': 1000})}")[2])
            yield from page["series"]
            after = page["next"]

    def status(self) -> dict[str, Any]:
        """Tell how the engine and the service do."""
        return orjson.loads(self._ask("GET", "/status")[2])

    def events(self, series: Iterable[str] = ()) -> Iterator[Event]:
        """Listen to events, and to the forecasts of some series, on a connection of its own until the server ends it.

        Raises
        ------
        TransientError
            When the connection is lost, or the server has too many listeners.
        """
        connection = self._open()
        try:
            path = f"/events?{urlencode([('series', name) for name in series])}"
            connection.request("GET", path, headers=self._headers)
            response = _whole(connection.getresponse())
            if response.status != 200:
                raise _refused(response.status, response.read(_MOST_BYTES), f"GET {path}")
            yield from _events(response)
        except (OSError, http.client.HTTPException) as error:
            raise TransientError(f"events: the connection was lost ({error!r}). Listen again") from error
        finally:
            connection.close()

    def _send(self, body: bytes, request: str) -> Sent:
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": request}
        attempts, replayed, data = self._ask("POST", "/ticks", body, headers)
        answer = orjson.loads(data)
        fields = {name: answer[name] for name in ("accepted", "forecasts", "refused", "counts")}
        return Sent(request=request, repeated=replayed, attempts=attempts, **fields)

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bool, bytes]:
        """Send a request until it is answered: attempts, whether the answer is a repeated one, and its body.

        All requests may be sent again: those that read, and those that carry an id.
        """
        what = f"{method} {path} {(headers or {}).get('Idempotency-Key', '')}".strip()
        for attempt in count(1):
            asked = 0.0
            try:
                response, data = self._exchange(method, path, body, headers or {})
                if response.status == 200:
                    return attempt, response.headers.get("Idempotency-Replayed") == "true", data
                last: StatecastError = _refused(response.status, data, what)
                if response.status not in _AGAIN:
                    raise last
                asked = _seconds(response.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException) as error:
                last = TransientError(f"{what}: no answer after {attempt} attempts ({error!r}). Send it again")
                last.__cause__ = error
            self.close()
            if attempt == self.config.attempts:
                raise last
            time.sleep(self._wait(attempt, asked))
        raise AssertionError("a count has no end")

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        if self._connection is None:
            self._connection = self._open()
        try:
            self._connection.request(method, path, body, headers=self._headers | headers)
        except (BrokenPipeError, ConnectionResetError):
            # the server may have refused the body before its end: its answer says why
            if self._connection.sock is None:
                raise
        response = _whole(self._connection.getresponse())
        data = response.read()
        if response.will_close:
            self.close()
        return response, data

    def _wait(self, attempt: int, asked: float) -> float:
        """Give the wait after an attempt: twice as long each time, half of it chance, and never under what is asked."""
        longest = self.config.longest_wait_s
        own = min(longest, self.config.first_wait_s * 2.0 ** (attempt - 1)) * self._chance.uniform(0.5, 1)
        return min(longest, max(own, asked))


class _MissingError(DataError):
    """There is none of that name."""


def _whole(response: http.client.HTTPResponse) -> http.client.HTTPResponse:
    """Refuse an answer whose headers broke off: the standard library takes their end for the end of the answer."""
    if response.length is None and not response.chunked:
        raise http.client.IncompleteRead(b"")
    return response


def _refused(status: int, data: bytes, what: str) -> StatecastError:
    """Turn a refusal into the error that its status means."""
    try:
        told = orjson.loads(data)["sentence"]
    except (ValueError, KeyError, TypeError):
        told = data[:200].decode("utf-8", "replace")
    message = f"{what}: refused with {status}: {told}"
    if status in _AGAIN:
        return TransientError(message)
    if status in {401, 403}:
        return ConfigError(message)
    if status >= 500:
        return ModelError(message)
    return (_MissingError if status == 404 else DataError)(message)


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else 0.0


def _events(response: http.client.HTTPResponse) -> Iterator[Event]:
    """Read events as they come; comments and the wait for another try are passed over."""
    name = ""
    while line := response.readline():
        field_, _, value = line.rstrip(b"\r\n").partition(b": ")
        if field_ == b"event":
            name = value.decode()
        elif field_ == b"data":
            yield Event(name=name, data=orjson.loads(value))
