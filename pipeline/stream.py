"""The stream that never loses or repeats a tick: lines in, forecasts out, everything between in a journal.

Each micro-batch is parsed, judged, stepped, committed to the journal in one transaction, and only then given out. After
a kill at any moment the journal's states are loaded, what is newer is stepped again and must give the bits that were
journaled, and the outputs are cut or completed to what was committed.

Legend: n lines of a batch, a of them accepted, S horizon steps, M prices of a block, Q quantile levels.

Comes in: blocks of lines. Goes out: answers, and JSON lines in files. Knows numpy and orjson; imported by drive, serve
and the command line.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.errors import ConfigError, IntegrityError, ModelError
from pipeline.arena import PAGE
from pipeline.fingerprint import fingerprint
from pipeline.head import Head
from pipeline.history import History
from pipeline.journal import Batch, Journal
from pipeline.lines import Block
from pipeline.lineup import SERVING, Lineup
from pipeline.outputs import FileOutput, Sink
from pipeline.pages import Pages
from pipeline.recovery import BOOK, GREETING, missing_output, recover
from pipeline.rendering import Label, dead_letters, forecasts
from pipeline.stream_config import StreamConfig
from pipeline.stream_core import Applied, Core
from pipeline.ticks import Layout, Parser, Reason, Ticks, parser

Past = Callable[[Layout], Iterable[Ticks]]
"""Gives ticks to begin with."""

_TOO_LONG = b"["
"""What is read in the place of a line above the bound: no tick, neither as JSON nor as CSV."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one block of lines gave.

    Attributes
    ----------
    forecasts : bytes
        JSON lines, one for each accepted tick, in the order of arrival.
    refused : bytes
        JSON lines, one for each dead letter.
    counts : dict of int
        Lines by reason code; those that hold nothing are left out.
    repeated : bool
        The request was answered before, and this is that answer again.
    """

    forecasts: bytes
    refused: bytes
    counts: dict[str, int]
    repeated: bool = False

    @property
    def accepted(self) -> int:
        """Ticks that were taken in."""
        return self.counts.get(Reason.ACCEPTED.code, 0)

    def to_bytes(self) -> bytes:
        """Write it for the journal."""
        texts = {"forecasts": self.forecasts.decode(), "refused": self.refused.decode()}
        return orjson.dumps(texts | {"counts": self.counts})

    @classmethod
    def from_bytes(cls, data: bytes) -> Answer:
        """Read what `to_bytes` wrote, as a repetition."""
        told = orjson.loads(data)
        texts = {name: told[name].encode() for name in ("forecasts", "refused")}
        return cls(**texts, counts=told["counts"], repeated=True)


class Stream:
    """A stream of ticks under one lineup of models.

    Parameters
    ----------
    lineup : Lineup
        Models of a new stream; a journal that exists goes on with its own.
    config : StreamConfig, optional
    journal : Journal, optional
        Left out, nothing survives the process.
    out, dead : Sink, optional
        Where forecasts and dead letters go; left out, they are in the answers alone.
    history : callable, optional
        Gives, for the layout of ticks, those that the states of a new stream take in first, without forecasts.
    rebase : bool
        Go on with a journal that was written with another runtime or on another kind of processor.

    Raises
    ------
    ModelError
        A model cannot be served, or its bits depend on the batch on this machine.
    IntegrityError
        The journal or an output is damaged, or belongs elsewhere.
    ConfigError
        A setting differs from the journal's.
    """

    def __init__(
        self,
        lineup: Lineup,
        config: StreamConfig | None = None,
        *,
        journal: Journal | None = None,
        out: Sink | None = None,
        dead: Sink | None = None,
        history: Past | None = None,
        rebase: bool = False,
    ) -> None:
        self.config = config or StreamConfig()
        self.journal, self.out, self.dead = journal, out, dead
        self._broken = False
        self._credit = 0.0
        self._since_settled = 0
        self._parsers: dict[bytes, Parser] = {}
        opened = journal is None or journal.fresh
        self.lineup = lineup if opened or journal is None else kept_lineup(journal)
        self._open()
        if journal is not None:
            self.core.session.self_test(self.config.batch)
        if opened:
            self._begin(history)
        else:
            self._resume(rebase=rebase)

    def _open(self) -> None:
        """Make room for the models, with no series yet."""
        sessions = self.lineup.sessions
        layout = None
        if self.journal is not None and not self.journal.fresh:
            kept = self.journal.about("settings")
            layout = Layout(**{**kept["layout"], **{n: tuple(kept["layout"][n]) for n in ("past", "future")}})
            if kept["history"] != self.config.history:
                raise ConfigError(
                    f"stream.history is {self.config.history}, but the journal was begun with {kept['history']}. Set "
                    "it so, or begin a new journal"
                )
        self.core = Core(
            sessions[SERVING],
            max_series=self.config.max_series,
            rules=self.config.rules,
            layout=layout,
            beside={name: session for name, session in sessions.items() if name != SERVING},
            burn_in=self.config.burn_in,
        )
        folder = Path("/nowhere") if self.journal is None else self.journal.folder
        length = 0 if self.journal is None else self.config.history
        self.history = History(folder / "history.ring", self.core.layout, length)

    def _begin(self, history: Past | None) -> None:
        """Warm the states and lay down the first batch."""
        for ticks in history(self.core.layout) if history is not None else ():
            applied = self.core.apply(ticks)
            self.history.write(applied.events)
        label = Label(
            model=self.core.session.metadata.name, sha256=self.core.session.sha256[:12], version=self.lineup.version
        )
        book = self.core.book
        self.head = Head(batch=GREETING, series=len(book), newest=book.newest).labelled(label)
        self._owners = {role: number for number, role in enumerate(self.lineup.files, start=1)}
        self._pages = self._paged()
        if self.journal is None:
            return
        everything = np.arange(len(book))
        for pages in self._pages:
            pages.touch(everything, GREETING)
        settings = {"layout": asdict(self.core.layout), "history": self.config.history}
        batch = Batch(
            id=GREETING,
            head=self.head.to_dict(),
            new=list(enumerate(book.names)),
            pages=[page for pages in self._pages for page in pages.take(len(pages))],
        )
        models = [(self._owners[role], self.lineup.version, role, file) for role, file in self.lineup.files.items()]
        self.history.flush()
        self.journal.begin({"settings": settings, "fingerprint": fingerprint()}, models, batch)
        self._recover_outputs()

    def _resume(self, *, rebase: bool) -> None:
        """Go on where the journal ends."""
        assert self.journal is not None
        here, there = fingerprint(), self.journal.about("fingerprint")
        if here != there and not rebase:
            raise IntegrityError(
                f"journal {self.journal.path}: written with {there}, opened with {here}: the last bits may differ. Go "
                "on with --rebase, which keeps every forecast that was given and computes the states anew"
            )
        self._owners = {role: number for role, (number, _) in self.journal.models(self.lineup.version).items()}
        recovered = recover(self.journal, self.core, self.history, self._owners, exact=not rebase)
        self.head = recovered.head
        self.stepped = recovered.stepped
        self._pages = self._paged()
        for pages in self._pages:
            for number, since in recovered.dirty[pages.owner].items():
                pages.touch(np.array([number * PAGE]), since)
        self._recover_outputs()
        if here != there:
            note = {"kind": "rebase", "from": there, "to": here, "difference": recovered.difference}
            self._commit(replace(self.head, batch=self.head.batch + 1, events=0, notes=[note]), everything=True)
            self.journal.rebase({"fingerprint": here})

    def _paged(self) -> list[Pages]:
        """Follow what changes in the arenas."""
        states = {SERVING: self.core.serving, **self.core.beside}
        return [
            Pages(BOOK, self.core.book.arena),
            *(Pages(number, states[role].arena) for role, number in self._owners.items()),
        ]

    def _recover_outputs(self) -> None:
        """Bring files to what was committed."""
        assert self.journal is not None
        for sink, length, dead in ((self.out, self.head.out_bytes, False), (self.dead, self.head.dead_bytes, True)):
            if isinstance(sink, FileOutput):
                sink.recover(length, missing_output(self.journal, self.core, dead=dead))

    def take(self, blocks: Sequence[Block]) -> list[Answer]:
        """Take in blocks of lines as one micro-batch; it is committed and given out when this returns.

        A request that was answered before is answered alike, and nothing of it is taken in again.

        Raises
        ------
        ModelError, DataError, IntegrityError
            The batch could not be taken in or committed; the stream is of no use any more and must be opened again.
        """
        if self._broken:
            raise ModelError("stream: an earlier batch failed. Open it again: it goes on from its journal")
        answers: dict[int, Answer] = {}
        fresh: list[tuple[int, Block]] = []
        known: set[str] = set()
        for i, block in enumerate(blocks):
            before = self._answered(block.request)
            if before is not None:
                answers[i] = before
            elif block.request is None or block.request not in known:
                fresh.append((i, block))
                known |= {block.request} if block.request is not None else set()
        if fresh:
            self._broken = True
            answers |= zip([i for i, _ in fresh], self._taken([block for _, block in fresh]), strict=True)
            self._broken = False
        for i, block in enumerate(blocks):
            if i not in answers:  # the same request twice in one batch
                first = next(k for k, other in fresh if other.request == block.request)
                answers[i] = replace(answers[first], repeated=True)
        return [answers[i] for i in range(len(blocks))]

    def _answered(self, request: str | None) -> Answer | None:
        if request is None or self.journal is None:
            return None
        kept = self.journal.answer(request)
        return None if kept is None else Answer.from_bytes(kept)

    def _taken(self, blocks: list[Block]) -> list[Answer]:
        """Parse, step, commit and give out."""
        ticks = Ticks.joined([self._parsed(block) for block in blocks])
        applied = self.core.apply(ticks)
        names = self.core.book.names
        lines = forecasts(names, applied.events.take(applied.events.accepted), applied.quantile, self.head.label)
        letters = self._letters(blocks, applied.reason)
        answers = _answers(blocks, applied, lines, letters)
        written, dropped = self._capped([letter for part in letters for letter in part])
        out, dead = b"".join(lines), b"".join(written)
        head = self._next(applied, len(out), len(dead), dropped)
        self._commit(
            head,
            applied,
            dead=dead,
            positions={b.partition: asdict(b.position) for b in blocks if b.position is not None},
            answers={b.request: a.to_bytes() for b, a in zip(blocks, answers, strict=True) if b.request is not None},
        )
        for sink, length, data in ((self.out, head.out_bytes, out), (self.dead, head.dead_bytes, dead)):
            if sink is not None and data:
                sink.publish(length - len(data), data)
        return answers

    def _parsed(self, block: Block) -> Ticks:
        """Read the lines of a block."""
        parse = self._parsers.get(block.head)
        if parse is None:
            if len(self._parsers) > 1000:
                self._parsers.clear()
            parse = self._parsers[block.head] = parser(block.head, self.core.layout)
        most = self.config.max_line_bytes
        return parse([line if len(line) <= most else _TOO_LONG for line in block.lines])

    def _letters(self, blocks: list[Block], reason: NDArray[np.uint8]) -> list[list[bytes]]:
        """Write the dead letters of each block."""
        letters, start = [], 0
        for block in blocks:
            stop = start + len(block.lines)
            letters.append(dead_letters(block.first, block.lines, reason[start:stop]))
            start = stop
        return letters

    def _capped(self, letters: list[bytes]) -> tuple[list[bytes], int]:
        """Give the letters that still fit in the file of dead letters, and the number of the others."""
        room = 0 if self.head.dropped else self.config.dead_bytes - self.head.dead_bytes
        ends = list(accumulate(map(len, letters)))
        fit = bisect_right(ends, room)
        return letters[:fit], len(letters) - fit

    def _next(self, applied: Applied, out: int, dead: int, dropped: int) -> Head:
        """Move the head on by a batch."""
        more = np.bincount(applied.reason, minlength=len(Reason)).tolist()
        counts = Counter(self.head.counts) + Counter({r.code: more[r] for r in Reason if r != Reason.BLANK})
        return replace(
            self.head,
            batch=self.head.batch + 1,
            events=len(applied.events),
            series=len(self.core.book),
            newest=self.core.book.newest,
            counts=dict(counts),
            out_bytes=self.head.out_bytes + out,
            dead_bytes=self.head.dead_bytes + dead,
            dropped=self.head.dropped + dropped,
            notes=[],
        )

    def _commit(
        self,
        head: Head,
        applied: Applied | None = None,
        *,
        everything: bool = False,
        models: Sequence[tuple[int, int, str, bytes]] = (),
        **rest: Any,
    ) -> None:
        """Bring a batch to disk, with the pages whose turn it is; `head` counts from then on."""
        if self.journal is None:
            self.head = head
            return
        new: list[tuple[int, str]] = []
        if applied is not None:
            rest["events"] = applied.events.to_bytes()
            rest["forecasts"] = applied.quantile.tobytes()
            new = list(enumerate(self.core.book.names))[head.series - len(applied.new) :] if applied.new else []
            self.history.write(applied.events)
            for pages in self._pages:
                pages.touch(applied.events.slot, head.batch)
        batch = Batch(id=head.batch, head=head.to_dict(), new=new, pages=self._due(head.events, everything), **rest)
        self.journal.commit(batch, models)
        self.head = head
        self._since_settled += head.events
        if self._since_settled > self.config.replay:
            self.settle()

    def _due(self, events: int, everything: bool) -> list[tuple[int, int, bytes]]:
        """Choose the pages to write: all of them once in `replay` events, the longest changed first."""
        dirty = sum(map(len, self._pages))
        self._credit = dirty if everything else min(self._credit + dirty * events / self.config.replay, dirty)
        due: list[tuple[int, int, bytes]] = []
        while self._credit >= 1 and any(map(len, self._pages)):
            oldest = min((p for p in self._pages if len(p)), key=lambda p: p.oldest or 0)
            due += oldest.take(1)
            self._credit -= 1
        return due

    def settle(self) -> None:
        """Bring outputs and history to disk, and let the journal forget what nothing needs any more."""
        if self.journal is None:
            return
        for sink in (self.out, self.dead):
            if sink is not None:
                sink.settle()
        self.history.flush()
        needed = [pages.oldest for pages in self._pages if pages.oldest is not None]
        # the last batch stays: its head is how far the run is
        self.journal.forget(min([*needed, self.head.batch]), [BOOK, *(p.owner for p in self._pages)])
        self._since_settled = 0

    def tend(self) -> bool:
        """Do a slice of the work that waits beside the ticks; True while more is waiting."""
        return False

    def close(self) -> None:
        """Write every page, so that the next start steps nothing again, and close all files."""
        if self.journal is not None:
            if not self._broken and any(map(len, self._pages)):
                self._commit(replace(self.head, batch=self.head.batch + 1, events=0, notes=[]), everything=True)
                self.settle()
            self.journal.close()
        self.history.close()
        for sink in (self.out, self.dead):
            if sink is not None:
                sink.close()


def kept_lineup(journal: Journal) -> Lineup:
    """Give the models that a journal goes on with."""
    version = Head(**journal.last().head).version
    files = {role: file for role, (_, file) in journal.models(version).items()}
    if SERVING not in files:
        raise IntegrityError(f"journal {journal.path}: its model is missing. Restore it from a backup")
    return Lineup(version=version, serving=files.pop(SERVING), beside=files)


def _answers(blocks: list[Block], applied: Applied, lines: list[bytes], letters: list[list[bytes]]) -> list[Answer]:
    """Cut what a batch gave into what each block gave."""
    if len(blocks) == 1:
        return [Answer(forecasts=b"".join(lines), refused=b"".join(letters[0]), counts=_counts(applied.reason))]
    ends = np.cumsum([len(block.lines) for block in blocks])
    cuts = np.searchsorted(applied.tick, ends).tolist()
    answers = []
    for begin, end, first, stop, dead in zip([0, *cuts], cuts, [0, *ends], ends, letters, strict=False):
        counts = _counts(applied.reason[first:stop])
        answers.append(Answer(forecasts=b"".join(lines[begin:end]), refused=b"".join(dead), counts=counts))
    return answers


def _counts(reason: NDArray[np.uint8]) -> dict[str, int]:
    """Count the lines by reason code; blank ones are left out."""
    count = np.bincount(reason, minlength=len(Reason)).tolist()
    return {r.code: count[r] for r in Reason if count[r] and r != Reason.BLANK}
