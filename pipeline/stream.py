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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, IntegrityError, ModelError
from pipeline.answers import Answer, answers, counted, other_lines
from pipeline.book import NEVER
from pipeline.events import Events
from pipeline.fingerprint import fingerprint
from pipeline.head import Head
from pipeline.history import History
from pipeline.journal import Batch, Journal, ModelRow
from pipeline.ledger import Ledger
from pipeline.lines import SPAN, Block
from pipeline.lineup import SERVING, Lineup
from pipeline.live import Live
from pipeline.outputs import Sink
from pipeline.pages import Pages
from pipeline.recovery import BOOK, GREETING, TOGETHER, recover
from pipeline.rendering import Label, dead_letters, forecasts, notes
from pipeline.shadow import Shadow
from pipeline.states import States
from pipeline.stream_config import StreamConfig
from pipeline.stream_core import Applied, Core
from pipeline.ticks import Layout, Parser, Ticks, parser

Past = Callable[[Layout], Iterable[Ticks]]
"""Gives ticks to begin with."""


class Tended(Protocol):
    """Work beside the ticks, done a slice at a time."""

    def tend(self) -> bool:
        """Do a slice; True while more is waiting."""
        ...

    def close(self) -> None:
        """End what is under way."""
        ...


_TOO_LONG = b"["
"""What is read in the place of a line above the bound: no tick, neither as JSON nor as CSV."""


