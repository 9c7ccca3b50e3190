"""Scores of forecasts of the next observation, taken when it arrives, of models that step beside each other.

Legend: a outcomes, M prices of one moment, n = a·M of these one by one, m models, C scores, Q quantile levels, R rows
of per-series parameters.

All models are scored on the same outcomes and on one scale, that of the first, the champion: an outcome counts where
every model has finite scores, so that none gains by not answering. The CRPS is the closed form where every model has a
density on that scale, as in `pipeline.metrics.crps`; otherwise it is taken from the published quantiles, for all of
them alike. Coverage, median and place are of the published quantiles, which may have been calibrated since.

Comes in: forecasts that wait, and the prices that came. Goes out: `Scores`. Nothing here raises an error or a warning
for what numbers hold. Knows numpy only; imported by stream and scoreboard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ComparisonError
from models.observation import LEVELS, MEDIAN
from pipeline.metadata import Metadata
from pipeline.quantile_scores import place, quantile_crps
from pipeline.student import LEAST_DF, Student

Vector = NDArray[np.float64]

COLUMNS = ("crps", "log_score", "covered_50", "covered_80", "covered_95", "absolute_error", "place", "far")
"""Scores of one outcome: CRPS and negative log density on the transformed scale, 1 or 0 for inside the central
interval, |price - median| in price units, and `pipeline.quantile_scores.place`."""

_INTERVALS = [(LEVELS.index(low), LEVELS.index(high)) for low, high in ((0.25, 0.75), (0.1, 0.9), (0.025, 0.975))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """The forecasts of one model that the outcomes end: step 1, made at the previous tick of the same series.

    Row i is for outcome i and was made from data up to the tick before it.

    Attributes
    ----------
    row : int64 [a]
        Row of the model's per-series parameters.
    loc, scale : float32 [a, M]
        On the transformed scale; not read where the model has no density.
    quantile : float64 [a, M, Q]
        Prices at `models.observation.LEVELS`, ascending.
    """

    row: NDArray[np.int64]
    loc: NDArray[np.float32]
    scale: NDArray[np.float32]
    quantile: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Scores of n outcomes.

    Attributes
    ----------
    value : float64 [n, m, C]
        In the order of `COLUMNS`. `log_score` is NaN for a model without a density on the champion's scale.
    pit : float64 [n, m]
        F(outcome) of the density, NaN where there is none; `place` in `value` is of the published quantiles.
    counted : bool [n]
        Every model has a forecast with finite scores. The values of other outcomes mean nothing.
    missing : bool [n, m]
        There was a price and one before it, and this model had no forecast that can be scored: it had not begun, or its
        scale was zero, or a number of it infinite.
    """

    value: NDArray[np.float64]
    pit: NDArray[np.float64]
    counted: NDArray[np.bool_]
    missing: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.counted)


