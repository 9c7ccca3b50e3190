"""Search for the settings of a network: trials over a declared space, judged on the validation split alone.

Values are proposed by a tree-structured Parzen estimator (Bergstra, Bardenet, Bengio & Kégl 2011, NeurIPS), through
Optuna (Akiba, Sano, Yanase, Ohta & Koyama 2019, KDD). A trial that is behind the median of those before it at the same
epoch is stopped. All trials train from the same seed; proposal n depends on the trials before it and on n, so that a
search that was interrupted goes on from its database as if it had never stopped. The test split is not read. Choosing
among trials is fitting, to the validation split: how many were tried is part of the result.

Comes in: `Config`, the kind of a network, a space. Goes out: trials, the best settings as TOML, a figure, runs in
MLflow. The only file that knows optuna; imported by the command line.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import ConfigError, FitError, unknown
from models.network import HEAD_OF
from pipeline import figures, settings, steps, tuning_figures
from pipeline.config import Config
from pipeline.fitting import NETWORKS
from pipeline.steps import Data
from pipeline.tracking import Run, Tracker
from pipeline.training import EpochRecord, Training

if TYPE_CHECKING:
    from optuna import Study
    from optuna import Trial as Proposal

FIRST_AT_RANDOM = 8
"""Trials before the proposals learn from those that were made."""

NEVER_BEHIND = 5
"""Epochs that every trial has."""

MEASURES = ("fit.network.head", "fit.network.bins")
"""Settings that change what the loss is a measure of: trials could not be compared."""

Told = Callable[[EpochRecord], None]


@dataclass(frozen=True, kw_only=True)
class Range:
    """A setting from `low` to `high`, both included; whole numbers where both are; `log` looks at ratios."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        for name, end in (("low", self.low), ("high", self.high)):
            if isinstance(end, bool) or not isinstance(end, (int, float)):
                raise ConfigError(f"{name}: expected a number, got {end!r}")
        if not isinstance(self.log, bool):
            raise ConfigError(f"log: expected true or false, got {self.log!r}")
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ConfigError(f"expected low < high, and low > 0 where log is true, got {self.low} and {self.high}")


Space = Mapping[str, "Range | tuple[Any, ...]"]
"""Name of a setting to its range, or to the values to choose from."""

