"""Moves as one linear map of earlier moves, covariates and the weekday: by least squares, or by the lasso as LEAR.

    y_{t+s,m} - y_{t,m} = w_{s,m} · x_t + e        x = (1, lags, level, past, ahead, targets back, weekday)

A step of its own for each horizon s and each price m of a block (direct forecasts: Marcellino, Stock & Watson 2006, J.
Econometrics 135). Lags are y_{t-k} - y_t of all prices of the block, k moves back. `arx` is ordinary least squares with
a small ridge. `lear` is the lasso-estimated autoregression of Uniejewski, Nowotarski & Weron (2016), Energies 9(8), in
the manner of Lago, Marcjasz, De Schutter & Weron (2021), Applied Energy 293, doi:10.1016/j.apenergy.2021.116983: the
penalty by AIC on the least-angle path, the coefficients by coordinate descent, each price for itself, and the mean over
calibration windows of several lengths, which is one linear map again. It also sees the last prices over a slow level,
without which it could not tell that prices are high.

The core carries moves, of which the lags are sums, so that the map is stored on the moves.

Legend: B batch, N series, T time, M prices of one moment, S horizon steps, R rows of parameters (0 pooled), L moves
back, P and K covariates, D targets back, F inputs, A features of a fit, n rows.

Comes in: ticks and targets of the train split. Goes out: a core. Knows scikit-learn, imported when fitting `lear`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from scipy import linalg
from torch import Tensor, nn

from models.autoregressive import residual_spread, scale_given
from models.core import Distribution, Tick, initial_state, over_time, student, student_quantiles
from models.errors import ConfigError, FitError
from models.fittable import Vector
from models.observation import Array, State, StateTensor
from models.operations import namespace, per_price
from models.ring import pushed, unrolled

WEEKDAY = "@weekday"
"""The covariate that is read as a class, where it is the last of those ahead: 0 is Monday, UTC."""

DAYS = 7


@dataclass(frozen=True, kw_only=True)
class ArxConfig:
    """How `arx` is fitted.

    Attributes
    ----------
    lags : int
        Lags 1 to this one are features, 0 to 1000.
    seasons : tuple of int
        Seasons in observations, such as 168 for a week of hours: the lags at which the targets were a season ago.
    ridge : float
        Share of the features' variance that is added to it, above 0 to 1.
    residuals : {"normal", "t"}
        Distribution of the residuals.
    """

    lags: int = 7
    seasons: tuple[int, ...] = ()
    ridge: float = 1e-4
    residuals: Literal["normal", "t"] = "t"

    def __post_init__(self) -> None:
        if not 0 <= self.lags <= 1000:
            raise ConfigError(f"lags: expected 0 to 1000, got {self.lags}")
        if not all(2 <= q <= 1000 for q in self.seasons):
            raise ConfigError(f"seasons: expected 2 to 1000 observations each, got {list(self.seasons)}")
        if not 0 < self.ridge <= 1:
            raise ConfigError(f"ridge: expected above 0 to 1, got {self.ridge}")


@dataclass(frozen=True, kw_only=True)
class LearConfig:
    """How `lear` is fitted.

    Attributes
    ----------
    lags : tuple of int
        Lags that are features, increasing, 1 to 1000; of days: the day before is what moves are relative to, 1, 2 and 6
        are two, three and seven days before the target.
    targets_back : tuple of int
        Whose covariates ahead are features beside those of the target, in targets before it, increasing, 1 to 1000.
    level : int
        Memory in observations of the slow level over which the last prices are features, 2 to 100000; 0: they are not.
    windows : tuple of int
        Lengths of the calibration windows in observations, each at least 30; longer ones than the history are cut.
    residuals : {"normal", "t"}
        Distribution of the residuals.
    """

    lags: tuple[int, ...] = (1, 2, 6)
    targets_back: tuple[int, ...] = (1, 7)
    level: int = 182
    windows: tuple[int, ...] = (56, 84, 1092, 1456)
    residuals: Literal["normal", "t"] = "t"

    def __post_init__(self) -> None:
        for name in ("lags", "targets_back"):
            x = getattr(self, name)
            if list(x) != sorted(set(x)) or (x and not 1 <= x[0] <= x[-1] <= 1000):
                raise ConfigError(f"{name}: expected increasing numbers from 1 to 1000, got {list(x)}")
        if self.level and not 2 <= self.level <= 100_000:
            raise ConfigError(f"level: expected 0, or 2 to 100000 observations, got {self.level}")
        if not self.windows or min(self.windows) < 30:
            raise ConfigError(f"windows: expected at least one, each of 30 or more, got {list(self.windows)}")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a linear core reads: prices, steps, covariates, how far back; whether the last one ahead is the weekday."""

    horizon: int
    block: int = 1
    past: int = 0
    future: int = 0
    lags: int = 0
    targets_back: int = 0
    level: int = 0
    weekday: bool = False

    @property
    def numbers(self) -> int:
        """Covariates ahead that are read as numbers."""
        return self.future - self.weekday

    @property
    def inputs(self) -> int:
        """F, one for the constant."""
        beside = self.past + self.numbers * (self.horizon + self.targets_back) + DAYS * self.weekday
        return 1 + self.block * (self.lags + (self.level > 0)) + beside


