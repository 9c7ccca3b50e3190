"""Fit any model by its name: the list of names is the list of kinds that can be compared and served.

Comes in: a panel and its split. Goes out: fitted forecasters. Knows numpy and torch, none of polars, prefect,
mlflow; statsmodels and arch only when their kinds are fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.autoregressive import AutoregressiveConfig, fit_autoregressive
from models.conformal import Conformal, ConformalConfig
from models.core import Core
from models.dayahead import DayAheadConfig
from models.diurnal import SLOT, fit_diurnal
from models.egarch import fit_egarch
from models.ensemble import Ensemble, EnsembleConfig
from models.errors import ConfigError, FitError, unknown
from models.forecaster import Forecaster
from models.garch import fit_garch
from models.har import HarConfig, fit_har
from models.linear import WEEKDAY, ArxConfig, LearConfig, fit_linear, shape_of, unfitted
from models.naive import fit_drift, fit_last_value, fit_week_ago
from models.network import BODIES, NetworkConfig
from models.transforms import Transform
from pipeline.calendar_features import calendar
from pipeline.calibration import as_before, calibrated
from pipeline.dayahead_training import DayAheadTrainingConfig, fit_dayahead
from pipeline.moves import move_times, moves, observed_by, outcomes
from pipeline.training import EpochRecord, Training, fit_network, resolve_device
from pipeline.training_config import TrainingConfig
from pipeline.weighting import weights_of
from pipeline.windows import Panel, Split

MODELS = ("last_value", "drift", "ar", "ar_t", "garch", "rnn", "lstm", "gru")
"""The models that are fitted and compared by default, the simplest first."""

NETWORKS = tuple(BODIES)
"""Kinds that are trained over epochs."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of every kind of model.

    Attributes
    ----------
    horizon : int
        Steps ahead that each model forecasts, 1 to 1000.
    ar : AutoregressiveConfig
        The autoregression; `ar` has normal and `ar_t` Student t residuals.
    arx : ArxConfig
        The linear map of lags and covariates, by least squares.
    lear : LearConfig
        The linear map of lags, covariates and the weekday, by the lasso.
    har : HarConfig
        The size of moves from averages of past ones.
    network : NetworkConfig
        Shape of the networks.
    training : TrainingConfig
        How the networks are trained.
    dayahead : DayAheadConfig
        Shape of the ensemble for prices that are published a day at a time.
    dayahead_training : DayAheadTrainingConfig
        How that ensemble is trained, and updated by a warm refit.
    ensemble : EnsembleConfig
        What `ensemble` and `mix` are made of.
    conformal : ConformalConfig
        How the quantiles of every model are calibrated.
    """

    horizon: int = 1
    ar: AutoregressiveConfig = AutoregressiveConfig()
    arx: ArxConfig = ArxConfig()
    lear: LearConfig = LearConfig()
    har: HarConfig = HarConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    dayahead: DayAheadConfig = DayAheadConfig()
    dayahead_training: DayAheadTrainingConfig = DayAheadTrainingConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    conformal: ConformalConfig = ConformalConfig()

    def __post_init__(self) -> None:
        if not 1 <= self.horizon <= 1000:
            raise ConfigError(f"horizon: expected 1 to 1000 steps, got {self.horizon}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a fit is given.

    Attributes
    ----------
    name : str
        Name of the model.
    panel : Panel
    split : Split
    transform : Transform
    config : FitConfig
    checkpoint : Path or None
        File of a fit in progress.
    on_epoch : function
        Told of each epoch.
    start : Forecaster or None
        At whose weights networks begin.
    """

    name: str
    panel: Panel
    split: Split
    transform: Transform
    config: FitConfig
    checkpoint: Path | None
    on_epoch: Callable[[EpochRecord], None]
    start: Forecaster | None

    def moves(self) -> list[NDArray[np.float64]]:
        """Give the moves of each series before the end of validation."""
        return moves(self.panel, self.transform, self.split.validation_end_time)

    def forecaster(self, core: Core) -> Forecaster:
        """Make a forecaster of a core without covariates."""
        return Forecaster(self.name, self.transform, core).eval()


def _network(r: Request) -> Forecaster:
    shape = {"network": r.config.network, "config": r.config.training, "horizon": r.config.horizon}
    training = Training(r.name, r.panel, r.split, r.transform, checkpoint=r.checkpoint, start=r.start, **shape)
    return fit_network(training, r.on_epoch)


def _autoregressive(r: Request) -> Forecaster:
    config = replace(r.config.ar, residuals="t") if r.name == "ar_t" else r.config.ar
    return r.forecaster(fit_autoregressive(r.moves(), horizon=r.config.horizon, config=config))


