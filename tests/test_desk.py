"""One thread, whole batches, and nobody who waits is forgotten."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from hooked_stream import HookedStream
from serving import tick

from models.errors import DataError
from pipeline.desk import AwayError, CrowdedError, Desk, Standing
from pipeline.lines import Block


def posted(*lines: bytes, request: str | None = None) -> Block:
    """Make a block of JSON lines."""
    return Block(partition="http", lines=list(lines), head=lines[0], first=0, position=None, request=request)


class Held:
    """Holds the engine at its first micro-batch, so that what comes meanwhile waits."""

    def __init__(self) -> None:
        self.busy, self.go = threading.Event(), threading.Event()

    def __call__(self, _: Sequence[Block]) -> None:
        """Wait."""
        self.busy.set()
        assert self.go.wait(20)


def start(engine: HookedStream, **settings: Any) -> Desk:
    """Start a desk and wait until the engine is open."""
    opened = threading.Event()
    made = Desk(lambda: opened.set() or engine, **settings)
    made.start()
    assert opened.wait(20)
    while made.standing is Standing.STARTING:
        opened.wait(0.001)
    return made


def end(made: Desk) -> None:
    """Drain a desk and wait for its end."""
    made.drain()
    assert made.join(20)


def test_what_waits_is_taken_as_one_batch() -> None:
    """While one block is taken the next ones wait, and go together up to the bound of lines."""
    held = Held()
    engine = HookedStream(before=held)
    made = start(engine, batch=10)
    answers = [made.post(posted(tick("A", 0)))]
    assert held.busy.wait(20)
    answers += [made.post(posted(*[tick(f"B{i}", j) for j in range(4)])) for i in range(5)]
    answers.append(made.post(posted(*[tick("C", j) for j in range(25)])))
    held.go.set()
    assert [answer.result(20).accepted for answer in answers] == [1, *[4] * 5, 25]
    assert engine.batches == [1, 8, 8, 4, 25]
    assert len(engine.threads) == 1
    end(made)


@pytest.mark.parametrize("seed", range(4))
def test_batches_do_not_show_in_the_answers(seed: int) -> None:
    """Blocks posted from many threads give, series by series, what they give one by one."""
    rng = random.Random(seed)
    blocks = [posted(*[tick(f"S{s}", i) for i in range(rng.randint(1, 20))]) for s in range(40)]
    alone = HookedStream()
    expected = [alone.take([block])[0].forecasts for block in blocks]
    alone.close()
    made = start(HookedStream(), batch=rng.randint(1, 60))
    given: dict[int, bytes] = {}

    def work(some: list[int]) -> None:
        for i in some:
            given[i] = made.post(blocks[i]).result(20).forecasts

    threads = [threading.Thread(target=work, args=(list(range(start, 40, 4)),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [given[i] for i in range(40)] == expected
    end(made)


def test_an_id_comes_once_in_a_batch() -> None:
    """Two requests of one id that wait together are taken one after the other, and the second is a repeat."""
    held = Held()
    engine = HookedStream(before=held)
    made = start(engine)
    first = made.post(posted(tick("A", 0)))
    assert held.busy.wait(20)
    twins = [made.post(posted(tick("B", 0), request="x")) for _ in range(2)]
    held.go.set()
    assert [answer.result(20).repeated for answer in (first, *twins)] == [False, False, True]
    assert engine.batches == [1, 1, 1]
    end(made)


def test_one_block_that_is_refused_does_not_hurt_its_neighbours() -> None:
    """When a batch is refused as a whole, its blocks are taken one by one, and only the guilty one fails."""
    held = Held()

    def before(blocks: Sequence[Block]) -> None:
        held(blocks)
        if any(block.request == "bad" for block in blocks):
            raise DataError("the id is of others")

    made = start(HookedStream(before=before))
    made.post(posted(tick("A", 0)))
    assert held.busy.wait(20)
    answers = [made.post(posted(tick(name, 0), request=name)) for name in ("B", "bad", "C")]
    held.go.set()
    assert answers[0].result(20).accepted == answers[2].result(20).accepted == 1
    with pytest.raises(DataError, match="of others"):
        answers[1].result(20)
    assert made.standing is Standing.READY
    end(made)


def test_lines_and_blocks_that_wait_are_bounded() -> None:
    """Above either bound a block is refused at once, a lone one of any size is not, and the room comes back."""
    held = Held()
    made = start(HookedStream(before=held), queue_requests=3, queue_lines=10)
    waiting = [made.post(posted(tick("A", 0)))]
    assert held.busy.wait(20)
    waiting.append(made.post(posted(*[tick("B", i) for i in range(20)])))
    with pytest.raises(CrowdedError, match="1 requests with 20 lines"):
        made.post(posted(tick("C", 0)))
    assert made.full()
    held.go.set()
    assert [answer.result(20).accepted for answer in waiting] == [1, 20]
    assert (made.waiting, made.waiting_lines, made.full()) == (0, 0, False)
    end(made)


def test_draining_answers_what_waits_and_takes_nothing_more() -> None:
    """After the call every accepted block is answered, reads still work until the end, and a new block is refused."""
    held = Held()
    engine = HookedStream(before=held)
    made = start(engine)
    answers = [made.post(posted(tick("A", 0)))]
    assert held.busy.wait(20)
    answers += [made.post(posted(tick("A", i))) for i in range(1, 5)]
    made.drain()
    with pytest.raises(AwayError, match="draining"):
        made.post(posted(tick("B", 0)))
    read = made.ask(lambda e: e.latest("A"))
    held.go.set()
    assert [answer.result(20).accepted for answer in answers] == [1] * 5
    assert orjson.loads(read.result(20) or b"null")["series"] == "A"
    assert made.join(20)
    assert (made.standing, engine.closed) == (Standing.CLOSED, True)
    with pytest.raises(AwayError, match="closed"):
        made.ask(lambda e: e.status())


def test_a_cancelled_request_is_not_taken() -> None:
    """Who no longer waits before the batch begins leaves nothing in the states."""
    held = Held()
    engine = HookedStream(before=held)
    made = start(engine)
    made.post(posted(tick("A", 0)))
    assert held.busy.wait(20)
    gone, kept = made.post(posted(tick("B", 0))), made.post(posted(tick("C", 0)))
    assert gone.cancel()
    held.go.set()
    assert kept.result(20).accepted == 1
    end(made)
    assert engine.names == ["A", "C"]


def fails_in_take(engine: HookedStream) -> None:
    """Fail in the middle of a batch."""

    def before(_: Sequence[Block]) -> None:
        raise ZeroDivisionError

    engine.before = before


def fails_in_tend(engine: HookedStream) -> None:
    """Fail in background work."""
    engine.tend = lambda: 1 // 0 > 0  # type: ignore[method-assign]


@pytest.mark.parametrize("breaks", [fails_in_take, fails_in_tend])
def test_a_failure_reaches_everybody(breaks: Callable[[HookedStream], None]) -> None:
    """After an error that nobody raised on purpose, those who wait hear of it and the engine is closed."""
    engine, failed = HookedStream(), threading.Event()
    made = start(engine)
    made.on_failure = failed.set
    held = Held()
    before = [made.ask(lambda _: held([]))]
    assert held.busy.wait(20)
    waiting = [made.post(posted(tick("A", i), request="x")) for i in range(3)]
    breaks(engine)
    held.go.set()
    assert failed.wait(20)
    assert before[0].result(20) is None
    for answer in waiting[1:]:
        with pytest.raises(AwayError):
            answer.result(20)
    assert (made.standing, engine.closed) == (Standing.FAILED, True)
    with pytest.raises(AwayError, match="failed"):
        made.post(posted(tick("A", 0)))


def test_an_engine_that_cannot_be_opened_is_a_failure() -> None:
    """What the opening raises is kept for the one who runs the desk."""

    def opened() -> HookedStream:
        raise DataError("no journal")

    made = Desk(opened)
    made.start()
    assert made.join(20)
    assert made.standing is Standing.FAILED
    assert isinstance(made.failure, DataError)


def test_background_work_goes_on_under_load() -> None:
    """While blocks never stop coming, the engine is still given its slices."""
    engine = HookedStream()
    made = start(engine, tend_s=0.001)
    before = engine.tended
    for i in range(200):
        made.post(posted(tick("A", i)))
    made.post(posted(tick("A", 200))).result(20)
    assert engine.tended > before
    end(made)


def test_work_that_waits_is_done_without_a_pause() -> None:
    """As long as the engine says that more is waiting, it is called again at once."""
    engine, done = HookedStream(), threading.Event()
    left = [500]

    def tend() -> bool:
        left[0] -= 1
        if left[0] <= 0:
            done.set()
        return left[0] > 0

    engine.tend = tend  # type: ignore[method-assign]
    made = start(engine, tend_s=5.0)
    assert done.wait(4)
    end(made)
