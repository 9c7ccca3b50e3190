"""Stories for the stream: lines of many series with poison of every kind among them, and what has to come of each line.

The reason of every line is known when it is written, from a few facts kept for each series, so that a run is judged
without believing the program that made it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

HOUR = 3_600_000_000
START = 1_706_745_600_000_000
"""2024-02-01, just after the cut-off of the model of `served`."""
LINE_BYTES = 600
"""Longest line that a story's stream reads."""

MALFORMED = [
    b"{",
    b"[1, 2, 3]",
    b'"text"',
    b"null",
    b'{"series": "S0", "time": 1706745600000000, "price": NaN}',
    b'{"series": "S0", "time": 1706745600000000, "price": 1e999}',
    b'{"series": "S0", "time": 1706745600000000, "price": "1"}',
    b'{"series": "S0", "time": 1706745600000000, "price": true}',
    b'{"series": "S0", "time": 1706745600000000}',
    b'{"series": 7, "time": 1706745600000000, "price": 1.5}',
    b'{"series": "S0", "time": 1706745600000000, "price": 1.5, "sequence": -1}',
    b'{"series": "S0", "time": 1706745600000000, "price": 1.5, "sequence": 0.5}',
    b'{"series": "S0", "time": 1706745600000000, "price": 1.5, "adjust": 0.5}',
    b'{"series": "S0", "time": 1706745600000000, "price": 1.5}{"series": "S1", "time": 1, "price": 1.5}',
    b'{"series": "S\xc3", "time": 1706745600000000, "price": 1.5}',
    b'{"series": "S\\ud800", "time": 1706745600000000, "price": 1.5}',
    b"\xff\xfe\x00\x01",
    b"\xe6\x97",
    b'{"series": "S0", "time": 1706745600000000, "price": 1.5' + b" " * LINE_BYTES + b"}",
    b'{"a": ' * 50 + b"1" + b"}" * 50,
]
"""Lines that are no tick; some of them nearly are."""

NAMES = [
    "../S0",
    "/S0",
    "S0/../S1",
    "",
    "S 0",
    "S0\x00",
    "=cmd()",
    "\u202eS0",
    "S\U0001f4c8",
    "S" * 65,
    ".S0",
    "\ufeffS0",
]
"""Names that no series may have."""

Line = tuple[bytes, str]
"""A line, and the reason code that it has to get."""


@dataclass
class Series:
    """What a story knows of one series."""

    name: str
    level: float
    accepted: int = START
    """Time of the last tick that was taken in."""
    key: tuple[int, int] = (START, 0)
    price: float | None = None
    """Of the last event; None for an adjustment."""
    last: bytes = b""
    """The line of the last event."""
    held: bool = False
    """A jump waits for the tick that confirms it."""


