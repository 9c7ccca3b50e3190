"""What a state should do while ticks of its series are missing: hold, hold and be told, or be fed the last price.

From each file of prices some are taken away, at random or in bursts, and the last fifth is forecast one step ahead
under each rule, by an LSTM (every seed) and by GJR-GARCH-t:

- hold: nothing happens until a price comes; the move to it, over all bars that are missing, is one move
- elapsed: hold, and the network reads the log of the bars since the price before (`fit.network.elapsed`)
- fill: each missing bar is a step without a move; which bars are missing is known, as from a calendar
- fill clock: the same by the clock: nights, weekends and holidays are steps without a move too
- scaled: hold, and the move to the returning price is divided by the root of its bars; which are missing is known
- scaled clock: the same by the clock, so that the first move after a weekend is made smaller too
- nothing missing: what hold would give had no price been taken away

Models are fitted on complete prices, so that only the test split has holes, and again on prices with the same share of
holes, treated by the same rule: as a pipeline would, what was filled in is among their targets, and so are the moves
back over holes. All rules are scored on the same targets, the prices that were left: the move back over the hole, the
first move of one bar after it, the second to the fifth, and those that follow later. Printed are the CRPS of hold in
1/10,000 of a log return; of the others the percent of it that is saved, with the block-bootstrap interval, * where the
Diebold-Mariano test of the means at each target time has p < 0.01, not adjusted; and how many returning and first
prices the 80 % interval held. Seeds are averaged first: the interval is of the prices, not of the seeds. A line of
JSON for each number comes before the table.

    python benchmarks/missing.py [--seeds 2] [--epochs 20] [--set NAME=VALUE ...] FILE [FILE ...]

Files are Parquet with the columns series_id, timestamp and price. Series of fewer than 2,500 prices, and those that
stand still more often than `--still`, are left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from calibration import read
from numpy.typing import NDArray

from models.errors import FitError
from models.forecaster import Forecaster
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.fitting import FitConfig, fit
from pipeline.forecasts import Forecasts
from pipeline.metrics import covered, crps
from pipeline.settings import assignments, load
from pipeline.significance import block_bootstrap_skill, diebold_mariano
from pipeline.windows import Panel, Split, SplitConfig, panel, split

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

HOLES: dict[str, tuple[float, int]] = {"1 %": (0.01, 1), "5 %": (0.05, 1), "20 %": (0.2, 1), "20 % in tens": (0.2, 10)}
"""Share of the prices that is missing, and the mean number that is missing in a row; 1 is each by itself."""

REFERENCE, UNTOUCHED = "hold", "nothing missing"
RULES = {
    ("lstm", "complete"): ("elapsed", "fill", "fill clock", "scaled", "scaled clock"),
    ("lstm", "same holes"): ("elapsed", "fill", "scaled"),
    ("garch", "complete"): ("fill", "fill clock", "scaled", "scaled clock"),
    ("garch", "same holes"): ("fill", "scaled"),
}
"""What is held against hold, by model and by what it was fitted on."""

GROUPS: dict[str, tuple[int, int]] = {
    "back": (0, 1),
    "first": (1, 2),
    "2nd-5th": (2, 6),
    "later": (6, 1 << 60),
    "one bar": (1, 1 << 60),
    "all": (0, 1 << 60),
}
"""From which to before which target after a hole; the move back over the hole is number 0."""

LEVEL = 0.01
SEED = 20240607


@dataclass(frozen=True, kw_only=True)
class Task:
    """One file with one pattern of holes.

    complete : Panel, all prices; kept : bool [N, T], the prices of it that are left; cut : Split of the complete ones.
    """

    complete: Panel
    kept: Mask
    cut: Split


@dataclass(frozen=True, kw_only=True)
class Run:
    """One rule's scores of all targets that were left, [n], means over the seeds."""

    loss: Vector
    held: Vector


# ------------------------------------------------------------------------------------------------------- the holes


def left(complete: Panel, share: float, burst: int) -> Mask:
    """Draw which prices [N, T] are left, each series for itself; the first of each always is."""
    rng = np.random.default_rng(SEED)
    kept = complete.published.copy()
    for row in kept:
        row[1:] &= ~(_bursts(rng, len(row) - 1, share, burst) if burst > 1 else rng.random(len(row) - 1) < share)
    return kept


