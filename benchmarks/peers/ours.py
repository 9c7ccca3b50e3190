"""What statecast does of the same work, and the floor below it.

Comes in: a kind and prices. Goes out: works, and calls of the floors. Imported by `compare.py`.
"""

from __future__ import annotations

from argparse import Namespace

import numpy as np
from feeding import model_file
from one_price import autoregression, in_numpy, in_torch, nodes
from peer import CHUNK, HIDDEN, LANES, LAYERS, Answer, Prices, Training, Work
from record import Call
from step import bare, forecaster
from train import bare as bare_training
from walkforward import carried

from models.conformal import ConformalConfig
from models.forecaster import Forecaster
from models.graph import trace
from models.network import NetworkConfig
from models.observation import MEDIAN
from models.transforms import LogReturn
from pipeline.backtest import walk_forward, walk_session_forward
from pipeline.carried import Carried
from pipeline.export import parameters, ungated
from pipeline.fitting import FitConfig, fit
from pipeline.forecasts import Forecasts
from pipeline.session import Session
from pipeline.training import EpochRecord
from pipeline.training import Training as Fitting
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, SplitConfig, panel, split

DAY_US = 86_400_000_000
PARTS = SplitConfig()
TRAINED_ON = 1 - PARTS.validation - PARTS.test
"""The part of the prices that a fit learns from."""


def model(kind: str) -> Forecaster:
    """Make a forecaster of a kind, calibrated, its weights random or given."""
    return autoregression() if kind == "ar" else forecaster(kind, HIDDEN, LAYERS)


def count(kind: str) -> int:
    """Count the numbers that a fit of a kind sets."""
    return parameters(model(kind))


def stepped(kind: str, prices_NT: Prices) -> Work:
    """Step the file on the last price of each series, the state carried from the prices before it."""
    rows, length = prices_NT.shape
    desk = Carried(Session(model_file(model(kind))), [f"S{n}" for n in range(rows)])
    for t in range(length - 1):
        desk.step(prices_NT[:, t])
    last = prices_NT[:, -1]
    return Work(
        call=lambda: desk.step(last),
        answer=lambda made: Answer(target=np.full(rows, length), price=made.quantile[:, 0, 0, MEDIAN]),
    )


def one_price_floors(kind: str, rows: int) -> dict[str, Call]:
    """Give the bare nodes of the same file and torch, or the autoregression in numpy, states carried."""
    if kind == "ar":
        return {"numpy": in_numpy(rows)}
    return {"nodes": nodes(model(kind), rows), "torch": in_torch(kind, rows)}


def daily(prices_NT: Prices) -> Panel:
    """Make a panel of prices, the n-th price of each series on the n-th day."""
    rows, length = prices_NT.shape
    names = np.repeat([f"S{n:04d}" for n in range(rows)], length)
    return panel(names, np.tile(np.arange(length) * DAY_US, rows), prices_NT.ravel())


def walked(kind: str, prices_T: Prices, origins: int) -> dict[str, Work]:
    """Walk in torch and with the exported file; an autoregression is fitted, since it has coefficients a series."""
    data = daily(prices_T[None])
    network = fit(kind, data, split(data, PARTS), LogReturn(), FitConfig()) if kind == "ar" else model(kind)
    wanted = np.zeros_like(data.published)
    wanted[:, -origins - 1 : -1] = True
    file = ungated(network)

    def answer(rows: Forecasts) -> Answer:
        return Answer(target=rows.target_time // DAY_US, price=rows.quantile[:, MEDIAN])

    return {
        "statecast": Work(call=lambda: walk_forward(network, data, wanted), answer=answer),
        "file": Work(call=lambda: walk_session_forward(file, kind, LogReturn(), data, wanted), answer=answer),
    }


def walk_floor(kind: str, origins: int) -> dict[str, Call]:
    """Give the bare nodes of the same file, called once an origin; an autoregression has none."""
    return {} if kind == "ar" else {"nodes": carried(bare(trace(model(kind))), origins)}


def trained(kind: str, prices_NT: Prices, epochs: int) -> dict[str, Training]:
    """Give the bare loop of torch and the whole fit; both learn from the first `TRAINED_ON` of the prices.

    A fit counts its targets itself; its pass over the validation split after each epoch is in its time, not in its
    targets. The bare loop has each input's target once an epoch.
    """
    data = daily(prices_NT)
    cut = split(data, PARTS)
    network = NetworkConfig(hidden=HIDDEN, layers=LAYERS)
    training = TrainingConfig(lanes=LANES, chunk=CHUNK, epochs=epochs, patience=epochs)
    config = FitConfig(network=network, training=training, conformal=ConformalConfig(track="off"))
    made = Fitting(kind, data, cut, LogReturn(), network=network, config=training)
    inputs, targets = made.train.inputs, made.train.targets[..., 0, 0]
    size = Namespace(hidden=HIDDEN, layers=LAYERS, epochs=epochs)
    told: list[EpochRecord] = []

    def whole() -> None:
        told.clear()
        fit(kind, data, cut, LogReturn(), config, on_epoch=told.append)

    return {
        "torch": Training(
            call=lambda: bare_training(kind, inputs, targets, size), targets=lambda: targets.numel() * epochs
        ),
        "statecast": Training(call=whole, targets=lambda: sum(record.targets for record in told)),
    }
