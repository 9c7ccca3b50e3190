"""Autoregression of moves, AR(p), with a constant spread: normal or Student t.

    r_t = c + φ_1 r_{t-1} + … + φ_p r_{t-p} + e_t

Order by BIC over 0..max_lags, coefficients by ordinary least squares, of all series at once (`least_squares.py`;
Lütkepohl, New Introduction to Multiple Time Series Analysis, 2005, ch. 4). The forecast of the move to step s is the
sum of the iterated forecasts, linear in the last p moves: its weights are worked out once, at the fit, so that a step
is one product. The spread of step s comes from the moving-average weights ψ. Of prices that are published together each
has an equation of its own, in its own moves: the AR per hour.

With no lags this is the last value (c = 0) and the drift: see `naive.py`.

Legend: B batch, T time, M prices of one moment, S horizon steps, R rows of parameters (0 pooled), L lags, Q levels.

Comes in: moves of each series on the train split. Goes out: a core. Knows statsmodels, imported for diagnostics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from models.core import LEAST_DF, Distribution, Tick, over_time, student, student_quantiles
from models.errors import ConfigError
from models.fittable import Vector, fittable
from models.least_squares import autoregressions
from models.observation import State, StateTensor
from models.operations import namespace, per_price
from models.ring import pushed, unrolled


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig:
    """How the AR is fitted.

    Attributes
    ----------
    max_lags : int
        Highest order that BIC may choose, 0 to 100.
    residuals : {"normal", "t"}
        Distribution of the innovations.
    """

    max_lags: int = 20
    residuals: Literal["normal", "t"] = "normal"

    def __post_init__(self) -> None:
        if not 0 <= self.max_lags <= 100:
            raise ConfigError(f"max_lags: expected 0 to 100, got {self.max_lags}")


@dataclass(frozen=True, kw_only=True)
class AutoregressiveFit:
    """Fitted parameters of one series.

    `constant` and `scale` [M] are on the transformed scale, `phi` [M, p] the coefficients, `df` inf for the normal.
    """

    constant: Vector
    phi: Vector
    scale: Vector
    df: float


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """How sure an autoregression is of its coefficients, and whether anything is left in its residuals.

    Attributes
    ----------
    coefficient, standard_error : float64 [1 + p]
        Of the constant and the lags.
    ljung_box, p_value : float
        Statistic over p + 10 autocorrelations of the residuals (Ljung & Box 1978, Biometrika 65(2)), and its p-value on
        10 degrees of freedom: small where the residuals are not white.
    """

    coefficient: Vector
    standard_error: Vector
    ljung_box: float
    p_value: float


class Autoregressive(nn.Module):
    """The AR core: a ring of the last p moves is its state.

    Parameters
    ----------
    kind : str
        `ar`, `last_value` or `drift`.
    weights : float [R, S, M, L]
        Weights of the last L moves, the newest first, in the move to step s; L may be 0.
    constant, scale : float [R, S, M] or [R, S*M]
    df : float [R]
    """

    past = future = 0
    elapsed = False
    df: Tensor

    def __init__(self, kind: str, weights: Tensor, constant: Tensor, scale: Tensor, df: Tensor) -> None:
        super().__init__()
        self.kind = kind
        _, self.horizon, self.block, self.lags = weights.shape
        self.register_buffer("weights", weights.float())
        self.register_buffer("constant", constant.float().flatten(1))
        self.register_buffer("scale", scale.float().flatten(1))
        self.register_buffer("df", df.float())
        self.register_buffer("standard", torch.tensor(student_quantiles(df.numpy())).float())

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: the ring of moves, none for p = 0."""
        ring = StateTensor("moves", (self.block, self.lags), "float32", 0.0, "return", "last moves, the newest first")
        return (ring,) if self.lags else ()

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one tick; the distribution is of the moves after it."""
        if self.lags:
            state = {"moves": pushed(state["moves"], tick.change, tick.held, (self.block, self.lags))}
        return self._distribution(tick.series, state), state

    def _distribution(self, series: Tensor, state: State) -> Distribution:
        """Give the distribution of the moves after the last ones."""
        xp, shape = namespace(series), (self.horizon, self.block)
        tables = (self.constant, self.scale, self.standard, self.df)
        constant, scale, standard, df = (xp.take(xp.constant(table), series) for table in tables)
        if self.lags:
            weighted = xp.take(xp.constant(self.weights), series)
            sums = xp.sum(weighted * xp.reshape(state["moves"], (-1, 1, self.block, self.lags)), 3)
            constant = constant + xp.reshape(sums, (-1, self.horizon * self.block))
        loc, scale = (per_price(x, shape, (*shape, 1)) for x in (constant, scale))
        return student(loc, scale, standard, df, shape)

    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...], all at once."""
        time = ticks.change.shape[1]
        rings = {"moves": unrolled(state["moves"], ticks.change, ticks.held)} if self.lags else {}
        flat = {k: ring.flatten(0, 1) for k, ring in rings.items()}
        made = self._distribution(ticks.series.repeat_interleave(time), flat)
        return over_time(made, time), {k: ring[:, -1] for k, ring in rings.items()}


