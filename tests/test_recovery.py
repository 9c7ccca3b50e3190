"""From any moment of a journal a stream goes on as if nothing had happened, or says what is wrong."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed import PAIR, QUICK, begin, carried, full, leave, read_files
from ticking import BESIDE, feed

from models.errors import ConfigError, IntegrityError
from pipeline import journal as journals
from pipeline import stream as streams
from pipeline.arena import PAGE
from pipeline.lines import Block
from pipeline.stream import Stream
from pipeline.ticks import Layout, Ticks, parser

NAMES = [*(f"S{k}" for k in range(400)), "AAA", "BBB"]
"""Series for two pages."""

SOURCE = feed(2500, seed=1, names=NAMES, **BESIDE)
LINES = SOURCE.splitlines()


def take(stream: Stream, start: int, stop: int) -> None:
    """Take in lines as one batch."""
    block = Block(partition="-", lines=LINES[start:stop], head=b"{}", first=start, position=None)
    stream.take([block])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, tuple[bytes, bytes]]:
    """Run without interruption: all that is carried in the end, and the outputs."""
    folder = tmp_path_factory.mktemp("whole")
    stream = begin(folder, lineup=PAIR)
    for start in range(0, len(LINES), 250):
        take(stream, start, start + 250)
    at_the_end = carried(stream)
    stream.close()
    assert read_files(folder) == full(SOURCE, lineup=PAIR)[:2]
    return at_the_end, read_files(folder)


@settings(max_examples=15)
@given(st.integers(0, 2**32))
def test_a_stream_left_after_any_batch_goes_on_to_the_same_bits(
    whole: tuple[object, tuple[bytes, bytes]], tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Left or closed again and again, with batches of any size: outputs, states of all models and head are the same."""
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("left")
    start, stream = 0, begin(folder, lineup=PAIR)
    while start < len(LINES):
        stop = start + rng.choice([1, 20, 100, 300])
        take(stream, start, stop)
        start = stop
        if rng.random() < 0.2:
            before = carried(stream)
            stream.close() if rng.random() < 0.3 else leave(stream)
            stream = begin(folder, lineup=PAIR)
            assert carried(stream) == before
    assert carried(stream) == whole[0]
    stream.close()
    assert read_files(folder) == whole[1]


@pytest.mark.parametrize("batch", [10, 250])
def test_little_is_stepped_again_and_the_journal_stays_small(tmp_path: Path, batch: int) -> None:
    """After a kill about `replay` events at most, after a close none; batches that nothing needs are forgotten."""
    stream = begin(tmp_path, lineup=PAIR)
    for start in range(0, len(LINES), batch):
        take(stream, start, start + batch)
    assert stream.journal is not None
    events = [kept.head["events"] for kept in stream.journal.batches(0)]
    assert sum(events) <= 3 * QUICK.replay + 2 * batch
    accepted = stream.head.counts["accepted"]
    leave(stream)
    stream = begin(tmp_path, lineup=PAIR)
    assert 0 < stream.stepped <= 2 * QUICK.replay < accepted
    stream.close()
    stream = begin(tmp_path, lineup=PAIR)
    assert stream.stepped == 0
    stream.close()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_stream_that_is_only_opened_changes_nothing(tmp_path: Path, count: int) -> None:
    """Opened and left, opened and closed: the journal commits no batch more than one that writes the states."""
    stream = begin(tmp_path, lineup=PAIR)
    for k in range(count):
        take(stream, 10 * k, 10 * k + 10)
    before = carried(stream)
    leave(stream)
    for _ in range(2):
        stream = begin(tmp_path, lineup=PAIR)
        assert carried(stream) == before
        assert stream.head.batch == 1 + count
        leave(stream)
    for _ in range(2):
        stream = begin(tmp_path, lineup=PAIR)
        stream.close()
        assert stream.head.batch == (2 + count if count else 1)


# ---------------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """Leave a stream whose first batches are forgotten and whose last ones are in no page yet."""
    stream = begin(tmp_path, lineup=PAIR)
    for start in range(0, len(LINES), 50):
        take(stream, start, start + 50)
    assert stream.journal is not None
    assert stream.journal.span()[0] > 2
    leave(stream)
    return tmp_path


