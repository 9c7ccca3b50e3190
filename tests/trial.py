"""A short trial of everything: what a change of the program that loses or doubles ticks cannot pass.

    python tests/trial.py FOLDER [deaths] [torn] [random] [power] [normal] [bits]

ends with 1 and says what was wrong, or with 0. The tests let it run on copies of the program that were made worse.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from campaigns import Case, Tally, calls_of, endure, flip, strike
from kills import Life, Place, Setting, quiet
from poison import story
from power import lose_power


def case(base: Path, *, seed: int = 2, count: int = 1800, input: str = "input") -> Case:  # noqa: A002  as in `Life`
    """Tell a story of two pages of series, and find out what it has to give."""
    told = story(seed, count, 280, csv=input == "folder")
    setting = Setting.of(told, dead_bytes=50_000)
    truth = quiet(Place(base / f"quiet-{input}"), setting, told, "input" if input == "fifo" else input)
    return Case(base=base, setting=setting, told=told, truth=truth, input=input)


def moving(case: Case, life: Life) -> list[int]:
    """List the calls in the midst of what SQLite moves from its log to its file."""
    files = [(call.kind, call.file) for call in calls_of(case, life)]
    move = ("write", "journal.sqlite")
    return [i for i in range(1, len(files)) if files[i - 1] == files[i] == move]


def trial(base: Path, chosen: Sequence[str] = ()) -> Iterator[Tally]:
    """Run the chosen campaigns, or all, those first that are quickest to find a fault, each in short bouts.

    Before them the story itself is judged, as a folder with CSV and as a file.
    """
    case(base, count=900, input="folder")
    one, life = case(base), Life(batch=128)
    full, normal = (replace(life, durability=durability) for durability in ("full", "normal"))
    moves = moving(one, life)
    campaigns: dict[str, Callable[[], Iterator[Tally]]] = {
        "deaths": lambda: (strike(one, life, "kill", [at]) for at in range(60, 560, 45)),
        "torn": lambda: (strike(one, life, "torn", [at]) for at in range(90, 560, 90)),
        "random": lambda: (endure(one, seed, 6) for seed in [1]),
        "power": lambda: (lose_power(one, full, seed, 5) for seed in range(3)),
        "normal": lambda: (lose_power(one, normal, seed, 5) for seed in range(5)),
        "bits": lambda: (
            flip(one, life, seed, 5, "journal.sqlite-wal", points=moves, late=0.5) for seed in range(4, 14)
        ),
    }
    for name in chosen or campaigns:
        yield from campaigns[name]()


def main() -> None:
    """Stop at the first bout that finds something."""
    for tally in trial(Path(sys.argv[1]), sys.argv[2:]):
        if not tally.good:
            found = f"{tally.lost} lost, {tally.doubled} doubled, {tally.different} with other bits"
            sys.exit("\n".join([f"{tally.fault}: {found}", *(note[:300] for note in tally.notes[:3])]))


if __name__ == "__main__":
    main()