def _dayahead(r: Request) -> Forecaster:
    if r.config.horizon != 1:
        raise ConfigError(f"dayahead: expected fit.horizon = 1, the next block, got {r.config.horizon}")
    settings = {"shape": r.config.dayahead, "training": r.config.dayahead_training}
    return fit_dayahead(r.name, r.panel, r.split, r.transform, start=r.start, **settings)


def _diurnal(r: Request) -> Forecaster:
    ends = move_times(r.panel, r.transform, r.split.validation_end_time)
    slots = [calendar((SLOT,), time)[:, 0].astype(np.int64) for time in ends]
    core = fit_diurnal(r.moves(), slots, horizon=r.config.horizon)
    return Forecaster(r.name, r.transform, core, (SLOT,), (SLOT,)).eval()


def _linear(r: Request) -> Forecaster:
    weekday = r.name == "lear"
    config = r.config.lear if weekday else r.config.arx
    names = tuple(n for n in r.panel.future_names if not weekday or n != WEEKDAY) + (WEEKDAY,) * weekday
    counts = {"past": len(r.panel.past_names), "future": len(names)}
    shape = shape_of(config, horizon=r.config.horizon, block=r.panel.block, weekday=weekday, **counts)
    blank = Forecaster(r.name, r.transform, unfitted(r.name, shape), r.panel.past_names, names)
    seen = r.panel.before(r.split.validation_end_time)
    ticks, _ = blank.ticks(observed_by(blank, seen), blank.init_state(len(seen.names))["price"])
    targets = torch.from_numpy(outcomes(seen, r.transform, r.config.horizon))
    targets[ticks.held.all(2)] = float("nan")  # beside poison there is nothing to forecast from
    core = fit_linear(ticks, targets, shape, config)
    return Forecaster(r.name, r.transform, core, r.panel.past_names, names).eval()


def _ensemble(r: Request) -> Forecaster:
    settings, training = r.config.ensemble, r.config.training
    if settings.of not in NETWORKS:
        raise ConfigError(f"fit.ensemble.of: {unknown('network', settings.of, NETWORKS)}")
    seeds = [replace(training, seed=training.seed + k) for k in range(settings.members)]
    members = [
        _network(_of_member(r, settings.of, k, replace(r.config, training=seed))) for k, seed in enumerate(seeds)
    ]
    return _together(r, members, np.ones(len(members)))


def _mixed(r: Request) -> tuple[Forecaster, Forecaster]:
    """Fit a mix, and one of the same weights whose members have not seen the validation split."""
    settings = r.config.ensemble
    for name in settings.mix:
        if name not in KINDS or name in ("ensemble", "mix"):
            raise ConfigError(f"fit.ensemble.mix: {unknown('member', name, set(KINDS) - {'ensemble', 'mix'})}")
    requests = [_of_member(r, name, k, r.config) for k, name in enumerate(settings.mix)]
    members = [KINDS[one.name](one) for one in requests]
    for side in ("past", "future"):  # of all of them, whatever weights they will get
        _common(side, members)
    if _close(r) and (before := _ensemble_before(r)):
        kept = {core.kind: float(w) for core, w in zip(before.members, before.weights, strict=True)}
        whole = _together(r, members, np.array([kept.get(one.name, 0.0) for one in requests]))
        return whole, whole
    unseen = [
        m if one.name in NETWORKS else KINDS[one.name](_on_train(one)) for one, m in zip(requests, members, strict=True)
    ]
    equal = settings.weights == "equal"
    weights = np.ones(len(members)) if equal else weights_of(unseen, r.panel, r.split)
    return _together(r, members, weights), _together(r, unseen, weights)


def _close(r: Request) -> bool:
    """Tell whether a fit follows the validation split so closely that its errors there say nothing of later ones."""
    return r.name in CLOSE or (r.name == "mix" and not set(CLOSE).isdisjoint(r.config.ensemble.mix))


CLOSE = ("dayahead",)
"""Kinds that are trained on the validation split too, with as many weights as it has prices."""


def _calibrated(r: Request) -> Forecaster:
    """Fit and calibrate.

    A mix, and what comes too close, are judged by a twin that was fitted on train alone. What comes too close is not
    tracked either, since its state is brought up over prices that it was trained on; and a warm refit keeps weights and
    offsets, for a twin of it would cost a fit from scratch.
    """
    close, config = _close(r), r.config.conformal
    if config.track == "off" or not (close or r.name == "mix"):
        return calibrated(KINDS[r.name](r), r.panel, r.split, config)
    if close and r.start is not None and isinstance(r.start.core, Conformal):
        return as_before(KINDS[r.name](r), r.start)
    forecaster, twin = _mixed(r) if r.name == "mix" else (KINDS[r.name](r), KINDS[r.name](_on_train(r)))
    config = replace(config, track="split") if close else config
    return calibrated(forecaster, r.panel, r.split, config, judged=twin)


