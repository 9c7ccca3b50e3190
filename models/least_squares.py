"""Autoregressions of thousands of series at once by ordinary least squares, the order by BIC.

    r_t = c + φ_1 r_{t-1} + … + φ_p r_{t-p} + e_t        BIC(p) = n log(RSS_p / n) + (p + 1) log n

Lütkepohl, New Introduction to Multiple Time Series Analysis, 2005, ch. 3.2 and 4.3. All orders of a choice share the
targets r[P:]; the order chosen is then fitted to r[p:], as statsmodels' `ar_select_order` and `AutoReg` do.

Moments of (1, r_{t-1}, …, r_{t-P}, r_t) hold all there is to know. Those of neighbouring lags differ by one row at
either end, so that they cost P + 1 passes over the series and not P². One Cholesky factor gives the residual sum of
squares of every order: the squares of its last row from column p + 1 on, added up (Golub & Van Loan, Matrix
Computations, 4th ed., 5.3). Moments square the condition of the design: where a lag, or the target, is all but a
combination of the columns before it, that series goes by QR and by the pseudo-inverse of its design instead.

Legend: N series, T time, P highest order; columns are (1, lags 1..P, target).

Comes in: moves of each series on the train split. Goes out: orders and coefficients. Imported by autoregressive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.fittable import Vector

UNEXPLAINED = 1e-6
"""Share of the variance of a column beyond those before it, under which moments are not precise enough."""

ROUNDING = 1e-20
"""Share of the variance of the target that is left by rounding alone: a smaller residual is no better fit."""

AT_ONCE = 2**17
"""Most numbers of padded series that are held at once, a megabyte, which fits into a cache."""


@dataclass(frozen=True, kw_only=True)
class Regressions:
    """One autoregression a series.

    Attributes
    ----------
    order : int64 [N]
        Number of lags, 0 to P.
    constant : float64 [N]
        c.
    phi : float64 [N, P]
        Coefficients of lags 1..P, zero beyond the order.
    sigma : float64 [N]
        Root mean square of the residuals.
    """

    order: NDArray[np.int64]
    constant: Vector
    phi: Vector
    sigma: Vector


def autoregressions(series: Sequence[Vector], max_lags: int) -> Regressions:
    """Choose the order 0..P of each series by BIC and fit it by ordinary least squares.

    Parameters
    ----------
    series : sequence of float64 [T]
        Of any lengths above 2 P + 2, none constant.
    max_lags : int
        P.
    """
    longest = max(len(r) for r in series)
    chunk = max(AT_ONCE // longest, 1)
    found = Regressions(
        order=np.empty(len(series), np.int64),
        constant=np.empty(len(series)),
        phi=np.empty((len(series), max_lags)),
        sigma=np.empty(len(series)),
    )
    for k in range(0, len(series), chunk):
        for name, part in vars(_fitted(series[k : k + chunk], max_lags)).items():
            getattr(found, name)[k : k + chunk] = part
    return found


def _fitted(series: Sequence[Vector], most: int) -> Regressions:
    """Fit some series, those whose moments are precise enough all at once."""
    center, unit = (np.array([f(r) for r in series]) for f in (np.mean, np.std))
    length = np.array([len(r) for r in series])
    x = np.zeros((len(series), length.max()))
    for row, (r, c, u) in enumerate(zip(series, center, unit, strict=True)):
        x[row, : len(r)] = (r - c) / u
    moments = _moments(x, length, most)
    factor, precise = _cholesky(moments)
    order = _order(factor[:, -1], length - most)
    coefficients, rss, solved = _solved(_with_first_targets(moments, x, order), order)
    phi = coefficients[:, 1:]
    constant = center * (1 - phi.sum(1)) + unit * coefficients[:, 0]
    sigma: Vector = unit * np.sqrt(rss / (length - order))
    for row in np.flatnonzero(~(precise & solved)).tolist():
        order[row], constant[row], phi[row], sigma[row] = _one(series[row], most)
    return Regressions(order=order, constant=constant, phi=phi, sigma=sigma)


def _moments(x: Vector, length: NDArray[np.int64], most: int) -> Vector:
    """Add up the products of all columns over the targets r[P:] of each series, [N, P + 2, P + 2].

    Parameters
    ----------
    x : float64 [N, T]
        Series, each followed by zeros.
    """
    count, time = x.shape
    lagged = np.empty((count, most + 1, most + 1))  # by lag 0..P
    for lag in range(most + 1):
        lagged[:, 0, lag] = lagged[:, lag, 0] = np.einsum("nt,nt->n", x[:, most:], x[:, most - lag : time - lag])
    back = np.arange(1, most + 1)
    first = x[:, most - back]
    last = np.take_along_axis(x, length[:, None] - back, 1)
    edges = first[:, :, None] * first[:, None] - last[:, :, None] * last[:, None]
    for lag in range(most):
        lagged[:, lag + 1, 1:] = lagged[:, lag, :-1] + edges[:, lag]
    sums = x[:, most:].sum(1)[:, None] + np.pad(np.cumsum(first - last, 1), ((0, 0), (1, 0)))
    out = np.empty((count, most + 2, most + 2))
    place = np.r_[most + 1, 1 : most + 1]  # of the target, and of the lags
    out[:, place[:, None], place] = lagged
    out[:, 0, place] = out[:, place, 0] = sums
    out[:, 0, 0] = length - most
    return out


def _cholesky(moments: Vector) -> tuple[Vector, NDArray[np.bool_]]:
    """Factor moments, and tell where every column has enough beyond those before it for the factor to be precise."""
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(moments))
    own = factor.diagonal(dim1=1, dim2=2).square() / torch.from_numpy(moments).diagonal(dim1=1, dim2=2)
    return factor.numpy(), ((failed == 0) & (own > UNEXPLAINED).all(1)).numpy()


def _order(last: Vector, count: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Choose by BIC, from what each column explains of the target: [..., P + 2] holds its share in a factor."""
    square = last[..., 1:] ** 2
    rss = np.cumsum(square[..., ::-1], -1)[..., ::-1]
    rss = np.maximum(rss, ROUNDING * rss[..., :1])
    count = np.asarray(count)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):  # a factor that failed is not used
        return np.argmin(count * np.log(rss) + np.log(count) * np.arange(rss.shape[-1]), -1)