class Linear(nn.Module):
    """The linear core: rings of the last moves, and of covariates ahead as they were for earlier targets.

    Parameters
    ----------
    kind : {"arx", "lear"}
    shape : Shape
    tables : dict
        `weights` float [R, F, S*M] on standardised inputs, `scale` float [R, S*M], `df` float [R], and the mean and
        size of the covariates: `past_center` and `past_unit` [P], `future_center` and `future_unit` [K].
    """

    elapsed = False
    weights: Tensor
    scale: Tensor
    df: Tensor
    standard: Tensor
    days: Tensor

    def __init__(self, kind: str, shape: Shape, tables: dict[str, Tensor]) -> None:
        super().__init__()
        self.kind, self.config = kind, shape
        self.horizon, self.block, self.past, self.future = shape.horizon, shape.block, shape.past, shape.future
        for name, table in (tables | {"standard": torch.tensor(student_quantiles(tables["df"].numpy()))}).items():
            self.register_buffer(name, table.float())
        self.register_buffer("days", torch.eye(DAYS), persistent=False)

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried."""
        c, out = self.config, []
        if c.lags:
            meaning = "last moves, the newest first"
            out.append(StateTensor("moves", (self.block, c.lags), "float32", 0.0, "return", meaning))
        if c.targets_back and c.numbers:
            meaning = "standardised covariates of the next targets before this one, the newest first"
            out.append(StateTensor("targets", (c.numbers, c.targets_back), "float32", 0.0, "hidden", meaning))
        if c.level:
            out.append(StateTensor("level", (self.block,), "float32", 0.0, "return", "last prices over a slow level"))
        return tuple(out)

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one tick; the distribution is of the moves after it."""
        xp, c, following = namespace(tick.change), self.config, {}
        past, future = self._standardised(tick)
        parts = [*past, *future]
        if "moves" in state:
            following["moves"] = pushed(state["moves"], tick.change, tick.held, (self.block, c.lags))
            parts.append(xp.reshape(following["moves"], (-1, self.block * c.lags)))
        if "targets" in state:
            parts.append(xp.reshape(state["targets"], (-1, c.numbers * c.targets_back)))
            held = xp.concat([~xp.any(~tick.held, 1)] * c.numbers, 1)
            nearest = future[0] if self.horizon == 1 else xp.split(future[0], self._nearest(), 1)[0]
            following["targets"] = pushed(state["targets"], nearest, held, (c.numbers, c.targets_back))
        if "level" in state:
            following["level"] = xp.where(tick.held, state["level"], self._over_level(state["level"], tick.change))
            parts.append(following["level"])
        return self._distribution(parts, tick), following

    def _over_level(self, before: Array, change: Array) -> Array:
        """Give the price over the slow level after a move: the level follows by one part in its memory."""
        return (before + change) * (1 - 1 / self.config.level)

    def _nearest(self) -> list[int]:
        """Count the covariates of the nearest target, and of the others."""
        return [self.config.numbers, self.config.numbers * (self.horizon - 1)]

    def _standardised(self, tick: Tick) -> tuple[list[Array], list[Array]]:
        """Bring covariates to mean 0 and size 1: those past [B, P]; those ahead [B, S*K], and the weekday [B, 7]."""
        xp, c = namespace(tick.change), self.config
        past = [self._scaled(tick.past, "past")] if self.past else []
        if not self.future:
            return past, []
        numbers = days = self._scaled(tick.future, "future")
        if not c.weekday:
            return past, [xp.reshape(numbers, (-1, self.horizon * c.numbers))]
        if c.numbers:
            numbers, days = xp.split(numbers, [c.numbers, 1], 2)
        future = [xp.reshape(numbers, (-1, self.horizon * c.numbers))] if c.numbers else []
        return past, [*future, self._weekday(xp.reshape(days, (-1, self.horizon)), tick.series)]

    def _weekday(self, days: Array, series: Array) -> Array:
        """Give the weekday of the nearest target as a class [B, 7]; one out of range is Monday or Sunday."""
        xp = namespace(days)
        day = xp.split(days, [1, self.horizon - 1], 1)[0] if self.horizon > 1 else days
        known = xp.clip(xp.where(xp.isnan(day), 0.0, day), 0.0, DAYS - 1.0)
        return xp.take(xp.constant(self.days), xp.reshape(xp.cast(known, series), (-1,)))

    def _scaled(self, x: Array, side: Literal["past", "future"]) -> Array:
        xp = namespace(x)
        return (x - xp.constant(getattr(self, f"{side}_center"))) / xp.constant(getattr(self, f"{side}_unit"))

    def _distribution(self, parts: list[Array], tick: Tick) -> Distribution:
        """Give the distribution of the moves for inputs, in their order."""
        xp, shape = namespace(tick.change), (self.horizon, self.block)
        tables = (self.weights, self.scale, self.df, self.standard)
        weights, scale, df, standard = (xp.take(xp.constant(table), tick.series) for table in tables)
        intercept, slopes = xp.split(weights, [1, self.config.inputs - 1], 1)
        width = self.horizon * self.block
        loc = xp.reshape(intercept, (-1, width))
        if parts:
            x = xp.concat(parts, 1) if len(parts) > 1 else parts[0]
            loc = loc + xp.reshape(xp.unsqueeze(x, 1) @ slopes, (-1, width))
        loc, scale = (per_price(x, shape, (*shape, 1)) for x in (loc, scale))
        return student(loc, scale, standard, df, shape)

    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...], all at once."""
        time = ticks.change.shape[1]
        parts, following = self.inputs(ticks, state)
        flat = _flat(ticks)
        return over_time(self._distribution([p.flatten(0, 1) for p in parts], flat), time), following

    def inputs(self, ticks: Tick, state: State) -> tuple[list[Tensor], State]:
        """Give all inputs but the constant after each tick, parts [B, T, ·] in the order of the weights."""
        (batch, time, _), c, following = ticks.change.shape, self.config, {}
        past, future = self._standardised(_flat(ticks))
        parts = [p.unflatten(0, (batch, time)) for p in (*past, *future)]
        if "moves" in state:
            rings = unrolled(state["moves"], ticks.change, ticks.held)
            parts.append(rings.flatten(2))
            following["moves"] = rings[:, -1]
        if "targets" in state:
            nearest = future[0].unflatten(0, (batch, time))[:, :, : c.numbers]
            held = ticks.held.all(2, keepdim=True).expand_as(nearest)
            rings = unrolled(state["targets"], nearest, held)
            before = torch.cat([state["targets"][:, None], rings[:, :-1]], 1)
            parts.append(before.flatten(2))
            following["targets"] = rings[:, -1]
        if "level" in state:
            over = [state["level"]]
            for change, still in zip(ticks.change.unbind(1), ticks.held.unbind(1), strict=True):
                over.append(torch.where(still, over[-1], self._over_level(over[-1], change)))
            parts.append(torch.stack(over[1:], 1))
            following["level"] = over[-1]
        return parts, following


def _flat(ticks: Tick) -> Tick:
    """Join the batch and time axes."""
    time = ticks.change.shape[1]
    joined = {f.name: getattr(ticks, f.name) for f in fields(Tick)}
    series = joined.pop("series").repeat_interleave(time)
    return Tick(series=series, **{k: x.flatten(0, 1) for k, x in joined.items()})


def shape_of(
    config: ArxConfig | LearConfig, *, horizon: int, block: int, past: int, future: int, weekday: bool = False
) -> Shape:
    """Give the shape of the core that a config fits, on panels of these covariates."""
    lags = _lags(config, horizon)
    back = config.targets_back if isinstance(config, LearConfig) else ()
    return Shape(
        horizon=horizon,
        block=block,
        past=past,
        future=future,
        lags=lags[-1] if lags else 0,
        targets_back=back[-1] if back and future > weekday else 0,
        level=config.level if isinstance(config, LearConfig) else 0,
        weekday=weekday,
    )


def _lags(config: ArxConfig | LearConfig, horizon: int) -> list[int]:
    """List the lags that are features."""
    if isinstance(config, LearConfig):
        return list(config.lags)
    seasonal = {q - s for q in config.seasons for s in range(horizon + 1) if q > s}
    return sorted({*range(1, config.lags + 1), *seasonal})


def unfitted(kind: str, shape: Shape) -> Linear:
    """Give a core whose every forecast is no move: to take ticks in before there is a fit."""
    width = shape.horizon * shape.block
    tables = {"weights": torch.zeros(1, shape.inputs, width), "scale": torch.ones(1, width), "df": torch.ones(1)}
    for side, count in (("past", shape.past), ("future", shape.future)):
        tables |= {f"{side}_center": torch.zeros(count), f"{side}_unit": torch.ones(count)}
    return Linear(kind, shape, tables)


def fit_linear(ticks: Tick, targets: Tensor, shape: Shape, config: ArxConfig | LearConfig) -> Linear:
    """Fit one map a series on the *train split*; row 0 takes the medians.

    Parameters
    ----------
    ticks : Tick
        [N, T, ...], from the true start of each series.
    targets : float64 [N, T, S, M]
        Moves from origin t to each step; NaN where there is none, or it is not to be seen.
    shape : Shape
        As `shape_of` gives it for the config.
    config : ArxConfig or LearConfig

    Raises
    ------
    FitError
        A series has too few origins at which all lags and targets are known, or does not vary.
    """
    kind = "arx" if isinstance(config, ArxConfig) else "lear"
    warm = (~ticks.held.any(2)).cumsum(1) >= max(shape.lags, shape.targets_back + 1)
    wanted = warm & targets.flatten(2).isfinite().all(2)
    core = _centered(kind, shape, ticks, wanted)
    basis = _basis(shape, config)
    rows = []
    for n in range(len(targets)):
        inputs = _inputs_of(core, ticks, n)[wanted[n]].double().numpy()
        outcomes = targets[n].flatten(1)[wanted[n]].numpy()
        _suffice(inputs, outcomes, basis, n + 1, kind, config)
        rows.append(_row(inputs @ basis, outcomes, basis, shape, config))
    by_row = {k: np.stack([r[k] for r in rows]) for k in ("weights", "scale", "df")}
    pooled = {k: torch.from_numpy(np.stack([np.median(x, axis=0), *x])) for k, x in by_row.items()}
    constants = {k: x for k, x in core.state_dict().items() if k.endswith(("_center", "_unit"))}
    return Linear(kind, shape, pooled | constants)


def _centered(kind: str, shape: Shape, ticks: Tick, wanted: Tensor) -> Linear:
    """Give a core without weights that standardises covariates by their mean and size at the wanted origins."""
    core = unfitted(kind, shape)
    seen = {"past": ticks.past[wanted], "future": ticks.future[wanted].flatten(0, 1)[:, : shape.numbers]}
    for side, known in seen.items():
        if known.numel():
            unit, center = torch.std_mean(known.double(), 0)
            getattr(core, f"{side}_center")[: len(center)] = center
            getattr(core, f"{side}_unit")[: len(unit)] = torch.where(unit > 0, unit, 1.0)
    return core


@torch.no_grad()
def _inputs_of(core: Linear, ticks: Tick, n: int) -> Tensor:
    """Give all inputs but the constant of one series, [T, F - 1]."""
    own = Tick(**{f.name: getattr(ticks, f.name)[n : n + 1] for f in fields(Tick)})
    parts, _ = core.inputs(own, initial_state(core.state_tensors(), 1, core.df))
    return torch.cat(parts, 2)[0] if parts else torch.zeros(ticks.change.shape[1], 0)


def _basis(shape: Shape, config: ArxConfig | LearConfig) -> Vector:
    """Give the features of a fit as sums of inputs, [F - 1, A]: lags from moves, and the targets chosen of all back."""
    direct = shape.past + shape.numbers * shape.horizon + DAYS * shape.weekday
    moves = np.array([-(np.arange(shape.lags) < lag).astype(float) for lag in _lags(config, shape.horizon)])
    back = config.targets_back if isinstance(config, LearConfig) else ()
    parts = [np.eye(direct)]
    parts += [np.kron(np.eye(shape.block), moves.T)] if shape.lags else []
    parts += (
        [np.kron(np.eye(shape.numbers), np.eye(shape.targets_back)[:, [d - 1 for d in back]])]
        if shape.targets_back
        else []
    )
    parts += [np.eye(shape.block)] if shape.level else []
    return np.asarray(linalg.block_diag(*parts))


def _suffice(
    inputs: Vector, outcomes: Vector, basis: Vector, row: int, kind: str, config: ArxConfig | LearConfig
) -> None:
    """Refuse a series that has too few origins for a fit, or targets that do not vary."""
    least = basis.shape[1] + 11 if isinstance(config, ArxConfig) else min(config.windows)
    still = not len(outcomes) or (np.ptp(outcomes, axis=0) == 0).any()
    if len(inputs) < least or still:
        raise FitError(
            f"{kind}: series row {row} has {len(inputs)} origins at which its {basis.shape[1]} features and targets "
            f"are known{', whose targets do not vary' if still else ''}; expected at least {least} that vary. Take "
            f"fewer lags or covariates, give more history, or leave the series out",
            row=row,
        )


def _row(x: Vector, y: Vector, basis: Vector, shape: Shape, config: ArxConfig | LearConfig) -> dict[str, Vector]:
    """Fit features [n, A] to outcomes [n, S*M]: weights on the inputs [F, S*M], scales [S*M] and degrees of freedom."""
    if isinstance(config, ArxConfig):
        intercept, slopes = _by_ridge(x, y, config.ridge)
        free = np.full(y.shape[1], len(slopes))
    else:
        x, y = x[-max(config.windows) :], y[-max(config.windows) :]
        each = [_by_lasso(x[-w:], y[-w:]) for w in config.windows]
        intercept, slopes = (np.mean(part, axis=0) for part in zip(*each, strict=True))
        free = np.mean([np.count_nonzero(b, axis=0) for _, b in each], axis=0)
    residuals = (y - intercept - x @ slopes) * np.sqrt(len(y) / np.maximum(len(y) - 1 - free, 1))
    scale, df = _spread(residuals, shape.block, config.residuals)
    return {"weights": np.vstack([intercept, basis @ slopes]), "scale": scale, "df": np.array(df)}


def _by_ridge(x: Vector, y: Vector, ridge: float) -> tuple[Vector, Vector]:
    """Solve for the intercept [S*M] and slopes [A, S*M], the variance of each feature made larger by a share."""
    z, center, unit = _standard(x)
    gram = z.T @ z + ridge * len(z) * np.eye(z.shape[1])
    slopes = linalg.solve(gram, z.T @ (y - y.mean(0)), assume_a="pos") / unit[:, None]
    return y.mean(0) - center @ slopes, slopes


def _by_lasso(x: Vector, y: Vector) -> tuple[Vector, Vector]:
    """Estimate each column of y: the penalty by AIC along the least-angle path, then coordinate descent.

    The noise in AIC is taken to be as large as the target's variance, as in the software of Lago et al. (2021): with
    more features than rows nothing else can be had, and elsewhere it keeps the map sparse.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso, LassoLarsIC

    (z, center, unit), (t, level, size) = _standard(x), _standard(y)
    slopes = np.empty((x.shape[1], y.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the path ends early, or the descent is near enough
        for k in range(y.shape[1]):
            path = LassoLarsIC(criterion="aic", noise_variance=1.0, max_iter=2500).fit(z, t[:, k])
            slopes[:, k] = Lasso(alpha=max(path.alpha_, 1e-6), max_iter=2500, precompute=True).fit(z, t[:, k]).coef_
    slopes *= size / unit[:, None]
    return level - center @ slopes, slopes


def _standard(x: Vector) -> tuple[Vector, Vector, Vector]:
    """Bring columns to mean 0 and size 1; one that does not vary stays 0."""
    center, unit = x.mean(0), x.std(0)
    unit = np.where(unit > 1e-12 * (1 + np.abs(center)), unit, 1.0)
    return (x - center) / unit, center, unit


def _spread(residuals: Vector, block: int, kind: Literal["normal", "t"]) -> tuple[Vector, float]:
    """Fit scales [S*M] to residuals [n, S*M], and degrees of freedom to those of the first step."""
    size = np.sqrt(np.mean(residuals**2, axis=0))
    if kind == "normal":
        return size, float("inf")
    unit = residuals / size
    _, df = residual_spread(unit[:, :block].ravel(), "t")
    return size * np.array([scale_given(df, u) for u in unit.T]), df
