"""A process that is killed while its model changes leaves the old one or the new one, and not a bit else."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
from disk import Fault
from kills import child
from kills import ended as exit_code
from swapping import LINES, Move, ended, go_on, lineup, moves, quiet, run, started, versions


def check(folder: Path, known: dict[tuple[Move, ...], Any]) -> None:
    """Go on after a kill: the model is wholly one of the two, and all that is left is that of a quiet run."""
    stream = started(folder)
    version = stream.head.version
    assert [move.version for move in moves(folder)] == ([2] if version == 2 else [])
    assert stream.lineup.files == lineup(version).files
    go_on(stream)
    left = ended(stream, folder)
    swaps = tuple(moves(folder))
    assert len(swaps) == 1
    if swaps not in known:
        (folder / "quiet").mkdir()
        known[swaps] = quiet(folder / "quiet", LINES, swaps)
    assert left == known[swaps]
    assert (np.diff(versions(left.out)) >= 0).all()
    shutil.rmtree(folder)


def test_a_kill_at_any_call_to_the_disk_leaves_one_of_the_two(tmp_path: Path) -> None:
    """Dead before or within calls from the announcement on, and each of those around the flip: old or new."""
    (tmp_path / "whole").mkdir()
    assert exit_code(child(tmp_path / "whole", Fault(10**9, "kill"), be=run)) == 0
    calls = int((tmp_path / "whole" / "calls").read_text())
    assert calls > 40
    known: dict[tuple[Move, ...], Any] = {}
    for at in (*range(0, calls - 24, 3), *range(calls - 24, calls)):
        folder = tmp_path / str(at)
        folder.mkdir()
        assert exit_code(child(folder, Fault(at, ("kill", "torn")[at % 2]), be=run)) == -signal.SIGKILL
        check(folder, known)
    assert len(known) > 1


def test_a_kill_at_any_moment_leaves_one_of_the_two(tmp_path: Path) -> None:
    """Killed from outside again and again, whatever it is doing: old or new, and the bits of a quiet run."""
    rng, killed = random.Random(7), 0
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        for _ in range(3):
            process = child(folder, None, 0.05, be=run)
            process.join(rng.uniform(0.05, 0.3))
            process.kill()
            killed += exit_code(process) == -signal.SIGKILL
        check(folder, {})
    assert killed > 3
