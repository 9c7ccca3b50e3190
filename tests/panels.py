"""Small panels of simulated prices; shared by the tests of fitting, training and backtest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.windows import Panel, Split, SplitConfig, panel, split

DAY = 86_400_000_000


def clustered_moves(rng: np.random.Generator, time: int) -> NDArray[np.float64]:
    """Draw moves [T] of about 1 % whose size comes in clusters of some twenty steps."""
    log_size = np.zeros(time)
    for t in range(1, time):
        log_size[t] = 0.95 * log_size[t - 1] + 0.25 * rng.normal()
    return 0.01 * np.exp(log_size) * rng.standard_t(6, size=time)


def panel_of(moves: list[NDArray[np.float64]], *, holes: float = 0.0, late: int = 0) -> Panel:
    """Build daily prices that start at 100, series k `k * late` days after the first; some left out as holes."""
    rng = np.random.default_rng(99)
    names = np.repeat([f"S{k}" for k in range(len(moves))], [len(r) + 1 for r in moves])
    time = np.concatenate([(np.arange(len(r) + 1) + k * late) * DAY for k, r in enumerate(moves)])
    price = np.concatenate([100.0 * np.exp(np.cumsum(np.concatenate([[0.0], r]))) for r in moves])
    price[rng.random(len(price)) < holes] = np.nan
    return panel(names, time, price)


def market(*lengths: int, seed: int = 0, holes: float = 0.05, late: int = 3) -> tuple[Panel, Split]:
    """Make a panel of clustered moves with holes, of given lengths, and its default split."""
    rng = np.random.default_rng(seed)
    prices = panel_of([clustered_moves(rng, n) for n in lengths], holes=holes, late=late)
    return prices, split(prices, SplitConfig())


def garbage_from(prices: Panel, time: int) -> Panel:
    """Replace every published price at and after `time` (microseconds, UTC) by garbage."""
    garbage = np.random.default_rng(5).choice([1e-3, 7.0, 1e9, 1e40, -3.0], size=prices.price.shape)
    return replace(prices, price=np.where(prices.mask & (prices.time >= time)[..., None], garbage, prices.price))