class Scorer:
    """What must be known of some models to score them together.

    Parameters
    ----------
    models : mapping of name to Metadata
        The champion first.

    Attributes
    ----------
    names : tuple of str
    closed : bool
        Whether the CRPS is the closed form; otherwise it is taken from quantiles.

    Raises
    ------
    ComparisonError
        There is no model, or they forecast different numbers of prices at once.
    """

    def __init__(self, models: Mapping[str, Metadata]) -> None:
        self.names = tuple(models)
        described = list(models.values())
        blocks = {name: m.block for name, m in models.items()}
        if len(set(blocks.values())) != 1:
            raise ComparisonError(
                f"live scores: expected models that forecast equally many prices at once, came {blocks or 'none'}. "
                "Serve references that were fitted as the champion was"
            )
        self._scale = _Scale(described[0])
        self._density = [_density(described[0], m) for m in described]
        self.closed = all(d is not None and d.whole for d in self._density)

    def score(self, waiting: Sequence[Waiting], price: Vector, last: Vector) -> Scores:
        """Score the forecasts of each model, in the order of `names`, against what came.

        Parameters
        ----------
        waiting : sequence of m Waiting
        price : float64 [a, M]
            What came.
        last : float64 [a, M]
            The price before, from which moves are taken; NaN at the first tick of a series, which is no outcome.

        Returns
        -------
        Scores
            n = a·M: the prices of an outcome one after the other.
        """
        actual, origin = np.ravel(price), np.ravel(last)
        value = np.empty((len(actual), len(waiting), len(COLUMNS)))
        pit = np.full((len(actual), len(waiting)), np.nan)
        with np.errstate(all="ignore"):
            row = np.repeat(waiting[0].row, price.shape[1])
            scale = self._scale.of(row, origin)
            move = scale.move(actual)
            for j, given in enumerate(waiting):
                quantile = given.quantile.reshape(len(actual), len(LEVELS))
                _of_quantiles(value[:, j], actual, quantile)
                crps, value[:, j, 1], pit[:, j] = self._of_density(j, given, price.shape[1], move)
                value[:, j, 0] = crps if self.closed else quantile_crps(move, scale.move(quantile))
            finite = np.isfinite(value[..., [0, 2, 3, 4, 5]]).all(axis=2) & ~np.isinf(value[..., 1])
        missing = ~finite & (np.isfinite(origin) & np.isfinite(actual))[:, None]
        return Scores(value=value, pit=pit, counted=np.asarray(finite.all(axis=1)), missing=missing)

    def _of_density(self, j: int, given: Waiting, block: int, move: Vector) -> tuple[Vector, Vector, Vector]:
        """Take CRPS, log score and PIT of model j, [n] each; NaN without a density, or where the scale is not above 0.

        A scale that is infinite gives scores that are, and no outcome that counts.
        """
        density = self._density[j]
        if density is None:
            none = np.full(len(move), np.nan)
            return none, none, none
        scale = given.scale.astype(np.float64).ravel()
        scale = np.where(scale > 0, scale, np.nan)
        z = (move - given.loc.astype(np.float64).ravel()) / scale
        crps, log_score, pit = density.student.scores(np.repeat(given.row, block), z)
        return crps * scale, log_score + np.log(scale), pit


def _of_quantiles(value: Vector, actual: Vector, quantile: Vector) -> None:
    """Fill in the scores [n, C] that are of the published quantiles [n, Q]."""
    for column, (low, high) in enumerate(_INTERVALS, start=2):
        lower, upper = quantile[:, low], quantile[:, high]
        inside = (lower <= actual) & (actual <= upper)
        value[:, column] = np.where(np.isnan(lower + upper), np.nan, inside)
    value[:, 5] = np.abs(actual - quantile[:, MEDIAN])
    value[:, 6], value[:, 7] = place(actual, quantile)


@dataclass(frozen=True, slots=True)
class _Density:
    student: Student
    whole: bool
    """Every row has a density with a CRPS."""


def _density(champion: Metadata, model: Metadata) -> _Density | None:
    """Give the densities of a model, or None where they are on another scale than the champion's."""
    if not _same_scale(champion, model):
        return None
    # float32, as a step gives them
    df = np.resize(np.asarray(model.df, np.float32), 1 + len(model.series)).astype(np.float64)
    return _Density(Student(df), bool((df > LEAST_DF).all()))


def _same_scale(one: Metadata, other: Metadata) -> bool:
    kinds = {one.transform["kind"], other.transform["kind"]}
    return kinds == {"log"} or (len(kinds) == 1 and one.transform == other.transform and one.series == other.series)


class _Scale:
    """The transformed scale of a model."""

    def __init__(self, metadata: Metadata) -> None:
        numbers: dict[str, Any] = metadata.transform
        on_asinh = numbers["kind"] == "asinh"
        self._numbers = [np.asarray(numbers[name], np.float64) for name in ("center", "unit")] if on_asinh else None

    def of(self, row: NDArray[np.int64], origin: Vector) -> _Moves:
        """Take moves from these origins [n] in these rows of parameters [n]."""
        if self._numbers is None:
            return _Moves(origin, None, None)
        center, unit = (x[row] for x in self._numbers)
        return _Moves(np.arcsinh((origin - center) / unit), center, unit)


@dataclass(frozen=True, slots=True)
class _Moves:
    origin: Vector
    center: Vector | None
    unit: Vector | None

    def move(self, price: Vector) -> Vector:
        """Give the moves from the origins to prices [n] or [n, Q] on the transformed scale."""
        origin, center, unit = (_beside(x, price) for x in (self.origin, self.center, self.unit))
        if center is None or unit is None:
            return np.log(price / origin)
        return np.arcsinh((price - center) / unit) - origin


def _beside(x: Any, price: Vector) -> Any:
    return x if x is None or price.ndim == 1 else x[:, None]
