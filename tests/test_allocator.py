"""What is freed stays with the process for the next use, and is given back when it is done."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from panels import market

from models.network import NetworkConfig
from models.transforms import LogReturn
from pipeline import training
from pipeline.training_config import TrainingConfig

CHUNKS = """
import resource, sys
import numpy as np
from pipeline.allocator import give_back, keep_freed

def resident():
    return int(open("/proc/self/statm").read().split()[1])

if sys.argv[1] == "kept":
    assert keep_freed()
for k in range(8):
    if k == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(1 << 20, np.uint8) for _ in range(24)]
    del arrays
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
give_back()
print(faults // 6, held - resident())
"""
"""Takes and frees 24 MB in pieces, as a chunk does; prints the page faults of a turn, and the pages given back."""

PAGES = 24 * 256

only_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library here is not glibc, and is left as it is"
)


def turns(how: str) -> tuple[int, int]:
    """Run `CHUNKS` in a process of its own."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", CHUNKS, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root, check=True)
    faults, returned = done.stdout.split()
    return int(faults), int(returned)


@only_glibc
def test_freed_memory_is_used_again_without_a_page_fault() -> None:
    """By the defaults of the C library each turn maps its pages anew; when told to keep them, it maps none."""
    assert turns("as it comes")[0] > PAGES / 2
    assert turns("kept")[0] < PAGES / 100


@only_glibc
def test_what_was_kept_is_given_back() -> None:
    """When the work is done, the pages that were kept go back to the system."""
    assert turns("kept")[1] > PAGES / 2


def test_a_fit_keeps_what_it_frees_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit tells the process to keep freed memory before it prepares, and gives it back after the last epoch."""
    told: list[str] = []
    monkeypatch.setattr(training, "keep_freed", lambda: told.append("keep"))
    monkeypatch.setattr(training, "give_back", lambda: told.append("give back"))
    prices, split = market(120, 150)
    config = TrainingConfig(lanes=2, chunk=16, epochs=2, device="cpu")
    fit = training.Training("gru", prices, split, LogReturn(), network=NetworkConfig(hidden=4), config=config)
    assert told == ["keep"]
    for _ in fit:
        assert told == ["keep"]
    assert told == ["keep", "give back"]
