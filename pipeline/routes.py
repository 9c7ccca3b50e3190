"""The routes of the service: ticks in, forecasts, series, events and measurements out.

Comes in: requests that the gate let through. Goes out: responses. The only file that knows FastAPI; imported by serve.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import DataError, StatecastError
from pipeline import openapi
from pipeline.bodies import NDJSON, Held, Lines, content_type, cut, read
from pipeline.desk import Answered, AwayError, CrowdedError, Desk, Standing
from pipeline.exposition import CONTENT_TYPE, Exposition
from pipeline.limits import ServeConfig
from pipeline.lines import Block
from pipeline.news import Listener, News
from pipeline.refusals import RefusedError

T = TypeVar("T")

NAME_CHARS = 64
"""Longest name of a series."""

PAGE = 1000
"""Most series on one page."""

INLINE = 65_536
"""Bodies up to this many bytes are cut at once; larger ones in another thread, so that no request waits for them."""

_KEY = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the routes answer from."""

    desk: Desk
    events: News
    exposition: Exposition
    limits: ServeConfig
    held: Held
    connections: Callable[[], dict[str, int]]
    """Counts of connections by what became of them."""


def application(service: Service) -> FastAPI:
    """Build the routes. Pages of documentation are left out: they would load scripts from elsewhere."""
    app = FastAPI(title="statecast", docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False)
    _add_ticks(app, service)
    _add_reads(app, service)
    _add_news(app, service)
    _add_probes(app, service)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(StatecastError, _failed)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _unrouted)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


def _add_ticks(app: FastAPI, service: Service) -> None:
    desk, limits = service.desk, service.limits

    @app.post(
        "/ticks",
        summary="Take in ticks: a forecast for each, a dead letter for each line that is none",
        response_class=Response,
        responses=openapi.responses("All lines are committed", openapi.ANSWER, 408, 409, 411, 413, 415, 429, 500, 503),
        openapi_extra=openapi.POST_TICKS,
    )
    async def ticks(request: Request) -> Response:
        kind, key = content_type(request.headers), _key(request)
        if desk.standing is not Standing.READY:
            raise AwayError(f"the engine is {desk.standing.value}; expected it ready. Send again later")
        if desk.full():
            raise CrowdedError("as many requests or lines are waiting as may. Send again later")
        with service.held.share() as share:
            announced = int(request.headers.get("content-length", "0"))
            try:
                body = await read(request.stream(), share, limits, announced)
            except ClientDisconnect:
                raise RefusedError(400, "disconnected", "the connection ended before the body. Send it again") from None
            if len(body) > INLINE:
                lines = await asyncio.to_thread(cut, kind, body, limits.request_lines)
            else:
                lines = cut(kind, body, limits.request_lines)
            answer = await asyncio.wrap_future(desk.post(_block(lines, key)))
        return _given(answer, NDJSON in request.headers.get("accept", ""))


def _add_reads(app: FastAPI, service: Service) -> None:
    @app.get(
        "/forecasts/{series:path}",
        summary="The last forecast of a series",
        response_class=Response,
        responses=openapi.responses("The forecast after its last tick", openapi.FORECAST, 404, 503),
    )
    async def forecast(series: str) -> Response:
        line = None
        if len(series) <= NAME_CHARS:
            line = await _asked(service.desk.ask(lambda engine: engine.latest(series)))
        if line is None:
            raise RefusedError(
                404, "series", f"series {series[:NAME_CHARS]!r} has no forecast. See /series for those there are"
            )
        return Response(line, media_type="application/json")

    @app.get(
        "/series",
        summary="The series in the order of their first tick",
        response_class=Response,
        responses=openapi.responses("A page of series", openapi.SERIES, 503),
    )
    async def series(
        after: Annotated[str, Query(max_length=NAME_CHARS, description="The name before the page")] = "",
        limit: Annotated[int, Query(ge=1, le=PAGE, description="Most series on the page")] = 100,
    ) -> Response:
        page = await _asked(service.desk.ask(lambda engine: engine.listed(after, limit)))
        return _json({"series": page, "next": page[-1]["name"] if len(page) == limit else None})

    @app.get(
        "/status",
        summary="How the engine and the service do",
        response_class=Response,
        responses=openapi.responses("The status", openapi.STATUS, 503),
    )
    async def status() -> Response:
        standing, queue = service.desk.standing.value, _queue(service)
        return _json({"standing": standing, **queue, "engine": await _status(service.desk)})


def _add_news(app: FastAPI, service: Service) -> None:
    @app.get(
        "/events",
        summary="Server-sent events: swap, drift, rejects, and forecasts of the series that are named",
        response_class=Response,
        responses=openapi.responses("A stream of events", openapi.EVENTS, 503),
    )
    async def events(
        series: Annotated[list[str], Query(max_length=1000, description="Series whose forecasts are told")] = [],  # noqa: B006
    ) -> Response:
        listener = service.events.join(frozenset(series))
        return StreamingResponse(_told(service.events, listener), media_type="text/event-stream")

    @app.get(
        "/metrics",
        summary="Measurements for Prometheus",
        response_class=Response,
        responses=openapi.responses("Measurements", openapi.METRICS),
    )
    async def metrics() -> Response:
        gauges = _queue(service)  # before the engine is asked, for it answers between batches, when the queue is short
        text = service.exposition.render(service.desk.standing, await _status(service.desk), gauges)
        return Response(text, media_type=CONTENT_TYPE)


