"""An engine that forecasts for real and keeps everything in memory: what the service needs of the durable one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
from served import model_bytes

from models.observation import MEDIAN
from pipeline.desk import Posted
from pipeline.session import Session
from pipeline.states import Applied, Stream
from pipeline.ticks import DEAD, SENTENCES, Reason, Ticks, parser


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one block gave."""

    forecasts: bytes
    refused: bytes
    accepted: int
    counts: dict[str, int]
    repeated: bool = False


@dataclass(kw_only=True)
class MemoryEngine:
    """The engine; `before` runs before each micro-batch, to be slow or to fail."""

    before: Callable[[Sequence[Posted]], None] = lambda _: None
    name: str = "last"
    stream: Stream = field(default_factory=lambda: Stream(Session(model_bytes()), max_series=1000))
    answers: dict[str, Answer] = field(default_factory=dict)
    last: dict[str, bytes] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    batches: list[int] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    tended: int = 0
    closed: bool = False

    def take(self, blocks: Sequence[Posted]) -> list[Answer]:
        """Take in a micro-batch."""
        self.threads.add(threading.get_ident())
        self.before(blocks)
        self.batches.append(sum(len(block.lines) for block in blocks))
        return [self._answer(block) for block in blocks]

    def tend(self) -> bool:
        """Count how often it is asked."""
        self.threads.add(threading.get_ident())
        self.tended += 1
        return False

    def latest(self, series: str) -> bytes | None:
        """Give the last forecast line."""
        self.threads.add(threading.get_ident())
        return self.last.get(series)

    def listed(self, after: str, limit: int) -> list[dict]:
        """List series by name."""
        return [{"name": name} for name in sorted(self.last) if name > after][:limit]

    def status(self) -> dict:
        """Tell how things are."""
        arrays = self.stream.arrays()
        newest = int(arrays["time"].max()) if len(arrays["time"]) else None
        return {
            "model": self.name,
            "sha256": self.stream.session.sha256,
            "version": 1,
            "series": len(self.last),
            "counts": dict(self.counts),
            "newest_time": newest,
            "batches": len(self.batches),
            "scores": {"1": {"coverage": 0.9, "mae": float("nan")}},
        }

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def _answer(self, block: Posted) -> Answer:
        if block.request in self.answers:
            known = self.answers[block.request]
            return Answer(**{**vars(known), "repeated": True})
        parse = parser(block.head)
        ticks = Ticks.from_rows([parse(line) for line in block.lines])
        applied = self.stream.apply(ticks)
        counts = Counter(Reason(reason).code for reason in applied.reason.tolist())
        self.counts.update(counts)
        lines = self._forecasts(ticks, applied)
        refused = [_letter(block, i, int(applied.reason[i])) for i in np.flatnonzero(applied.reason >= DEAD).tolist()]
        answer = Answer(forecasts=b"".join(lines), refused=b"".join(refused), accepted=len(lines), counts=dict(counts))
        if block.request is not None:
            self.answers[block.request] = answer
        return answer

    def _forecasts(self, ticks: Ticks, applied: Applied) -> list[bytes]:
        out = []
        quantile = applied.forecast.quantile[:, :, 0]
        for i, q in zip(applied.tick.tolist(), quantile, strict=True):
            record = {
                "series": ticks.name[i],
                "origin_time": str(ticks.time[i]),
                "model": self.name,
                "sha256": self.stream.session.sha256[:12],
                "median": q[:, MEDIAN].tolist(),
                "quantiles": q.tolist(),
            }
            out.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            self.last[ticks.name[i]] = out[-1]
        return out


def slow(seconds: float) -> Callable[[Sequence[Posted]], None]:
    """Make an engine that needs `seconds` for a micro-batch."""
    return lambda _: time.sleep(seconds)


def _letter(block: Posted, i: int, reason: int) -> bytes:
    letter = {"line": block.first + i + 1, "reason": Reason(reason).code, "sentence": SENTENCES[Reason(reason)]}
    text = block.lines[i][:512].decode("utf-8", "replace")
    return orjson.dumps(letter | {"text": text}, option=orjson.OPT_APPEND_NEWLINE)
