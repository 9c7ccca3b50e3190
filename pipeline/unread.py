"""What becomes of a body that is refused before it has been read: the answer is sent, a little more is read, the end.

A connection closed while bytes are waiting is reset, and the reset can overtake the answer: a client would see a
broken pipe in the place of the reason. A little is read for that; a body without end is cut all the same.

Comes in: requests. Goes out: their answers. Imported by serve.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER_BYTES = 2**20
"""How much is read, and thrown away, after the answer."""

LINGER_S = 1.0
"""For how long."""


class Unread:
    """Close the connection after an answer that came before the end of the request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        names = {name for name, value in scope["headers"] if value != b"0"}
        if not names & {b"content-length", b"transfer-encoding"}:
            await self.app(scope, receive, send)
            return
        whole = False

        async def received() -> Message:
            nonlocal whole
            message = await receive()
            whole = whole or not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and not whole:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            if message["type"] == "http.response.body" and not message.get("more_body", False) and not whole:
                await send({**message, "more_body": True})
                await _linger(receive)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self.app(scope, received, sent)


async def _linger(receive: Receive) -> None:
    """Read what is on its way, within bounds."""
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
