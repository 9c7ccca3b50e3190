"""What a benchmark of speed writes down: a case, what ran in it in turn, and how their times stand to each other.

One case is one line of JSON. What is held on to are the ratios of what ran interleaved in one process; seconds belong
to the machine and the day. `bench.py` runs the claims and compares, `tables.py` writes the documents.

Comes in: calls. Goes out: rows for people and for JSON. Imported by every script named in `bench.py`.
"""

from __future__ import annotations

import json
import os
import platform
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

Call = Callable[[], object]
Clock = Callable[[], float]

PEERS = ("darts", "neuralforecast", "statsforecast", "river", "skforecast", "gluonts")
LIBRARIES = ("torch", "onnxruntime", "numpy", "polars", "statsmodels", *PEERS)
PER = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""How many of a unit of time are a second."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A ratio of two of the things that ran, or the value of one, and what it is to be.

    Attributes
    ----------
    of, over : str
        Names of what ran: the value of the first over that of the second; without a second the value itself.
    most, least : float, optional
        What it is to be at most or at least; with neither it is only watched.
    """

    of: str
    over: str | None = None
    most: float | None = None
    least: float | None = None

    @property
    def name(self) -> str:
        """How it is told: `a / b`, or `a`."""
        return self.of if self.over is None else f"{self.of} / {self.over}"

    def reached(self, ratio: float) -> bool | None:
        """Say whether a ratio is as it is to be; None where nothing is aimed at."""
        if self.most is None and self.least is None:
            return None
        return (self.most is None or ratio <= self.most) and (self.least is None or ratio >= self.least)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the record: lower values are better.

    Attributes
    ----------
    claim : str
        The script, by its name.
    case : str
        What was done, of what size.
    unit : str
        Of the values: a unit of time, or MB.
    values : dict of float
        The median of each thing that ran, in the order of the table.
    targets : tuple of Target
    """

    claim: str
    case: str
    unit: str
    values: dict[str, float]
    targets: tuple[Target, ...] = ()

    def ratio(self, target: Target) -> float:
        """Give the ratio, or the value, that a target speaks of."""
        return self.values[target.of] / (1.0 if target.over is None else self.values[target.over])

    def row(self) -> dict[str, Any]:
        """Give the line for JSON, with the machine, the versions and the time."""
        ratios = [asdict(t) | {"ratio": self.ratio(t), "reached": t.reached(self.ratio(t))} for t in self.targets]
        return {
            "claim": self.claim,
            "case": self.case,
            "unit": self.unit,
            "values": self.values,
            "ratios": ratios,
            "machine": machine(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def machine() -> dict[str, Any]:
    """Describe where this runs: processor, cores, load, and the versions of what is installed."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def interleaved(
    calls: dict[str, Call], *, rounds: int, repeats: int = 1, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Give the median seconds of one call of each, all timed in turn in every round.

    Parameters
    ----------
    calls : dict of callables
    rounds, repeats : int
        Rounds that count, after one that does not; calls of each in a round.
    clock : callable, optional
        `time.process_time` counts the seconds of the CPU where others use the machine too.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            for _ in range(repeats):
                call()
            samples[name].append((clock() - start) / repeats)
    return {name: float(np.median(taken[1:])) for name, taken in samples.items()}


def timed_case(
    claim: str,
    case: str,
    seconds: dict[str, float],
    *,
    unit: Literal["s", "ms", "us", "ns"],
    targets: Iterable[Target] = (),
    each: int = 1,
) -> Case:
    """Write seconds down in a unit, each by so many pieces of work."""
    values = {name: value * PER[unit] / each for name, value in seconds.items()}
    return Case(claim=claim, case=case, unit=unit, values=values, targets=tuple(targets))


def options(doc: str | None, *more: Callable[[ArgumentParser], object]) -> Namespace:
    """Read the command line: `--json FILE`, and what a script adds."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="append a line for each case to this file")
    for add in more:
        add(parser)
    return parser.parse_args()


def tell(cases: Iterable[Case], file: Path | None) -> None:
    """Print each case as it is measured, and append it to a file."""
    here = machine()
    versions = " ".join(f"{name} {found}" for name, found in here["versions"].items())
    print(f"{here['processor']}, {here['cores']} cores, load {here['load']}, Python {here['python']}, {versions}")
    for case in cases:
        print(line(case), flush=True)
        if file is not None:
            with file.open("a") as out:
                out.write(json.dumps(case.row(), separators=(",", ":")) + "\n")


def line(case: Case) -> str:
    """Write a case for people."""
    values = "  ".join(f"{name} {number(value)} {case.unit}" for name, value in case.values.items())
    ratios = "  ".join(f"{t.name} {number(case.ratio(t))}{aimed(t, case.ratio(t))}" for t in case.targets)
    return f"{case.claim:12} {case.case:32} {values}" + (f"   [{ratios}]" if ratios else "")


def aimed(target: Target, ratio: float) -> str:
    """Write what a ratio is to be, and whether it is: ` (≤ 1.8: short)`; nothing where nothing is aimed at."""
    reached = target.reached(ratio)
    if reached is None:
        return ""
    bounds = [f"{sign} {bound:g}" for sign, bound in (("≤", target.most), ("≥", target.least)) if bound is not None]
    return f" ({', '.join(bounds)}{'' if reached else ': short'})"


def number(value: float) -> str:
    """Write a number to three digits, without an exponent."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(abs(value)))))}f}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Read the name of the processor where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
