"""What each moment of a panel is to be called: a direction, a regime of volatility, or labels that were given.

Legend: N series, T time, C classes.

Comes in: a panel. Goes out: `Labels`. Knows numpy only; imported by training and by what classifies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, DataError
from models.transforms import Transform
from pipeline.moves import outcomes
from pipeline.windows import Panel, Split

NONE = -1
"""Index of a moment that has no label."""

MOST = 16
"""Most classes that are taken from a column."""

REGIMES = {2: ("calm", "wild"), 3: ("calm", "usual", "wild")}
"""Names of the regimes of volatility, by their number."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A class for each moment.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes.
    index : int64 [N, T]
        Class of each moment, `NONE` where there is none. That of moment i is known at i + `steps`.
    steps : int
        Observations ahead by which a label is known.
    """

    classes: tuple[str, ...]
    index: NDArray[np.int64]
    steps: int = 1


def direction(panel: Panel, transform: Transform, steps: int) -> Labels:
    """Tell whether the move over the next `steps` observations is above zero.

    The label of origin i is of the move to i + steps; there is none where one of the two prices does not count.
    """
    _refuse_blocks(panel)
    move = outcomes(panel, transform, steps)[:, :, -1, 0]
    index = np.where(np.isfinite(move), move > 0, NONE).astype(np.int64)
    return Labels(classes=("not up", "up"), index=index, steps=steps)


def volatility(panel: Panel, transform: Transform, split: Split, *, window: int, regimes: int) -> tuple[Labels, Labels]:
    """Tell in which regime the realised volatility of the next, and of the last, `window` moves is.

    Realised volatility is the root of the mean squared one-step move (Andersen & Bollerslev 1998, International
    Economic Review 39(4)); regimes are between its quantiles in the series on the *train split*, so that there each is
    as frequent: two above and below the median, three by terciles. A window counts where half of its moves are known.

    Returns
    -------
    following : Labels
        At i of the moves i -> i + 1 to i + window - 1 -> i + window.
    present : Labels
        At i of the moves up to i: what `following` was at i - window.
    """
    _refuse_blocks(panel)
    if regimes not in REGIMES:
        raise ConfigError(f"regimes: expected {' or '.join(map(str, REGIMES))}, got {regimes}")
    size = realised(outcomes(panel, transform, 1)[:, :, 0, 0], window)
    train = np.where(split.origins(panel, "train", window), size, np.nan)
    if not np.isfinite(train).any(axis=1).all():
        names = [n for n, row in zip(panel.names, train, strict=True) if not np.isfinite(row).any()]
        raise DataError(f"volatility: expected {window} moves of each series in the train split, not in {names[:20]}")
    bounds = np.nanquantile(train, np.arange(1, regimes) / regimes, axis=1)
    index = np.where(np.isfinite(size), (size > bounds[..., None]).sum(axis=0), NONE)
    following = Labels(classes=REGIMES[regimes], index=index, steps=window)
    before = np.full_like(index, NONE)
    before[:, window:] = index[:, :-window]
    return following, replace(following, index=before)


def realised(move: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Give the root mean square of moves[i : i + window] at each i, [N, T]; NaN where fewer than half are known.

    >>> realised(np.array([[3.0, 4.0, np.nan, 1.0]]), 2).round(3).tolist()
    [[3.536, 4.0, 1.0, nan]]
    """
    known = np.isfinite(move)
    totals = [np.pad(np.cumsum(x, axis=1), ((0, 0), (1, 0))) for x in (np.where(known, move, 0.0) ** 2, known)]
    stop = np.minimum(np.arange(move.shape[1]) + window, move.shape[1])
    square, count = (x[:, stop] - x[:, :-1] for x in totals)
    enough = (2 * count >= window) & (np.arange(move.shape[1]) + window <= move.shape[1])
    return np.sqrt(np.where(enough, np.maximum(square, 0.0), np.nan) / np.maximum(count, 1))


def given(panel: Panel, column: str, value: NDArray[np.float64]) -> Labels:
    """Take labels from the values of a column, [N, T], NaN where it says nothing.

    Raises
    ------
    DataError
        The column has fewer than two values, or more than `MOST`.
    """
    _refuse_blocks(panel)
    value = np.where(panel.published, value, np.nan)
    seen = np.unique(value[np.isfinite(value)])
    if not 2 <= len(seen) <= MOST:
        raise DataError(
            f"labels in column {column!r}: expected 2 to {MOST} values at the times of the prices, got {len(seen)}"
        )
    index = np.where(np.isfinite(value), np.searchsorted(seen, value).clip(max=len(seen) - 1), NONE)
    return Labels(classes=tuple(f"{x:g}" for x in seen), index=index)


def _refuse_blocks(panel: Panel) -> None:
    if panel.block > 1:
        raise ConfigError(
            f"block: expected 1 where moments are labelled, got {panel.block}: a block of prices has no one label. Set "
            "block to 1"
        )