def _with_first_targets(moments: Vector, x: Vector, order: NDArray[np.int64]) -> Vector:
    """Add the targets r[p:P], which the choice of the order leaves out, and keep apart the lags beyond p."""
    count, most = len(x), moments.shape[1] - 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x[:, :most], ((0, 0), (most, 1))), most + 1, axis=1)
    rows = np.concatenate([np.ones((count, windows.shape[1], 1)), windows[:, :, ::-1][:, :, 1:], windows[:, :, -1:]], 2)
    rows = rows[:, :most] * (np.arange(most) >= order[:, None])[:, :, None]
    whole = moments + rows.transpose(0, 2, 1) @ rows
    column = np.arange(most + 2)
    used = (column <= order[:, None]) | (column == most + 1)
    return np.where(used[:, :, None] & used[:, None], whole, np.eye(most + 2))


def _solved(moments: Vector, order: NDArray[np.int64]) -> tuple[Vector, Vector, NDArray[np.bool_]]:
    """Solve the normal equations: coefficients [N, P + 1], residual sums of squares [N], and which are precise."""
    factor, precise = _cholesky(moments)
    lower, last = (torch.from_numpy(f) for f in (factor[:, :-1, :-1], factor[:, -1, :-1, None]))
    coefficients = torch.linalg.solve_triangular(lower.transpose(1, 2), last, upper=True)[..., 0].numpy()
    within = np.arange(coefficients.shape[1]) <= order[:, None]
    return np.where(within, coefficients, 0.0), factor[:, -1, -1] ** 2, precise


def _one(r: Vector, most: int) -> tuple[int, float, Vector, float]:
    """Fit one series by QR and the pseudo-inverse, both of the design itself."""
    scaled = (r - r.mean()) / r.std()
    _, factor = np.linalg.qr(_columns(scaled, most))
    order = int(_order(factor[:, -1], len(r) - most))
    columns = _columns(r, order)
    coefficients = np.linalg.pinv(columns[:, :-1], rcond=1e-15) @ columns[:, -1]
    sigma = float(np.sqrt(np.mean((columns[:, -1] - columns[:, :-1] @ coefficients) ** 2)))
    return order, coefficients[0], np.pad(coefficients[1:], (0, most - order)), sigma


def _columns(r: Vector, lags: int) -> Vector:
    """Put the constant, the lags and the target side by side, [T - lags, lags + 2]."""
    windows = np.lib.stride_tricks.sliding_window_view(r, lags + 1)
    return np.column_stack([np.ones(len(windows)), windows[:, -2::-1] if lags else windows[:, :0], windows[:, -1]])
