"""Where a model is good: its scores by series, by horizon step, by hour of the day and by market regime.

A slice is the same rows for every model: its label is made from names, times and prices, never from a forecast. A
regime is known at the origin, so it can be acted on, and sorting by it leaks nothing.

Comes in: `Forecasts`, a panel. Goes out: a label a row, and scores by label. Knows numpy and scipy; imported by judging
and audit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from models.errors import ComparisonError, ConfigError, DataError, unknown
from pipeline.density import Vector
from pipeline.forecasts import Forecasts
from pipeline.metrics import Scores, scores
from pipeline.windows import Panel

By = Literal["series", "step", "hour", "regime"]
Labels = NDArray[np.str_]

HOUR = 3_600_000_000
MEMORY = 30
"""Moves over which the running volatility forgets: the weight of a move is (1 - 1/30)^age."""
NAMES = np.array(["calm", "usual", "wild"])
"""Regimes, by the terciles of the running volatility on the train split."""


@dataclass(frozen=True, kw_only=True)
class Regimes:
    """Regime of each series over time. The regime at `time[i]` was made from prices up to and including `time[i]`.

    Attributes
    ----------
    time : dict of series name to int64 [T]
        Microseconds since 1970, UTC, ascending: the published prices with a price before them.
    label : dict of series name to str [T]
        calm, usual or wild.
    """

    time: Mapping[str, NDArray[np.int64]]
    label: Mapping[str, Labels]

    def at(self, name: str, time: NDArray[np.int64]) -> Labels:
        """Give the regime of a series at moments [n], the latest one that was known then.

        Raises
        ------
        ComparisonError
            The series has no regime, or none yet at the first of the moments.
        """
        if name not in self.time:
            raise ComparisonError(unknown("series", name, self.time))
        latest = np.searchsorted(self.time[name], time, side="right") - 1
        if (latest < 0).any():
            first = np.datetime64(int(time[latest < 0].min()), "us")
            raise ComparisonError(
                f"a regime needs two prices of {name} up to the origin; at {first}Z there are fewer. Give the panel"
                " from the start of the series"
            )
        return self.label[name][latest]


def regimes(panel: Panel, until: int) -> Regimes:
    """Sort every moment of every series into calm, usual and wild by its running volatility.

    The volatility is the exponentially weighted mean of |move| over `MEMORY` moves, of log prices where all prices of
    the series before `until` are positive, else of prices; of a block it is the mean over its prices. A later price
    that is not positive, or a block that is not whole, then leaves the regime as it was. The terciles are fitted on the
    train split, by series: "wild" is wild for that series, then.

    Parameters
    ----------
    panel : Panel
        Whole series, train split included.
    until : int
        End of the train split, microseconds since 1970, UTC.

    Raises
    ------
    DataError
        A series has fewer than four published prices before `until`, so no terciles.
    """
    time, label = {}, {}
    for row, name in enumerate(panel.names):
        known = panel.mask[row].all(axis=1)
        when, price = panel.time[row, known], panel.price[row, known]
        train = when < until
        if train.sum() < 4:
            raise DataError(
                f"regimes need four published prices of {name} before the end of train; there are {train.sum()}."
                " Leave the series out, or give it more history"
            )
        if (price[train] > 0).all():
            valid = (price > 0).all(axis=1)
            when, price = when[valid], np.log(price[valid])
        running = _running(np.abs(np.diff(price, axis=0)).mean(axis=1))
        low, high = np.quantile(running[when[1:] < until], [1 / 3, 2 / 3])
        time[name], label[name] = when[1:], NAMES[(running > low).astype(int) + (running > high)]
    return Regimes(time=time, label=label)


def _running(size: Vector) -> Vector:
    """Average |moves| [T] with exponential weights that sum to one from the first move on: no start is assumed."""
    keep = 1 - 1 / MEMORY
    total = np.asarray(signal.lfilter([1.0], [1.0, -keep], size))
    return total * (1 - keep) / (1 - keep ** np.arange(1.0, len(size) + 1))


def label(forecasts: Forecasts, by: By, known: Regimes | None = None) -> Labels:
    """Give each row, [n], the name of its slice; names sort in their natural order.

    Parameters
    ----------
    by : "series", "step", "hour" or "regime"
        The name of the series; the horizon step; the UTC hour of the target, 00 to 23; the regime at the origin.
    known : Regimes or None
        Of the panel, from `regimes`; used for "regime" only.

    Raises
    ------
    ConfigError
        `by` is none of these, or regimes are missing.
    """
    match by:
        case "series":
            return np.array(forecasts.names)[forecasts.series]
        case "step":
            return _numbers(forecasts.step)
        case "hour":
            return np.char.zfill((forecasts.target_time // HOUR % 24).astype(str), 2)
        case "regime":
            return _regime(forecasts, known)
        case _:
            raise ConfigError(unknown("slice", by, get_args(By)))


def _numbers(step: NDArray[np.int16]) -> Labels:
    digits = len(str(step.max(initial=0)))
    return np.char.zfill(step.astype(str), digits)


def _regime(forecasts: Forecasts, known: Regimes | None) -> Labels:
    if known is None:
        raise ConfigError('slices by regime need the regimes of the panel: label(forecasts, "regime", regimes(...))')
    result = np.empty(len(forecasts), NAMES.dtype)
    for row in np.unique(forecasts.series):
        here = forecasts.series == row
        result[here] = known.at(forecasts.names[row], forecasts.origin_time[here])
    return result


def sliced(forecasts: Forecasts, labels: Labels, naive_scale: Mapping[str, float]) -> dict[str, Scores]:
    """Score the rows of each label, [n] of them, in the order of the labels; see `metrics.scores`.

    Tests of misses in a slice by hour or regime take its rows as neighbours, though others lie between them.
    """
    return {str(name): scores(forecasts.where(labels == name), naive_scale) for name in np.unique(labels)}
