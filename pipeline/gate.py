"""Who may come in: the Host, the Origin and the token of a request, before any route is looked at.

Everything is refused that is not allowed: a route that is added later is behind the token without a line here.

Comes in: requests. Goes out: the same requests, or refusals. Imported by serve.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.refusals import RefusedError

OPEN = frozenset({b"/healthz", b"/readyz"})
"""Paths that need no token, byte for byte as they were sent: no spelling of another path is one of them."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Who may come in."""

    token: bytes | None
    """Bearer token; None lets everybody in that reaches the address."""
    hosts: frozenset[str]
    """Names in the Host header, in lower case, without ports."""
    origins: frozenset[str]
    """Values of the Origin header."""

    def refusal(self, scope: Scope) -> RefusedError | None:
        """Say why a request may not come in, or None where it may."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        for check in (self._host, self._origin, self._framing):
            if refusal := check(headers):
                return refusal
        if scope["raw_path"] in OPEN and scope["method"] == "GET":
            return None
        return self._bearer(headers)

    def _host(self, headers: dict[bytes, list[bytes]]) -> RefusedError | None:
        """Refuse a name that is not ours: a page that points its own name at this address gets nothing."""
        given = headers.get(b"host", [])
        if len(given) == 1 and host_name(given[0].decode("latin-1")) in self.hosts:
            return None
        return RefusedError(
            400,
            "host",
            "expected one Host header with a name of this server. Use the address it is bound to, or add the name to "
            "the allowed hosts",
        )

    def _origin(self, headers: dict[bytes, list[bytes]]) -> RefusedError | None:
        """Refuse what a page of another site sends."""
        given = [value.decode("latin-1") for value in headers.get(b"origin", [])]
        foreign = any(value not in self.origins for value in given)
        if not given:
            foreign = any(value not in {b"none", b"same-origin"} for value in headers.get(b"sec-fetch-site", []))
        if not foreign:
            return None
        return RefusedError(
            403, "origin", "expected no Origin, or one that is allowed. Requests of web pages are refused"
        )

    def _framing(self, headers: dict[bytes, list[bytes]]) -> RefusedError | None:
        """Refuse what a proxy before this server might cut otherwise."""
        if b"content-length" in headers and b"transfer-encoding" in headers:
            return RefusedError(400, "framing", "expected Content-Length or Transfer-Encoding, and both came. Send one")
        return None

    def _bearer(self, headers: dict[bytes, list[bytes]]) -> RefusedError | None:
        if self.token is None:
            return None
        given = headers.get(b"authorization", [])
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self.token):
            return None
        return RefusedError(
            401,
            "token",
            "expected the header Authorization: Bearer <token> with the token of this server",
            {"WWW-Authenticate": "Bearer"},
        )


class Gate:
    """Let those requests through to `app` that `rules` allow."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_ALWAYS]}
            await send(message)

        if scope["type"] != "http":
            raise RuntimeError(f"the gate got a scope of type {scope['type']!r}; the server speaks HTTP only")
        refusal = self.rules.refusal(scope)
        app = self.app if refusal is None else refusal.response()
        await app(scope, receive, sent)


def host_name(text: str) -> str:
    """Give the name in a Host header, in lower case and without its port; empty where it is none.

    >>> host_name("Localhost:8080"), host_name("[::1]:80"), host_name("a@b"), host_name("a:b:c")
    ('localhost', '::1', '', '')
    """
    name, colon, port = text.strip().rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        name = text.strip()
    elif not port.isascii() or (port and not port.isdigit()):
        return ""
    if name.startswith("[") and name.endswith("]"):
        return name[1:-1].lower()
    return "" if set(name) & set("@/\\:[]?# ") else name.lower()


def is_loopback(address: str) -> bool:
    """Whether an address of an open socket can be reached from this machine only."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
