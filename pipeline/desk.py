"""One thread that owns the engine, and the bounded queue before it.

The engine knows one process, one connection and one thread. Whatever is waiting when the thread is free is taken in
as one micro-batch: under load the batches grow by themselves, and a lone request waits for nobody.

Comes in: lines and questions, from any thread. Goes out: answers, as futures. Imported by routes and serve.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, TypeVar

from models.errors import StatecastError, TransientError
from pipeline.lines import Block

T = TypeVar("T")

STATUS_S = 1.0
"""Seconds between two looks at the engine's status for those who watch."""


class Answered(Protocol):
    """What the engine gives for one block."""

    @property
    def forecasts(self) -> bytes:
        """JSON lines, one for each accepted tick."""
        ...

    @property
    def refused(self) -> bytes:
        """JSON lines, one for each dead letter."""
        ...

    @property
    def accepted(self) -> int:
        """Ticks that were accepted."""
        ...

    @property
    def counts(self) -> dict[str, int]:
        """Lines by reason code."""
        ...

    @property
    def repeated(self) -> bool:
        """Whether this answer had been given before."""
        ...


class Engine(Protocol):
    """What the desk needs of the durable engine."""

    @property
    def broken(self) -> bool:
        """Whether an error has left it of no use until it is opened again."""
        ...

    def take(self, blocks: Sequence[Block]) -> Sequence[Answered]:
        """Take in one micro-batch; committed when it returns, or StatecastError with nothing taken."""
        ...

    def tend(self) -> bool:
        """Do a slice of background work; True while more is waiting."""
        ...

    def latest(self, series: str) -> bytes | None:
        """Give the last forecast line of a series."""
        ...

    def listed(self, after: str, limit: int) -> list[dict]:
        """List series in the order of their first tick."""
        ...

    def status(self) -> dict:
        """Tell how things are."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


class Standing(Enum):
    """How far the engine is."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"
    FAILED = "failed"


class CrowdedError(TransientError):
    """Too much is waiting; the same request may be sent again a little later."""


class AwayError(TransientError):
    """The engine is not there: it starts, drains, or has failed."""


class Watch(Protocol):
    """Who looks on, from the engine's thread."""

    def took(self, blocks: Sequence[Block], answers: Sequence[Answered], seconds: float) -> None:
        """See a micro-batch that was committed."""
        ...

    def saw(self, status: dict) -> None:
        """See the engine's status, about once a second."""
        ...


@dataclass(frozen=True, slots=True)
class _Post:
    block: Block
    answer: Future[Answered] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Question:
    ask: Callable[[Engine], Any]
    answer: Future[Any] = field(default_factory=Future)


