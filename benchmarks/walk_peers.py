"""S7, beside peers: 1,000 one-step forecasts of one series, one fit, by statecast, darts and neuralforecast in one run.

Each library does what it offers for a walk without refits: statecast one stateful pass (in torch, and with the exported
file), darts `historical_forecasts(retrain=False)` with its own optimisation, neuralforecast `cross_validation(
refit=False)` with a fit of one step, which it insists on. GRU 64x2 each, context of 256 prices where a peer needs one;
statecast needs none. The peers are no dependencies: install them beside statecast in an environment of its own.

    pip install darts==0.48.1 neuralforecast==3.3.0
    python benchmarks/walk_peers.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import pandas as pd
import torch
from step import forecaster
from walk import interleaved, prices, told

from models.transforms import LogReturn
from pipeline.backtest import walk_forward, walk_session_forward
from pipeline.export import ungated

ORIGINS, CONTEXT, HIDDEN, LAYERS = 1000, 256, 64, 2
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "enable_model_summary": False}


def statecast(values: np.ndarray) -> dict[str, Callable[[], object]]:
    """Walk in torch and in the runtime, from the first price on."""
    network, data = forecaster("gru", HIDDEN, LAYERS), prices(len(values))
    origins = np.zeros_like(data.published)
    origins[:, -ORIGINS - 1 : -1] = True
    file = ungated(network)
    return {
        "statecast, torch": lambda: walk_forward(network, data, origins),
        "statecast, file": lambda: walk_session_forward(file, "gru", LogReturn(), data, origins),
    }


def darts(values: np.ndarray) -> dict[str, Callable[[], object]]:
    """Walk with the recurrent model of darts, fitted for one epoch."""
    from darts import TimeSeries
    from darts.models import RNNModel

    series = TimeSeries.from_values(values.astype(np.float32))
    model = RNNModel(
        input_chunk_length=CONTEXT,
        training_length=CONTEXT + 1,
        model="GRU",
        hidden_dim=HIDDEN,
        n_rnn_layers=LAYERS,
        n_epochs=1,
        random_state=0,
        pl_trainer_kwargs=dict(QUIET, enable_checkpointing=False),
    )
    model.fit(series[:-ORIGINS])
    given = {"series": series, "start": len(values) - ORIGINS, "forecast_horizon": 1, "retrain": False}
    return {"darts": lambda: model.historical_forecasts(**given, last_points_only=True, verbose=False)}


def neuralforecast(values: np.ndarray) -> dict[str, Callable[[], object]]:
    """Walk with the GRU of neuralforecast."""
    from neuralforecast import NeuralForecast
    from neuralforecast.models import GRU

    frame = pd.DataFrame({"unique_id": "S", "ds": np.arange(len(values)), "y": values})

    def run() -> object:
        shape = {"input_size": CONTEXT, "encoder_n_layers": LAYERS, "encoder_hidden_size": HIDDEN}
        network = GRU(h=1, max_steps=1, **shape, **QUIET)
        library = NeuralForecast(models=[network], freq=1)
        return library.cross_validation(frame, n_windows=ORIGINS, step_size=1, refit=False)

    return {"neuralforecast": run}


def main() -> None:
    """Run all in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if missing := [name for name in ("darts", "neuralforecast") if not find_spec(name)]:
        print(f"left out: needs {' and '.join(missing)}, see --help")
        return
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    values = prices(ORIGINS + 2 * CONTEXT).price[0]
    runs = statecast(values) | darts(values) | neuralforecast(values)
    interleaved(runs, 1)
    seconds = interleaved(runs, rounds)
    named = ", ".join(f"{n} {version(n)}" for n in ("torch", "onnxruntime", "darts", "neuralforecast"))
    print(f"{ORIGINS} origins of one series, GRU {HIDDEN}x{LAYERS}, one thread, medians of {rounds}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {named}")
    told(seconds)


if __name__ == "__main__":
    main()
