"""What the routes take and give, with examples, in the words of OpenAPI.

Comes in: nothing. Goes out: parts of the description at /openapi.json. Imported by routes.
"""

from __future__ import annotations

from typing import Any

from pipeline.bodies import CSV, JSON, NDJSON

Part = dict[str, Any]

_TICK: Part = {"series": "EURUSD=X", "time": "2024-01-31T16:00:00Z", "price": 1.0817}
_FORECAST: Part = {
    "series": "EURUSD=X",
    "origin_time": "2024-01-31T16:00:00.000000Z",
    "sequence": 1,
    "model": "gru",
    "sha256": "0f3a5b7c9d1e",
    "version": 1,
    "warming": False,
    "median": [1.0817],
    "quantiles": [[1.07, 1.074, 1.077, 1.079, 1.0805, 1.0817, 1.0829, 1.0844, 1.0864, 1.0894, 1.0934]],
}
_LETTER: Part = {"line": 2, "reason": "malformed", "sentence": "expected ...", "text": "oops"}
_ANSWER: Part = {
    "accepted": 1,
    "counts": {"accepted": 1, "malformed": 1},
    "forecasts": [_FORECAST],
    "refused": [_LETTER],
}

SCHEMAS: dict[str, Part] = {
    "Tick": {
        "type": "object",
        "required": ["series", "time", "price"],
        "properties": {
            "series": {"type": "string"},
            "time": {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "ISO-8601 or microseconds"},
            "price": {"type": ["number", "null"], "description": "null says that none was published"},
        },
        "example": _TICK,
    },
    "Forecast": {
        "type": "object",
        "required": ["series", "origin_time", "model", "sha256", "median", "quantiles"],
        "properties": {
            "series": {"type": "string"},
            "origin_time": {"type": "string", "description": "time of the last tick that the forecast knows"},
            "model": {"type": "string"},
            "sha256": {"type": "string"},
            "median": {"type": "array", "items": {"type": ["number", "null"]}},
            "quantiles": {"type": "array", "items": {"type": "array", "items": {"type": ["number", "null"]}}},
            "warming": {"type": "boolean", "description": "the series has shown too few ticks; left out: false"},
            "fallback": {"type": "boolean", "description": "covariates were missing; left out: false"},
            "stale": {"type": "boolean", "description": "the model is older than it may be; left out: false"},
        },
        "example": _FORECAST,
    },
    "DeadLetter": {
        "type": "object",
        "required": ["line", "reason", "sentence", "text"],
        "properties": {"line": {"type": "integer"}}
        | {name: {"type": "string"} for name in ("reason", "sentence", "text")},
        "example": _LETTER,
    },
    "Answer": {
        "type": "object",
        "required": ["accepted", "counts", "forecasts", "refused"],
        "properties": {
            "accepted": {"type": "integer"},
            "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
            "forecasts": {"type": "array", "items": {"$ref": "#/components/schemas/Forecast"}},
            "refused": {"type": "array", "items": {"$ref": "#/components/schemas/DeadLetter"}},
        },
        "example": _ANSWER,
    },
    "Refusal": {
        "type": "object",
        "required": ["error", "sentence"],
        "properties": {"error": {"type": "string"}, "sentence": {"type": "string"}},
        "example": {"error": "queue_full", "sentence": "too many requests are waiting. Send again later"},
    },
}

SECURITY: Part = {"token": {"type": "http", "scheme": "bearer"}}

_WHY = {
    400: "the request cannot be read",
    401: "the token is missing or wrong",
    403: "the Origin is not allowed",
    404: "there is none",
    405: "the method is not allowed",
    408: "the body took too long",
    409: "the engine refuses these lines as a whole: their id belongs to others",
    411: "the body has no announced length",
    413: "the body has too many bytes or lines",
    415: "the body has another type, or is compressed",
    429: "too much is waiting; see Retry-After",
    500: "the engine failed",
    503: "the engine starts, drains or is busy; see Retry-After",
}


def _json(schema: Part, example: Any) -> Part:
    return {JSON: {"schema": schema, "example": example}}


def _ref(name: str) -> Part:
    return {"$ref": f"#/components/schemas/{name}"}


def responses(what: str, content: Part, *statuses: int) -> dict[int | str, Part]:
    """Describe what a route gives: `content` with 200, and refusals with each of `statuses` and those of the gate."""
    refusal = _json(_ref("Refusal"), SCHEMAS["Refusal"]["example"])
    given = {status: {"description": _WHY[status], "content": refusal} for status in (400, 401, 403, 405, *statuses)}
    return {200: {"description": what, "content": content}, **given}


def _example(content: str, schema: Part, example: Any) -> Part:
    return {content: {"schema": schema, "example": example}}


_LINES = "".join(f"{line}\n" for line in ('{"series":"A","time":"2024-01-31T16:00:00Z","price":1.5}', "oops"))
_TICKS: Part = _ref("Tick")
_VALUES: Part = {"description": "ticks; a value that is none is a dead letter in the answer", "items": {}}
_ROWS: Part = {"type": "string", "pattern": "^series,time,price(\n|$)"}

POST_TICKS: Part = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "An id of this request: sent again with the same one, the same answer comes and no line is "
            "taken twice.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]([ -~]*[!-~])?$"},
            "example": "feed-7-000123",
        },
        {
            "name": "Accept",
            "in": "header",
            "schema": {"type": "string", "enum": [JSON, NDJSON]},
            "example": JSON,
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            **_example(NDJSON, {"type": "string"}, _LINES),
            **_example(JSON, {"anyOf": [_TICKS, _VALUES]}, [_TICK]),
            **_example(CSV, _ROWS, "series,time,price\nEURUSD=X,2024-01-31T16:00:00Z,1.0817\n"),
        },
    },
}

ANSWER: Part = _json(_ref("Answer"), _ANSWER) | _example(NDJSON, {"type": "string"}, "one JSON object a line\n")
FORECAST: Part = _json(_ref("Forecast"), _FORECAST)
SERIES: Part = _json(
    {
        "type": "object",
        "required": ["series", "next"],
        "properties": {
            "series": {"type": "array", "items": {"type": "object"}},
            "next": {"type": ["string", "null"], "description": "`after` of the next page; null at the end"},
        },
    },
    {"series": [{"name": "EURUSD=X", "last_time": "2024-01-31T16:00:00Z", "price": 1.0817, "ticks": 1}], "next": None},
)
STATUS: Part = _json(
    {"type": "object", "required": ["standing", "engine"]},
    {"standing": "ready", "queue_requests": 0, "queue_lines": 0, "connections": 1, "engine": {"model": "gru"}},
)
STANDING: Part = _json(
    {"type": "object", "required": ["standing"], "properties": {"standing": {"type": "string"}}},
    {"standing": "ready"},
)
METRICS: Part = _example("text/plain", {"type": "string"}, "statecast_ready 1.0\n")
EVENTS: Part = _example("text/event-stream", {"type": "string"}, 'event: rejects\ndata: {"malformed":1}\n\n')