class Stream:
    """A stream of ticks under one lineup of models.

    Parameters
    ----------
    lineup : Lineup or None
        Models of a new stream; a journal that exists goes on with its own.
    config : StreamConfig, optional
    journal : Journal, optional
        Left out, nothing survives the process.
    out, dead, told : Sink, optional
        Where forecasts, dead letters and notes of what happened beside the ticks go; left out, forecasts and letters
        are in the answers alone.
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
        lineup: Lineup | None,
        config: StreamConfig | None = None,
        *,
        journal: Journal | None = None,
        out: Sink | None = None,
        dead: Sink | None = None,
        told: Sink | None = None,
        history: Past | None = None,
        rebase: bool = False,
    ) -> None:
        self.config = config or StreamConfig()
        self.journal = journal
        self._shadow: Shadow | None = None
        self.swap: Tended | None = None
        self._failed = False
        self._parsers: dict[bytes, Parser] = {}
        opened = journal is None or journal.fresh
        self.lineup = _begun(lineup, journal) if opened or journal is None else kept_lineup(journal)
        self._open({"out": out, "dead": dead, "note": told})
        if journal is not None:
            for session in self.lineup.sessions.values():
                session.self_test(max(self.config.batch, TOGETHER))
        if opened:
            self._begin(history)
        else:
            self._resume(rebase=rebase)

    def _open(self, sinks: Mapping[str, Sink | None]) -> None:
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
            expires_us=self.config.expires_us,
        )
        folder = Path("/nowhere") if self.journal is None else self.journal.folder
        length = 0 if self.journal is None else self.config.history
        self.history = History(folder / "history.ring", self.core.layout, length)
        given = {name: sink for name, sink in sinks.items() if sink is not None}
        self.ledger = Ledger(self.journal, self.history, given, self.config.replay)

    @property
    def broken(self) -> bool:
        """Whether an error has left the stream of no use until it is opened again."""
        return self._failed or self.ledger.broken

    def _begin(self, history: Past | None) -> None:
        """Warm the states and lay down the first batch."""
        for ticks in history(self.core.layout) if history is not None else ():
            applied = self.core.apply(ticks)
            self.history.write(applied.events)
        book = self.core.book
        self.head = Head(batch=GREETING, series=len(book), newest=book.newest).labelled(_label(self.lineup))
        owners = self._owners_of(self.lineup)
        self.live = Live(self.lineup, self.config.drift)
        self.ledger.pages = [self._book_pages(), *_paged(owners, self.core.states)]
        if self.journal is None:
            return
        self.ledger.begin_outputs()
        self.ledger.touch(np.arange(len(book)), GREETING)
        settings = {"layout": asdict(self.core.layout), "history": self.config.history}
        batch = Batch(
            id=GREETING,
            head=self.head.to_dict(),
            scores=self.live.to_bytes(),
            new=book.named(0),
            pages=self.ledger.everything(),
        )
        self.history.flush()
        about = {"settings": settings, "fingerprint": fingerprint()}
        self.journal.begin(about, _model_rows(owners, self.lineup), batch)

    def _resume(self, *, rebase: bool) -> None:
        """Go on where the journal ends."""
        assert self.journal is not None
        here, there = fingerprint(), self.journal.about("fingerprint")
        if here != there and not rebase:
            raise IntegrityError(
                f"journal {self.journal.path}: written with {there}, opened with {here}: the last bits may differ. Go "
                "on with --rebase, which keeps every forecast that was given and steps on here"
            )
        owners = {role: number for role, (number, _) in self.journal.models(self.lineup.version).items()}
        recovered = recover(self.journal, self.core, self.history, owners, exact=not rebase)
        self.head = recovered.head
        self.live = Live(self.lineup, self.config.drift)
        self.live.restore(self.journal.last().scores)
        self.stepped = recovered.stepped
        self.ledger.pages = [self._book_pages(), *_paged(owners, self.core.states)]
        self.ledger.restore(recovered.dirty)
        self.ledger.recover_outputs(self.head, self.core)
        if here != there or recovered.difference > 0:
            told = {"kind": "rebase", "from": there, "to": here, "difference": recovered.difference}
            self.note(told, everything=True)
            self.journal.rebase({"fingerprint": here})

    def _owners_of(self, lineup: Lineup) -> dict[str, int]:
        """Give numbers to the models of a lineup."""
        first = 1 if self.journal is None else self.journal.next_owner()
        return {role: first + i for i, role in enumerate(lineup.files)}

    def _book_pages(self) -> Pages:
        return next((p for p in self.ledger.pages if p.owner == BOOK), None) or Pages(BOOK, self.core.book.arena)

    def take(self, blocks: Sequence[Block]) -> list[Answer]:
        """Take in blocks of lines as one micro-batch; it is committed and given out when this returns.

        A request that was answered before is answered alike, and nothing of it is taken in again.

        Raises
        ------
        DataError
            A request was answered for other lines before; nothing of the batch is taken in.
        StatecastError
            The batch could not be taken in or committed: `broken` is true then, and the stream must be opened again.
        """
        if self.broken:
            raise ModelError("stream: an earlier batch failed. Open it again: it goes on from its journal")
        given: dict[int, Answer] = {}
        fresh: list[tuple[int, Block]] = []
        first: dict[str, int] = {}
        for i, block in enumerate(blocks):
            before = self._answered(block)
            if before is not None:
                given[i] = before
                continue
            again = i if block.request is None else first.setdefault(block.request, i)
            if blocks[again].lines != block.lines:
                raise other_lines(block)
            if again == i:
                fresh.append((i, block))
        if fresh:
            self._failed = True
            given |= zip([i for i, _ in fresh], self._taken([block for _, block in fresh]), strict=True)
            self._failed = False
        for i, block in enumerate(blocks):
            if i not in given:  # the same request twice in one batch
                given[i] = replace(given[first[block.request or ""]], repeated=True)
        return [given[i] for i in range(len(blocks))]

    def _answered(self, block: Block) -> Answer | None:
        if block.request is None or self.journal is None:
            return None
        kept = self.journal.answer(block.request)
        return None if kept is None else Answer.from_bytes(kept, block)

    def _taken(self, blocks: list[Block]) -> list[Answer]:
        """Parse, step, commit and give out."""
        ticks = Ticks.joined([self._parsed(block) for block in blocks])
        applied = self.core.apply(ticks)
        names = self.core.book.names
        lines = forecasts(names, applied.events.take(applied.events.accepted), applied.quantile, self.head.label)
        letters = self._letters(blocks, applied.reason)
        given = answers(blocks, applied.reason, applied.tick, lines, letters)
        written, dropped = self._capped([letter for part in letters for letter in part])
        out, dead = b"".join([answer.forecasts for answer in given]), b"".join(written)
        drifts = self.live.take(applied.events, applied.walked)
        told = notes(drifts)
        head = replace(
            self._next(applied, len(out), len(dead), dropped),
            notes=drifts,
            note_bytes=self.head.note_bytes + len(told),
        )
        self._commit(
            head,
            applied,
            dead=dead,
            positions={b.partition: asdict(b.position) for b in blocks if b.position is not None},
            answers={b.request: a.to_bytes(b) for b, a in zip(blocks, given, strict=True) if b.request is not None},
        )
        self.ledger.publish(self.head, {"out": out, "dead": dead, "note": told})
        return given

    def _parsed(self, block: Block) -> Ticks:
        """Read the lines of a block."""
        parse = self._parsers.get(block.head)
        if parse is None:
            parse = parser(block.head, self.core.layout)
            if len(self._parsers) > 1000:
                self._parsers.clear()
            if len(block.head) <= SPAN:  # a request may have a head of any length
                self._parsers[block.head] = parse
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
        before = self.head.counts
        more = {code: before.get(code, 0) + count for code, count in counted(applied.reason).items()}
        return replace(
            self.head.following(),
            events=len(applied.events),
            series=len(self.core.book),
            newest=self.core.book.newest,
            counts=before | more,
            out_bytes=self.head.out_bytes + out,
            dead_bytes=self.head.dead_bytes + dead,
            dropped=self.head.dropped + dropped,
        )

    def _commit(self, head: Head, applied: Applied | None = None, live: Live | None = None, **rest: Any) -> None:
        """Bring a batch to disk; `head` counts from then on."""
        events = None if applied is None else applied.events
        kept = {name: rest.pop(name) for name in ("everything", "models") if name in rest}
        if self.ledger.journal is not None:
            if applied is not None:
                rest |= {"events": applied.events.to_bytes(), "forecasts": applied.quantile.tobytes()}
                rest["new"] = self.core.book.named(head.series - len(applied.new))
            batch = Batch(id=head.batch, head=head.to_dict(), scores=(live or self.live).to_bytes(), **rest)
            self.ledger.commit(batch, events, **kept)
        self.head = head

    def rest(self, *, forget: bool = True) -> None:
        """Bring every page to disk, and let the journal forget all that is in them."""
        if self.ledger.dirty:
            self._commit(self.head.following(), everything=True)
            if forget:
                self.ledger.settle(self.head.batch)

    def latest(self, series: str) -> bytes | None:
        """Give the last forecast of a series as a line, None where there is none.

        The value at step s is for the s-th tick after the last one, and was made from ticks up to and including it.
        After a model has changed it is that of the new one, and after an adjustment it is in the new unit.
        """
        slot, book, states = self.core.book.slot(series), self.core.book, self.core.serving.arena
        if slot is None or states["accepted"][slot] == NEVER:
            return None
        marks = self.core.marks(states["accepted"][[slot]], states["count"][[slot]])
        flags = int(book.arena["fallback"][slot]) | int(marks[0])
        key = int(states["accepted"][slot]), int(book.arena["accepted_sequence"][slot])
        events = Events.blank(slot, self.core.layout, key, flags)
        return forecasts(book.names, events, states["quantile"][[slot]], self.head.label)[0]

    def listed(self, after: str, limit: int) -> list[dict[str, Any]]:
        """List series in the order of their first tick, those that follow on a name; "" begins at the first."""
        book, states = self.core.book, self.core.serving.arena
        before = book.slot(after) if after else -1
        if before is None:
            return []
        return [
            {
                "name": book.names[slot],
                "last_time": _moment(int(book.arena["time"][slot])),
                "price": states["price"][slot].tolist()
                if self.core.layout.block > 1
                else float(states["price"][slot, 0]),
                "ticks": int(states["count"][slot]),
                "warming": bool(states["count"][slot] < self.config.burn_in),
            }
            for slot in range(before + 1, min(before + 1 + limit, len(book)))
        ]

    def status(self) -> dict[str, Any]:
        """Tell how things are: what serves, how much was taken in, and how the forecasts hold."""
        head, expiry = self.head, self.core.expiry_us
        return {
            "model": head.model,
            "sha256": self.lineup.sha256,
            "version": head.version,
            "beside": sorted(self.core.beside),
            "series": head.series,
            "batches": head.batch,
            "counts": head.counts,
            "dropped": head.dropped,
            "newest_time": None if head.newest == NEVER else _moment(head.newest),
            "cutoff_time": _moment(self.core.session.metadata.cutoff_us),
            "expires_time": None if expiry is None else _moment(expiry),
            "stale": expiry is not None and head.newest > expiry,
            "scores": self.live.report(),
            "drift": self.live.drift,
            "swap": None
            if self._shadow is None
            else {"version": self._shadow.lineup.version, "events_to_warm": self._shadow.lag},
        }

    def note(self, told: dict[str, Any], label: Label | None = None, **rest: Any) -> None:
        """Commit and give out word of something that happened beside the ticks."""
        told = told | {"lines": sum(self.head.counts.values())}
        data = notes([told])
        head = replace(self.head.following(), notes=[told], note_bytes=self.head.note_bytes + len(data))
        self._commit(head if label is None else head.labelled(label), **rest)
        self.ledger.publish(self.head, {"note": data})

    def announce(self, lineup: Lineup) -> None:
        """Begin to warm the states of another lineup from the latest ticks of each series.

        Raises
        ------
        ModelError
            One of its models needs more than ticks hold.
        """
        self.withdraw()
        self._shadow = Shadow(lineup, self.core, self.history)
        owners = self._owners_of(lineup)
        self.ledger.warming = _paged(owners, self._shadow.states)
        models = _model_rows(owners, lineup)
        self.note({"kind": "announced", "version": lineup.version, "sha256": lineup.sha256}, models=models)

    def warm(self, seconds: float) -> bool:
        """Go on warming for about so long; True when all states have caught up.

        Raises
        ------
        IntegrityError
            A series has moved on faster than its history reaches; announce the lineup again.
        """
        assert self._shadow is not None, "no lineup was announced"
        slot = self._shadow.advance(seconds)
        if len(slot) and self.journal is not None:
            # a page counts from the batch as of which it is exact, and this one has no events
            fresh = [page for pages in self.ledger.warming for page in pages.fresh(slot)]
            self._commit(self.head.following(), pages=fresh)
        return self._shadow.lag == 0

    def flip(self) -> None:
        """Let the announced lineup serve from the next tick on, in one transaction."""
        shadow = self._shadow
        assert shadow is not None, "no lineup was announced"
        assert shadow.lag == 0, "the states of the announced lineup have not caught up"
        told = {"kind": "swap", "version": shadow.lineup.version, "sha256": shadow.lineup.sha256}
        live = Live(shadow.lineup, self.config.drift)
        self.note(told | {"was": self.head.version}, _label(shadow.lineup), live=live)
        self.live, self.lineup, self._shadow = live, shadow.lineup, None
        shadow.hold(slice(len(self.core.book)))
        self.core.take_over(shadow.states)
        self.ledger.pages, self.ledger.warming = [self._book_pages(), *self.ledger.warming], []

    def withdraw(self) -> None:
        """Forget a lineup that was announced and does not serve yet; harmless where there is none."""
        self._shadow, self.ledger.warming = None, []

    def tend(self) -> bool:
        """Do a slice of the work that waits beside the ticks; True while more is waiting."""
        return self.swap is not None and self.swap.tend()

    def close(self) -> None:
        """Write every page, so that the next start steps nothing again, and close all files."""
        if self.swap is not None:
            self.swap.close()
        self.withdraw()
        try:
            if self.journal is not None and not self.broken:
                self.rest()
        finally:
            self.ledger.close()


def _paged(owners: Mapping[str, int], states: Mapping[str, States]) -> list[Pages]:
    """Follow what changes in the arenas of models."""
    return [Pages(number, states[role].arena) for role, number in owners.items()]


def _model_rows(owners: Mapping[str, int], lineup: Lineup) -> list[ModelRow]:
    return [(owners[role], lineup.version, role, file) for role, file in lineup.files.items()]


def _label(lineup: Lineup) -> Label:
    """Name the model that serves."""
    return Label(model=lineup.sessions[SERVING].metadata.name, sha256=lineup.sha256[:12], version=lineup.version)


def _begun(lineup: Lineup | None, journal: Journal | None) -> Lineup:
    if lineup is None:
        raise ConfigError(f"journal {journal and journal.folder}: there is none yet. Name the one of a stream that ran")
    return lineup


def kept_lineup(journal: Journal) -> Lineup:
    """Give the models that a journal goes on with."""
    version = Head(**journal.last().head).version
    files = {role: file for role, (_, file) in journal.models(version).items()}
    if SERVING not in files:
        raise IntegrityError(f"journal {journal.path}: its model is missing. Restore it from a backup")
    return Lineup(version=version, serving=files.pop(SERVING), beside=files)


def _moment(us: int) -> str:
    return str(np.datetime_as_string(np.datetime64(us, "us"), timezone="UTC"))