DEFAULT: Space = {
    "fit.network.hidden": Range(low=8, high=64, log=True),
    "fit.network.layers": (1, 2),
    "fit.network.memories": ((10, 100), (20,), (5, 20, 100), (10, 100, 1000)),
    "fit.training.learning_rate": Range(low=1e-3, high=3e-2, log=True),
    "fit.training.chunk": (16, 32, 64, 128),
    "fit.training.lanes": (16, 48, 96),
    "fit.training.weight_decay": Range(low=1e-5, high=1e-1, log=True),
}
"""What is searched where no space is given; memories only with a Student t, see `check_space`."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial.

    Attributes
    ----------
    number : int
        From 1.
    state : {"finished", "stopped", "diverged"}
    score : float or None
        Best validation loss: nats of the move on the transformed scale with a Student t, else as it is trained.
    epochs : int
        That were trained.
    seconds : float
    settings : dict
        Name to value.
    """

    number: int
    state: str
    score: float | None
    epochs: int
    seconds: float
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search found.

    Attributes
    ----------
    model : str
    trials : list of Trial
        All that were tried, those of earlier runs of the same search too.
    best : Trial
        Of the lowest score, among those that were trained to their end.
    importance : dict of float
        Share of the variance of the score that each setting explains (Hutter, Hoos & Leyton-Brown 2014, ICML); empty
        where fewer than four trials came to their end.
    toml : str
        The best settings, to paste.
    figure : Path
    run : str
        Of MLflow; that of earlier trials is another.
    """

    model: str
    trials: list[Trial]
    best: Trial
    importance: dict[str, float]
    toml: str
    figure: Path
    run: str


def read_space(path: Path) -> Space:
    """Read a space from TOML: `hidden = { low = 8, high = 64, log = true }`, or a list of values to choose from.

    Raises
    ------
    ConfigError
        The file cannot be read, or a setting has neither ends that are numbers, low before high, nor values.
    """
    return dict(_declared(settings.read(path), "", path))


def _declared(tree: Mapping[str, Any], prefix: str, path: Path) -> Iterator[tuple[str, Range | tuple[Any, ...]]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and value:
            yield name, tuple(tuple(v) if isinstance(v, list) else v for v in value)
        elif isinstance(value, Mapping) and {"low", "high"} <= value.keys() <= {"low", "high", "log"}:
            yield name, _range(value, f"{path}: {name}")
        elif isinstance(value, Mapping):
            yield from _declared(value, f"{name}.", path)
        else:
            raise ConfigError(f"{path}: {name}: expected {{ low = .., high = .. }} or a list of values, got {value!r}")


def _range(value: Mapping[str, Any], where: str) -> Range:
    try:
        return Range(**value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def check_space(space: Space, config: Config, model: str) -> None:
    """Refuse a space of nothing, or with a setting that is unknown, out of range, or changes what the loss measures."""
    if model not in NETWORKS:
        raise ConfigError(f"search: {unknown('network', model, NETWORKS)}")
    if not space:
        raise ConfigError("search space: expected at least one setting, got none. Leave it out for the usual one")
    for name, values in space.items():
        if not name.startswith(("fit.network.", "fit.training.")) or name in MEASURES:
            raise ConfigError(
                f"search space: {name}: expected settings of fit.network or fit.training, but for {', '.join(MEASURES)}"
                ": trials must be fits of the same data by the same loss"
            )
        if name == "fit.network.memories" and _head(config, model) != "t":
            raise ConfigError(
                "search space: fit.network.memories sets the unit of every loss but that of a Student t; leave it out"
            )
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            _with(config, {name: value})


def search(
    config: Config,
    model: str,
    *,
    trials: int = 30,
    space: Space | None = None,
    begins: Callable[[str, int], None] = lambda *_: None,
    on_epoch: Told = lambda _: None,
) -> Searched:
    """Try settings until there are `trials` of them, and tell which were best on the validation split.

    Parameters
    ----------
    config : Config
        Where the search begins: settings that are not in the space are as here.
    model : str
        Kind of the network.
    trials : int
        How many there are in the end, those of earlier runs of the same search counted.
    space : Space, optional
    begins, on_epoch : callable
        Are told of each trial with the number of its epochs, and of each epoch.

    Raises
    ------
    ConfigError
        The model is no network, or the space is empty or not one of its settings.
    FitError
        No trial came to its end; the message has the reason of the last one that failed.
    """
    if space is None:
        space = {n: v for n, v in DEFAULT.items() if n != "fit.network.memories" or _head(config, model) == "t"}
    check_space(space, config, model)
    data = steps.load(config)
    with _study(config, model, space, data) as study, _recorded(config, model, data, space) as run:
        while (made := len(_ended(study))) < trials:
            study.sampler = _sampler(config, made)
            proposal = study.ask()
            chosen = {name: _proposed(proposal, name, values) for name, values in space.items()}
            begins(f"trial {made + 1} of {trials}: {_said(chosen)}", config.fit.training.epochs)
            with run.model(f"trial {made + 1}", chosen) as child:
                _try(study, proposal, _with(config, chosen), model, data, on_epoch)
                _record(child, _ended(study)[-1])
        return _found(config, model, space, study, run)


def _head(config: Config, model: str) -> str:
    return HEAD_OF.get(model, config.fit.network.head)


def _with(config: Config, chosen: Mapping[str, Any]) -> Config:
    """Give the settings with some of them changed, checked like those of a file."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
    return settings.load(Config, settings.to_dict(config), plain)


@contextmanager
def _study(config: Config, model: str, space: Space, data: Data) -> Iterator[Study]:
    """Open the study of exactly these settings, this space and these prices; trials cut off in the middle failed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = config.folder / "search" / f"{model}.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = (settings.digest(config.fit), settings.digest(config.split), config.transform, data.sha256, repr(space))
    key = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=FIRST_AT_RANDOM // 2, n_warmup_steps=NEVER_BEHIND)
        study = optuna.create_study(study_name=key, storage=storage, pruner=pruner, load_if_exists=True)
        for cut_off in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(cut_off.number, state=optuna.trial.TrialState.FAIL)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _sampler(config: Config, made: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=config.fit.training.seed * 1_000_003 + made, n_startup_trials=FIRST_AT_RANDOM)


def _proposed(proposal: Proposal, name: str, values: Range | tuple[Any, ...]) -> Any:
    """Ask for the value of one setting; numbers have four digits."""
    if isinstance(values, tuple):
        return _told(proposal.suggest_categorical(name, [json.dumps(v) for v in values]))
    if isinstance(values.low, int) and isinstance(values.high, int):
        return proposal.suggest_int(name, values.low, values.high, log=values.log)
    return _told(proposal.suggest_float(name, values.low, values.high, log=values.log))


def _told(value: Any) -> Any:
    """Read a value as it stands in the study."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    value = json.loads(value) if isinstance(value, str) else value
    return tuple(value) if isinstance(value, list) else value


