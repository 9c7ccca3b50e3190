"""Fit the calibration of a forecaster's quantiles: offsets and gains, on its validation origins.

Legend: n rows, S horizon steps, M prices of one moment, Q quantile levels.

Comes in: a fitted forecaster, a panel and its split. Goes out: the same forecaster with a calibrated core. Knows
numpy and torch; imported by fitting.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from models.conformal import Conformal, ConformalConfig
from models.errors import FitError
from models.forecaster import Forecaster
from models.observation import LEVELS, MEDIAN, between
from pipeline.moves import observed_by, outcomes, sound
from pipeline.threads import cpu_threads
from pipeline.windows import Panel, Split

STRETCH = 1024
"""Moments that are held at once."""

LEAST_GAIN = 0.5
"""Smallest slope of a quantile function that a gain is made of, over that of the standard normal."""


def calibrated(
    forecaster: Forecaster, panel: Panel, split: Split, config: ConformalConfig, *, judged: Forecaster | None = None
) -> Forecaster:
    """Give the forecaster calibrated quantiles; nothing at or after the end of validation is read.

    The median is the point forecast and stays the model's own: the last value stays the last value.

    Parameters
    ----------
    forecaster : Forecaster
        Fitted. Where its fit has seen the validation split, as those of AR and GARCH have, the offsets are in-sample:
        tracking makes up for it.
    panel : Panel
    split : Split
        Offsets are fitted on its *validation* origins, pooled over the series.
    config : ConformalConfig
    judged : Forecaster, optional
        The same, fitted on the train split alone, on whose errors the offsets are fitted, in scales of the forecaster;
        left out, on its own errors.

    Raises
    ------
    FitError
        There are no validation origins from one of the steps on.
    """
    if config.track == "off":
        return forecaster
    with cpu_threads(1):
        seen = panel.before(split.validation_end_time)
        gaps = [np.concatenate(rows) for rows in _gaps(judged or forecaster, forecaster, seen, split)]
    without = [k for k, gap in enumerate(gaps) if not len(gap)]
    if without:
        step, price = divmod(without[0], forecaster.block)
        of_price = f" of price {price} of the block" if forecaster.block > 1 else ""
        raise FitError(
            f"calibration of {forecaster.name}: expected validation origins with known outcomes at every step of "
            f"fit.horizon = {forecaster.horizon}, got none from step {step + 1} on{of_price}. Lower fit.horizon, give "
            "more data or a larger validation split"
        )
    shape = (forecaster.horizon, forecaster.block, len(LEVELS))
    start, slope = (torch.from_numpy(np.stack([f(gap) for gap in gaps]).reshape(shape)) for f in (offsets, slopes))
    start[..., MEDIAN] = slope[..., MEDIAN] = 0.0
    tracked = {"split": 0, "first": 1, "all": forecaster.horizon}[config.track]
    return _around(forecaster, start, slope[:tracked] / config.memory)


def as_before(forecaster: Forecaster, start: Forecaster) -> Forecaster:
    """Give the forecaster the offsets and gains of a calibrated one from which its fit went on."""
    before = start.core
    assert isinstance(before, Conformal)
    return _around(forecaster, before.start, before.gain)


def _around(forecaster: Forecaster, start: Tensor, gain: Tensor) -> Forecaster:
    core = Conformal(forecaster.core, start, gain)
    names = (forecaster.past_names, forecaster.future_names)
    return Forecaster(forecaster.name, forecaster.transform, core, *names).eval()


def _gaps(judged: Forecaster, forecaster: Forecaster, seen: Panel, split: Split) -> list[list[NDArray[np.float32]]]:
    """Gather y - q of one forecaster over the scale of another, [n, Q], of each price of each step.

    Over the validation origins, a stretch of time after another.
    """
    gaps: list[list[NDArray[np.float32]]] = [[] for _ in range(forecaster.horizon * forecaster.block)]
    told = [on_validation(f, seen, split) for f in dict.fromkeys((judged, forecaster))]
    for stretch in zip(*told, strict=True):
        (quantile, _, target, wanted), scale = stretch[0], stretch[-1][1]
        gap = (target - quantile) / scale
        for k, rows in enumerate(gaps):
            rows.append(gap[:, :, k][wanted[:, :, k]].float().numpy())
    return gaps


@torch.no_grad()
def on_validation(forecaster: Forecaster, seen: Panel, split: Split) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Walk over the prices before the end of validation, from nothing, a stretch of time after another.

    Returns
    -------
    iterator of (quantile [N, T, S*M, Q], scale [N, T, S*M, 1], target [N, T, S*M, 1], wanted bool [N, T, S*M])
        Moves from origin to target, on the transformed scale; wanted are the validation origins with an outcome, but
        for those beside which a covariate of the panel is no number.
    """
    o = observed_by(forecaster, seen)
    target = torch.from_numpy(outcomes(seen, forecaster.transform, forecaster.horizon))
    wanted = np.stack([split.origins(seen, "validation", s) for s in range(1, forecaster.horizon + 1)], -1)
    wanted = (torch.from_numpy(wanted & sound(seen)[..., None])[..., None] & target.isfinite()).flatten(2)
    state = forecaster.init_state(len(seen.names))
    for first in range(0, seen.price.shape[1], STRETCH):
        cut = slice(first, first + STRETCH)
        made, price, state = forecaster.unroll(between(o, first, first + STRETCH), state)
        shape = (*price.shape[:2], wanted.shape[2], -1)
        yield made.quantile.reshape(shape), made.scale.reshape(shape), target[:, cut].reshape(shape), wanted[:, cut]


def offsets(gap: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give the empirical quantile of each level's own gaps [n, Q], with the n + 1 of split conformal prediction.

    Levels below the median take the rank below (n + 1) τ and those above it the rank above, so that intervals hold
    at least their share; the median lies between (Romano, Patterson & Candès 2019, theorem 2, for each side).
    """
    n, level = len(gap), np.asarray(LEVELS)
    rank = (n + 1) * level
    rank = np.where(level < 0.5, np.floor(rank), np.where(level > 0.5, np.ceil(rank), rank))
    position = (np.clip(rank, 1, n) - 1) / max(n - 1, 1)
    return np.array([np.quantile(gap[:, q], p) for q, p in enumerate(position)])


def slopes(gap: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give the slope of the quantile function of each level's gaps [n, Q] at its level, in forecast scales.

    A difference quotient over half the way to the nearer end, and at least `LEAST_GAIN` of the normal's, so that
    tracking is not lamed where many gaps are the same.
    """
    level = np.asarray(LEVELS)
    half = np.minimum(level, 1 - level) / 2
    pairs = zip(level - half, level + half, strict=True)
    rise = np.array([np.subtract(*np.quantile(gap[:, q], (high, low))) for q, (low, high) in enumerate(pairs)])
    return np.maximum(rise / (2 * half), LEAST_GAIN / stats.norm.pdf(stats.norm.ppf(level)))
