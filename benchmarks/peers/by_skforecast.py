"""skforecast: a linear regression on five lags; `predict`, and as its walk `backtesting_forecaster` without refits.

It reads the last five prices, no more. Many series are one `ForecasterRecursiveMultiSeries`, which takes them at once.

Comes in: prices. Goes out: `PEER`. Imported by `compare.py`, in an environment that has skforecast.
"""

from __future__ import annotations

import pandas as pd
from one_price import LAGS
from peer import Answer, Peer, Prices, Work
from skforecast.model_selection import TimeSeriesFold, backtesting_forecaster
from skforecast.recursive import ForecasterRecursive, ForecasterRecursiveMultiSeries
from sklearn.linear_model import LinearRegression


def forecast(_kind: str, prices_NT: Prices) -> Work:
    """Forecast the next price of every series from its last prices."""
    names = [f"S{n:04d}" for n in range(len(prices_NT))]
    given = pd.DataFrame(prices_NT.T, columns=names)
    if len(names) == 1:
        single = ForecasterRecursive(estimator=LinearRegression(), lags=LAGS)
        single.fit(y=given["S0000"])
        recent = given["S0000"][-LAGS:]
        return Work(
            call=lambda: single.predict(steps=1, last_window=recent),
            answer=lambda made: Answer(target=made.index.to_numpy(), price=made.to_numpy()),
        )
    library = ForecasterRecursiveMultiSeries(estimator=LinearRegression(), lags=LAGS)
    library.fit(series=given)
    last = given[-LAGS:]

    def answer(made: pd.DataFrame) -> Answer:
        made = made.set_index("level", append=True).loc[(slice(None), names), :]
        return Answer(target=made.index.get_level_values(0).to_numpy(), price=made["pred"].to_numpy())

    return Work(call=lambda: library.predict(steps=1, last_window=last, suppress_warnings=True), answer=answer)


def walk(_kind: str, prices_T: Prices, origins: int) -> Work:
    """Forecast the last prices one by one, by one fit of those before them, which is in the time."""
    given = pd.Series(prices_T, name="y")
    library = ForecasterRecursive(estimator=LinearRegression(), lags=LAGS)
    fold = TimeSeriesFold(steps=1, initial_train_size=len(prices_T) - origins, refit=False)

    def call() -> tuple[pd.DataFrame, pd.DataFrame]:
        return backtesting_forecaster(
            forecaster=library, y=given, cv=fold, metric="mean_absolute_error", n_jobs=1, show_progress=False
        )

    return Work(
        call=call, answer=lambda made: Answer(target=made[1].index.to_numpy(), price=made[1]["pred"].to_numpy())
    )


PEER = Peer(
    name="skforecast",
    kinds=("ar",),
    differs="reads the last five prices, which its caller keeps, and gives a point; its walk also scores itself",
    parameters=lambda _kind: LAGS + 1,
    forecast=forecast,
    walk=walk,
    least={},
)