class Desk:
    """The engine's thread.

    Parameters
    ----------
    opened : callable
        Opens the engine, in its thread: recovery may take long, and the server says meanwhile that it starts.
    batch : int
        Most lines of a micro-batch; a block with more is taken in alone.
    queue_requests, queue_lines : int
        Most blocks and lines that wait. A block that finds none waiting is taken whatever its size.
    watch : Watch, optional
    tend_s : float
        Seconds between two slices of background work while the engine says that none is waiting.
    """

    def __init__(
        self,
        opened: Callable[[], Engine],
        *,
        batch: int = 1000,
        queue_requests: int = 256,
        queue_lines: int = 100_000,
        watch: Watch | None = None,
        tend_s: float = 0.05,
    ) -> None:
        self.standing = Standing.STARTING
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.waiting_lines = 0
        self._opened, self._watch, self._tend_s = opened, watch, tend_s
        self._batch, self._most_requests, self._most_lines = batch, queue_requests, queue_lines
        self._posts: deque[_Post] = deque()
        self._questions: deque[_Question] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="statecast-engine", daemon=True)

    def start(self) -> None:
        """Open the engine and begin."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Blocks that wait."""
        return len(self._posts)

    def full(self) -> bool:
        """Whether one more block would be refused, as far as can be said before it has been read."""
        return self.waiting >= self._most_requests or self.waiting_lines >= self._most_lines

    def post(self, block: Block) -> Future[Answered]:
        """Hand lines in; the future has their answer when they are committed.

        Raises
        ------
        CrowdedError
            When too much is waiting.
        AwayError
            When the engine is not ready, or takes nothing more.
        """
        item = _Post(block)
        with self._changed:
            if self.standing is not Standing.READY:
                raise self._away()
            crowded = self._posts and self.waiting_lines + len(block.lines) > self._most_lines
            if crowded or len(self._posts) >= self._most_requests:
                raise CrowdedError(
                    f"{len(self._posts)} requests with {self.waiting_lines} lines are waiting, and no more may. Send "
                    "again later"
                )
            self._posts.append(item)
            self.waiting_lines += len(block.lines)
            self._changed.notify()
        return item.answer

    def ask(self, question: Callable[[Engine], T]) -> Future[T]:
        """Put a short question to the engine, between two micro-batches; also while it drains.

        Raises
        ------
        AwayError
            When the engine is not there.
        """
        item = _Question(question)
        with self._changed:
            if self.standing not in {Standing.READY, Standing.DRAINING}:
                raise self._away()
            self._questions.append(item)
            self._changed.notify()
        return item.answer

    def drain(self) -> None:
        """Take nothing more, answer what is waiting, close the engine."""
        with self._changed:
            if self.standing in {Standing.STARTING, Standing.READY}:
                self.standing = Standing.DRAINING
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end; False where it has not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _away(self) -> AwayError:
        why = f": {self.failure}" if self.failure else ""
        return AwayError(f"the engine is {self.standing.value}{why}; expected it ready. Send again later")

    def _work(self) -> None:
        try:
            engine = self._opened()
            try:
                self._open()
                self._serve(engine)
            finally:
                engine.close()
        except BaseException as error:  # whatever it is, those who wait must hear of it
            self.failure = error
        self._end()

    def _open(self) -> None:
        with self._changed:
            if self.standing is Standing.STARTING:
                self.standing = Standing.READY

    def _end(self) -> None:
        """Tell everybody who still waits."""
        with self._changed:
            self.standing = Standing.FAILED if self.failure else Standing.CLOSED
            left = [*self._posts, *self._questions]
            self._posts.clear()
            self._questions.clear()
            self.waiting_lines = 0
        for item in left:
            if item.answer.set_running_or_notify_cancel():
                item.answer.set_exception(self._away())
        if self.failure:
            self.on_failure()

    def _serve(self, engine: Engine) -> None:
        more, tended, seen = True, 0.0, 0.0
        while True:
            questions, posts, ending = self._next(0.0 if more else self._tend_s)
            for item in questions:
                _reply(item.answer, item.ask, engine)
            if posts:
                self._take(engine, posts)
            elif ending and not questions:
                return
            now = time.monotonic()
            if not posts or now - tended >= self._tend_s:
                more, tended = engine.tend(), now
            if self._watch is not None and now - seen >= STATUS_S:
                self._watch.saw(engine.status())
                seen = now

    def _next(self, patience: float) -> tuple[list[_Question], list[_Post], bool]:
        """Take what is waiting: all questions, and lines up to a batch. A request id comes once in a batch."""
        with self._changed:
            if not self._posts and not self._questions and self.standing is Standing.READY and patience:
                self._changed.wait(patience)
            questions = list(self._questions)
            self._questions.clear()
            posts: list[_Post] = []
            lines, ids = 0, set()
            while self._posts:
                block = self._posts[0].block
                if posts and (lines + len(block.lines) > self._batch or block.request in ids):
                    break
                posts.append(self._posts.popleft())
                lines += len(block.lines)
                ids |= {block.request} - {None}
            self.waiting_lines -= lines
            return questions, posts, self.standing is Standing.DRAINING

    def _take(self, engine: Engine, posts: list[_Post]) -> None:
        """Take in a micro-batch; where it is refused as a whole, each block by itself."""
        started = time.perf_counter()
        posts = [post for post in posts if post.answer.running() or post.answer.set_running_or_notify_cancel()]
        try:
            answers = engine.take([post.block for post in posts]) if posts else []
        except StatecastError as error:
            if engine.broken:
                for post in posts:
                    post.answer.set_exception(AwayError(f"{error} Send again later"))
                raise
            if len(posts) == 1:
                posts[0].answer.set_exception(error)
                return
            for post in posts:
                self._take(engine, [post])
            return
        except BaseException:
            for post in posts:
                post.answer.set_exception(
                    AwayError("the engine failed and it is not known what it took. Send again later")
                )
            raise
        for post, answer in zip(posts, answers, strict=True):
            post.answer.set_result(answer)
        if self._watch is not None and posts:
            self._watch.took([post.block for post in posts], answers, time.perf_counter() - started)


def _reply(answer: Future[T], ask: Callable[[Engine], T], engine: Engine) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(ask(engine))
    except StatecastError as error:
        answer.set_exception(error)
    except BaseException as error:
        answer.set_exception(AwayError(f"the engine failed ({error!r}). Send again later"))
        raise
