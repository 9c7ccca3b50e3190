"""The benchmarks of speed that are on record: the last line of every case, and the tables made of them.

A table stands in `docs/benchmarks.md` between `<!-- results: CLAIM -->` and `<!-- end of results -->`. Nobody writes
there by hand: a test holds the document to the record.

Comes in: lines of JSON as `record.py` writes them. Goes out: what moved, and Markdown. Imported by bench.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson
from record import PEERS, Target, aimed, number

Row = dict[str, Any]

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "recorded"
DOCUMENT = ROOT / "docs/benchmarks.md"
MOVED = 1.15
"""Factor by which a ratio has to change before it is named: medians of a shared machine differ by less."""

_MARK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def read(path: Path) -> list[Row]:
    """Read the lines of a file; none where it is missing."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def on_record() -> list[Row]:
    """Read all lines on record, claim by claim."""
    return [row for path in sorted(FOLDER.glob("*.jsonl")) for row in read(path)]


def of(claim: str) -> list[Row]:
    """Read the lines of a claim."""
    return read(FOLDER / f"{claim}.jsonl")


def keep(rows: Sequence[Row]) -> None:
    """Put rows on record, in the place of those of the same cases."""
    for claim in dict.fromkeys(row["claim"] for row in rows):
        path = FOLDER / f"{claim}.jsonl"
        known = {row["case"]: row for row in read(path)} | {r["case"]: r for r in rows if r["claim"] == claim}
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in known.values()))


def moved(before: Iterable[Row], after: Iterable[Row], factor: float = MOVED) -> tuple[list[str], list[str]]:
    """Compare ratios of what ran in turn with those on record; values alone belong to the machine.

    Parameters
    ----------
    before, after : rows
    factor : float
        By how much a ratio has to change to be named, above 1.

    Returns
    -------
    worse, better : lists of str
        A line for each ratio that moved. What is to be at least something, and what another library takes over what
        statecast does, is better when it grows, all else when it falls.
    """
    known = {_key(row, ratio): ratio["ratio"] for row in before for ratio in row["ratios"] if ratio["over"]}
    worse: list[str] = []
    better: list[str] = []
    for row in after:
        for ratio in row["ratios"]:
            old, new = known.get(_key(row, ratio)), ratio["ratio"]
            if old is None or 1 / factor <= new / old <= factor:
                continue
            told = f"{row['claim']}, {row['case']}: {_target(ratio).name} {number(old)} -> {number(new)}"
            grows = ratio["least"] is not None or ratio["of"] in PEERS
            (better if (new > old) == grows else worse).append(told)
    return worse, better


def document(text: str, rows: Sequence[Row]) -> str:
    """Write the tables of all claims into a document, each between its marks."""
    return _MARK.sub(lambda found: found[1] + table([r for r in rows if r["claim"] == found[2]]) + found[3], text)


def table(rows: Sequence[Row]) -> str:
    """Write the cases of a claim as Markdown, a table for each kind of row, and on what they were measured."""
    if not rows:
        return "Not measured yet.\n"
    kinds: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        named = tuple(_target(ratio).name for ratio in _compared(row))
        kinds.setdefault((row["unit"], *row["values"], *named), []).append(row)
    return "\n".join(map(_one_table, kinds.values())) + "\n" + _measured(rows) + "\n"


def _one_table(rows: Sequence[Row]) -> str:
    """Write rows of one kind; what is aimed at for a value stands beside it, ratios in columns of their own."""
    names, unit, ratios = list(rows[0]["values"]), rows[0]["unit"], _compared(rows[0])
    lines = [["case", *(f"{name}, {unit}" for name in names), *(_target(r).name for r in ratios)]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        alone = {r["of"]: aimed(_target(r), r["ratio"]) for r in row["ratios"] if r["over"] is None}
        values = [number(value) + alone.get(name, "") for name, value in row["values"].items()]
        lines.append(
            [row["case"], *values, *(number(r["ratio"]) + aimed(_target(r), r["ratio"]) for r in _compared(row))]
        )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _compared(row: Row) -> list[Row]:
    return [ratio for ratio in row["ratios"] if ratio["over"] is not None]


def _measured(rows: Sequence[Row]) -> str:
    """Say on which machine, with which versions and when; a line for each that differs."""
    told: dict[str, None] = {}
    for row in rows:
        m = row["machine"]
        versions = ", ".join(f"{name} {found}" for name, found in m["versions"].items())
        told[f"{m['processor']}, {m['cores']} cores, Python {m['python']}, {versions}; {row['time'][:10]}."] = None
    return "\n".join(told)


def _key(row: Row, ratio: Row) -> tuple[str, str, str, str]:
    return row["claim"], row["case"], ratio["of"], ratio["over"]


def _named(row: Row) -> tuple[str, ...]:
    return tuple(_target(ratio).name for ratio in row["ratios"])


def _target(ratio: Row) -> Target:
    return Target(**{name: ratio[name] for name in ("of", "over", "most", "least")})
