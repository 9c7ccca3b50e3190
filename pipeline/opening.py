"""Open a stream with all that belongs to it, and close it.

Comes in: models, and where journal and outputs lie. Goes out: a `Stream`. Imported by the command line and serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.errors import ConfigError, IntegrityError
from pipeline.journal import Journal
from pipeline.lineup import Lineup
from pipeline.outputs import FileOutput, Sink
from pipeline.stream import Past, Stream
from pipeline.stream_config import StreamConfig
from pipeline.swap import Swap


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What belongs to a stream.

    Attributes
    ----------
    lineup : Lineup or callable, optional
        Models of a new stream, or what reads them; a journal goes on with its own, whatever has become of the files.
    journal : Path, optional
        Its folder; left out, nothing survives the process and files are begun anew.
    out, dead, told : Sink, optional
        Forecasts, dead letters, and what happened beside the ticks.
    history : callable, optional
        What a new stream takes in first.
    watched : (folder, name), optional
        Champion whose later versions are taken over while the stream runs; left out, the model is pinned.
    rebase : bool
    """

    lineup: Lineup | Callable[[], Lineup] | None = None
    journal: Path | None = None
    out: Sink | None = None
    dead: Sink | None = None
    told: Sink | None = None
    history: Past | None = None
    watched: tuple[Path, str] | None = None
    rebase: bool = False


NOTES = "notes.jsonl"
"""File in the folder of a journal: swaps, drifts and what else happened beside the ticks, a JSON line each."""


def folder_of(journal: Path | None, otherwise: Path) -> Path:
    """Give the folder of a journal, or another one where there is none; it is made where it is missing."""
    folder = journal or otherwise
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {folder}: cannot be made ({error.strerror}). Name another one") from error
    return folder


def notes_of(journal: Path) -> FileOutput:
    """Open the file of notes in the folder of a journal."""
    return FileOutput(folder_of(journal, journal) / NOTES)


@contextmanager
def opened(opening: Opening, config: StreamConfig) -> Iterator[Stream]:
    """Open a stream; when the block ends without an error, its states are all on disk.

    Raises
    ------
    IntegrityError
        The journal belongs to another model than the one that is pinned.
    """
    stream = open_stream(opening, config)
    try:
        yield stream
    finally:
        stream.close()


def open_stream(opening: Opening, config: StreamConfig) -> Stream:
    """Open a stream; the caller closes it."""
    journal = None if opening.journal is None else Journal(opening.journal, config.durability)
    try:
        if journal is None:
            for sink in (opening.out, opening.dead, opening.told):
                if isinstance(sink, FileOutput):
                    sink.recover(0, ())
        needed = journal is None or journal.fresh or opening.watched is None
        lineup = opening.lineup() if callable(opening.lineup) and needed else opening.lineup
        stream = Stream(
            lineup if isinstance(lineup, Lineup) else None,
            config,
            journal=journal,
            out=opening.out,
            dead=opening.dead,
            told=opening.told,
            history=opening.history,
            rebase=opening.rebase,
        )
        if opening.watched is not None:
            stream.swap = Swap(*opening.watched, stream)
        elif isinstance(lineup, Lineup) and stream.lineup.sha256 != lineup.sha256:
            raise IntegrityError(
                f"journal {opening.journal}: its states belong to the model {stream.lineup.sha256}, but "
                f"{lineup.sha256} was named. Go on with the first, begin a new journal, or publish the second "
                "as a champion, which a stream takes over without losing a tick"
            )
    except BaseException:
        if journal is not None:
            journal.close()
        raise
    return stream
