"""Running totals of live scores: since a model version began, and over the recent past.

Legend: n outcomes, k moments, m models, C scores of an outcome, V = 1 + m·C sums of a moment (outcomes, then each
score of each model), W = V + (1 + m)² sums that are carried (those, then products of outcomes and CRPS).

Series move together: what came at one moment is summed first, and errors are those of moments, not of outcomes. A
moment is closed by the first counted outcome of a later one, whichever series it is of; one that comes late joins the
moment that is open. All sums are taken one by one in the order of arrival, so that no bit depends on how ticks were cut
into batches.

Comes in: `Scores` with their times. Goes out: sums of closed moments, a report, and what is carried, as named arrays.
Knows numpy only; imported by stream and drift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, IntegrityError
from pipeline.scoring import COLUMNS, Scores

Vector = NDArray[np.float64]

SHOWN = ("crps", "log_score", "covered_50", "covered_80", "covered_95", "absolute_error")
"""Scores whose means are reported."""

STEPS = 20
"""Steps in which the memory fades: once in that part of its length."""

_NEVER = -(2**62)


@dataclass(frozen=True, kw_only=True)
class ScoreboardConfig:
    """What counts as one moment, and how long it is remembered.

    Attributes
    ----------
    moment_us : int
        Length of a moment in microseconds, 1 or more: outcomes whose times fall into the same one are summed first. The
        bar of the model where it has one.
    memory : int
        Moments after which a weight in the recent means has fallen to 1/e, 20 or more. Weights fall by steps, once
        every `memory // 20` moments.
    """

    moment_us: int = 1
    memory: int = 500

    def __post_init__(self) -> None:
        for name, low in (("moment_us", 1), ("memory", STEPS)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name}: expected {low} or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Closed moments, ascending.

    Attributes
    ----------
    time : int64 [k]
        When a moment began, microseconds since 1970, UTC, in whole `moment_us`.
    outcomes : float64 [k]
        Counted outcomes, 1 or more.
    mean : float64 [k, m, C]
        Mean scores over these, in the order of `COLUMNS`.
    """

    time: NDArray[np.int64]
    outcomes: NDArray[np.float64]
    mean: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.time)

    def later(self, count: int) -> Moments:
        """Leave the first `count` out."""
        return Moments(time=self.time[count:], outcomes=self.outcomes[count:], mean=self.mean[count:])


class Scoreboard:
    """Totals of the scores of some models.

    Arrays that `arrays` gave are never changed afterwards: a caller that keeps them can go back.

    Parameters
    ----------
    names : tuple of str
        Of the models, the champion first.
    config : ScoreboardConfig, optional
    """

    def __init__(self, names: tuple[str, ...], config: ScoreboardConfig | None = None) -> None:
        self.names = names
        self.config = config or ScoreboardConfig()
        self._step = self.config.memory // STEPS
        sums, products = 1 + len(names) * len(COLUMNS), (1 + len(names)) ** 2
        fade = math.exp(-self._step / self.config.memory)
        # a variance is weighted with the squares of the weights
        self._fade = np.repeat([fade, fade**2], [sums, products])
        self._arrays: dict[str, NDArray[Any]] = {
            "clock": np.array([_NEVER, 0], np.int64),
            "left_out": np.zeros(1 + len(names), np.int64),
            "open": np.zeros(sums),
            "total": np.zeros(sums + products),
            "faded": np.zeros(sums + products),
            "step": np.zeros(sums + products),
        }

    def arrays(self) -> dict[str, NDArray]:
        """Give everything that is carried: a few hundred numbers, however many series there are."""
        return dict(self._arrays)

    def restore(self, arrays: Mapping[str, NDArray]) -> None:
        """Go on from what `arrays` gave.

        Raises
        ------
        IntegrityError
            The arrays are those of other models.
        """
        expected = {name: (x.dtype, x.shape) for name, x in self._arrays.items()}
        if expected != {name: (x.dtype, x.shape) for name, x in arrays.items()}:
            raise IntegrityError(
                f"score totals: expected those of {', '.join(self.names)}, came arrays of other names or shapes. Begin "
                "new totals with a new model version"
            )
        self._arrays = dict(arrays)

    def take(self, time: NDArray[np.int64], scores: Scores) -> Moments:
        """Take in outcomes in the order of their arrival, and give the moments that they closed.

        Parameters
        ----------
        time : int64 [n]
            When each outcome was observed, microseconds since 1970, UTC.
        scores : Scores
        """
        now = self._arrays
        left = np.concatenate(
            ([np.count_nonzero(scores.missing.any(axis=1))], np.count_nonzero(scores.missing, axis=0))
        )
        fresh: dict[str, NDArray[Any]] = {"left_out": now["left_out"] + left}
        began, value = time[scores.counted], scores.value[scores.counted]
        began = began - began % self.config.moment_us
        high = np.maximum.accumulate(np.concatenate((now["clock"][:1], began)))
        later = high[1:] > high[:-1]
        sums = _sums(now["open"], value, np.cumsum(later, dtype=np.int64))
        fresh["open"] = sums[-1]
        ended = sums[:-1, 0] > 0  # the very first moment ends none
        rows = self._wide(sums[:-1][ended])
        fresh |= self._carried(rows)
        fresh["clock"] = np.array([high[-1], now["clock"][1] + len(rows)], np.int64)
        self._arrays = fresh
        return Moments(
            time=np.concatenate((high[:1], began[later]))[:-1][ended],
            outcomes=rows[:, 0],
            mean=(sums[:-1, 1:][ended] / rows[:, :1]).reshape(-1, len(self.names), len(COLUMNS)),
        )

    def report(self) -> dict[str, Any]:
        """Tell the means of each model and the skill of the champion, ready for JSON; None where there is no value.

        Returns
        -------
        dict
            - `outcomes` and `moments` that count, the open moment included, and `left_out`: outcomes that do not,
              because at least one model had no forecast, and for each model how often it was without one
            - `models`: for each name `all` and `recent`, the means of `SHOWN`
            - `skill`: for each reference `all` and `recent`, with `skill` = 1 - ρ, ρ the mean CRPS of the champion over
              that of the reference, and its standard error; `difference` of the mean CRPS, negative where the champion
              is better, and its standard error. The moments are taken as independent: on losses that are autocorrelated
              the errors are too small (`pipeline.significance` tests with those of a backtest).
        """
        now = self._arrays
        last = self._wide(now["open"][None])[0]
        spans = {"all": now["total"] + last, "recent": now["faded"] + now["step"] + last}
        count = int(now["clock"][1]) + int(now["open"][0] > 0)
        models, versus = len(self.names), range(1, len(self.names))
        without = now["left_out"].tolist()
        return {
            "outcomes": int(spans["all"][0]),
            "moments": count,
            "left_out": {"outcomes": without[0], **dict(zip(self.names, without[1:], strict=True))},
            "models": {
                name: {span: _shown(x, models, j) for span, x in spans.items()} for j, name in enumerate(self.names)
            },
            "skill": {self.names[j]: {span: _skill(x, models, j, count) for span, x in spans.items()} for j in versus},
        }

    def _wide(self, sums: Vector) -> Vector:
        """Add to the sums [k, V] of moments the products of outcomes and CRPS; [k, W]."""
        crps = sums[:, 1 :: len(COLUMNS)]
        x = np.concatenate((sums[:, :1], crps), axis=1)
        products = (x[:, :, None] * x[:, None, :]).reshape(len(sums), x.shape[1] ** 2)
        return np.concatenate((sums, products), axis=1)

    def _carried(self, rows: Vector) -> dict[str, Vector]:
        """Add closed moments [k, W] to what is carried."""
        now, step = self._arrays, self._step
        left = step - int(now["clock"][1]) % step
        total, faded, begun = _added(now["total"], rows), now["faded"], _added(now["step"], rows[:left])
        if len(rows) >= left:
            whole = (len(rows) - left) // step
            steps = rows[left : left + whole * step].reshape(whole, step, rows.shape[1])
            for done in (begun, *np.cumsum(steps, axis=1)[:, -1]):
                faded = (faded + done) * self._fade
            begun = _added(np.zeros_like(begun), rows[left + whole * step :])
        return {"total": total, "faded": faded, "step": begun}