def _add_probes(app: FastAPI, service: Service) -> None:
    probe: dict[str, Any] = {"response_class": Response, "openapi_extra": {"security": []}}

    @app.get(
        "/healthz",
        summary="Whether the process answers",
        responses=openapi.responses("It does", openapi.STANDING),
        **probe,
    )
    async def healthz() -> Response:
        return _json({"standing": service.desk.standing.value})

    @app.get(
        "/readyz",
        summary="Whether ticks are taken",
        responses=openapi.responses("They are", openapi.STANDING, 503),
        **probe,
    )
    async def readyz() -> Response:
        standing = service.desk.standing
        if standing is not Standing.READY:
            raise RefusedError(
                503, standing.value, f"the engine is {standing.value}; expected it ready", {"Retry-After": "1"}
            )
        return _json({"standing": standing.value})


class Measured:
    """Count every answer, those of the gate among them, by route and status."""

    def __init__(self, app: ASGIApp, exposition: Exposition) -> None:
        self.app, self.exposition = app, exposition

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        begun, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.exposition.answered(route, status, time.perf_counter() - begun)


def _block(lines: Lines, key: str | None) -> Block:
    """Give lines that cannot be read again."""
    return Block(partition="http", lines=lines.lines, head=lines.head, first=0, position=None, request=key)


def _key(request: Request) -> str | None:
    """Read the id of a request."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise RefusedError(
            400, "idempotency_key", "expected one Idempotency-Key of 1 to 128 printable ASCII characters"
        )
    return given[0]


def _given(answer: Answered, as_lines: bool) -> Response:
    """Write an answer as one JSON object, or as JSON lines: forecasts, dead letters, then the counts."""
    counts = orjson.dumps(answer.counts, option=orjson.OPT_SORT_KEYS)
    head = b'{"accepted":%d,"counts":%s' % (answer.accepted, counts)
    headers = {"Idempotency-Replayed": "true"} if answer.repeated else {}
    if as_lines:
        body = b"%s%s%s}\n" % (answer.forecasts, answer.refused, head)
        return Response(body, headers=headers, media_type=NDJSON)
    # a line of JSON holds no LF but the one at its end
    forecasts, refused = (x.rstrip(b"\n").replace(b"\n", b",") for x in (answer.forecasts, answer.refused))
    body = b'%s,"forecasts":[%s],"refused":[%s]}\n' % (head, forecasts, refused)
    return Response(body, headers=headers, media_type="application/json")


async def _asked(future: Future[T]) -> T:
    return await asyncio.wrap_future(future)


async def _status(desk: Desk) -> dict | None:
    """Ask for the engine's status; None where it is not there."""
    try:
        return await _asked(desk.ask(lambda engine: engine.status()))
    except AwayError:
        return None


def _queue(service: Service) -> dict[str, int]:
    """Count what waits and who is connected."""
    waiting = {"queue_requests": service.desk.waiting, "queue_lines": service.desk.waiting_lines}
    return {**waiting, "listeners": len(service.events), **service.connections()}


async def _told(events: News, listener: Listener) -> AsyncIterator[bytes]:
    try:
        async for data in listener.told():
            yield data
    finally:
        events.leave(listener)


def _json(value: Any) -> Response:
    option = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return Response(orjson.dumps(value, default=str, option=option), media_type="application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return error.response()


async def _failed(_: Request, error: Exception) -> Response:
    """Turn what desk and engine raise into a status."""
    assert isinstance(error, StatecastError)
    wait = {"Retry-After": "1"}
    if isinstance(error, CrowdedError):
        return RefusedError(429, "queue_full", str(error), wait).response()
    if error.transient:
        return RefusedError(503, "engine", str(error), wait).response()
    if isinstance(error, DataError):
        return RefusedError(409, "conflict", str(error)).response()
    return RefusedError(500, "engine", str(error)).response()


async def _unreadable(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return RefusedError(400, "parameter", f"{where}: {first['msg']}").response()


async def _unrouted(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        sentence = "the method is not allowed here; Allow says which are"
        return RefusedError(405, "method", sentence, dict(error.headers or {})).response()
    sentence = "expected a route of this service. See /openapi.json"
    return RefusedError(error.status_code, "route", sentence, dict(error.headers or {})).response()


def _described(app: FastAPI) -> dict[str, Any]:
    """Describe the routes; what FastAPI would refuse with 422 is refused with 400 here."""
    if app.openapi_schema is None:
        described = FastAPI.openapi(app)
        components = described.setdefault("components", {})
        components["schemas"] = openapi.SCHEMAS
        components["securitySchemes"] = openapi.SECURITY
        described["security"] = [{"token": []}]
        for methods in described["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
    assert app.openapi_schema is not None
    return app.openapi_schema