def _bursts(rng: np.random.Generator, count: int, share: float, burst: int) -> Mask:
    """Let runs that are there and runs that are missing alternate, of geometric lengths."""
    runs = 2 * (count // burst + 1)
    lengths = np.stack((rng.geometric(share / (burst * (1 - share)), runs), rng.geometric(1 / burst, runs)), 1)
    return np.repeat(np.tile((False, True), runs), lengths.ravel())[:count]


def numbered(task: Task) -> NDArray[np.int64]:
    """Count the prices that are left, [N, T], from the last hole on: 0 is the one that ends it."""
    number = np.full(task.kept.shape, 1 << 50)
    for row, kept in zip(number, task.kept, strict=True):
        place = np.flatnonzero(kept)
        count = np.arange(len(place))
        back = np.diff(place, prepend=place[0] - 1) > 1
        row[place] = count - np.maximum.accumulate(np.where(back, count, -(1 << 50)))
    return number


# ------------------------------------------------------------------------------------------------------- the rules


def treated(rule: str, task: Task) -> Panel:
    """Give the prices as a rule lets a forecaster see them."""
    complete, kept = task.complete, task.kept
    rows: list[tuple[NDArray[np.int64], Vector]] = []
    for n in range(len(complete.names)):
        time, price, there = complete.time[n], complete.price[n, :, 0], complete.published[n]
        place = np.flatnonzero(kept[n])
        if rule in (REFERENCE, "elapsed"):
            rows.append((time[place], price[place]))
        elif rule in ("scaled", "scaled clock"):
            bars = np.diff(place) if rule == "scaled" else np.diff(time[place]) / complete.bar[n]
            rows.append((time[place], _scaled(price[place], np.maximum(bars, 1.0))))
        else:
            shown = time[there] if rule == "fill" else _ticking(time[there], int(complete.bar[n]))
            rows.append((shown, price[place[np.searchsorted(time[place], shown, "right") - 1]]))
    lengths = [len(time) for time, _ in rows]
    times, prices = (np.concatenate(x) for x in zip(*rows, strict=True))
    return panel(np.repeat(complete.names, lengths), times, prices)


def _scaled(price: Vector, bars: Vector) -> Vector:
    """Make a path whose moves are those of the prices over the root of their bars."""
    moves = np.diff(np.log(price)) / np.sqrt(bars)
    return price[0] * np.exp(np.concatenate(([0.0], np.cumsum(moves))))


def _ticking(time: NDArray[np.int64], bar: int) -> NDArray[np.int64]:
    """Put the bars of the clock between times that are farther apart."""
    return np.union1d(time, np.arange(time[0], time[-1], bar))


# ------------------------------------------------------------------------------------------------------ the scores


def walked(forecaster: Forecaster, rule: str, task: Task) -> Forecasts:
    """Forecast the prices of the test split that are left, each from the row before it under the rule."""
    prices = task.complete if rule == UNTOUCHED else treated(rule, task)
    rows = walk_forward(forecaster, prices, task.cut.origins(prices, "test"))
    wanted = np.zeros(len(rows), bool)
    for n, kept in enumerate(task.kept):
        wanted |= (rows.series == n) & np.isin(rows.target_time, task.complete.time[n, kept])
    return rows.where(wanted)


def on(truth: Forecasts, rows: Forecasts) -> Forecasts:
    """Put the moves that were forecast on the prices from which and to which those of hold go."""
    same = np.array_equal(rows.series, truth.series) and np.array_equal(rows.target_time, truth.target_time)
    assert same, "rules are compared on the same targets"
    own = {k: getattr(truth, k) for k in ("origin", "actual", "outcome")}
    return replace(rows, quantile=rows.quantile * (truth.origin / rows.origin)[:, None], **own)


def scored(task: Task, forecasters: dict[str, list[Forecaster]]) -> tuple[Forecasts, dict[str, Run]]:
    """Score each rule with its forecasters, one a seed."""
    truth = walked(forecasters[REFERENCE][0], REFERENCE, task)
    runs = {}
    for rule, seeds in forecasters.items():
        made = [on(truth, walked(f, rule, task)) for f in seeds]
        loss, held = (np.mean([score(f) for f in made], axis=0) for score in (crps, lambda f: covered(f, 80)))
        runs[rule] = Run(loss=loss, held=held)
    return truth, runs


def at_each_time(moment: NDArray[np.int64], loss: Vector) -> Vector:
    """Average losses [n] over the series at each target time."""
    _, at, count = np.unique(moment, return_inverse=True, return_counts=True)
    return np.bincount(at, loss) / count


def lines(task: Task, truth: Forecasts, runs: dict[str, Run]) -> Iterator[dict[str, object]]:
    """Hold every rule against hold, group by group."""
    numbers, number = numbered(task), np.empty(len(truth), np.int64)
    for n in range(len(truth.names)):
        own = truth.series == n
        length = task.complete.length[n]
        number[own] = numbers[n, np.searchsorted(task.complete.time[n, :length], truth.target_time[own])]
    for rule, run in runs.items():
        for group, (low, high) in GROUPS.items():
            inside = (number >= low) & (number < high)
            if rule == UNTOUCHED and low == 0:
                continue  # the move to a returning price is another one where no price is missing
            ours, base = (at_each_time(truth.target_time[inside], x.loss[inside]) for x in (run, runs[REFERENCE]))
            found: dict[str, object] = {"rule": rule, "group": group, "targets": int(inside.sum())}
            found |= {"crps": 1e4 * ours.mean(), "held_80": 100 * run.held[inside].mean()}
            if rule != REFERENCE:
                worst, best = (100 * x for x in block_bootstrap_skill(ours, base))
                saved, p = 100 * (1 - ours.mean() / base.mean()), diebold_mariano(ours, base)[1]
                found |= {"saved": saved, "low": worst, "high": best, "p": p}
            yield found


# -------------------------------------------------------------------------------------------------------- the fits


def fitted(model: str, rule: str, prices: Panel, cut: Split, config: FitConfig, seeds: int) -> list[Forecaster]:
    """Fit a model as a rule needs it, a network with every seed."""
    network = replace(config.network, elapsed=rule == "elapsed")
    made = []
    for seed in range(seeds if model != "garch" else 1):
        own = replace(config, network=network, training=replace(config.training, seed=seed))
        made.append(fit(model, prices, cut, LogReturn(), own))
    return made


def fitted_on_complete(model: str, complete: Panel, cut: Split, config: FitConfig, seeds: int) -> dict[str, list]:
    """Fit a model on complete prices; all rules but elapsed have the same one."""
    plain = fitted(model, REFERENCE, complete, cut, config, seeds)
    made = dict.fromkeys((REFERENCE, *RULES[model, "complete"], UNTOUCHED), plain)
    return made | ({"elapsed": fitted(model, "elapsed", complete, cut, config, seeds)} if "elapsed" in made else {})


def fitted_on_holes(model: str, task: Task, config: FitConfig, seeds: int) -> dict[str, list[Forecaster]]:
    """Fit a model under each rule on prices with holes; a rule under which there is no fit is named."""
    made = {}
    for rule in (REFERENCE, *RULES[model, "same holes"]):
        try:
            made[rule] = fitted(model, rule, treated(rule, task), task.cut, config, seeds)
        except FitError as error:
            print(f"  {model} by {rule} left out: {error}")
    return made


def judge(path: Path, config: FitConfig, seeds: int, still: float) -> Iterator[dict[str, object]]:
    """Take prices away from a file, and score every rule with models of both kinds of fit."""
    complete = read(path, still)
    cut = split(complete, SplitConfig())
    before = complete.published & (complete.time < cut.validation_end_time)
    for model in ("lstm", "garch"):
        plain = fitted_on_complete(model, complete, cut, config, seeds)
        for holes, (share, burst) in HOLES.items():
            kept = left(complete, share, burst)
            for on_what in ("complete", "same holes"):
                seen = kept | before if on_what == "complete" else kept
                task = Task(complete=complete, kept=seen, cut=cut)
                made = plain if on_what == "complete" else fitted_on_holes(model, task, config, seeds)
                told = {"set": path.stem, "model": model, "fitted_on": on_what, "holes": holes}
                for line in lines(task, *scored(task, made)):
                    yield told | line


# ------------------------------------------------------------------------------------------------------- the table


def table(found: list[dict]) -> Iterator[str]:
    """Lay the lines out as Markdown, a row a rule."""
    shown = ("back", "first", "2nd-5th", "later", "all")
    yield f"| set | model | fitted on | holes | rule | {' | '.join(shown)} | held back | held first |"
    yield "|---" * (7 + len(shown)) + "|"
    keys = ("set", "model", "fitted_on", "holes", "rule")
    for key in dict.fromkeys(tuple(x[k] for k in keys) for x in found):
        own = {x["group"]: x for x in found if tuple(x[k] for k in keys) == key}
        held = [f"{own[g]['held_80']:.1f}" if g in own else "" for g in ("back", "first")]
        yield "| " + " | ".join((*key, *(_cell(own.get(g)) for g in shown), *held)) + " |"


def _cell(x: dict | None) -> str:
    if x is None:
        return ""
    if "saved" not in x:
        return f"{x['crps']:.3f} (n {x['targets']:,})"
    return f"{x['saved']:+.2f} [{x['low']:+.2f}, {x['high']:+.2f}]{'*' * (x['p'] < LEVEL)}"


def main() -> None:
    """Judge every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="below fit: network.hidden=24")
    parser.add_argument("--still", type=float, default=0.3, help="largest share of prices equal to the one before")
    asked = parser.parse_args()
    if not asked.files:
        print("left out: needs files of prices, see --help")
        return
    torch.set_num_threads(1)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}; {asked.seeds} seeds, {asked.epochs} epochs")
    config = load(FitConfig, {}, assignments([f"training.epochs={asked.epochs}", *asked.set]))
    started, found = time.perf_counter(), []
    for path in asked.files:
        for line in judge(path, config, asked.seeds, asked.still):
            found.append(line)
            print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}), flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s\n")
    for row in table(found):
        print(row)


if __name__ == "__main__":
    main()
