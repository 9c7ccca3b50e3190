"""Prices whose moves come again after a while: what a decoder must look back for.

Comes in: sizes. Goes out: a panel. Imported by the experiments on the decoder and its benchmark.
"""

from __future__ import annotations

import numpy as np

from pipeline.windows import Panel, panel

HOUR = 3_600_000_000
SIZE = 0.01
"""Standard deviation of a move."""


def echo(length: int, series: int = 6, lag: int = 15, share: float = 0.75, seed: int = 0) -> Panel:
    """Draw hourly prices, each move of which copies the one `lag` moves before.

    With e white noise, r_t = √share · r_{t-lag} + √(1 - share) · e_t: the variance is that of e, of which the copy
    explains `share`, for all of the next `lag` moves alike.

    Parameters
    ----------
    length, series, lag : int
        Prices of a series, number of series, and moves until the copy.
    share : float
        Part of the variance that is copied, 0 to 1.
    """
    moves = np.random.default_rng(seed).normal(scale=SIZE, size=(series, lag + length))
    for t in range(lag, lag + length):
        moves[:, t] = np.sqrt(share) * moves[:, t - lag] + np.sqrt(1 - share) * moves[:, t]
    price = 100 * np.exp(np.cumsum(moves[:, lag:], axis=1))
    names = np.repeat([f"echo{k}" for k in range(series)], length)
    return panel(names, np.tile(np.arange(length) * HOUR, series), price.ravel())