def _of_member(r: Request, name: str, k: int, config: FitConfig) -> Request:
    """Give the request of member k: with a checkpoint and epochs of its own, at the weights of that member before."""
    path = r.checkpoint and r.checkpoint.with_stem(r.checkpoint.stem + f"-{k}" * (k > 0))

    def told(record: EpochRecord) -> None:
        r.on_epoch(replace(record, epoch=k * config.training.epochs + record.epoch))

    return replace(r, name=name, config=config, checkpoint=path, on_epoch=told, start=_before(r, name, k))


def _on_train(r: Request) -> Request:
    """Let a kind be fitted on train alone, from scratch, where it is to be judged on validation."""
    return replace(r, split=replace(r.split, validation_end_time=r.split.train_end_time), start=None)


def _ensemble_before(r: Request) -> Ensemble | None:
    """Give what was fitted before, if it was of several members."""
    core = r.start and getattr(r.start.core, "core", r.start.core)
    return core if isinstance(core, Ensemble) else None


def _before(r: Request, name: str, k: int) -> Forecaster | None:
    """Give member k as it was fitted before, if it was: of an ensemble by its number, of a mix by its kind."""
    before = _ensemble_before(r)
    if r.start is None or before is None:
        return None
    alike = [member for member in before.members if member.kind == name]
    if len(alike) <= (place := k if r.name == "ensemble" else 0):
        return None
    core = alike[place]
    names = [getattr(r.start, f"{side}_names") if getattr(core, side) else () for side in ("past", "future")]
    return Forecaster(name, r.start.transform, core, *names)


def _common(side: str, members: list[Forecaster]) -> tuple[str, ...]:
    """Give the covariates that all members read who read any.

    Raises
    ------
    ConfigError
        Two members read others, as a network and a kind that reads the calendar by itself.
    """
    read = {m.name: names for m in members if (names := getattr(m, f"{side}_names"))}
    if len(set(read.values())) > 1:
        told = ", ".join(f"{name} with {list(names)}" for name, names in read.items())
        raise ConfigError(
            f"fit.ensemble.mix: expected members that read the same {side} covariates, or none, got {told}. Leave out "
            "a kind that reads its own"
        )
    return next(iter(read.values()), ())


def _together(r: Request, members: list[Forecaster], weights: NDArray[np.float64]) -> Forecaster:
    """Make one forecaster of the members that have a weight."""
    counted = [(m, w) for m, w in zip(members, weights, strict=True) if w > 0]
    core = Ensemble(r.name, [m.core for m, _ in counted], torch.tensor([w for _, w in counted]))
    names = [_common(side, [m for m, _ in counted]) for side in ("past", "future")]
    return Forecaster(r.name, r.transform, core, *names).eval()


KINDS: dict[str, Callable[[Request], Forecaster]] = {
    "last_value": lambda r: r.forecaster(fit_last_value(r.moves(), horizon=r.config.horizon)),
    "drift": lambda r: r.forecaster(fit_drift(r.moves(), horizon=r.config.horizon)),
    "week_ago": lambda r: r.forecaster(fit_week_ago(r.moves(), horizon=r.config.horizon)),
    "ar": _autoregressive,
    "ar_t": _autoregressive,
    "arx": _linear,
    "lear": _linear,
    "har": lambda r: r.forecaster(fit_har(r.moves(), horizon=r.config.horizon, config=r.config.har)),
    "garch": lambda r: r.forecaster(fit_garch(r.moves(), horizon=r.config.horizon)),
    "egarch": lambda r: r.forecaster(fit_egarch(r.moves(), horizon=r.config.horizon)),
    "garch_diurnal": _diurnal,
    **dict.fromkeys(NETWORKS, _network),
    "dayahead": _dayahead,
    "ensemble": _ensemble,
    "mix": lambda r: _mixed(r)[0],
}
"""Every kind of model by its name, and how it is fitted, before its quantiles are calibrated."""


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
        The name is not in `KINDS`.
    FitError
        The data do not carry the fit.
    """
    if name not in KINDS:
        raise ConfigError(unknown("model", name, KINDS))
    request = Request(
        name=name,
        panel=panel,
        split=split,
        transform=transform,
        config=config,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        start=start,
    )
    with naming_the_series(panel.names):
        return _calibrated(request)


def device_of(name: str, config: FitConfig) -> str:
    """Give the kind of device on which a model of this name is fitted: that of its networks, if it has any."""
    parts = {"ensemble": (config.ensemble.of,), "mix": config.ensemble.mix}.get(name, (name,))
    return resolve_device(config.training.device).type if any(part in NETWORKS for part in parts) else "cpu"


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
