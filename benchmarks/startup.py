"""S10: how long commands take until they answer: the help, a stream that is ready, and the whole demo.

The floor is the interpreter that starts and ends, in turn with them. The stream opens a model file, begins a journal,
answers its first tick and ends.

    python benchmarks/startup.py [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from feeding import Market, model_file
from record import Case, Target, interleaved, options, tell, timed_case

PROGRAM = str(Path(sys.executable).with_name("statecast"))
MOST = {"help": 0.5, "stream, first answer": 2.0, "demo": 180.0}
"""Seconds aimed at."""


def silent(*command: str, folder: str | None = None) -> None:
    """Run a command to its end."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)


def first_answer(file: bytes, folder: Path) -> None:
    """Start a stream, give it one tick, wait for its forecast, and let it end."""
    folder.mkdir()
    path = folder / "model.onnx"
    path.write_bytes(file)
    command = [
        PROGRAM,
        "stream",
        "--model",
        str(path),
        "--folder",
        str(folder / "desk"),
        "--journal",
        str(folder / "j"),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(Market(1).lines(1)[0] + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        process.stdin.close()
        process.stdout.read()
    if b'"quantiles"' not in line:
        raise SystemExit(f"no forecast came: {line!r}")


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Time what starts within seconds in turn, and the demo once."""
    file = model_file()
    with tempfile.TemporaryDirectory(prefix="statecast-") as folder:
        opened = iter(Path(folder) / f"stream-{k}" for k in range(given.rounds + 1))
        calls = {
            "interpreter": lambda: silent(sys.executable, "-c", ""),
            "help": lambda: silent(PROGRAM, "--help"),
            "stream, first answer": lambda: first_answer(file, next(opened)),
        }
        seconds = interleaved(calls, rounds=given.rounds)
        yield timed_case("startup", "from the shell", seconds, unit="s", targets=aims(seconds))
        began = time.perf_counter()
        silent(PROGRAM, "demo", folder=folder)
        whole = {"demo": time.perf_counter() - began}
        yield timed_case("startup", "the whole demo, once", whole, unit="s", targets=aims(whole))


def aims(seconds: dict[str, float]) -> tuple[Target, ...]:
    """Say what each is to take at most."""
    return tuple(Target(of=name, most=MOST[name]) for name in seconds if name in MOST)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)


if __name__ == "__main__":
    given = options(__doc__, arguments)
    tell(cases(given), given.json)
