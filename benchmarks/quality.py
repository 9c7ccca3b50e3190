"""Q1, Q4, Q5: the next move of real prices against the best of the honest opponents, every seed reported.

Each model is fitted once, on the same split of each file, and forecasts the last fifth one step ahead. Five networks
that differ by their seed, the ensemble of them, and a mix of networks with GARCH whose weights are fitted on the
validation split are held against AR with normal and t errors, GJR-GARCH-t, EGARCH-t, on hourly prices GJR-GARCH-t by
the hour of the week, HAR and the last value:

- distribution: CRPS over that of each opponent, pooled over the series at each origin, with the p-value of the
  Diebold-Mariano test as Holm adjusts it over the files, and the number of series on which ours is better and worse at
  5 % (Benjamini & Hochberg); the difference of the log score in nats
- size of the move: R² of |move|, and tests of squared error and QLIKE against HAR
- price: mean absolute error over that of the last value, with its block-bootstrap interval and p-value

    python benchmarks/quality.py [--model lstm] [--seeds 5] [--set NAME=VALUE ...] FILE [FILE ...]

Files are Parquet with the columns series_id, timestamp and price. Series of fewer than 2,500 prices, and those that
stand still more often than `--still`, are left out and named. Where `statecast init` would propose it, networks are
told the hour and see moves that are adjusted for it.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from calibration import read

from models.conformal import Conformal
from models.ensemble import Ensemble
from models.errors import FitError
from models.forecaster import Forecaster
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.calibration import calibrated
from pipeline.density import mean_distance
from pipeline.fitting import FitConfig, fit
from pipeline.forecasts import Forecasts
from pipeline.metrics import by_origin, crps, log_score
from pipeline.moves import known_ahead
from pipeline.proposal import CLOCK, told_by_hour
from pipeline.settings import assignments, load
from pipeline.significance import adjusted, block_bootstrap_skill, diebold_mariano
from pipeline.volatility import qlike, r2
from pipeline.windows import Panel, Split, SplitConfig, split

HOUR = ("@hour_sin", "@hour_cos")
OPPONENTS = ("last_value", "ar", "ar_t", "har", "garch", "egarch", "garch_diurnal")
GARCHES = ("garch", "egarch", "garch_diurnal")
MIX = ("lstm", "gru", "egarch", "garch")
BEST = "best garch"
LEVEL = 0.05
Loss = Callable[[Forecasts], np.ndarray]


@dataclass(frozen=True)
class Judged:
    """One model against one opponent on one file."""

    file: str
    model: str
    opponent: str
    ratio: float
    p: float
    better: int
    worse: int
    nats: float


def absolute(f: Forecasts) -> np.ndarray:
    """Give the squared error of the expected size of the move."""
    return (np.abs(f.outcome) - mean_distance(f, 0.0)) ** 2


def by_series(f: Forecasts, g: Forecasts, loss: Loss) -> tuple[int, int]:
    """Count the series on which f is better and worse than g, tested together."""
    tests = []
    for k in np.unique(f.series):
        a, b = (loss(x)[x.series == k] for x in (f, g))
        tests.append(diebold_mariano(a, b))
    p = adjusted([p for _, p in tests], "fdr_bh")
    sign = [s for s, _ in tests]
    found = [(s < 0, s > 0) for s, q in zip(sign, p, strict=True) if q < LEVEL]
    return sum(a for a, _ in found), sum(b for _, b in found)


def pooled(f: Forecasts, g: Forecasts, loss: Loss) -> tuple[float, float]:
    """Give the ratio of the mean losses and the p-value of their difference, by origin."""
    a, b = (by_origin(x, loss(x))[1] for x in (f, g))
    return float(a.mean() / b.mean()), diebold_mariano(a, b)[1]


def fitted(prices: Panel, cut: Split, config: FitConfig, model: str, seeds: int) -> dict[str, Forecaster]:
    """Fit the opponents, the networks of each seed, and put these together."""
    made: dict[str, Forecaster] = {}
    for name in OPPONENTS:
        try:
            made[name] = fit(name, prices, cut, LogReturn(), config)
        except FitError as error:
            print(f"  {name} left out: {error}")
    members = []
    for seed in range(seeds):
        started = time.perf_counter()
        own = replace(config, training=replace(config.training, seed=seed))
        raw = fit(model, prices, cut, LogReturn(), replace(own, conformal=replace(own.conformal, track="off")))
        members.append(raw.core)
        made[f"{model} {seed}"] = calibrated(raw, prices, cut, config.conformal)
        print(f"  {model} seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    names = (raw.past_names, raw.future_names)
    together = Forecaster("ensemble", LogReturn(), Ensemble("ensemble", members, torch.ones(seeds)), *names).eval()
    made[f"{model} x{seeds}"] = calibrated(together, prices, cut, config.conformal)
    mixed = fit("mix", prices, cut, LogReturn(), replace(config, ensemble=replace(config.ensemble, mix=MIX)))
    core = mixed.core.core if isinstance(mixed.core, Conformal) else mixed.core
    assert isinstance(core, Ensemble)
    told = ", ".join(f"{m.kind} {w:.2f}" for m, w in zip(core.members, core.weights.tolist(), strict=True))
    print(f"  mix: {told}")
    return {**made, "mix": mixed}


def share_of_the_hour(prices: Panel, until: int) -> float:
    """Say how much of the size of moves the hour explains in the train split."""
    series, moment, _ = np.nonzero(prices.mask & (prices.time < until)[..., None])
    names, time = np.array(prices.names)[series], prices.time[series, moment].astype("datetime64[us]")
    return told_by_hour(pl.DataFrame({"series_id": names, "time": time, "price": prices.price[series, moment, 0]}))


def judge(path: Path, model: str, config: FitConfig, seeds: int, still: float) -> list[Judged]:
    """Fit and forecast one file, print its tables, and give the tests that are adjusted over the files."""
    prices = read(path, still)
    cut = split(prices, SplitConfig())
    if share_of_the_hour(prices, cut.train_end_time) >= CLOCK:
        prices = replace(prices, future_names=HOUR, future=known_ahead(prices, HOUR, 1))
        config = replace(config, network=replace(config.network, diurnal=True))
        print(f"  ahead: {list(HOUR)}, fit.network.diurnal")
    origins = cut.origins(prices, "test")
    rows = {name: walk_forward(f, prices, origins) for name, f in fitted(prices, cut, config, model, seeds).items()}
    ours = [name for name in rows if name not in OPPONENTS]
    best = min((name for name in GARCHES if name in rows), key=lambda name: crps(rows[name]).mean())
    print(f"  {len(rows[best]):,} forecasts of {len(prices.names)} series; the best GARCH by CRPS is {best}")
    result = []
    for name in ours:
        for opponent in (n for n in rows if n in OPPONENTS):
            f, g = rows[name], rows[opponent]
            ratio, p = pooled(f, g, crps)
            nats = float(np.mean(log_score(g)) - np.mean(log_score(f)))
            shown = BEST if opponent == best else opponent
            result.append(Judged(path.stem, name, shown, ratio, p, *by_series(f, g, crps), nats))
    for name, f in rows.items():
        if "har" in rows:
            tests = [pooled(f, rows["har"], loss)[1] if name != "har" else 1.0 for loss in (absolute, qlike)]
            gap = float(np.mean(qlike(f)) - np.mean(qlike(rows["har"])))
            print(
                f"  size  {name:14s} R2 {r2(f):7.4f}  squared error p {tests[0]:.2g}  QLIKE {gap:+.4f} p {tests[1]:.2g}"
            )
    for name in ours:
        told_price(name, rows[name], rows["last_value"])
    return result


def told_price(name: str, f: Forecasts, naive: Forecasts) -> None:
    """Print the absolute error of the point forecast over that of the last value."""

    def error(x: Forecasts) -> np.ndarray:
        return np.abs(x.quantile[:, x.quantile.shape[1] // 2] / x.actual - 1)

    a, b = (by_origin(x, error(x))[1] for x in (f, naive))
    low, high = block_bootstrap_skill(a, b)
    p = diebold_mariano(a, b)[1]
    verdict = "skill" if p < LEVEL and a.mean() < b.mean() else "worse" if p < LEVEL else "no skill"
    print(
        f"  price {name:14s} MAE ratio {a.mean() / b.mean():.5f} [{1 - high:.5f}, {1 - low:.5f}] p {p:.2g}: {verdict}"
    )


def table(found: list[Judged]) -> list[str]:
    """Lay out the CRPS over that of each opponent as Markdown; tests are those against the best GARCH."""
    opponents = [name for name in (*OPPONENTS, BEST) if any(x.opponent == name for x in found)]
    lines = [
        f"| set | model | {' | '.join(opponents)} | Holm p | series better / worse | nats |",
        "|---" * (5 + len(opponents)) + "|",
    ]
    models = list(dict.fromkeys(x.model for x in found))
    tested = {m: [x for x in found if (x.model, x.opponent) == (m, BEST)] for m in models}
    p_value = {
        (x.file, m): p
        for m, tests in tested.items()
        for x, p in zip(tests, adjusted([x.p for x in tests], "holm"), strict=True)
    }
    for x in sorted((x for tests in tested.values() for x in tests), key=lambda x: x.file):
        own = {y.opponent: f"{y.ratio:.4f}" for y in found if (y.file, y.model) == (x.file, x.model)}
        ratios = " | ".join(own.get(name, "") for name in opponents)
        told = f"{p_value[x.file, x.model]:.1e} | {x.better} / {x.worse} | {x.nats:+.4f}"
        lines.append(f"| {x.file} | {x.model} | {ratios} | {told} |")
    return lines


def main() -> None:
    """Judge every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--model", default="lstm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="below fit: training.epochs=20"
    )
    parser.add_argument("--still", type=float, default=0.3, help="largest share of prices equal to the one before")
    asked = parser.parse_args()
    if not asked.files:
        print("left out: needs files of prices, see --help")
        return
    torch.set_num_threads(1)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    print(f"{versions}; {asked.model} {asked.set}")
    config = load(FitConfig, {}, assignments(asked.set))
    found = [x for path in asked.files for x in judge(path, asked.model, config, asked.seeds, asked.still)]
    for line in table(found):
        print(line)


if __name__ == "__main__":
    main()
