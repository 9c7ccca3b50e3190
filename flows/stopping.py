"""SIGTERM and Ctrl-C as a question that a loop asks, so that it ends after what it has in hand.

Comes in: signals. Goes out: a callable. Imported by the command line.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Give what is true once a signal has asked to stop; a second one of the same kind acts as it always does."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the form of a handler
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
