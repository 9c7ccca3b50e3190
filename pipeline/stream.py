"""The stream that never loses or repeats a tick: lines in, forecasts out, everything between in a journal.

Each micro-batch is parsed, judged, stepped, committed to the journal in one transaction, and only then given out. After
a kill at any moment the journal's states are loaded, what is newer is stepped again and must give the bits that were
journaled, and the outputs are cut or completed to what was committed.

Legend: n lines of a batch, a of them accepted, S horizon steps, M prices of a block, Q quantile levels.

Comes in: blocks of lines. Goes out: answers, and JSON lines in files. Knows numpy and orjson; imported by drive, serve
and the command line.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from models.errors import ConfigError, DataError, IntegrityError, ModelError
from pipeline.arena import PAGE
from pipeline.book import NEVER
from pipeline.events import WARMING, Events
from pipeline.fingerprint import fingerprint
from pipeline.head import Head
from pipeline.history import History
from pipeline.journal import Batch, Journal
from pipeline.lines import SPAN, Block
from pipeline.lineup import SERVING, Lineup
from pipeline.live import Live
from pipeline.outputs import FileOutput, Sink
from pipeline.pages import Pages
from pipeline.recovery import BOOK, GREETING, kept_output, recover
from pipeline.rendering import Label, dead_letters, forecasts, notes
from pipeline.shadow import Shadow
from pipeline.states import States
from pipeline.stream_config import StreamConfig
from pipeline.stream_core import Applied, Core
from pipeline.ticks import Layout, Parser, Reason, Ticks, parser

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

    def to_bytes(self, block: Block) -> bytes:
        """Write it for the journal, with a digest of the lines that it answers."""
        texts = {"forecasts": self.forecasts.decode(), "refused": self.refused.decode()}
        return orjson.dumps(texts | {"counts": self.counts, "of": _digest(block)})

    @classmethod
    def from_bytes(cls, data: bytes, block: Block) -> Answer:
        """Read what `to_bytes` wrote, as a repetition.

        Raises
        ------
        DataError
            It answers other lines.
        """
        told = orjson.loads(data)
        if told["of"] != _digest(block):
            raise _of_others(block)
        texts = {name: told[name].encode() for name in ("forecasts", "refused")}
        return cls(**texts, counts=told["counts"], repeated=True)


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
        self._sinks = {name: sink for name, sink in (("out", out), ("dead", dead), ("note", told)) if sink is not None}
        self._shadow: Shadow | None = None
        self.swap: Tended | None = None
        self.broken = False
        self._credit = 0.0
        self._drift: dict[str, Any] | None = None
        self._since_settled = 0
        self._parsers: dict[bytes, Parser] = {}
        opened = journal is None or journal.fresh
        self.lineup = _begun(lineup, journal) if opened or journal is None else kept_lineup(journal)
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
        book = self.core.book
        self.head = Head(batch=GREETING, series=len(book), newest=book.newest).labelled(_label(self.lineup))
        self._owners = {role: number for number, role in enumerate(self.lineup.files, start=1)}
        self.live = Live(self.lineup, self.config.drift)
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
            scores=self.live.to_bytes(),
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
        self.live = Live(self.lineup, self.config.drift)
        self.live.restore(self.journal.last().scores)
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
        return [Pages(BOOK, self.core.book.arena), *self._paged_states(self._owners, self.core.states)]

    @staticmethod
    def _paged_states(owners: dict[str, int], states: dict[str, States]) -> list[Pages]:
        return [Pages(number, states[role].arena) for role, number in owners.items()]

    def _recover_outputs(self) -> None:
        """Bring files to what was committed."""
        assert self.journal is not None
        for name, sink in self._sinks.items():
            if isinstance(sink, FileOutput):
                length = getattr(self.head, f"{name}_bytes")
                sink.recover(length, kept_output(self.journal, self.core, name) if sink.length < length else ())

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
        answers: dict[int, Answer] = {}
        fresh: list[tuple[int, Block]] = []
        known: dict[str, int] = {}
        for i, block in enumerate(blocks):
            before = self._answered(block)
            if before is not None:
                answers[i] = before
            elif block.request is None or known.setdefault(block.request, i) == i:
                fresh.append((i, block))
            elif _digest(block) != _digest(blocks[known[block.request]]):
                raise _of_others(block)
        if fresh:
            with self._or_broken():
                answers |= zip([i for i, _ in fresh], self._taken([block for _, block in fresh]), strict=True)
        for i, block in enumerate(blocks):
            if i not in answers:  # the same request twice in one batch
                answers[i] = replace(answers[known[block.request or ""]], repeated=True)
        return [answers[i] for i in range(len(blocks))]

    @contextmanager
    def _or_broken(self) -> Iterator[None]:
        """Take nothing more where the block fails: what is in memory may then be ahead of what is on disk."""
        try:
            yield
        except BaseException:
            self.broken = True
            raise

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
        answers = _answers(blocks, applied, lines, letters)
        written, dropped = self._capped([letter for part in letters for letter in part])
        out, dead = b"".join(lines), b"".join(written)
        drifts = self.live.take(applied.events, applied.walked)
        self._drift = drifts[-1] if drifts else self._drift
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
            answers={b.request: a.to_bytes(b) for b, a in zip(blocks, answers, strict=True) if b.request is not None},
        )
        self._publish(out=out, dead=dead, note=told)
        return answers

    def _publish(self, **data: bytes) -> None:
        """Give out what was committed; each output ends where the head says."""
        for name, sink in self._sinks.items():
            if data.get(name):
                sink.publish(getattr(self.head, f"{name}_bytes") - len(data[name]), data[name])

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
        due = [*rest.pop("pages", []), *self._due(head.events, everything)]
        scores = self.live.to_bytes()
        batch = Batch(id=head.batch, head=head.to_dict(), new=new, pages=due, scores=scores, **rest)
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
        for sink in self._sinks.values():
            sink.settle()
        self.history.flush()
        needed = [pages.oldest for pages in self._pages if pages.oldest is not None]
        # the last batch stays: its head is how far the run is
        self.journal.forget(min([*needed, self.head.batch]), [BOOK, *(p.owner for p in self._pages)])
        self._since_settled = 0

    def latest(self, series: str) -> bytes | None:
        """Give the last forecast of a series as a line, None where there is none.

        The value at step s is for the s-th tick after the last one, and was made from ticks up to and including it.
        After a model has changed it is that of the new one.
        """
        slot, book, states = self.core.book.slot(series), self.core.book, self.core.serving
        if slot is None or states.arena["accepted"][slot] == NEVER:
            return None
        warming = WARMING if states.arena["count"][slot] < self.config.burn_in else 0
        time, last = int(states.arena["accepted"][slot]), book.arena["time"][slot]
        sequence = int(book.arena["sequence"][slot]) if last == time else 0
        events = Events.blank(slot, self.core.layout, (time, sequence), warming)
        return forecasts(book.names, events, states.arena["quantile"][[slot]], self.head.label)[0]

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
        head = self.head
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
            "scores": self.live.report(),
            "drift": self._drift,
            "swap": None
            if self._shadow is None
            else {"version": self._shadow.lineup.version, "events_to_warm": self._shadow.lag},
        }

    def note(self, told: dict[str, Any], **rest: Any) -> None:
        """Commit and give out word of something that happened beside the ticks."""
        told = told | {"lines": sum(self.head.counts.values())}
        data = notes([told])
        head = replace(
            self.head,
            batch=self.head.batch + 1,
            events=0,
            notes=[told],
            note_bytes=self.head.note_bytes + len(data),
        )
        with self._or_broken():
            self._commit(head, **rest)
            self._publish(note=data)

    def announce(self, lineup: Lineup) -> None:
        """Begin to warm the states of another lineup from the latest ticks of each series.

        Raises
        ------
        ModelError
            One of its models needs more than ticks hold.
        """
        self._drop_shadow()
        self._shadow = Shadow(lineup, self.core, self.history)
        first = 0 if self.journal is None else self.journal.next_owner()
        self._shadow_owners = {role: first + i for i, role in enumerate(lineup.files)}
        self._shadow_pages = self._paged_states(self._shadow_owners, self._shadow.states)
        self._pages += self._shadow_pages
        models = [(self._shadow_owners[role], lineup.version, role, file) for role, file in lineup.files.items()]
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
            fresh = [page for pages in self._shadow_pages for page in pages.fresh(slot)]
            with self._or_broken():
                self._commit(replace(self.head, batch=self.head.batch + 1, events=0, notes=[]), pages=fresh)
        return self._shadow.lag == 0

    def flip(self) -> None:
        """Let the announced lineup serve from the next tick on, in one transaction."""
        shadow = self._shadow
        assert shadow is not None, "no lineup was announced"
        assert shadow.lag == 0, "the states of the announced lineup have not caught up"
        live, lineup = Live(shadow.lineup, self.config.drift), shadow.lineup
        told = {"kind": "swap", "version": lineup.version, "sha256": lineup.sha256, "was": self.head.version}
        self.head, self.live = self.head.labelled(_label(lineup)), live
        self.note(told)
        old = {p.owner for p in self._pages} - {BOOK} - set(self._shadow_owners.values())
        self._pages = [p for p in self._pages if p.owner not in old]
        self._owners, self.lineup, self._shadow = self._shadow_owners, lineup, None
        self.core.take_over(shadow.states)

    def reconcile(self, restated: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]) -> dict[str, int]:
        """Compute the states of series anew from restated prices, up to their last tick.

        Parameters
        ----------
        restated : mapping of (int64 [n], float64 [n])
            By series: times in microseconds since 1970, ascending, and prices.

        Returns
        -------
        dict of int
            Prices that each series' states have taken in.

        Raises
        ------
        DataError
            A series is not carried or has no prices, or ticks hold more than a price each.
        """
        if self.core.layout.block > 1 or self.core.layout.beside:
            raise DataError("reconcile: expected ticks of one price alone, but these hold blocks or covariates")
        for name, (_, price) in restated.items():
            if self.core.book.slot(name) is None or len(price) == 0:
                raise DataError(
                    f"reconcile {name}: the stream carries no such series, or the store has no prices of it"
                )
        with self._or_broken():
            # nothing that the journal would step again, or write to the history again, may lie before the new states
            self._commit(replace(self.head, batch=self.head.batch + 1, events=0, notes=[]), everything=True)
            taken = {name: self._reconcile(name, time, price) for name, (time, price) in restated.items()}
            self.history.flush()
            self.head = replace(self.head, ring=self.head.batch + 1)
            self.note({"kind": "reconciled", "series": taken}, everything=True)
        return taken

    def _reconcile(self, name: str, time: NDArray[np.int64], price: NDArray[np.float64]) -> int:
        book, slot = self.core.book, self.core.book.slot(name)
        assert slot is not None
        known = (time <= book.arena["time"][slot]) & np.isfinite(price)
        events = Events.of_series(slot, time[known], price[known], self.core.layout)
        for states in self.core.states.values():
            states.renew(slot, name)
            for start in range(0, len(events), self.config.batch):
                self.core.replay(states, events.take(slice(start, start + self.config.batch)))
        book.arena["shown"][slot] = len(events)
        self.history.write(events)
        for pages in self._pages:
            pages.touch(np.array([slot]), self.head.batch + 1)
        return len(events)

    def _drop_shadow(self) -> None:
        """Forget a lineup that was announced and never served."""
        if self._shadow is not None:
            dropped = set(self._shadow_owners.values())
            self._pages = [p for p in self._pages if p.owner not in dropped]
            self._shadow = None

    def tend(self) -> bool:
        """Do a slice of the work that waits beside the ticks; True while more is waiting."""
        return self.swap is not None and self.swap.tend()

    def close(self) -> None:
        """Write every page, so that the next start steps nothing again, and close all files."""
        if self.swap is not None:
            self.swap.close()
        self._drop_shadow()
        if self.journal is not None:
            if not self.broken and any(map(len, self._pages)):
                self._commit(replace(self.head, batch=self.head.batch + 1, events=0, notes=[]), everything=True)
                self.settle()
            self.journal.close()
        self.history.close()
        for sink in self._sinks.values():
            sink.close()


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


def _of_others(block: Block) -> DataError:
    return DataError(f"request {block.request!r}: it was answered for other lines. Send new lines under a new id")


def _digest(block: Block) -> str:
    return hashlib.sha256(b"\n".join([block.head, *block.lines])).hexdigest()


def _moment(us: int) -> str:
    return str(np.datetime_as_string(np.datetime64(us, "us"), timezone="UTC"))


def _counts(reason: NDArray[np.uint8]) -> dict[str, int]:
    """Count the lines by reason code; blank ones are left out."""
    count = np.bincount(reason, minlength=len(Reason)).tolist()
    return {r.code: count[r] for r in Reason if count[r] and r != Reason.BLANK}
