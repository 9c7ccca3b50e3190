"""A stream is opened with all that belongs to it, or with nothing left open."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from arriving import handles
from served import metadata, model_bytes
from streamed import LINEUP, QUICK, begin, carried, leave, wanted
from ticking import tick

from models.errors import IntegrityError, ModelError, StatecastError
from pipeline.journal import Journal
from pipeline.lines import Block
from pipeline.lineup import Lineup
from pipeline.opening import Opening, open_stream, opened
from pipeline.stream import Stream

OTHER = Lineup(version=1, serving=model_bytes(metadata(name="other")))


def take(stream: Stream, *lines: bytes) -> None:
    """Take in lines."""
    stream.take([Block(partition="-", lines=list(lines), head=b"{}", first=0, position=None)])


def test_a_block_that_ends_well_leaves_nothing_to_step_again(tmp_path: Path) -> None:
    """The states are on disk, all files are closed, and the journal can be opened again at once."""
    with opened(wanted(tmp_path), QUICK) as stream:
        take(stream, tick("A"), tick("A", 1))
        before = carried(stream)
    with opened(wanted(tmp_path), QUICK) as stream:
        assert stream.stepped == 0
        assert carried(stream) == before


def test_a_block_that_ends_with_an_error_closes_too(tmp_path: Path) -> None:
    """What was committed by then is there, and the lock is free."""

    class OddError(Exception):
        pass

    with pytest.raises(OddError), opened(wanted(tmp_path), QUICK) as stream:  # noqa: PT012  what happens inside is the point
        take(stream, tick("A"))
        raise OddError
    with opened(wanted(tmp_path), QUICK) as stream:
        assert stream.head.counts == {"accepted": 1}


def test_a_pinned_model_is_not_exchanged_for_the_journals(tmp_path: Path) -> None:
    """Another model than that of the journal is refused with both digests; the lock is free again."""
    begin(tmp_path).close()
    with pytest.raises(IntegrityError, match=f"{LINEUP.sha256}, but {OTHER.sha256} was named"):
        begin(tmp_path, lineup=OTHER)
    begin(tmp_path).close()


def test_a_champion_that_is_watched_goes_on_with_the_journals_model(tmp_path: Path) -> None:
    """The published one is another by now: the stream begins with the one whose states it has."""
    stream = begin(tmp_path)
    take(stream, tick("A"))
    leave(stream)
    stream = begin(tmp_path, lineup=OTHER, watched=(tmp_path, "champion"))
    assert stream.lineup.sha256 == LINEUP.sha256
    stream.close()


@pytest.mark.parametrize("damage", ["model", "journal"])
def test_what_cannot_be_opened_lets_go_of_the_journal(tmp_path: Path, damage: str) -> None:
    """After the error the folder can be locked again."""
    wrong = Opening(lineup=Lineup(serving=b"no model"), journal=tmp_path / "journal")
    if damage == "journal":
        begin(tmp_path).close()
        (tmp_path / "out.jsonl").write_bytes(b"")
        (tmp_path / "journal" / "journal.sqlite").write_bytes(b"no journal" * 100)
        wrong = wanted(tmp_path)
    with pytest.raises(StatecastError):
        open_stream(wrong, QUICK)
    if damage == "model":
        with pytest.raises(ModelError):
            open_stream(wrong, QUICK)
        Journal(tmp_path / "journal").close()
    else:
        with pytest.raises(IntegrityError, match="damaged"):
            Journal(tmp_path / "journal")


def test_no_handle_is_left_open(tmp_path: Path) -> None:
    """A stream that is closed has as many files open as before it was opened."""
    begin(tmp_path).close()
    gc.collect()  # what tests before this one have left
    before = handles()
    for _ in range(3):
        begin(tmp_path).close()
    assert handles() == before
