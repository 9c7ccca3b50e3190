"""The published forecasts of the electricity benchmark, scored anew: MAE, rMAE, and who is significantly better.

The files are those of the open benchmark of Lago, Marcjasz, De Schutter & Weron (2021, Applied Energy 293, 116983), the
markets in one table, as Parquet or CSV: `--forecasts` with the columns series_id, timestamp, "Real price" and one
column a model, `--prices` with series_id, timestamp, price. The naive of the rMAE is the price of the same hour a week
before on Mondays, Saturdays and Sundays, and that of the day before on other days.

    python benchmarks/published_electricity.py --forecasts FORECASTS --prices PRICES [--best 4]
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.significance import Vector, diebold_mariano, giacomini_white, multivariate_diebold_mariano

HOURS = 24
KNOWN = {"series_id", "timestamp", "Real price", "price", "naive"}


def read(path: Path) -> pl.DataFrame:
    """Read a table of either form; timestamps without a zone."""
    frame = pl.read_csv(path, try_parse_dates=True) if path.suffix == ".csv" else pl.read_parquet(path)
    return frame.sort("series_id", "timestamp")


def with_naive(prices: pl.DataFrame) -> pl.DataFrame:
    """Add the price of the same hour a week before, or on Tuesdays to Fridays the day before."""
    at = pl.col("timestamp")
    for name, days in (("day", 1), ("week", 7)):
        lagged = prices.select("series_id", at.dt.offset_by(f"{days}d"), pl.col("price").alias(name))
        prices = prices.join(lagged, on=["series_id", "timestamp"], how="left")
    as_last_week = at.dt.weekday().is_in([1, 6, 7])
    return prices.select("series_id", "timestamp", naive=pl.when(as_last_week).then("week").otherwise("day"))


def errors(market: pl.DataFrame, name: str) -> Vector:
    """Give the errors of a column, [days, 24]."""
    return (market["Real price"] - market[name]).to_numpy().reshape(-1, HOURS)


def mean_absolute(market: pl.DataFrame, name: str) -> float:
    return float(np.mean(np.abs(errors(market, name))))


def scored(market: pl.DataFrame) -> list[str]:
    """Print a line a model, the best first, and give their names."""
    print("| model | MAE | rMAE |\n|---|---|---|")
    mae = {name: mean_absolute(market, name) for name in market.columns if name not in KNOWN}
    ranking = sorted(mae, key=mae.__getitem__)
    for name in ranking:
        print(f"| {name} | {mae[name]:.3f} | {mae[name] / mean_absolute(market, 'naive'):.3f} |")
    return ranking


def tested(market: pl.DataFrame, ranking: list[str]) -> None:
    """Print for each pair whether the better one is significantly better."""
    print("\n| better | worse | DM norm 1 | DM norm 2 | DM of verdicts | GW |\n|---|---|---|---|---|---|")
    for better, worse in combinations(ranking, 2):
        ours, theirs = errors(market, worse), errors(market, better)
        whole = [multivariate_diebold_mariano(ours, theirs, norm)[1] for norm in (1, 2)]
        daily = [np.mean(np.abs(e), axis=1) for e in (ours, theirs)]
        p_values = (*whole, diebold_mariano(*daily)[1], giacomini_white(*daily)[1])
        print(f"| {better} | {worse} | {' | '.join(f'{p:.4f}' for p in p_values)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forecasts", type=Path)
    parser.add_argument("--prices", type=Path)
    parser.add_argument("--best", type=int, default=4, help="how many models are tested in pairs")
    chosen = parser.parse_args()
    if not (chosen.forecasts and chosen.prices):
        print("left out: needs the published files, see --help")
        return
    table = read(chosen.forecasts).join(with_naive(read(chosen.prices)), on=["series_id", "timestamp"], how="left")
    for (market,), rows in table.group_by("series_id", maintain_order=True):
        print(f"{market}, {len(rows) // HOURS} days from {rows['timestamp'].min():%Y-%m-%d}\n")
        tested(rows, scored(rows)[: chosen.best])
        print()


if __name__ == "__main__":
    main()