def change(folder: Path, statement: str, *values: object) -> None:
    """Change the journal behind the back of its sums."""
    with closing(sqlite3.connect(folder / "journal" / "journal.sqlite")) as db, db:
        assert db.execute(statement, values).rowcount > 0


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM page WHERE owner = 0 AND number = 0", r"different moments \(page 0\)"),
        ("DELETE FROM page WHERE owner = 1 AND number = 0", r"different moments \(page 1\)"),
        ("DELETE FROM page WHERE owner = 2 AND number = 0", r"different moments \(page 2\)"),
        ("DELETE FROM page", "the states of series S"),
        ("DELETE FROM batch WHERE id = (SELECT min(id) FROM batch)", "batches are missing"),
        ("DELETE FROM batch WHERE id = (SELECT min(id) + 3 FROM batch)", "batches are missing"),
        ("DELETE FROM batch WHERE id = (SELECT max(id) FROM batch)", "batches are missing"),
        ("DELETE FROM series WHERE slot = 7", r"different moments \(series\)"),
        ("DELETE FROM series WHERE slot = (SELECT max(slot) FROM series)", r"different moments \(series\)"),
        ("DELETE FROM model WHERE role = 'serving'", "its model is missing"),
        ("UPDATE page SET data = substr(data, 9) WHERE owner = 1", "damaged"),
        ("UPDATE batch SET events = substr(events, 9)", "damaged"),
    ],
)
def test_what_is_missing_or_changed_is_not_passed_over(left: Path, statement: str, says: str) -> None:
    """States are never made up: every row that is needed is there and whole, or nothing is opened."""
    before = read_files(left)
    change(left, statement)
    with pytest.raises(IntegrityError, match=says):
        begin(left, lineup=PAIR)
    assert read_files(left) == before


def history(layout: Layout) -> Iterator[Ticks]:
    """Give the first ticks for a warm start."""
    return iter([parser(b"{}", layout)(LINES[:500])])


@pytest.mark.parametrize("owner", [0, 1, 2])
def test_the_states_of_a_warm_start_are_not_missed_silently(tmp_path: Path, owner: int) -> None:
    """They are in no batch: without their page there is nothing to step again."""
    stream = begin(tmp_path, lineup=PAIR, history=history)
    leave(stream)
    change(tmp_path, "DELETE FROM page WHERE owner = ?", owner)
    with pytest.raises(IntegrityError, match="the states of series"):
        begin(tmp_path, lineup=PAIR)


def forge_forecasts(folder: Path, change_them: Callable[[np.ndarray], None]) -> None:
    """Change the journaled forecasts of the last batch, and make their sum fit."""
    with closing(sqlite3.connect(folder / "journal" / "journal.sqlite")) as db, db:
        columns = "SELECT id, head, events, forecasts, dead, scores, totals FROM batch ORDER BY id DESC"
        number, head, events, data, *rest = db.execute(columns).fetchone()
        quantiles = np.frombuffer(data).copy()
        change_them(quantiles)
        total = journals._sum(number, head, events, quantiles.tobytes(), *rest)
        db.execute("UPDATE batch SET forecasts = ?, sum = ? WHERE id = ?", (quantiles.tobytes(), total, number))


def forge_page(folder: Path, change_it: Callable[[np.ndarray], None]) -> None:
    """Change the first page of the states of the model that serves, and make its sum and the totals fit."""
    with closing(sqlite3.connect(folder / "journal" / "journal.sqlite")) as db, db:
        batch, data, was = db.execute("SELECT batch, data, sum FROM page WHERE owner = 1 AND number = 0").fetchone()
        page = np.frombuffer(data, np.uint8).copy()
        change_it(page)
        total = journals._sum(1, 0, batch, page.tobytes())
        db.execute("UPDATE page SET data = ?, sum = ? WHERE owner = 1 AND number = 0", (page.tobytes(), total))
        columns = "SELECT id, head, events, forecasts, dead, scores, totals FROM batch ORDER BY id DESC"
        *row, totals = db.execute(columns).fetchone()
        added = orjson.loads(totals)
        added["page 1"] += total - was
        row.append(orjson.dumps(added))
        db.execute("UPDATE batch SET totals = ?, sum = ? WHERE id = ?", (row[-1], journals._sum(*row), row[0]))


def test_states_that_do_not_give_the_journaled_forecasts_are_refused(left: Path) -> None:
    """One bit of one forecast is enough, even where its sum fits; nothing is written, and `rebase` says how much."""

    def flip(quantiles: np.ndarray) -> None:
        quantiles.view(np.uint8)[0] ^= 1

    forge_forecasts(left, flip)
    before = read_files(left)
    with pytest.raises(IntegrityError, match=r"do not give the forecasts again that were journaled .*--rebase"):
        begin(left, lineup=PAIR)
    assert read_files(left) == before