def fit_autoregressive(moves: Sequence[Vector], *, horizon: int, config: AutoregressiveConfig) -> Autoregressive:
    """Fit one AR a series, or one a price of its block, on its moves on the *train split*; row 0 takes the medians.

    Parameters
    ----------
    moves : sequence of float64 [T] or [T, M]
        Moves of each series; holes left out, or NaN.
    horizon : int
        S, at least 1.

    Raises
    ------
    FitError
        A series is constant or shorter than the lags need.
    """
    needs = {"least": 2 * config.max_lags + 10, "remedy": "Lower max_lags or leave the series out"}
    series = [fittable(r, row, kind="AR", **needs) for row, r in enumerate(moves, 1)]
    block = len(series[0])
    found = autoregressions([x for columns in series for x in columns], config.max_lags)
    most = found.order.max()
    fits = []
    for row, columns in enumerate(series):
        own = slice(row * block, (row + 1) * block)
        constant, phi, scale, df = found.constant[own], found.phi[own, :most], found.sigma[own], float("inf")
        if config.residuals == "t":
            equations = zip(columns, found.order[own], constant, phi, strict=True)
            scale, df = _student([_residuals(x, c, weights[:p]) for x, p, c, weights in equations])
        fits.append(AutoregressiveFit(constant=constant, phi=phi, scale=scale, df=df))
    return from_fits("ar", [_median_fit(fits), *fits], horizon)


def _residuals(r: Vector, constant: float, phi: Vector) -> Vector:
    """Give what the lags of a series do not explain, from the first move that has them all."""
    lags = np.lib.stride_tricks.sliding_window_view(r, len(phi) + 1)
    return lags @ np.append(-phi[::-1], 1.0) - constant


def _student(residuals: Sequence[Vector]) -> tuple[Vector, float]:
    """Fit scales [M] and degrees of freedom, which all prices of a block share."""
    units = [np.std(e) for e in residuals]
    scale, df = residual_spread(np.concatenate([e / u for e, u in zip(residuals, units, strict=True)]), "t")
    if len(residuals) == 1:
        return scale * np.array(units), df
    return np.array([u * scale_given(df, e / u) for e, u in zip(residuals, units, strict=True)]), df


def diagnostics(r: Vector, order: int) -> Diagnostics:
    """Give what statsmodels says of the AR of an order on moves [T]."""
    from statsmodels.stats.diagnostic import acorr_ljungbox
    from statsmodels.tsa.ar_model import AutoReg

    result = AutoReg(r, lags=order, trend="c").fit()
    test = acorr_ljungbox(result.resid, lags=[order + 10], model_df=order)
    return Diagnostics(
        coefficient=np.asarray(result.params),
        standard_error=np.asarray(result.bse),
        ljung_box=test["lb_stat"].item(),
        p_value=test["lb_pvalue"].item(),
    )


def residual_spread(residuals: NDArray[np.float64], kind: Literal["normal", "t"]) -> tuple[float, float]:
    """Fit scale and degrees of freedom, `LEAST_DF` to 200, to residuals around zero, by maximum likelihood.

    Where many residuals are equal, as of a price that often stands still, the likelihood of the scale alone is
    without bound as df falls: so the scale at the nearest bound is fitted anew.
    """
    if kind == "normal":
        return float(np.sqrt(np.mean(residuals**2))), float("inf")
    unit = float(np.std(residuals))
    df, _, scale = stats.t.fit(residuals / unit, 5.0, floc=0.0, scale=0.8)
    if not LEAST_DF <= df <= 200.0:
        df = float(np.clip(df, LEAST_DF, 200.0))
        scale = scale_given(df, residuals / unit)
    return float(scale) * unit, float(df)


def scale_given(df: float, residuals: Vector) -> float:
    """Fit the scale alone to residuals of unit size."""
    return stats.t.fit(residuals, fdf=df, floc=0.0, scale=0.8)[2]


def _median_fit(fits: Sequence[AutoregressiveFit]) -> AutoregressiveFit:
    """Take medians over the series, lags that one does not have counting as zero: the row for series never seen."""
    middle = {k: np.median([getattr(f, k) for f in fits], axis=0) for k in ("constant", "phi", "scale")}
    return AutoregressiveFit(df=float(np.median([f.df for f in fits])), **middle)


def from_fits(kind: str, fits: Sequence[AutoregressiveFit], horizon: int) -> Autoregressive:
    """Build the core from one fit a row, row 0 first; all have as many prices and lags."""
    phi, c = np.concatenate([f.phi for f in fits]), np.concatenate([f.constant for f in fits])
    parts = [cumulative_forecast(own, p, horizon) for own, p in zip(c, phi, strict=True)]
    weights, constant, spread = (torch.from_numpy(np.stack(x)) for x in zip(*parts, strict=True))
    weights, constant, spread = (x.unflatten(0, (len(fits), -1)).transpose(1, 2) for x in (weights, constant, spread))
    scale = spread * torch.tensor(np.array([f.scale for f in fits]))[:, None]
    return Autoregressive(kind, weights, constant, scale, torch.tensor([f.df for f in fits]))


def cumulative_forecast(
    constant: float, phi: NDArray[np.float64], horizon: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Work out the sum of the iterated forecasts for steps 1..S as a linear map of the last p moves.

    Returns
    -------
    weights [S, p], constant [S], spread [S]
        The move to step s is weights[s] · (r_t, r_{t-1}, …) + constant[s] with standard deviation
        spread[s]·σ, where spread[s]² = Σ_{j<s} (1 + ψ_1 + … + ψ_j)².
    """
    p = len(phi)
    history = np.eye(p, p)
    offsets, shocks = np.zeros(p), np.zeros(p)
    rows, constants, psi = [], [], []
    for step in range(horizon):
        rows.append(phi @ history if p else np.zeros(0))
        constants.append(constant + (phi @ offsets if p else 0.0))
        psi.append(1.0 if step == 0 else float(phi @ shocks) if p else 0.0)
        if p:
            history = np.vstack([rows[-1], history[:-1]])
            offsets = np.concatenate([[constants[-1]], offsets[:-1]])
            shocks = np.concatenate([[psi[-1]], shocks[:-1]])
    spread = np.sqrt(np.cumsum(np.cumsum(psi) ** 2))
    return np.cumsum(rows, axis=0).reshape(horizon, p), np.cumsum(constants), spread