def _added(carried: Vector, rows: Vector) -> Vector:
    """Add rows [k, W] to carried sums [W] one after the other; a sum over an axis would pair them."""
    return np.cumsum(np.concatenate((carried[None], rows)), axis=0)[-1]


def _sums(begun: Vector, value: Vector, moment: NDArray[np.int64]) -> Vector:
    """Sum the scores [n, m, C] of each moment one by one, the first one going on from `begun` [V].

    Moments are numbered from 0, the open one, ascending. Gives [moments, V]. `bincount` adds in the order of its input.
    """
    width, outcomes = len(begun), len(value)
    added = np.concatenate((np.ones((outcomes, 1)), value.reshape(outcomes, width - 1)), axis=1)
    cell = moment[:, None] * width + np.arange(width)
    count = int(moment[-1]) + 1 if outcomes else 1
    total = np.bincount(
        np.concatenate((np.arange(width), cell.ravel())),
        weights=np.concatenate((begun, added.ravel())),
        minlength=count * width,
    )
    return np.asarray(total, np.float64).reshape(count, width)


def _shown(sums: Vector, models: int, j: int) -> dict[str, float | None]:
    """Give the means of model j of carried sums [W]."""
    count = float(sums[0])
    own = sums[1 : 1 + models * len(COLUMNS)].reshape(models, len(COLUMNS))[j].tolist()
    means = dict(zip(COLUMNS, own, strict=True))
    return {name: _finite(means[name] / count if count else math.nan) for name in SHOWN}


def _skill(sums: Vector, models: int, j: int, moments: int) -> dict[str, float | None]:
    """Compare the CRPS of the champion and of model j of carried sums [W]; errors by the delta method.

    With c_t and r_t the sums of moment t and n_t its outcomes: Var ρ = Σ (c_t - ρ r_t)² / (Σ r_t)², and of the mean
    difference d: Σ (c_t - r_t - d n_t)² / (Σ n_t)². One moment has no error.
    """
    crps = sums[1 : 1 + models * len(COLUMNS)].reshape(models, len(COLUMNS))[:, 0]
    count, ours, theirs = float(sums[0]), float(crps[0]), float(crps[j])
    product = sums[-((1 + models) ** 2) :].reshape(1 + models, 1 + models)[np.ix_([0, 1, 1 + j], [0, 1, 1 + j])]
    if not (count > 0 and theirs > 0):
        return dict.fromkeys(("skill", "skill_error", "difference", "difference_error"))
    ratio, difference = ours / theirs, (ours - theirs) / count
    several = moments > 1
    return {
        "skill": 1 - ratio,
        "skill_error": _root(product, (0.0, 1.0, -ratio)) / theirs if several else None,
        "difference": difference,
        "difference_error": _root(product, (-difference, 1.0, -1.0)) / count if several else None,
    }


def _root(product: Vector, weights: tuple[float, float, float]) -> float:
    """Give the root of a sum of squares of a weighted sum, from the products [3, 3] of its parts."""
    w = np.array(weights)
    return math.sqrt(max(0.0, float((w[:, None] * w * product).sum())))


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
