"""S10: how long commands take until they answer: the help, a stream that is ready, and with `--demo` the whole demo.

The floor is the interpreter that starts and ends, in turn with them. A stream is ready when the forecast of its first
tick is out; it opens a model file and begins a journal.

    python benchmarks/startup.py [--rounds 5] [--demo] [--json FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from feeding import model_file
from record import Case, Target, interleaved, options, tell, timed_case
from stream_start import first_answer

PROGRAM = str(Path(sys.executable).with_name("statecast"))
MOST = {"help": 0.5, "stream, first answer": 2.0, "demo": 180.0}
"""Seconds aimed at."""


def silent(*command: str, folder: str | None = None) -> None:
    """Run a command to its end."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Time what starts within seconds in turn, and the demo once."""
    file = model_file()
    with tempfile.TemporaryDirectory(prefix="statecast-") as folder:
        opened = iter(Path(folder) / f"stream-{k}" for k in range(given.rounds + 1))

        def stream() -> None:
            fresh = next(opened)
            fresh.mkdir()
            first_answer(file, fresh)

        calls = {
            "interpreter": lambda: silent(sys.executable, "-c", ""),
            "help": lambda: silent(PROGRAM, "--help"),
            "stream, first answer": stream,
        }
        seconds = interleaved(calls, rounds=given.rounds)
        yield timed_case("startup", "from the shell", seconds, unit="s", targets=aims(seconds))
        if given.demo:
            began = time.perf_counter()
            silent(PROGRAM, "demo", folder=folder)
            whole = {"interpreter": seconds["interpreter"], "demo": time.perf_counter() - began}
            yield timed_case("startup", "demo", whole, unit="s", targets=aims(whole))


def aims(seconds: dict[str, float]) -> tuple[Target, ...]:
    """Say what each is to take at most."""
    return tuple(Target(of=name, most=MOST[name]) for name in seconds if name in MOST)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--demo", action="store_true", help="run the demo as well, about a minute")


if __name__ == "__main__":
    given = options(__doc__, arguments)
    tell(cases(given), given.json)
