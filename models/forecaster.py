"""The step contract of forecasters: price in, forecast in price units out, state carried.

    init_state(batch) -> state
    step(observation, state) -> (forecast, state)
    forward(observations, state) -> (forecasts, state)      a step chain, in one call

A forecaster is a transform and a core. What it shares with all that take in prices stands in `shell.py`; here is the
way back to prices.

Legend: B batch, T time, M prices of one moment, S horizon steps, Q quantile levels.

Comes in: observations. Goes out: forecasts. Imported by graph, checks, checkpoint, training, backtest, export.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.core import Core, Distribution
from models.errors import DataError
from models.observation import LEVELS, Array, Forecast, Observation
from models.operations import namespace, per_price
from models.shell import Shell
from models.transforms import Transform


class Forecaster(Shell[Forecast]):
    """One forecaster of any kind; its parameters are those of a `Shell`."""

    def __init__(
        self,
        name: str,
        transform: Transform,
        core: Core[Distribution],
        past_names: tuple[str, ...] = (),
        future_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, transform, core, past_names, future_names)
        self.levels = LEVELS

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """List the parts of a forecast; the degrees of freedom are a constant of the file."""
        around = (self.horizon, self.block)
        return {"quantile": (*around, len(self.levels)), "loc": around, "scale": around}

    def answer(self, output: Distribution, price: Array, series: Array) -> Forecast:
        """Turn moves into prices around the last known price [B, M]."""
        xp, shape = namespace(price), (self.horizon, self.block)
        last = per_price(price, shape, (1, self.block, 1))
        quantile = self.transform.invert(last, output.quantile, series, shape)
        loc, scale = (xp.reshape(x, (-1, *shape)) for x in (output.loc, output.scale))
        return Forecast(
            quantile=xp.reshape(quantile, (-1, *shape, len(self.levels))), loc=loc, scale=scale, df=output.df
        )


def observe(
    price: Tensor,
    *,
    series: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    future: Tensor | None = None,
    elapsed: Tensor | None = None,
    horizon: int = 1,
) -> Observation:
    """Build an observation from prices [B, M] (one moment) or [B, T, M], the rest filled with its default.

    Defaults: every price that is not NaN was published, the pooled row, no covariates, one bar elapsed.
    """
    if price.ndim not in (2, 3):
        raise DataError(
            f"observe: expected prices [B, M] of one moment or [B, T, M] over time, got {tuple(price.shape)}. One "
            "price a moment has M = 1: add an axis at the end"
        )
    lead = price.shape[:-1]
    return Observation(
        price=price.double(),
        mask=~price.isnan() if mask is None else mask,
        series=price.new_zeros(lead[0], dtype=torch.int64) if series is None else series,
        past=price.new_zeros((*lead, 0), dtype=torch.float32) if past is None else past,
        future=price.new_zeros((*lead, horizon, 0), dtype=torch.float32) if future is None else future,
        elapsed=price.new_ones(lead, dtype=torch.float32) if elapsed is None else elapsed,
    )
