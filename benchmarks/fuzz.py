"""S9: lines of every damage through the parser: none raises an error, and a batch says what each line alone says.

Lines of a story with poison are cut, glued, repeated and overwritten, in bytes and in pieces of JSON and CSV, and
parsed in batches: plain, with covariates, and as blocks. Every line must get a reason and columns that fit; in a tenth
of the batches each line is parsed by itself too, and must come out the same to the bit.

    python benchmarks/fuzz.py [--lines 10000000] [--seed 7]
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from poison import story

from pipeline.ticks import PLAIN, Layout, Parser, Reason, Ticks, parser

BATCH = 1000
LAYOUTS = (PLAIN, Layout(horizon=2, past=("volume",), future=("load",)), Layout(block=3))
PIECES = [
    *(
        b"",
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"\x00",
        b"\xff",
        b"\xc3",
        b"e",
        b"-",
        b".",
        b"null",
        b"true",
    ),
    *(
        b"NaN",
        b"1e999",
        b"-0.0",
        b"9" * 40,
        b'"adjust":',
        b'"sequence":-1',
        b'"price":[',
        b'"time":"',
        b"\xef\xbb\xbf",
        b" " * 9,
    ),
]


def damaged(line: bytes, pool: list[bytes], rng: random.Random) -> bytes:
    """Cut, overwrite, repeat or glue a line at random places."""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        i, j = sorted((rng.randrange(len(line) + 1), rng.randrange(len(line) + 1)))
        kind = rng.randrange(5)
        if kind == 0:
            line = line[:i] + rng.choice(PIECES) + line[j:]
        elif kind == 1:
            line = line[:i] + rng.choice(PIECES) + line[i:]
        elif kind == 2:
            line = line[:j] + line[i:]
        elif kind == 3:
            line = line[:i] + rng.choice(pool)[i:]
        elif line:
            place = i % len(line)
            line = line[:place] + bytes([line[place] ^ (1 << rng.randrange(8))]) + line[place + 1 :]
    return line.replace(b"\n", b"")


def flat(line: bytes) -> bool:
    """Tell whether a line has one brace at either end and no other."""
    return line[:1] == b"{" and line[-1:] == b"}" and line.count(b"{") == line.count(b"}") == 1


def same(batch: Ticks, alone: Ticks, at: int) -> bool:
    """Compare one row of a batch with the line parsed by itself."""
    if batch.reason[at] != alone.reason[0]:
        return False
    if batch.reason[at] != Reason.ACCEPTED:
        return True
    names = ("time", "sequence", "price", "factor", "past", "future")
    return batch.name[at] == alone.name[0] and all(
        getattr(batch, name)[at].tobytes() == getattr(alone, name)[0].tobytes() for name in names
    )


def check(parse: Parser, lines: list[bytes], *, each: bool) -> Counter[str]:
    """Parse a batch, and each line by itself where asked."""
    ticks = parse(lines)
    assert len(ticks) == len(lines) == len(ticks.reason) == len(ticks.price)
    assert ticks.reason.max() < len(Reason)
    if each:
        for i, line in enumerate(lines):
            assert same(ticks, parse([line]), i), line
    return Counter({Reason(r).code: int(n) for r, n in zip(*np.unique(ticks.reason, return_counts=True), strict=True)})


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--lines", type=int, default=10_000_000)
    asked.add_argument("--seed", type=int, default=7)
    options = asked.parse_args()
    rng = random.Random(options.seed)
    pools = {csv: [line for line, _ in story(options.seed, 4000, csv=csv).lines] for csv in (False, True)}
    parsers = [(csv, parser(pools[csv][0], layout)) for csv in (False, True) for layout in LAYOUTS]
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    for batch in count():
        if sum(counts.values()) >= options.lines:
            break
        csv, parse = parsers[batch % len(parsers)]
        pool = pools[csv]
        lines = [damaged(rng.choice(pool), pool, rng) for _ in range(BATCH)]
        if not csv and batch % 2:  # what is taken for objects at a glance, and read all at once
            lines = [line for line in lines if flat(line)] or lines
        counts += check(parse, lines, each=batch % 20 < 2)
    seconds = time.monotonic() - begun
    print(f"{sum(counts.values()):,} lines in {seconds:.0f} s, seed {options.seed}, Python {platform.python_version()}")
    print(", ".join(f"{found:,} {code}" for code, found in counts.most_common()))
    print("none raised an error; a tenth of the batches equals its lines parsed one by one")


if __name__ == "__main__":
    main()
