"""neuralforecast: `GRU` and `LSTM`, their forecasts by `predict`, their walk by `cross_validation` of a fitted model.

It forecasts directly, with one linear layer on top as the others have (`decoder_layers=1`); its recurrent LSTM would be
another network, whose output of one number is its hidden state. It is given as many series in a batch as there are, and
its frames lie ready. It standardises each window by itself.

Comes in: prices. Goes out: `PEER`. Imported by `compare.py`, in an environment that has neuralforecast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from neuralforecast import NeuralForecast, models
from neuralforecast.losses.pytorch import MSE
from peer import CHUNK, CONTEXT, DEEP, HIDDEN, LANES, LAYERS, Answer, Peer, Prices, Training, Work

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "logger": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Counted(MSE):
    """The loss of neuralforecast, which counts its targets, those that a mask hides left out."""

    targets = 0

    def __call__(
        self,
        y: torch.Tensor,
        y_hat: torch.Tensor,
        y_insample: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Give the mean squared error."""
        Counted.targets += y.numel() if mask is None else int(mask.sum())
        return super().__call__(y=y, y_hat=y_hat, y_insample=y_insample, mask=mask)


def library(kind: str, rows: int, **settings: Any) -> NeuralForecast:
    """Make a network that forecasts the next price of as many series in a batch."""
    network = getattr(models, kind.upper())(
        h=1,
        encoder_hidden_size=HIDDEN,
        encoder_n_layers=LAYERS,
        decoder_layers=1,
        scaler_type="standard",
        loss=Counted(),
        batch_size=rows,
        alias="made",
        **settings,
        **QUIET,
    )
    return NeuralForecast(models=[network], freq=1)


def frame(prices_NT: Prices) -> pd.DataFrame:
    """Put prices into the long form, names in the order of the rows."""
    rows, length = prices_NT.shape
    names = np.repeat([f"S{n:04d}" for n in range(rows)], length)
    return pd.DataFrame({"unique_id": names, "ds": np.tile(np.arange(length), rows), "y": prices_NT.ravel()})


def fitted(kind: str, given: pd.DataFrame, rows: int) -> NeuralForecast:
    """Fit for one step, which is all that a forecast needs to be timed."""
    made = library(kind, rows, input_size=CONTEXT, max_steps=1)
    made.fit(given)
    return made


def answer(made: pd.DataFrame) -> Answer:
    """Read a table of forecasts."""
    return Answer(target=made["ds"].to_numpy(), price=made["made"].to_numpy())


def forecast(kind: str, prices_NT: Prices) -> Work:
    """Forecast the next price of every series from its last `CONTEXT` prices."""
    given = frame(prices_NT)
    made = fitted(kind, given, len(prices_NT))
    recent = given.groupby("unique_id").tail(CONTEXT)
    return Work(call=lambda: made.predict(df=recent), answer=answer)


def walk(kind: str, prices_T: Prices, origins: int) -> Work:
    """Forecast the last prices one by one, with the fit that there is."""
    given = frame(prices_T[None])
    made = fitted(kind, given[:-origins], 1)
    asked = {"n_windows": origins, "step_size": 1, "refit": False, "use_fitted": True}
    return Work(call=lambda: made.cross_validation(given, **asked), answer=answer)


def train(kind: str, prices_NT: Prices, epochs: int) -> Training:
    """Fit on `LANES` windows a step, drawn anew, as many steps as the epochs of the others have.

    A GRU is trained recurrently, on `CHUNK` targets a window after the two prices that standardise it. An LSTM has one
    target a window, the price after its `CHUNK` prices.
    """
    given, steps = frame(prices_NT), epochs * (prices_NT.size // (LANES * CHUNK))
    recurrent = {"recurrent": True, "input_size": 2, "h_train": CHUNK, "step_size": CHUNK}
    window = recurrent if kind == "gru" else {"input_size": CHUNK}

    def call() -> None:
        Counted.targets = 0
        library(kind, len(prices_NT), max_steps=steps, windows_batch_size=LANES, **window).fit(given)

    return Training(call=call, targets=lambda: Counted.targets)


def parameters(kind: str) -> int:
    """Count the weights."""
    return sum(p.numel() for p in library(kind, 1, input_size=CONTEXT, max_steps=1).models[0].parameters())


PEER = Peer(
    name="neuralforecast",
    kinds=("gru", "lstm"),
    differs=(
        "reads 256 prices anew for each forecast, from a zero state, and gives a point; trains on windows drawn at "
        "random that each begin from a zero state, an LSTM on one target each, by the squared error, without validation"
    ),
    parameters=parameters,
    forecast=forecast,
    walk=walk,
    least=DEEP,
    train=train,
)
