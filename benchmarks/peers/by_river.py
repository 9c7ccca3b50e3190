"""river: `SNARIMAX` with five lags of the first differences, stepped price by price.

It learns from every price by a step of gradient descent, which is its way; statecast's coefficients stay. Many series
are as many models in a loop, and a walk is a loop too.

Comes in: prices. Goes out: `PEER`. Imported by `compare.py`, in an environment that has river.
"""

from __future__ import annotations

import numpy as np
from one_price import LAGS
from peer import Answer, Peer, Prices, Work
from river.time_series import SNARIMAX


def model() -> SNARIMAX:
    """Make a model that has learned nothing."""
    return SNARIMAX(p=LAGS, d=1, q=0)


def forecast(_kind: str, prices_NT: Prices) -> Work:
    """Learn the last price of every series, after those before it, and forecast the next."""
    models = [model() for _ in prices_NT]
    for one, prices_T in zip(models, prices_NT[:, :-1].tolist(), strict=True):
        for price in prices_T:
            one.learn_one(price)
    last = prices_NT[:, -1].tolist()

    def call() -> list[float]:
        out = []
        for one, price in zip(models, last, strict=True):
            one.learn_one(price)
            out.append(one.forecast(1)[0])
        return out

    return Work(
        call=call, answer=lambda made: Answer(target=np.full(len(last), prices_NT.shape[1]), price=np.array(made))
    )


def walk(_kind: str, prices_T: Prices, origins: int) -> Work:
    """Forecast the last prices one by one, learning each when it has come."""
    before, steps = prices_T[: -origins - 1].tolist(), prices_T[-origins - 1 : -1].tolist()
    one = model()
    for price in before:
        one.learn_one(price)

    def call() -> list[float]:
        out = []
        for price in steps:
            one.learn_one(price)
            out.append(one.forecast(1)[0])
        return out

    target = np.arange(len(prices_T) - origins, len(prices_T))
    return Work(call=call, answer=lambda made: Answer(target=target, price=np.array(made)))


PEER = Peer(
    name="river",
    kinds=("ar",),
    differs="learns from each price by gradient descent, which statecast does not, and gives a point",
    parameters=lambda _kind: LAGS + 1,
    forecast=forecast,
    walk=walk,
    least={"one": 1.0},
)