def test_a_state_that_is_not_the_one_that_was_written_is_noticed(left: Path) -> None:
    """A page whose bytes changed with their sum gives other forecasts of what is newer, and is refused."""
    stream = begin(left, lineup=PAIR)
    columns = stream.core.serving.arena.columns
    leave(stream)

    def shift(page: np.ndarray) -> None:
        start = 0
        for name, column in columns.items():
            size = PAGE * int(np.prod(column.shape, dtype=int)) * np.dtype(column.dtype).itemsize
            if name == "state.trace":
                page[start : start + size].view(np.float32)[:] += 0.5
            start += size

    forge_page(left, shift)
    with pytest.raises(IntegrityError, match="do not give the forecasts again"):
        begin(left, lineup=PAIR)


# ------------------------------------------------------------------------------------------------- another machine


def elsewhere() -> dict[str, str]:
    """Tell another runtime."""
    return {"onnxruntime": "9.9", "machine": "other", "processor": "0"}


def test_a_journal_of_another_machine_asks_for_a_rebase(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are named; with `rebase` it goes on, notes it once, and is at home from then on."""
    monkeypatch.setattr(streams, "fingerprint", elsewhere)
    with pytest.raises(IntegrityError, match=r"opened with .*9\.9.*--rebase"):
        begin(left, lineup=PAIR)
    stream = begin(left, lineup=PAIR, rebase=True)
    (note,) = stream.head.notes
    assert (note["kind"], note["to"], note["difference"]) == ("rebase", elsewhere(), 0.0)
    leave(stream)
    stream = begin(left, lineup=PAIR)
    assert stream.stepped == 0
    stream.close()


@pytest.mark.parametrize("told", [True, False])
def test_a_rebase_keeps_what_was_given_and_goes_on_from_new_states(
    left: Path, whole: tuple, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Where bits differ the largest difference is noted; outputs stay, and the next start is exact again.

    Whether the machine says that it is another one, or rounds otherwise unsaid.
    """

    def round_otherwise(quantiles: np.ndarray) -> None:
        quantiles[3] *= 1 + 1e-9

    forge_forecasts(left, round_otherwise)
    if told:
        monkeypatch.setattr(streams, "fingerprint", elsewhere)
    stream = begin(left, lineup=PAIR, rebase=True)
    assert stream.head.notes[0]["difference"] == pytest.approx(1e-9, rel=1e-3)
    leave(stream)
    kept = read_files(left)
    stream = begin(left, lineup=PAIR)
    stream.close()
    assert read_files(left) == kept
    changed = [a != b for a, b in zip(kept[0].split(b"\n"), whole[1][0].split(b"\n"), strict=True)]
    assert (sum(changed), kept[1]) == (1, whole[1][1])  # the forecast that the journal was made to hold


@pytest.mark.parametrize("missing", [1, 1000, 10**9])
def test_outputs_are_completed_from_the_journal(tmp_path: Path, missing: int) -> None:
    """What a crash kept from the files is written again, bit for bit, as long as the journal holds it."""
    stream = begin(tmp_path, lineup=PAIR)
    for start in range(0, 600, 40):
        take(stream, start, start + 40)
    leave(stream)
    before = read_files(tmp_path)
    for name, content in zip(("out.jsonl", "dead.jsonl"), before, strict=True):
        (tmp_path / name).write_bytes(content[: max(0, len(content) - missing)])
    leave(begin(tmp_path, lineup=PAIR))
    assert read_files(tmp_path) == before
    for name, content in zip(("out.jsonl", "dead.jsonl"), before, strict=True):
        (tmp_path / name).write_bytes(content + b"not committed\n" * missing if missing < 10**6 else content)
    leave(begin(tmp_path, lineup=PAIR))
    assert read_files(tmp_path) == before


def test_an_output_that_lacks_forgotten_bytes_is_refused(left: Path) -> None:
    """The journal holds only the last of them, and the message names the file and both lengths."""
    content = (left / "out.jsonl").read_bytes()
    (left / "out.jsonl").write_bytes(content[:100])
    with pytest.raises(IntegrityError, match=rf"out\.jsonl: 100 bytes, but the journal had committed {len(content)}"):
        begin(left, lineup=PAIR)
    (left / "out.jsonl").write_bytes(content[:-100])
    leave(begin(left, lineup=PAIR))
    assert (left / "out.jsonl").read_bytes() == content


def test_more_series_than_are_carried_are_refused(left: Path) -> None:
    """A bound below the number of the journal's series is named with it, and nothing is lost."""
    with pytest.raises(ConfigError, match=r"stream\.max_series is 300, but journal .* carries 401 series"):
        begin(left, replace(QUICK, max_series=300), lineup=PAIR)
    leave(begin(left, lineup=PAIR))