@dataclass
class Story:
    """Lines in the order of arrival, and what has to come of them.

    Attributes
    ----------
    lines : list of (bytes, str)
        Lines without LF, and the reason code of each.
    parts : list of int
        Where files of their own begin, when the story comes as a folder; CSV and JSON never meet in one.
    wanted : list of (series, time, sequence)
        The forecasts, in order.
    """

    names: list[str]
    lines: list[Line] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    wanted: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Lines by reason code; blank ones are left out."""
        counted = Counter(reason for _, reason in self.lines)
        return {reason: count for reason, count in counted.items() if reason != "blank"}

    @property
    def data(self) -> bytes:
        """The story as one file."""
        return b"".join(line + b"\n" for line, _ in self.lines)

    def files(self) -> dict[str, bytes]:
        """The story as the files of a folder, in their order."""
        ends = [*self.parts[1:], len(self.lines)]
        return {
            f"part-{i:04d}.{'csv' if self.lines[start][0].startswith(b'series,') else 'jsonl'}": b"".join(
                line + b"\n" for line, _ in self.lines[start:end]
            )
            for i, (start, end) in enumerate(zip(self.parts, ends, strict=True))
        }


def story(
    seed: int, count: int = 4000, series: int = 300, *, poison: float = 0.25, csv: bool = False, leaps: bool = True
) -> Story:
    """Write a story of about `count` lines.

    Parameters
    ----------
    seed : int
        Equal seeds tell equal stories.
    count : int
    series : int
        Names; each of them shows a price before the first poison that needs a full house.
    poison : float
        Share of lines that are not ordinary ticks.
    csv : bool
        Let some parts be CSV: for folders only, as a file is one or the other.
    leaps : bool
        Let prices move far and stay there, which a model that learns their scale takes for what is usual from then on.
    """
    rng = random.Random(seed)
    names = [f"S{k}" for k in range(series)]
    all_series = [Series(name, 10 * (1 + k % 50)) for k, name in enumerate(names)]
    rng.shuffle(all_series)
    told = Story([s.name for s in all_series])
    writer = _Writer(rng, told)
    if not leaps:
        writer.kinds.remove(writer.leap)
    for one in all_series:
        writer.part(csv=False)
        writer.tick(one)
        if rng.random() < poison:
            writer.poison(one)
    writer.full = True
    while len(told.lines) < count:
        if rng.random() < 0.01:
            writer.part(csv=csv and rng.random() < 0.5, new=True)
        one = rng.choice(all_series[: max(1, series // 10)] if rng.random() < 0.5 else all_series)
        if rng.random() < poison:
            writer.poison(one)
        else:
            writer.tick(one)
    return told


class _Writer:
    """Writes lines of a story and keeps its facts."""

    def __init__(self, rng: random.Random, told: Story) -> None:
        self.rng, self.told = rng, told
        self.csv, self.full = False, False
        always = [self.malformed, self.blank, self.late, self.again, self.conflict, self.off_grid, self.jump, self.leap]
        always += [self.price, self.time, self.future, self.name, self.hole, self.behind]
        self.kinds: list[Callable[[Series], None]] = always
        self.json_kinds: list[Callable[[Series], None]] = [self.adjust, self.unknown, self.limit, self.carriage]

    def part(self, *, csv: bool, new: bool = False) -> None:
        """Begin a file of a folder, when asked to or when there is none."""
        if new or not self.told.parts:
            self.told.parts.append(len(self.told.lines))
            self.csv = csv
            if csv:
                self.put(b"series,time,sequence,price", "blank")

    def put(self, line: bytes, reason: str) -> None:
        """Add a line."""
        self.told.lines.append((line, reason))

    def poison(self, one: Series) -> None:
        """Write something other than a tick."""
        self.rng.choice(self.kinds if self.csv else self.kinds + self.json_kinds)(one)

    def render(self, name: str, time: Any, price: Any, sequence: int = 0) -> bytes:
        """Write a tick in one of its forms."""
        if type(time) is int and 1e15 < abs(time) < 1e17 and self.rng.random() < 0.3:
            time = (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=time)).isoformat()
        if self.csv:
            return f"{name},{time},{sequence or ''},{'' if price is None else repr(price)}".encode()
        record = {"series": name, "time": time, "price": price}
        if sequence or self.rng.random() < 0.1:
            record["sequence"] = sequence
        if self.rng.random() < 0.05:
            record["volume"] = {"beside": [1, 2]}
        return orjson.dumps(record)

    def event(self, one: Series, line: bytes, reason: str, key: tuple[int, int], price: float | None) -> None:
        """Add a line that uses up a key."""
        self.put(line, reason)
        one.key, one.price, one.last = key, price, line

    def tick(self, one: Series, price: float | None = None, *, same: bool = False) -> None:
        """Write an ordinary tick, of the same time as the last one now and then."""
        if one.last and one.price is not None and one.key[0] == one.accepted and (same or self.rng.random() < 0.1):
            key = (one.key[0], one.key[1] + self.rng.randint(1, 3))
        else:
            key = (self.later(one), 0) if one.last else one.key
        one.level = price or max(1.0, one.level * (1 + 0.01 * max(-3.0, min(3.0, self.rng.gauss(0, 1)))))
        shown = one.level if self.rng.random() > 0.02 or one.level < 20 else round(one.level)
        self.event(one, self.render(one.name, key[0], shown, key[1]), "accepted", key, shown)
        one.accepted, one.level, one.held = key[0], float(shown), False
        self.told.wanted.append((one.name, *key))

    def later(self, one: Series) -> int:
        """Give a time on the grid after the last event."""
        behind = -(-(one.key[0] + 1 - one.accepted) // HOUR)
        return one.accepted + HOUR * (behind + self.rng.choice([0, 0, 0, 1, 5]))

    def malformed(self, one: Series) -> None:
        """Write what is no tick."""
        if self.csv:
            row = self.rng.choice([b"S0", b"S0,2024-02-01", b'"S0,2024-02-01,1,2', b"S\xff,2024-02-01,,1.5", b"{}"])
            self.put(self.rng.choice([row, f"{one.name},{self.later(one)},,1_000".encode()]), "malformed")
        else:
            self.put(self.rng.choice([*MALFORMED, self.rng.randbytes(20).replace(b"\n", b"") + b"}"]), "malformed")

    def blank(self, one: Series) -> None:  # noqa: ARG002  the form of a kind
        """Write a line that holds nothing."""
        self.put(self.rng.choice([b"", b" ", b"\r", b"\t\t"]), "blank")

    def carriage(self, one: Series) -> None:
        """Write a tick that ends in CR LF."""
        self.tick(one)
        line, reason = self.told.lines.pop()
        self.put(line + b"\r", reason)

    def late(self, one: Series) -> None:
        """Write a tick of before."""
        self.put(self.render(one.name, one.key[0] - HOUR * self.rng.randint(1, 50), one.level), "late")

    def behind(self, one: Series) -> None:
        """Write a tick of the same time and a lower sequence."""
        self.tick(one, same=True)
        if one.key[1] > 0:
            self.put(self.render(one.name, one.key[0], one.level, one.key[1] - 1), "out_of_order")

    def again(self, one: Series) -> None:
        """Write the last event again."""
        if one.last and one.last.startswith(b"{") != self.csv:
            self.put(one.last, "duplicate")

    def conflict(self, one: Series) -> None:
        """Write another price for the last event."""
        if one.price is not None:
            self.put(self.render(one.name, one.key[0], one.price * 1.01, one.key[1]), "conflict")

    def off_grid(self, one: Series) -> None:
        """Write a tick between the bars."""
        if one.last:
            time = self.later(one) + self.rng.choice([1, HOUR // 2, HOUR - 1])
            self.event(one, self.render(one.name, time, one.level), "off_grid", (time, 0), one.level)

    def jump(self, one: Series) -> None:
        """Write a price of another world."""
        if one.last and not one.held:
            one.held, time, price = True, self.later(one), one.level * 1000
            self.event(one, self.render(one.name, time, price), "jump", (time, 0), price)

    def leap(self, one: Series) -> None:
        """Let a price move far and stay there: refused once, then taken."""
        if one.last and not one.held and one.level < 1e6:
            time, price = self.later(one), one.level * 4
            self.event(one, self.render(one.name, time, price), "jump", (time, 0), price)
            self.tick(one, price * 1.001)

    def price(self, one: Series) -> None:
        """Write a price that cannot be."""
        outside = [-1.5, 0.0, -0.0, 5e-324, 1e30, 1e15, 1e-15, 1.7e308]
        if not self.csv:
            outside += [0, -3, 10**300]
            huge = b'{"series":"%s","time":%d,"price":%d}' % (one.name.encode(), self.later(one), 10**60)
            self.put(
                self.rng.choice([self.render(one.name, self.later(one), p) for p in outside[:-1]] + [huge]), "domain"
            )
            return
        if self.rng.random() < 0.5:
            infinite = self.rng.choice(["nan", "inf", "-inf", "1e999", "NaN"])
            self.put(f"{one.name},{self.later(one)},,{infinite}".encode(), "not_finite")
            return
        self.put(self.render(one.name, self.later(one), self.rng.choice(outside)), "domain")

    def time(self, one: Series) -> None:
        """Write a time that cannot be, or is in another unit."""
        now = self.later(one)
        units = [now // 1_000_000, now // 1000, now * 1000, 0, -5]
        times = ["yesterday", "1850-01-01", "2262-04-11T23:47:16Z", "2024-13-01"]
        time, reason = self.rng.choice([(t, "unit") for t in units] + [(t, "time") for t in times])
        self.put(self.render(one.name, time, one.level), reason)

    def future(self, one: Series) -> None:
        """Write a time that lies years ahead."""
        self.put(self.render(one.name, START + HOUR * 24 * 366 * self.rng.randint(20, 100), one.level), "future")

    def name(self, one: Series) -> None:
        """Write a name that no series may have."""
        name = self.rng.choice(NAMES[:3] if self.csv else NAMES)
        self.put(self.render(name, self.later(one), one.level), "name")

    def hole(self, one: Series) -> None:
        """Write a price that was not published."""
        self.put(self.render(one.name, self.later(one), None), "hole")

    def adjust(self, one: Series) -> None:
        """Write a split."""
        if one.last and 1 < one.level < 1e6:
            time, factor = self.later(one), self.rng.choice([0.5, 2, 1.25])
            line = orjson.dumps({"series": one.name, "time": time, "adjust": factor})
            self.event(one, line, "adjusted", (time, -1), None)
            one.level *= factor

    def unknown(self, one: Series) -> None:
        """Write a split of a series that never was."""
        self.put(orjson.dumps({"series": "never", "time": self.later(one), "adjust": 0.5}), "unknown")

    def limit(self, one: Series) -> None:
        """Write one series too many."""
        if self.full:
            self.put(self.render(f"X{self.rng.randint(0, 99)}", self.later(one), one.level), "limit")
