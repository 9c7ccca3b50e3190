"""gluonts: `DeepAREstimator`, its forecasts by `predict`, its walk by `predict` over the windows of `split`.

It takes prices as they are and scales each window by its mean. Its further lags and its calendar are left out, so that
it reads the `CONTEXT` prices that the others read, and so is its dropout. A forecast is 100 samples, as it has them by
itself. Its entries lie ready.

Comes in: prices. Goes out: `PEER`. Imported by `compare.py`, in an environment that has gluonts.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from gluonts.dataset import Dataset
from gluonts.dataset.common import ListDataset
from gluonts.dataset.split import split
from gluonts.model.forecast import SampleForecast
from gluonts.torch import DeepAREstimator
from gluonts.torch.distributions import StudentTOutput
from gluonts.torch.model.predictor import PyTorchPredictor
from gluonts.transform import ExpectedNumInstanceSampler
from lightning.pytorch import seed_everything
from peer import CHUNK, CONTEXT, HIDDEN, LANES, LAYERS, Answer, Peer, Prices, Training, Work

FREQ = "D"
START: Any = pd.Period("2000-01-01", FREQ)

BATCH = 128
"""Windows that it forecasts at once: of 16 to 1,000, the quickest."""

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "logger": False,
    "enable_model_summary": False,
}


class Counted(StudentTOutput):
    """The distribution of gluonts, whose loss counts its targets; no window that it is given is padded."""

    targets = 0

    def loss(
        self,
        target: torch.Tensor,
        distr_args: tuple[torch.Tensor, ...],
        loc: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Give the negative log-likelihood."""
        Counted.targets += target.numel()
        return super().loss(target, distr_args, loc=loc, scale=scale)


def estimator(context: int, folder: str | None = None, epochs: int = 1, **settings: Any) -> DeepAREstimator:
    """Make an estimator of the next price from `context` prices, which writes its checkpoints into a folder."""
    return DeepAREstimator(
        freq=FREQ,
        prediction_length=1,
        context_length=context,
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        dropout_rate=0.0,
        distr_output=Counted(),
        lags_seq=[1],
        time_features=[],
        train_sampler=ExpectedNumInstanceSampler(num_instances=1.0, min_past=context, min_future=1),
        trainer_kwargs={"max_epochs": epochs, "default_root_dir": folder, **QUIET},
        **settings,
    )


def entries(prices_NT: Prices) -> Dataset:
    """Put prices into gluonts' own form, an entry a series, in the order of the rows."""
    return ListDataset([{"start": START, "target": row} for row in prices_NT], freq=FREQ)


def trained(given: Dataset, context: int, **settings: Any) -> PyTorchPredictor:
    """Fit, and give what forecasts."""
    seed_everything(0, verbose=False)
    with TemporaryDirectory() as folder:
        return estimator(context, folder, **settings).train(given, cache_data=True)


def fitted(given: Dataset) -> PyTorchPredictor:
    """Fit for one epoch as it is by default, after which its forecasts are of prices; they are made on the CPU."""
    made = trained(given, CONTEXT).to("cpu")
    made.batch_size = BATCH
    return made


def answer(made: list[SampleForecast]) -> Answer:
    """Read forecasts: the median of the samples of each."""
    return Answer(
        target=np.array([one.start_date.ordinal - START.ordinal for one in made]),
        price=np.array([np.median(one.samples) for one in made]),
    )


def forecast(_kind: str, prices_NT: Prices) -> Work:
    """Forecast the next price of every series from its last `CONTEXT` prices."""
    given = entries(prices_NT)
    made = fitted(given)
    return Work(call=lambda: list(made.predict(given)), answer=answer)


def walk(_kind: str, prices_T: Prices, origins: int) -> Work:
    """Forecast the last prices one by one, by one fit of those before them."""
    before, rest = split(entries(prices_T[None]), offset=-origins)
    made = fitted(before)
    windows = rest.generate_instances(prediction_length=1, windows=origins).input
    return Work(call=lambda: list(made.predict(windows)), answer=answer)


def train(_kind: str, prices_NT: Prices, epochs: int) -> Training:
    """Fit on `LANES` windows of `CHUNK` targets a step, drawn anew, as many steps as the epochs of the others have."""
    given, steps = entries(prices_NT), prices_NT.size // (LANES * CHUNK)

    def call() -> None:
        Counted.targets = 0
        trained(given, CHUNK, epochs=epochs, batch_size=LANES, num_batches_per_epoch=steps)

    return Training(call=call, targets=lambda: Counted.targets)


def parameters(_kind: str) -> int:
    """Count the weights."""
    return sum(p.numel() for p in estimator(CONTEXT).create_lightning_module().parameters())


PEER = Peer(
    name="gluonts",
    kinds=("lstm",),
    differs=(
        "reads 256 prices anew for each forecast, from a zero state, and gives 100 samples; trains on windows drawn at "
        "random that each begin from a zero state, by the likelihood, keeps its best epoch, without validation"
    ),
    parameters=parameters,
    forecast=forecast,
    walk=walk,
    least={"one": 40.0, "many": 200.0},
    train=train,
)
