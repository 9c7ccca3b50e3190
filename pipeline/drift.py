"""Drift of live forecasts: that what was promised no longer comes true, told by Page and Hinkley's test.

Watched, one value a moment, the mean over the series that ticked at it:

- `coverage`: the share of outcomes inside the 80 % interval, against 0.8
- `location`: the place of the outcome among the published quantiles, which is uniform, against ½
- `spread`: how far from the middle that place is, against ¼
- `loss`, for each reference: the CRPS of the champion less that of the reference, against 0 and only upwards, in
  units of the mean CRPS of the reference. A right forecast loses to no other, however calm or wild the market: the CRPS
  is proper. Its own past would be no measure, as the lead of a good model comes and goes with volatility

With x_t the value, e what is expected, σ the standard deviation of the values before it since the watch began, and
δ = max(tolerance, slack · σ), the statistic upwards is

    g_t = max(0, g_{t-1} + (x_t - e - δ) / σ)

and downwards likewise; it is taken as a cumulative sum over its running minimum, as Page (1954) and Hinkley (1971) have
it. A drift is where g exceeds the threshold; it began, as far as can be told, after g was last zero. After it that
watch starts anew. The first `least` moments of a watch only measure σ.

By simulation (`python benchmarks/drift.py`, its seed fixed), all watches together, at the defaults: at most 0.2 false
alarms in 5,000 moments of one series, at most 0.125 of 50 that move together. Twice the volatility is seen after 33
moments of one series, 11 of 50 with correlation 0.3; half of it after 68 and 25; a shift by half a scale after 86 and
40, in the median.

Legend: k moments, J watches, one for each value and direction.

Comes in: closed moments of a scoreboard. Goes out: events, and what is carried, as named arrays. Sums are taken one by
one, so that no bit depends on how moments were cut into batches. Knows numpy only; imported by stream.

References
----------
Page (1954), Continuous inspection schemes, Biometrika 41, 100-115, doi:10.1093/biomet/41.1-2.100. Hinkley (1971),
Inference about the change-point from cumulative sum tests, Biometrika 58, 509-523, doi:10.1093/biomet/58.3.509.
Diebold, Gunther & Tay (1998), Evaluating density forecasts, International Economic Review 39, 863-883,
doi:10.2307/2527342: the PIT of a right forecast is uniform and independent in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, IntegrityError
from pipeline.scoreboard import Moments
from pipeline.scoring import COLUMNS

Vector = NDArray[np.float64]

EXPECTED = {"coverage": 0.8, "location": 0.5, "spread": 0.25}
"""Means of what is watched while forecasts are right; of the loss it is at most 0."""

_COLUMNS = [COLUMNS.index(name) for name in ("covered_80", "place", "far")]
"""The scores whose means these are."""

_CRPS = COLUMNS.index("crps")

_CARRIED = {
    "count": np.int64,
    "total": np.float64,
    "square": np.float64,
    "unit": np.float64,
    "level": np.float64,
    "lowest": np.float64,
    "since_time": np.int64,
    "since_moments": np.int64,
    "since_outcomes": np.int64,
    "since_sum": np.float64,
}
"""What is carried for each watch: moments since it began, sums of their values, their squares and their units, the
cumulative sum and its minimum, and of the moments since that minimum the first time, their number, outcomes and sum."""


@dataclass(frozen=True, kw_only=True)
class DriftConfig:
    """When forecasts have drifted.

    Attributes
    ----------
    coverage : float
        Distance of the mean coverage of the 80 % interval from 0.8 that is let pass, 0 to 0.8.
    distance : float
        Distance of the mean place from ½, and of its mean distance from the middle from ¼, that is let pass, 0 to 0.25.
    loss : float
        Share by which the CRPS may exceed that of a reference, 0 to 1.
    slack : float
        The least that is let pass, in standard deviations of a moment, 0 to 1.
    threshold : float
        Sum of what is beyond, in standard deviations of a moment, above which it is a drift; above 0.
    least : int
        Moments at the start of a watch in which only the standard deviation is measured, 10 or more; the least between
        two drifts of one watch.
    """

    coverage: float = 0.08
    distance: float = 0.05
    loss: float = 0.02
    slack: float = 0.25
    threshold: float = 20.0
    least: int = 100

    def __post_init__(self) -> None:
        for name, high in (("coverage", 0.8), ("distance", 0.25), ("loss", 1.0), ("slack", 1.0)):
            if not 0 < getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected above 0 and up to {high}, got {getattr(self, name)}")
        if not 0 < self.threshold < float("inf"):
            raise ConfigError(f"threshold: expected a finite number above 0, got {self.threshold}")
        if self.least < 10:
            raise ConfigError(f"least: expected 10 or more, got {self.least}")


class Drift:
    """Watches over the champion of a scoreboard.

    Arrays that `arrays` gave are never changed afterwards: a caller that keeps them can go back.

    Parameters
    ----------
    names : tuple of str
        Of the models, the champion first, as the scoreboard has them.
    config : DriftConfig, optional
    """

    def __init__(self, names: tuple[str, ...], config: DriftConfig | None = None) -> None:
        self.names = names
        self.config = config or DriftConfig()
        self._watch = _Watch.of(names[1:], self.config)
        self._arrays = {name: np.zeros(len(self._watch.what), kind) for name, kind in _CARRIED.items()}

    def arrays(self) -> dict[str, NDArray]:
        """Give everything that is carried."""
        return dict(self._arrays)

    def restore(self, arrays: Mapping[str, NDArray]) -> None:
        """Go on from what `arrays` gave.

        Raises
        ------
        IntegrityError
            The arrays are those of other watches.
        """
        expected = {name: (x.dtype, x.shape) for name, x in self._arrays.items()}
        if expected != {name: (x.dtype, x.shape) for name, x in arrays.items()}:
            raise IntegrityError(
                f"drift: expected the watches over {', '.join(self.names)}, came arrays of other names or shapes. "
                "Begin new ones with a new model version"
            )
        self._arrays = dict(arrays)

    def take(self, moments: Moments) -> list[dict[str, Any]]:
        """Take in closed moments; an event for each drift that they show, in the order of time.

        Returns
        -------
        list of dict
            `kind` "drift"; `what` and, for a loss, `against` which reference; `time` of the moment that showed it and
            `since_time` of the first that counts towards it, microseconds since 1970, UTC; `value`, the mean over the
            moments from then on, for a loss as a share of the reference's CRPS, and `expected`; `statistic` and
            `threshold`; `moments` and `outcomes` from then on.
        """
        events = []
        while len(moments):
            count, shown = self._walk(moments)
            events += shown
            moments = moments.later(count)
        return events

    def _walk(self, moments: Moments) -> tuple[int, list[dict[str, Any]]]:
        """Go on to the end, or up to the first moment that shows a drift; give the moments taken, and the events."""
        path = _Path.of(self._arrays, moments.mean, self._watch, self.config)
        beyond = path.statistic > self.config.threshold
        shown = np.flatnonzero(beyond.any(axis=1))
        count = int(shown[0]) + 1 if len(shown) else len(moments)
        self._arrays = path.after(self._arrays, count, moments)
        if not len(shown):
            return count, []
        fired = np.flatnonzero(beyond[count - 1]).tolist()
        events = [self._event(i, int(moments.time[count - 1])) for i in fired]
        anew = {(self._watch.what[i], self._watch.against[i]) for i in fired}
        again = np.array([both in anew for both in zip(self._watch.what, self._watch.against, strict=True)])
        self._arrays = {name: np.where(again, x.dtype.type(0), x) for name, x in self._arrays.items()}
        return count, events

    def _event(self, i: int, time: int) -> dict[str, Any]:
        """Describe the drift of watch i right after the moment that showed it."""
        now = {name: x[i].item() for name, x in self._arrays.items()}
        against, expected = self._watch.against[i], float(self._watch.expected[i])
        return {
            "kind": "drift",
            "what": self._watch.what[i],
            **({"against": against} if against else {}),
            "time": time,
            "since_time": now["since_time"],
            "value": expected + now["since_sum"] / now["since_moments"] / (now["unit"] / now["count"] or 1.0),
            "expected": expected,
            "statistic": now["level"] - now["lowest"],
            "threshold": self.config.threshold,
            "moments": now["since_moments"],
            "outcomes": now["since_outcomes"],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Watch:
    """The watches, one an element.

    Attributes
    ----------
    what, against : tuple of str
        What is watched, and against which reference; an empty text where none.
    sign, expected, tolerance : [J]
        1 upwards or -1 downwards, the mean while forecasts are right, and the distance from it that is let pass.
    """

    what: tuple[str, ...]
    against: tuple[str, ...]
    sign: Vector
    expected: Vector
    tolerance: Vector

    @classmethod
    def of(cls, references: tuple[str, ...], config: DriftConfig) -> _Watch:
        """Watch over each value in both directions, and over the loss against each reference upwards."""
        tolerance = {
            "coverage": config.coverage,
            "location": config.distance,
            "spread": config.distance,
            "loss": config.loss,
        }
        what = (*(name for name in EXPECTED for _ in range(2)), *["loss"] * len(references))
        return cls(
            what=what,
            against=(*[""] * 2 * len(EXPECTED), *references),
            sign=np.array([1.0, -1.0] * len(EXPECTED) + [1.0] * len(references)),
            expected=np.array([EXPECTED.get(name, 0.0) for name in what]),
            tolerance=np.array([tolerance[name] for name in what]),
        )

    def values(self, mean: Vector) -> tuple[Vector, Vector]:
        """Give what is watched of mean scores [k, m, C], less what is expected, and the unit of each, [k, J]."""
        theirs = mean[:, 1:, _CRPS]
        shares = np.repeat(mean[:, 0, _COLUMNS], 2, axis=1)
        value = np.concatenate((shares, mean[:, :1, _CRPS] - theirs), axis=1)
        return value - self.expected, np.concatenate((np.ones_like(shares), theirs), axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Path:
    """What moments that follow each other make of the watches.

    Attributes
    ----------
    away, statistic : [k, J]
        Values less what is expected, and g.
    count, total, square, unit, level, lowest : [k + 1, J]
        Before the first moment, and after each.
    """

    away: Vector
    statistic: Vector
    count: NDArray[np.int64]
    total: Vector
    square: Vector
    unit: Vector
    level: Vector
    lowest: Vector

    @classmethod
    def of(cls, now: Mapping[str, NDArray], mean: Vector, watch: _Watch, config: DriftConfig) -> _Path:
        """Go through moments of mean scores [k, m, C]."""
        away, one = watch.values(mean)
        count = now["count"] + np.arange(len(mean) + 1)[:, None]
        total, square, unit = (_running(now[k], x) for k, x in (("total", away), ("square", away**2), ("unit", one)))
        before = np.maximum(count[:-1], 1)
        variance = (square[:-1] - total[:-1] / before * total[:-1]) / np.maximum(before - 1, 1)
        tolerance = watch.tolerance * unit[:-1] / before
        deviation = np.maximum(np.sqrt(np.maximum(variance, 0.0)), tolerance)  # values may never have varied
        passed = np.maximum(tolerance, config.slack * deviation)
        beyond = (watch.sign * away - passed) / np.where(deviation > 0, deviation, 1.0)
        level = _running(now["level"], np.where(count[:-1] >= config.least, beyond, 0.0))
        lowest = np.minimum.accumulate(np.concatenate((now["lowest"][None], level[1:])), axis=0)
        statistic = (level - lowest)[1:]
        return cls(
            away=away,
            statistic=statistic,
            count=count,
            total=total,
            square=square,
            unit=unit,
            level=level,
            lowest=lowest,
        )

    def after(self, now: Mapping[str, NDArray], k: int, moments: Moments) -> dict[str, NDArray]:
        """Give what is carried after the first k moments, `moments`."""
        number = np.arange(k)[:, None]
        zero = np.where(self.statistic[:k] <= 0, number, -1).max(axis=0)  # the last one that left the statistic at 0
        counts = number > zero
        kept = np.where(zero < 0, [now[name] for name in ("since_time", "since_moments", "since_outcomes")], 0)
        began = np.where(kept[1] > 0, kept[0], np.append(moments.time[:k], 0)[zero + 1])
        outcomes = moments.outcomes[:k, None].astype(np.int64)
        carried = {name: getattr(self, name)[k] for name in ("count", "total", "square", "unit", "level", "lowest")}
        return carried | {
            "since_time": began,
            "since_moments": kept[1] + counts.sum(axis=0),
            "since_outcomes": kept[2] + (outcomes * counts).sum(axis=0),
            "since_sum": _running(np.where(zero < 0, now["since_sum"], 0.0), self.away[:k] * counts)[-1],
        }


def _running(carried: Vector, rows: Vector) -> Vector:
    """Sum rows [k, J] one after the other on top of `carried` [J]; [k + 1, J]."""
    return np.cumsum(np.concatenate((carried[None], rows)), axis=0)