def _try(study: Study, proposal: Proposal, config: Config, model: str, data: Data, on_epoch: Told) -> None:
    """Train one network to its end, or to the epoch at which it is behind, and tell the study."""
    from optuna.trial import TrialState

    began, score, state = time.perf_counter(), float("inf"), TrialState.COMPLETE
    seen = data.panel.before(data.split.validation_end_time)
    shape = {"network": config.fit.network, "config": config.fit.training, "horizon": config.fit.horizon}
    try:
        training = Training(model, seen, data.split, data.transform, **shape)
        unit = training.log_unit if _head(config, model) == "t" else 0.0
        for record in training:
            on_epoch(record)
            score = min(score, record.validation_loss + unit)
            proposal.report(score, record.epoch)
            proposal.set_user_attr("epochs", record.epoch)
            if proposal.should_prune():
                state = TrialState.PRUNED
                break
    except FitError as error:
        state = TrialState.PRUNED
        proposal.set_user_attr("failed", str(error))
    proposal.set_user_attr("seconds", time.perf_counter() - began)
    study.tell(proposal, score if state == TrialState.COMPLETE else None, state)


def _ended(study: Study) -> list[Trial]:
    """List the trials that count, in order."""
    from optuna.trial import TrialState

    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [
        Trial(
            number=k,
            state="finished"
            if t.state == TrialState.COMPLETE
            else "diverged"
            if "failed" in t.user_attrs
            else "stopped",
            score=min(t.intermediate_values.values(), default=None),
            epochs=t.user_attrs.get("epochs", 0),
            seconds=t.user_attrs["seconds"],
            settings={name: _told(value) for name, value in t.params.items()},
        )
        for k, t in enumerate(ended, 1)
    ]


def _found(config: Config, model: str, space: Space, study: Study, run: Run) -> Searched:
    """Say which trial was best and what mattered, draw it, and record it."""
    trials = _ended(study)
    finished = [t for t in trials if t.state == "finished"]
    if not finished:
        reasons = [t.user_attrs["failed"] for t in study.trials if "failed" in t.user_attrs]
        told = f". The last that failed: {reasons[-1]}" if reasons else ""
        raise FitError(f"search for {model}: none of {len(trials)} trials came to its end{told}")
    best = min(finished, key=lambda t: (t.score, t.number))
    importance = _importance(study) if len(finished) >= 4 else {}
    ranges = {name: values.log for name, values in space.items() if isinstance(values, Range)}
    points = {t.number: (t.settings, t.score, t.state == "finished") for t in trials if t.score is not None}
    drawn = tuning_figures.search(points, model=model, best=best.number, ranges=ranges, importance=importance)
    figure = figures.save(drawn, config.folder / "search" / f"{model}.png")
    run.scores({"pooled": {"trials": len(trials), "validation_score": best.score}})
    run.json(trials, "trials.json")
    run.text(toml := toml_of(best.settings), "best.toml")
    run.file(figure, "figures")
    result = {"trials": trials, "best": best, "importance": importance, "toml": toml, "figure": figure}
    return Searched(model=model, run=run.id, **result)


def _importance(study: Study) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def toml_of(chosen: Mapping[str, Any]) -> str:
    """Write settings as TOML with a table for each of their owners.

    >>> print(toml_of({"fit.network.hidden": 31, "fit.training.chunk": 16, "fit.network.memories": (10, 100)}))
    [fit.network]
    hidden = 31
    memories = [10, 100]
    <BLANKLINE>
    [fit.training]
    chunk = 16
    """
    tables: dict[str, list[str]] = {}
    for name, value in sorted(chosen.items()):
        table, _, key = name.rpartition(".")
        tables.setdefault(table, []).append(f"{key} = {settings.toml_value(value)}")
    return "\n\n".join("\n".join([f"[{table}]", *lines]) for table, lines in tables.items())


def _said(chosen: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.rpartition('.')[2]} {settings.toml_value(value)}" for name, value in chosen.items())


def _recorded(config: Config, model: str, data: Data, space: Space) -> Any:
    """Open the parent run of the trials."""
    params = {"model": model, **{name: str(values) for name, values in space.items()}}
    tags = steps.provenance(config, data)
    return Tracker(config.tracking, config.base).retrain(params, tags, name=f"search {model}")


def _record(run: Run, trial: Trial) -> None:
    run.tags({"state": trial.state})
    run.scores({"pooled": {"validation_score": trial.score, "epochs": trial.epochs, "seconds": trial.seconds}})
