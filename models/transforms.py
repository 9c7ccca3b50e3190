"""Between prices and the scale on which models work: log returns, or asinh differences where prices go below zero.

Legend: B batch, M prices of one moment, S horizon steps, Q quantile levels, R rows of per-series parameters.

Comes in: raw prices. Goes out: differences from the last known price, and prices again. Imported by the
forecaster; knows torch only through `operations`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import FitError
from models.observation import Array
from models.operations import namespace, per_price

TransformKind = Literal["log", "asinh"]


class LogReturn(nn.Module):
    """y = log(price / last): for prices above zero. The domain [1e-15, 1e15] keeps poison such as 1e30 out."""

    kind: TransformKind = "log"
    lower = 1e-15
    upper = 1e15

    def admits(self, price: Array) -> Array:
        """Tell which prices lie in the domain; NaN does not."""
        xp = namespace(price)
        return xp.equal(xp.clip(price, self.lower, self.upper), price)

    def difference(self, price: Array, last: Array, series: Array) -> Array:  # noqa: ARG002  one signature for all
        """Give the transformed step from `last` to `price`, both float64 [B, M]; NaN where either is."""
        return namespace(price).log(price / last)

    def invert(self, last: Array, step: Array, series: Array, shape: tuple[int, int]) -> Array:  # noqa: ARG002
        """Give the prices that lie `step` [B, S, M, Q] above `last` [B, 1, M, 1], per price of `shape` (S, M)."""
        xp = namespace(last)
        return last * xp.cast(xp.exp(step), last)

    def constants(self, series: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give center and unit [n] of rows of parameters: NaN, there are none."""
        none = np.full(len(series), np.nan)
        return none, none

    def describe(self) -> dict[str, Any]:
        """Say everything that a reader of the model file must know."""
        return {"kind": self.kind, "lower": self.lower, "upper": self.upper}


class AsinhDifference(nn.Module):
    """y = asinh((price - center) / unit), differenced: for prices that may be negative and spike.

    Uniejewski, Weron, Ziel (2018), Variance stabilizing transformations for electricity spot price
    forecasting, IEEE Trans. Power Syst. 33(2), doi:10.1109/TPWRS.2017.2734563.

    Parameters
    ----------
    center, unit : float64 [R]
        Median and median absolute deviation (over 0.6745) of each series, fitted on the train split; row 0 pooled.
    """

    kind: TransformKind = "asinh"
    lower = -1e15
    upper = 1e15
    center: Tensor
    unit: Tensor

    def __init__(self, center: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", center.double().reshape(-1, 1))
        self.register_buffer("unit", unit.double().reshape(-1, 1))

    def admits(self, price: Array) -> Array:
        """Tell which prices are finite and within ±1e15; NaN is not."""
        xp = namespace(price)
        return xp.equal(xp.clip(price, self.lower, self.upper), price)

    def difference(self, price: Array, last: Array, series: Array) -> Array:
        """Give the transformed step from `last` to `price`, both float64 [B, M]; NaN where either is."""
        center, unit = self._rows(price, series)
        return _asinh((price - center) / unit) - _asinh((last - center) / unit)

    def invert(self, last: Array, step: Array, series: Array, shape: tuple[int, int]) -> Array:
        """Give the prices that lie `step` [B, S, M, Q] above `last` [B, 1, M, 1], per price of `shape` (S, M)."""
        xp = namespace(last)
        center, unit = (per_price(x, shape, (1, 1, 1)) for x in self._rows(last, series))
        y = _asinh((last - center) / unit) + xp.cast(step, last)
        return center + unit * ((xp.exp(y) - xp.exp(0.0 - y)) * 0.5)

    def _rows(self, price: Array, series: Array) -> tuple[Array, Array]:
        xp = namespace(price)
        return xp.take(xp.constant(self.center), series), xp.take(xp.constant(self.unit), series)

    def constants(self, series: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give center and unit [n] of rows of parameters."""
        center, unit = (x.numpy()[series, 0] for x in (self.center, self.unit))
        return center, unit

    def describe(self) -> dict[str, Any]:
        """Say everything that a reader of the model file must know."""
        rows = {"center": self.center.flatten().tolist(), "unit": self.unit.flatten().tolist()}
        return {"kind": self.kind, "lower": self.lower, "upper": self.upper, **rows}


Transform = LogReturn | AsinhDifference


def _asinh(x: Array) -> Array:
    """Take asinh by log and sqrt, odd by construction; onnxruntime has no float64 kernel of the function itself."""
    xp = namespace(x)
    size = xp.abs(x)
    return xp.sign(x) * xp.log(size + xp.sqrt(size * size + 1.0))


def fit_transform(kind: TransformKind, prices: list[NDArray[np.float64]]) -> Transform:
    """Build the transform from the prices of each series on the *train split* (log needs none of them).

    Raises
    ------
    FitError
        When a series has no price, or does not vary so that its unit would be zero.
    """
    if kind == "log":
        return LogReturn()
    pooled = np.concatenate(prices)
    rows = [_median_and_unit(x, k) for k, x in enumerate([pooled, *prices])]
    center, unit = torch.tensor(rows, dtype=torch.float64).T
    return AsinhDifference(center, unit)


def _median_and_unit(x: NDArray[np.float64], row: int) -> tuple[float, float]:
    finite = x[np.isfinite(x)]
    median = float(np.median(finite)) if len(finite) else float("nan")
    unit = float(np.median(np.abs(finite - median))) / 0.6745 if len(finite) else 0.0
    if not unit > 0:
        raise FitError(
            f"asinh transform: series row {row} has {len(finite)} prices and a median absolute deviation of {unit}; "
            "expected a series whose prices are not mostly the same on the train split. Leave it out",
            row=row or None,
        )
    return median, unit
