"""From the body of a request to lines of ticks: NDJSON, JSON or CSV, bounded while it arrives.

Comes in: chunks of bytes and their content type. Goes out: lines as `pipeline.ticks` reads them. A line that is no
tick is no error here. Imported by routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import orjson
from starlette.datastructures import Headers

from pipeline.limits import ServeConfig
from pipeline.refusals import RefusedError
from pipeline.ticks import is_csv

NDJSON, JSON, CSV = "application/x-ndjson", "application/json", "text/csv"

TYPES = (NDJSON, JSON, CSV)
"""Content types that are read."""

_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """The lines of one body."""

    head: bytes
    """What decides CSV or JSON: the first line that is not blank; empty is JSON."""
    lines: list[bytes]
    """Whole lines without LF."""


class Held:
    """The bytes of all bodies together that are held in memory."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Give a request its share; what it took is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.bytes -= share.bytes


class Share:
    """What one request holds."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.bytes = 0

    def take(self, count: int) -> None:
        """Take some more, or refuse."""
        if self.held.bytes + count > self.held.most:
            raise RefusedError(
                429, "memory_full", "the server holds as many bytes as it may. Send again later", {"Retry-After": "1"}
            )
        self.held.bytes += count
        self.bytes += count


def content_type(headers: Headers) -> str:
    """Find which of `TYPES` a body is, before any of it is read.

    Raises
    ------
    RefusedError
        415 for another type, another encoding than UTF-8, or a compressed body; 411 where no body is announced; 413
        when the announced length is above the bound of `read`, which the caller checks.
    """
    if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise RefusedError(
            415, "compressed", "expected a body that is not compressed. Send it without Content-Encoding"
        )
    kind, _, rest = headers.get("content-type", "").partition(";")
    charset = rest.partition("charset=")[2].partition(";")[0].strip().strip('"').lower()
    if kind.strip().lower() not in TYPES or charset not in {"", "utf-8", "utf8"}:
        raise RefusedError(415, "content_type", f"expected Content-Type {', '.join(TYPES[:-1])} or {CSV}, in UTF-8")
    if "content-length" not in headers and "transfer-encoding" not in headers:
        raise RefusedError(411, "length", "expected a body with a Content-Length or in chunks, and none was announced")
    return kind.strip().lower()


async def read(chunks: AsyncIterator[bytes], share: Share, limits: ServeConfig, announced: int) -> bytes:
    """Read a body; what a client announces is only ever used to refuse it sooner.

    Raises
    ------
    RefusedError
        413 above `body_bytes`, 429 when all bodies together are too large, 408 after `body_s`.
    """
    too_large = RefusedError(
        413, "body", f"expected a body of at most {limits.body_bytes} bytes. Send fewer ticks at a time"
    )
    if announced > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in chunks:
                if len(body) + len(chunk) > limits.body_bytes:
                    raise too_large
                share.take(len(chunk))
                body += chunk
    except TimeoutError:
        raise RefusedError(408, "slow", f"expected the whole body within {limits.body_s} s. Send it again") from None
    return bytes(body)


def cut(kind: str, body: bytes, most: int) -> Lines:
    """Cut a body into lines: one JSON object or an array of values gives a line each.

    Raises
    ------
    RefusedError
        413 above `most` lines; 400 for JSON that cannot be read as a whole, or CSV without a header.
    """
    body = body.removeprefix(_MARK)
    if kind == JSON:
        return Lines(head=b"", lines=_values(body, most))
    if body.count(b"\n") > most:
        raise _too_many(most)
    lines = body.split(b"\n")
    if not lines[-1]:
        del lines[-1]
    if len(lines) > most:
        raise _too_many(most)
    if kind == NDJSON:
        return Lines(head=b"", lines=lines)
    head = next((line for line in lines if line.strip()), b"")
    if head and not is_csv(head):
        raise RefusedError(400, "csv_header", "expected a CSV header with series, time and price as the first line")
    return Lines(head=head, lines=lines)


def _values(body: bytes, most: int) -> list[bytes]:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(
            400, "json", f"expected one JSON object or an array of objects: {error}. Nothing of it was taken"
        ) from None
    values = given if isinstance(given, list) else [given]
    if len(values) > most:
        raise _too_many(most)
    return [orjson.dumps(value) for value in values]


def _too_many(most: int) -> RefusedError:
    return RefusedError(413, "lines", f"expected at most {most} lines in a request. Send fewer ticks at a time")
