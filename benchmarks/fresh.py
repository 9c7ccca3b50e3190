"""Python code in a process of its own: how long it took, and how much memory it needed beyond what it began with.

Comes in: code that sets itself up, then calls `begin()`, then works. Goes out: seconds and megabytes. Imported by the
benchmarks of memory.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

PROBE = """
import gc, sys, time
from pathlib import Path

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024

def begin():
    global before, began
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # lets the high-water mark begin anew
    before, began = status("VmRSS"), time.perf_counter()
"""
TELL = """
seconds = time.perf_counter() - began
print("FRESH", seconds, status("VmHWM") - before, status("VmRSS") - before)
"""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds, megabytes of the peak beyond the beginning, and megabytes beyond it at the end."""

    seconds: float
    peak: float
    kept: float


def spent(code: str, *arguments: object) -> Spent:
    """Run code in a new interpreter, on one thread; `sys.argv[1:]` are its arguments."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, "-c", PROBE + code + TELL, *map(str, arguments)]
    paths = ":".join(map(str, (HERE, HERE.parent)))
    done = subprocess.run(
        ["env", f"PYTHONPATH={paths}", *(f"{k}={v}" for k, v in one.items()), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("FRESH")]
    if done.returncode or len(told) != 1:
        raise SystemExit(f"a process of the benchmark ended with {done.returncode}:\n{done.stderr[-2000:]}")
    seconds, peak, kept = map(float, told[0])
    return Spent(seconds=seconds, peak=peak, kept=kept)
