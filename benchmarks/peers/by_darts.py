"""darts: `RNNModel`, its forecasts by `predict`, its walk by `historical_forecasts` without refits.

Prices are standardised for it beforehand, and the objects that it forecasts from lie ready: neither is timed. It is
given as many series in a batch as there are.

Comes in: prices. Goes out: `PEER`. Imported by `compare.py`, in an environment that has darts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.models import RNNModel
from peer import CHUNK, CONTEXT, DEEP, HIDDEN, LANES, LAYERS, Answer, Peer, Prices, Training, Work

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "logger": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Counted(torch.nn.MSELoss):
    """The loss of darts, which counts its targets."""

    targets = 0

    def forward(self, forecast: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Give the mean squared error."""
        Counted.targets += target.numel()
        return super().forward(forecast, target)


def network(kind: str, context: int, length: int, **settings: Any) -> RNNModel:
    """Make a network that forecasts from `context` prices and is trained on windows of `length`."""
    return RNNModel(
        input_chunk_length=context,
        training_length=length,
        model=kind.upper(),
        hidden_dim=HIDDEN,
        n_rnn_layers=LAYERS,
        random_state=0,
        loss_fn=Counted(),
        pl_trainer_kwargs=QUIET,
        **settings,
    )


def series(prices_NT: Prices) -> tuple[list[TimeSeries], Prices, Prices]:
    """Standardise each row; give the series, and the mean and standard deviation of each row."""
    mean, unit = prices_NT.mean(1), prices_NT.std(1)
    rows = ((prices_NT - mean[:, None]) / unit[:, None]).astype(np.float32)
    return [TimeSeries.from_values(row) for row in rows], mean, unit


def fitted(kind: str, given: TimeSeries, batch: int) -> RNNModel:
    """Fit for one epoch of one series, which is all that a forecast needs to be timed."""
    return network(kind, CONTEXT, CONTEXT + 1, n_epochs=1, batch_size=batch).fit(given, stride=CONTEXT)


def forecast(kind: str, prices_NT: Prices) -> Work:
    """Forecast the next price of every series from its last `CONTEXT` prices."""
    given, mean, unit = series(prices_NT)
    library = fitted(kind, given[0].append(given[0].shift(len(given[0]))), len(given))

    def answer(made: list[TimeSeries]) -> Answer:
        return Answer(
            target=np.array([one.start_time() for one in made]),
            price=np.array([one.values()[0, 0] for one in made]) * unit + mean,
        )

    recent = [one[-CONTEXT:] for one in given]
    return Work(call=lambda: library.predict(n=1, series=recent, verbose=False), answer=answer)


def walk(kind: str, prices_T: Prices, origins: int) -> Work:
    """Forecast the last prices one by one, by darts' own optimised walk."""
    (given,), mean, unit = series(prices_T[None])
    library = fitted(kind, given[:-origins], 1024)
    asked = {"start": len(prices_T) - origins, "forecast_horizon": 1, "retrain": False, "last_points_only": True}

    def answer(made: TimeSeries) -> Answer:
        return Answer(target=np.asarray(made.time_index), price=made.values()[:, 0] * unit[0] + mean[0])

    return Work(call=lambda: library.historical_forecasts(series=given, verbose=False, **asked), answer=answer)


def train(kind: str, prices_NT: Prices, epochs: int) -> Training:
    """Fit on windows of `CHUNK` steps that follow one another, `LANES` of them in a batch, each from a zero state."""
    given, _, _ = series(prices_NT)

    def call() -> None:
        Counted.targets = 0
        network(kind, CHUNK, CHUNK, n_epochs=epochs, batch_size=LANES).fit(given, stride=CHUNK)

    return Training(call=call, targets=lambda: Counted.targets)


def parameters(kind: str) -> int:
    """Count the weights."""
    given, _, _ = series(np.random.default_rng(0).normal(size=(1, 2 * CONTEXT + 2)))
    return sum(p.numel() for p in fitted(kind, given[0], 1).model.parameters())


PEER = Peer(
    name="darts",
    kinds=("gru", "lstm"),
    differs=(
        "reads 256 prices anew for each forecast, from a zero state, and gives a point; trains on windows that each "
        "begin from a zero state, by the squared error, without validation"
    ),
    parameters=parameters,
    forecast=forecast,
    walk=walk,
    least=DEEP,
    train=train,
)
