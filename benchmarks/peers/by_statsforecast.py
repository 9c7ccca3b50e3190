"""statsforecast: `ARIMA(5, 1, 0)`; `forward`, and as its walk `cross_validation` without refits.

`forward` takes a fitted model to other prices of the same series, of which it reads `CONTEXT`. Many series are as many
fitted models in a loop.

Comes in: prices. Goes out: `PEER`. Imported by `compare.py`, in an environment that has statsforecast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from one_price import LAGS
from peer import CONTEXT, Answer, Peer, Prices, Work
from statsforecast import StatsForecast
from statsforecast.models import ARIMA


def forecast(_kind: str, prices_NT: Prices) -> Work:
    """Forecast the next price of every series from its last `CONTEXT` prices."""
    models = [ARIMA(order=(LAGS, 1, 0)).fit(prices_T[:-1]) for prices_T in prices_NT]
    recent = np.ascontiguousarray(prices_NT[:, -CONTEXT:])

    def call() -> list[Any]:
        return [one.forward(y=prices_T, h=1) for one, prices_T in zip(models, recent, strict=True)]

    def answer(made: list[Any]) -> Answer:
        assert all(len(one["mean"]) == 1 for one in made)
        return Answer(target=np.full(len(made), prices_NT.shape[1]), price=np.array([one["mean"][0] for one in made]))

    return Work(call=call, answer=answer)


def walk(_kind: str, prices_T: Prices, origins: int) -> Work:
    """Forecast the last prices one by one, by one fit of those before them, which is in the time."""
    given = pd.DataFrame({"unique_id": "S", "ds": np.arange(len(prices_T)), "y": prices_T})
    library = StatsForecast(models=[ARIMA(order=(LAGS, 1, 0), alias="made")], freq=1)

    def answer(made: pd.DataFrame) -> Answer:
        return Answer(target=made["ds"].to_numpy(), price=made["made"].to_numpy())

    return Work(
        call=lambda: library.cross_validation(df=given, h=1, n_windows=origins, step_size=1, refit=False), answer=answer
    )


PEER = Peer(
    name="statsforecast",
    kinds=("ar",),
    differs="reads 256 prices anew for each forecast, and gives a point",
    parameters=lambda _kind: LAGS + 1,
    forecast=forecast,
    walk=walk,
    least={},
)
