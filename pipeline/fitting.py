"""Fit any model by its name: the list of names is the list of kinds that can be compared and served.

Comes in: a panel and its split. Goes out: fitted forecasters. Knows numpy and torch, none of polars, prefect,
mlflow; statsmodels and arch only when their kinds are fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from models.autoregressive import AutoregressiveConfig, fit_autoregressive
from models.conformal import ConformalConfig
from models.errors import ConfigError, FitError, unknown
from models.forecaster import Forecaster
from models.garch import fit_garch
from models.naive import fit_drift, fit_last_value
from models.recurrent import RecurrentConfig
from models.transforms import Transform
from pipeline.calibration import calibrated
from pipeline.moves import moves
from pipeline.training import EpochRecord, Training, TrainingConfig, fit_recurrent
from pipeline.windows import Panel, Split

MODELS = ("last_value", "drift", "ar", "ar_t", "garch", "rnn", "lstm", "gru")
"""Every model, the simplest first."""

NETWORKS = ("rnn", "lstm", "gru")
"""Those that are trained over epochs."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of every kind of model.

    Attributes
    ----------
    horizon : int
        Steps ahead that each model forecasts, 1 to 1000.
    ar : AutoregressiveConfig
        The autoregression; `ar` has normal and `ar_t` Student t residuals.
    network : RecurrentConfig
        Shape of the recurrent networks; `rnn`, `lstm` and `gru` set the cell.
    training : TrainingConfig
        How the networks are trained.
    conformal : ConformalConfig
        How the quantiles of every model are calibrated.
    """

    horizon: int = 1
    ar: AutoregressiveConfig = AutoregressiveConfig()
    network: RecurrentConfig = RecurrentConfig()
    training: TrainingConfig = TrainingConfig()
    conformal: ConformalConfig = ConformalConfig()

    def __post_init__(self) -> None:
        if not 1 <= self.horizon <= 1000:
            raise ConfigError(f"horizon: expected 1 to 1000 steps, got {self.horizon}")


def fit(
    name: str,
    panel: Panel,
    split: Split,
    transform: Transform,
    config: FitConfig,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    start: Forecaster | None = None,
) -> Forecaster:
    """Fit the model called `name`.

    Networks are fitted on the train origins, their best epoch chosen on the validation origins; the other kinds
    have nothing to choose and are fitted on both. Quantiles are calibrated on the validation origins. Nothing from
    the test split on is read. A network begins at the weights of `start`, where one is given; the other kinds are
    found anew in any case.

    Raises
    ------
    ConfigError
        The name is not in `MODELS`.
    FitError
        The data do not carry the fit.
    """
    if name not in MODELS:
        raise ConfigError(unknown("model", name, MODELS))
    forecaster = _fitted(name, panel, split, transform, config, checkpoint, on_epoch, start)
    return calibrated(forecaster, panel, split, config.conformal)


def _fitted(
    name: str,
    panel: Panel,
    split: Split,
    transform: Transform,
    config: FitConfig,
    checkpoint: Path | None,
    on_epoch: Callable[[EpochRecord], None],
    start: Forecaster | None,
) -> Forecaster:
    """Fit the model itself, before its quantiles are calibrated."""
    if name in NETWORKS:
        network = replace(config.network, cell=name)
        shape = {"network": network, "config": config.training, "horizon": config.horizon}
        training = Training(name, panel, split, transform, checkpoint=checkpoint, start=start, **shape)
        return fit_recurrent(training, on_epoch)
    known = moves(panel, transform, split.validation_end_time)
    fits = {
        "last_value": lambda: fit_last_value(known, horizon=config.horizon),
        "drift": lambda: fit_drift(known, horizon=config.horizon),
        "ar": lambda: fit_autoregressive(known, horizon=config.horizon, config=config.ar),
        "ar_t": lambda: fit_autoregressive(known, horizon=config.horizon, config=replace(config.ar, residuals="t")),
        "garch": lambda: fit_garch(known, horizon=config.horizon),
    }
    with naming_the_series(panel.names):
        return Forecaster(name, transform, fits[name]()).eval()


@contextmanager
def naming_the_series(names: tuple[str, ...]) -> Iterator[None]:
    """Name the series in an error that knows its row only, and say how it is left out."""
    try:
        yield
    except FitError as error:
        if error.row is None:
            raise
        name = names[error.row - 1]
        raise FitError(f"{name}: {error} (in the settings: leave_out = [{name!r}])", row=error.row) from error
