"""Autoregression of moves, AR(p), with a constant spread: normal or Student t.

    r_t = c + φ_1 r_{t-1} + … + φ_p r_{t-p} + e_t

Order by BIC over 0..max_lags, coefficients by ordinary least squares, statsmodels' own `AutoReg` (Lütkepohl, New
Introduction to Multiple Time Series Analysis, 2005, ch. 4). The forecast of the move to step s is the sum of the
iterated forecasts, linear in the last p moves: its weights are worked out once, at the fit, so that a step is one
product. The spread of step s comes from the moving-average weights ψ.

With no lags this is the last value (c = 0) and the drift: see `naive.py`.

Legend: B batch, M prices of one moment, S horizon steps, R rows of parameters (0 pooled), L lags, Q levels.

Comes in: moves of each series on the train split. Goes out: a core. Knows statsmodels, imported when fitting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from models.core import LEAST_DF, Distribution, Tick, over_time, student, student_quantiles
from models.errors import ConfigError, FitError
from models.observation import State, StateTensor
from models.operations import namespace, per_price


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

    `constant` and `scale` are on the transformed scale, `phi` [p] the coefficients, `df` inf for the normal.
    """

    constant: float
    phi: NDArray[np.float64]
    scale: float
    df: float


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
            state = {"moves": self._push(tick, state["moves"])}
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

    def _push(self, tick: Tick, ring: Tensor) -> Tensor:
        """Put the newest move first [B, M, L]; where held the ring stays."""
        xp = namespace(tick.change)
        newest, held = (xp.reshape(x, (-1, self.block, 1)) for x in (tick.change, tick.held))
        if self.lags == 1:
            return xp.where(held, ring, newest)
        older, _ = xp.split(ring, [self.lags - 1, 1], 2)
        return xp.where(held, ring, xp.concat([newest, older], 2))

    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...], all at once."""
        time = ticks.change.shape[1]
        rings = {"moves": self._rings(ticks, state["moves"])} if self.lags else {}
        flat = {k: ring.flatten(0, 1) for k, ring in rings.items()}
        made = self._distribution(ticks.series.repeat_interleave(time), flat)
        return over_time(made, time), {k: ring[:, -1] for k, ring in rings.items()}

    def _rings(self, ticks: Tick, ring: Tensor) -> Tensor:
        """Give the last moves after each tick [B, T, M, L], the newest first: held ones closed up, then gathered."""
        batch, time, block = ticks.change.shape
        order = ticks.held.to(torch.int8).argsort(dim=1, stable=True)
        moves = torch.cat([ring.flip(2).transpose(1, 2), ticks.change.gather(1, order)], 1)
        newest = (~ticks.held).cumsum(1) + self.lags - 1
        age = torch.arange(self.lags, device=newest.device)
        place = (newest[:, :, None] - age[:, None]).reshape(batch, time * self.lags, block)
        return moves.gather(1, place).reshape(batch, time, self.lags, block).transpose(2, 3)


def fit_autoregressive(
    moves: Sequence[NDArray[np.float64]], *, horizon: int, config: AutoregressiveConfig
) -> Autoregressive:
    """Fit one AR a series on its moves on the *train split*; row 0 takes the medians over the series.

    Parameters
    ----------
    moves : sequence of float64 [T]
        Moves of each series, holes left out.
    horizon : int
        S, at least 1.

    Raises
    ------
    FitError
        A series is constant or shorter than the lags need.
    """
    fits = [_fit_one(r, row, config) for row, r in enumerate(moves, 1)]
    return from_fits("ar", [_median_fit(fits), *fits], horizon)


def _fit_one(r: NDArray[np.float64], row: int, config: AutoregressiveConfig) -> AutoregressiveFit:
    from statsmodels.tsa.ar_model import AutoReg

    needed = 2 * config.max_lags + 10
    if len(r) < needed or np.ptp(r) == 0:
        raise FitError(
            f"AR: series row {row} has {len(r)} moves that span {np.ptp(r) if len(r) else 0:g}; expected at least "
            f"{needed} moves that vary. Lower max_lags or leave the series out",
            row=row,
        )
    result = AutoReg(r, lags=select_order(r, config.max_lags), trend="c").fit()
    scale, df = residual_spread(np.asarray(result.resid), config.residuals)
    return AutoregressiveFit(constant=float(result.params[0]), phi=np.asarray(result.params[1:]), scale=scale, df=df)


def lag_windows(x: NDArray[Any], lags: int) -> NDArray[Any]:
    """View every window of `lags` consecutive values, oldest first, without a copy.

    Window j ends at origin i = j + lags - 1 and holds `x[..., i - lags + 1]` to `x[..., i]`, the origin included. The
    forecast of one step from it is for i + 1: the last window has no target yet.

    Parameters
    ----------
    x : array [..., T]
        Values along time.
    lags : int, 1 to T

    Returns
    -------
    array [..., T - lags + 1, lags]
        A read-only view of `x`.

    Raises
    ------
    FitError
        If T is shorter than `lags`.
    """
    if not 1 <= lags <= x.shape[-1]:
        raise FitError(f"windows of {lags} lags need 1 <= lags <= observations, of which there are {x.shape[-1]}")
    return np.lib.stride_tricks.sliding_window_view(x, lags, axis=-1)


def select_order(r: NDArray[np.float64], max_lags: int) -> int:
    """Choose the order 0..max_lags of lowest BIC, all orders fitted to the same targets r[max_lags:].

    One Cholesky factor of the moments of (1, r_{t-1}, …, r_{t-P}, r_t) holds the residual sums of squares of every
    order p: the squares of its last row from column p + 1 on, added up. The order is that of statsmodels'
    `ar_select_order`. A share of 1e-10 on the diagonal keeps moments of lags that say the same from being singular.

    Parameters
    ----------
    r : float64 [T], longer than 2 max_lags + 2, not constant
    """
    x = (r - r.mean()) / r.std()
    windows = lag_windows(x, max_lags + 1)
    count = len(windows)
    design = np.column_stack([np.ones(count), windows[:, -2::-1], windows[:, -1]])
    last = np.linalg.cholesky(design.T @ design + 1e-10 * count * np.eye(max_lags + 2))[-1]
    residual = np.cumsum(last[:0:-1] ** 2)[::-1]
    bic = count * np.log(residual) + np.log(count) * np.arange(max_lags + 1)
    return int(np.argmin(bic))


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
        df = np.clip(df, LEAST_DF, 200.0)
        _, _, scale = stats.t.fit(residuals / unit, fdf=df, floc=0.0, scale=0.8)
    return float(scale) * unit, float(df)


def _median_fit(fits: Sequence[AutoregressiveFit]) -> AutoregressiveFit:
    """Take medians over the series, shorter lags filled with zeros: the row for series never seen."""
    phi = _padded([f.phi for f in fits])
    middle = {k: float(np.median([getattr(f, k) for f in fits])) for k in ("constant", "scale", "df")}
    return AutoregressiveFit(phi=np.median(phi, axis=0), **middle)


def _padded(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    out = np.zeros((len(rows), max(len(r) for r in rows)))
    for k, r in enumerate(rows):
        out[k, : len(r)] = r
    return out


def from_fits(kind: str, fits: Sequence[AutoregressiveFit], horizon: int) -> Autoregressive:
    """Build the core from one fit a row, row 0 first."""
    phi = _padded([f.phi for f in fits])
    parts = [cumulative_forecast(f.constant, p, horizon) for f, p in zip(fits, phi, strict=True)]
    weights, constant, spread = (np.stack(x) for x in zip(*parts, strict=True))
    scale = spread * np.array([[f.scale] for f in fits])
    df = torch.tensor([f.df for f in fits])
    tables = (torch.from_numpy(weights[:, :, None]), torch.from_numpy(constant[..., None]))
    return Autoregressive(kind, *tables, torch.from_numpy(scale[..., None]), df)


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
