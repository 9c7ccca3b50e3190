"""Why a request is not answered as asked: a status, a code and a sentence, as JSON.

Comes in: what is wrong. Goes out: `RefusedError`, which becomes a response. Imported by the modules of the service.
"""

from __future__ import annotations

import orjson
from starlette.responses import Response

from models.errors import StatecastError


class RefusedError(StatecastError):
    """A request that is refused.

    Parameters
    ----------
    status : int
        HTTP status.
    code : str
        What a program looks at: `queue_full`.
    sentence : str
        What a person reads: what was expected, what came, what to do.
    headers : dict of str, optional
        Sent with the answer: Retry-After, Allow, WWW-Authenticate.
    """

    def __init__(self, status: int, code: str, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.sentence = sentence
        self.headers = headers or {}
        self.transient = status in {408, 429, 503}

    def response(self) -> Response:
        """Give the refusal as an answer."""
        body = orjson.dumps({"error": self.code, "sentence": self.sentence}, option=orjson.OPT_APPEND_NEWLINE)
        return Response(body, status_code=self.status, headers=self.headers, media_type="application/json")
