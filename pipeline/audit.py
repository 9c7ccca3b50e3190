"""Audit the whole way of a model for leaks: nothing that is made of the past may depend on the future.

Every stage between the price store and the exported file is run in the world as it was and in others, and what it
gives about the past is compared element by element. A stage gets its prices from the world under test, and all that
earlier stages make (the split, the transform, the fitted forecaster) from the world as it was. So a leak is found
where it happens, and not again in everything after it.

    garbage   from a moment on every price, elapsed time and covariate is overwritten: equal bit for bit. Sees whatever
              reads a value of the future: a scale or a transform fitted on everything, a window that is not causal,
              targets among the features, origins whose targets lie beyond the cut, a fit or a validation that reads
              the test, a forward that looks ahead. Does not see what reads only when prices come, or whether.
    holes     the garbage has holes and poison in it, and prices where there were holes: equal up to `ROUNDING`. Sees
              what reads whether a price of the future is published, and what poison gets into that garbage does not.
    shift     every series begins with one more observation that was not published, so that all its prices come one
              observation later: equal at the same times, up to `ROUNDING`. Sees what goes by position where it should
              go by time: windows, lanes and targets that are off by one, a state that begins too early.
    control   prices are planted one observation early, and the future is garbage: the stage must differ. Otherwise
              the check is blind on these prices, and that it found nothing means nothing.

What is counted (times, masks, lanes) is equal to the bit in all of them. What is computed can differ in its last bits
where the number of steps does, since a processor rounds by the place of a number in memory.

`STAGES` is the order of the data's way. A new stage is one line in it.

Comes in: settings with a price store, and names of models. Goes out: an `Audit`. Imported by the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, LeakageError, unknown
from models.forecaster import Forecaster
from models.transforms import Transform
from pipeline import steps
from pipeline.backtest import seen, walk_forward, walk_session_forward
from pipeline.config import Config
from pipeline.export import ungated
from pipeline.fitting import KINDS, NETWORKS, fit
from pipeline.forecasts import Forecasts
from pipeline.moves import counts, moves
from pipeline.session import Session
from pipeline.slices import regimes
from pipeline.training import Lane, Training
from pipeline.windows import Lanes, Panel, Split, lanes
from pipeline.worlds import holed, loaded, one_early, one_later, over_time, stored, wild, with_garbage

Check = Literal["garbage", "holes", "shift", "control"]
Moment = Literal["train", "validation", "test"]

EPOCHS = 3
"""Epochs of a network in an audit: a leak does not need a good fit to be seen."""

ROUNDING = 2e-6
"""Differences below this share of an array's size are rounding, but in the world of garbage."""

PRICES = "prices"
"""In the place of a model: stages that all models share."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a stage gave: arrays, and where their leading axes have a place, of which series and time they are.

    Attributes
    ----------
    arrays : mapping of str to array
    series : array of str, or None
    time : int64 array in microseconds since 1970, UTC, of the same shape; or None
    """

    arrays: dict[str, NDArray[Any]]
    series: NDArray[np.str_] | None = None
    time: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class World:
    """What a stage may see: the prices under test, and what earlier stages made in the world as it was.

    Attributes
    ----------
    data : steps.Data
        As loaded from a price store in this world.
    panel : Panel
        Prices of this world for the stages behind the store.
    split, transform
        Of the world as it was.
    name : str
        Name of the model.
    config : Config
    until : int
        The moment from which on the future may differ, microseconds since 1970, UTC.
    was : World or None
        The world as it was, for a stage that is given its forecaster; None where the forecaster is fitted here.
    """

    data: steps.Data
    panel: Panel
    split: Split
    transform: Transform
    name: str
    config: Config
    until: int
    was: World | None = None

    @cached_property
    def training(self) -> Training:
        """A network's fit, before its first epoch."""
        config = self.config.fit
        shape = {"network": config.network, "config": config.training, "horizon": config.horizon}
        return Training(self.name, self.panel, self.split, self.transform, **shape)

    @cached_property
    def forecaster(self) -> Forecaster:
        """The forecaster: that of the world as it was, or fitted here."""
        if self.was:
            return self.was.forecaster
        return fit(self.name, self.panel, self.split, self.transform, self.config.fit)

    @cached_property
    def session(self) -> Session:
        """The forecaster's step as a file, opened; the parity gate belongs to an export, not to an audit."""
        return self.was.session if self.was else ungated(self.forecaster)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step on the way from the price store to forecasts.

    Attributes
    ----------
    name : str
    run : World -> Product
        What the step makes of the prices before `until`.
    until : {"train", "validation", "test"}
        The end of what it may read: of the train split, of the validation split, or a moment inside the test.
    checks : tuple of str
        Those of the module's docstring that apply.
    kinds : tuple of str
        Models that go this way; empty for what all of them share.
    fitted : bool
        Whether it is given the fitted forecaster.
    """

    name: str
    run: Callable[[World], Product]
    until: Moment
    checks: tuple[Check, ...] = ("garbage", "holes", "shift")
    kinds: tuple[str, ...] = ()
    fitted: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check said of one stage; `detail` tells what differs, first where, and by how much."""

    model: str
    stage: str
    check: Check
    ok: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All findings, in the order of the data's way for each model."""

    findings: tuple[Finding, ...]

    @property
    def leaks(self) -> tuple[Finding, ...]:
        """Those that failed: the first one is nearest to the cause."""
        return tuple(f for f in self.findings if not f.ok)

    def require(self) -> None:
        """Raise a `LeakageError` that names the first stage that failed, if one did."""
        if self.leaks:
            first = self.leaks[0]
            raise LeakageError(
                f"expected that nothing of the past depends on the future, but {len(self.leaks)} of "
                f"{len(self.findings)} checks found that it does. First {first.model}, {first.stage}, {first.check}: "
                f"{first.detail}. Look there first",
                report=self,
            )


# ------------------------------------------------------------------------------------------------------- the stages


def _split(world: World) -> Product:
    return Product(arrays={k: np.array([v]) for k, v in vars(world.data.split).items()})


def _prices(world: World) -> Product:
    """Give what the panel holds at published prices before the moment."""
    panel = world.data.panel
    rows = panel.published & (panel.time < world.until)
    series = np.array(panel.names)[np.nonzero(rows)[0]]
    return Product(arrays={k: x[rows] for k, x in over_time(panel).items()}, series=series, time=panel.time[rows])


def _transform(world: World) -> Product:
    return Product(arrays=_tensors(world.data.transform))


def _naive_scale(world: World) -> Product:
    return Product(arrays={k: np.array([v]) for k, v in steps.naive_scales(world.data).items()})


def _regimes(world: World) -> Product:
    """Give the regime of each series at its prices before the moment."""
    found = regimes(world.data.panel, world.split.train_end_time)
    names = list(found.time)
    time = np.concatenate([found.time[name] for name in names])
    series = np.repeat(names, [len(found.time[name]) for name in names])
    label = np.concatenate([found.label[name] for name in names])
    early = time < world.until
    return Product(arrays={"regime": label[early]}, series=series[early], time=time[early])


def _moves(world: World) -> Product:
    found = moves(world.panel, world.transform, world.split.validation_end_time)
    return Product(arrays=dict(zip(world.panel.names, found, strict=True)))


def _scales(world: World) -> Product:
    """Give what a network holds before its first epoch: the unit of its running scale among it."""
    return Product(arrays=_tensors(world.training.core))


def _features(world: World) -> Product:
    return _of_lanes(world, "train", "inputs", "ahead")


def _targets(world: World) -> Product:
    return _of_lanes(world, "train", "targets", "weight")


def _lanes(world: World) -> Product:
    return Product(arrays={k: np.asarray(v) for k, v in vars(world.training.layout).items()})


def _validation(world: World) -> Product:
    return _of_lanes(world, "validation", "inputs", "ahead", "targets", "weight")


def _fit(world: World) -> Product:
    return Product(arrays=_tensors(world.forecaster))


def _walk(world: World) -> Product:
    return _before(world, walk_forward(world.forecaster, world.panel, world.split.origins(world.panel, "test")))


def _exported_walk(world: World) -> Product:
    m, panel = world.session.metadata, world.panel
    # the file names series and covariates by their place, none where it has one row for all or reads none
    panel = replace(
        panel,
        names=m.series or panel.names,
        past_names=m.past or panel.past_names,
        future_names=m.future or panel.future_names,
    )
    origins = world.split.origins(panel, "test")
    return _before(world, walk_session_forward(world.session, world.name, world.transform, panel, origins))


def _refit(world: World) -> Product:
    """Fit again at the moment, as a walk with refits does."""
    panel, parts = seen(world.panel, world.until, world.config.backtest, world.config.split)
    return Product(arrays=_tensors(fit(world.name, panel, parts, world.transform, world.config.fit)))


SIMPLE = tuple(name for name in KINDS if name not in NETWORKS)
ALL: tuple[Check, ...] = get_args(Check)
STORED: tuple[Check, ...] = ("garbage", "shift")
"""A store takes no poison, and what is published there counts for the split."""

STAGES: tuple[Stage, ...] = (
    Stage(name="split", run=_split, until="train", checks=STORED),
    Stage(name="prices", run=_prices, until="train", checks=STORED),
    Stage(name="transform", run=_transform, until="train", checks=STORED),
    Stage(name="naive scale", run=_naive_scale, until="train", checks=STORED),
    Stage(name="regimes", run=_regimes, until="train", checks=STORED),
    Stage(name="moves", run=_moves, until="validation", checks=ALL, kinds=SIMPLE),
    Stage(name="scales", run=_scales, until="train", kinds=NETWORKS),
    Stage(name="features", run=_features, until="train", checks=ALL, kinds=NETWORKS),
    Stage(name="targets", run=_targets, until="train", kinds=NETWORKS),
    Stage(name="lanes", run=_lanes, until="train", kinds=NETWORKS),
    Stage(name="validation", run=_validation, until="validation", kinds=NETWORKS),
    Stage(name="fit", run=_fit, until="validation", checks=("garbage", "holes"), kinds=tuple(KINDS)),
    Stage(name="refit", run=_refit, until="test", checks=("garbage",), kinds=tuple(KINDS)),
    Stage(name="walk", run=_walk, until="test", checks=ALL, kinds=tuple(KINDS), fitted=True),
    Stage(name="exported walk", run=_exported_walk, until="test", kinds=tuple(KINDS), fitted=True),
)
"""The order of the data's way."""


def _tensors(module: Any) -> dict[str, NDArray[Any]]:
    return {k: v.detach().cpu().numpy() for k, v in module.state_dict().items()}


def _of_lanes(world: World, part: Literal["train", "validation"], *names: str) -> Product:
    """Give arrays of the lanes [B, L, ...], with the series and the times of what they hold."""
    training, panel, train_end = world.training, world.panel, world.split.train_end_time
    lane: Lane = getattr(training, part)
    early = panel.time < train_end
    inside = early if part == "train" else ~early & (panel.time < world.split.validation_end_time)
    known = counts(panel, world.transform)
    moved = (known & (np.cumsum(known, axis=1) > 1)).any(axis=2) & inside
    layout: Lanes = training.layout if part == "train" else lanes(moved.sum(1), 1)
    closed = np.take_along_axis(panel.time, np.argsort(~moved, axis=1, kind="stable"), axis=1)
    time = layout.gather(closed)
    series = np.broadcast_to(np.array(panel.names)[layout.series][:, None], time.shape)
    return Product(arrays={k: getattr(lane, k).cpu().numpy() for k in names}, series=series, time=time)


def _before(world: World, forecasts: Forecasts) -> Product:
    """Give the forecasts made before the moment, and of their outcomes those that were known then."""
    f = forecasts.where(forecasts.origin_time < world.until)
    known = f.target_time < world.until
    arrays = {k: v for k, v in vars(f).items() if isinstance(v, np.ndarray)}
    arrays |= {k: np.where(known, arrays[k], 0.0) for k in ("actual", "outcome")}
    return Product(arrays=arrays, series=np.array(world.panel.names)[f.series], time=f.origin_time)


# ------------------------------------------------------------------------------------------------------- the checks


def audit(
    config: Config,
    names: tuple[str, ...],
    *,
    epochs: int = EPOCHS,
    stages: tuple[Stage, ...] = STAGES,
    on_model: Callable[[str], None] = lambda _: None,
) -> Audit:
    """Run the way of each model in all worlds, on a bounded part of the prices in the store.

    Parameters
    ----------
    config : Config
        Settings of the run; the part of the prices is that of `worlds.stored`.
    names : tuple of str
        Models to audit, of `fitting.KINDS`; none of them: only the stages that they share.
    epochs : int
        Epochs of a network's fit.
    stages : tuple of Stage
        What is checked, in this order.
    on_model : callable, optional
        Told the name of each model before it is audited.

    Raises
    ------
    ConfigError
        There is no model of a name.
    FitError
        A model cannot be fitted in the world as it was.
    """
    for name in names:
        if name not in KINDS:
            raise ConfigError(unknown("model", name, KINDS))
    training = replace(config.fit.training, epochs=epochs)
    worlds = _Worlds(replace(config, fit=replace(config.fit, training=training)))
    findings = list(_findings(worlds, PRICES, stages))
    for name in names:
        on_model(name)
        findings += _findings(worlds, name, stages)
    return Audit(findings=tuple(findings))


class _Worlds:
    """The world as it was, and the others; those that go through a store are loaded once."""

    def __init__(self, config: Config) -> None:
        rows, self.config = stored(config), config
        self.clean = loaded(rows, config)
        self.garbage = loaded(with_garbage(rows, self.clean.split.train_end_time), config)
        self.later = loaded(one_later(rows), config)
        self.moments = {
            "train": self.clean.split.train_end_time,
            "validation": self.clean.split.validation_end_time,
            "test": _inside_test(self.clean),
        }

    def as_it_was(self, name: str) -> World:
        """Give the world as it was for one model."""
        data = self.clean
        shared = {"split": data.split, "transform": data.transform, "config": self.config, "until": 0}
        return World(data=data, panel=data.panel, name=name, **shared)

    def spoilt(self, world: World) -> World:
        """Give its future to garbage."""
        return replace(world, data=self.garbage, panel=wild(world.panel, world.until))

    def holed(self, world: World) -> World:
        """Give its future to garbage with holes and poison in it."""
        return replace(world, panel=holed(world.panel, world.until, self.config.fit.horizon))

    def later_than(self, world: World) -> World:
        """Let all prices come one observation later."""
        return replace(world, data=self.later, panel=self.later.panel)

    def early(self, world: World) -> World:
        """Let all prices be known one observation too early."""
        return replace(world, panel=one_early(world.panel))


def _inside_test(data: steps.Data) -> int:
    """Take the middle of the times at which prices of the test were published."""
    time = data.panel.time[data.panel.published]
    test = np.unique(time[time >= data.split.validation_end_time])
    return int(test[len(test) // 2])


def _findings(worlds: _Worlds, name: str, stages: tuple[Stage, ...]) -> Iterator[Finding]:
    was = worlds.as_it_was(name)
    by_moment = {moment: replace(was, until=time, was=was) for moment, time in worlds.moments.items()}
    for stage in stages:
        if name not in (stage.kinds or (PRICES,)):
            continue
        world = by_moment[stage.until]
        made = stage.run(world)
        for check in stage.checks:
            detail = _checked(stage, check, made, world if stage.fitted else replace(world, was=None), worlds)
            yield Finding(model=name, stage=stage.name, check=check, ok=not detail, detail=detail)


def _checked(stage: Stage, check: Check, made: Product, world: World, worlds: _Worlds) -> str:
    """Say what is wrong with a stage by a check, or nothing."""
    try:
        if check == "garbage":
            return difference(made, stage.run(worlds.spoilt(world)))
        if check == "holes":
            return difference(made, stage.run(worlds.holed(world)), ROUNDING)
        if check == "shift":
            return difference(made, stage.run(worlds.later_than(world)), ROUNDING)
        early = stage.run(worlds.early(world)), stage.run(worlds.early(worlds.spoilt(world)))
        return "" if difference(*early) else "prices known one observation early were not noticed: the check is blind"
    except Exception as error:  # whatever it was, it was not there in the world as it was
        return f"{type(error).__name__} that the world as it was does not raise: {error}"


def difference(made: Product, other: Product, tolerance: float = 0.0) -> str:
    """Say how the product of another world differs: how many elements, where the first is, and both values.

    Parameters
    ----------
    made, other : Product
        Of the world as it was, and of the other one.
    tolerance : float, 0 or more
        Share of an array's largest size up to which numbers that are not whole may differ; 0: bit for bit.
    """
    if made.arrays.keys() != other.arrays.keys():
        return f"expected {sorted(made.arrays)}, got {sorted(other.arrays)}"
    for name, was in made.arrays.items():
        now = other.arrays[name]
        if was.shape != now.shape:
            return f"{name}: expected {was.shape} as in the world as it was, got {now.shape}"
        apart = np.argwhere(_differ(was, now, tolerance))
        if len(apart):
            first = tuple(int(k) for k in apart[0])
            where = _place(made, name, first)
            return f"{len(apart):,} of {was.size:,} elements differ, first {where}: {was[first]} became {now[first]}"
    return ""


def _differ(was: NDArray, now: NDArray, tolerance: float) -> NDArray[np.bool_]:
    """Mark the elements that differ; NaN equals NaN, and zero is not minus zero where bits count."""
    if was.dtype.kind != "f":
        return was != now
    both_nan = np.isnan(was) & np.isnan(now)
    if not tolerance:
        return ((was != now) | (np.signbit(was) != np.signbit(now))) & ~both_nan
    size = np.abs(was[np.isfinite(was)]).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        return ~(np.abs(was - now) <= tolerance * size) & (was != now) & ~both_nan


def _place(made: Product, name: str, index: tuple[int, ...]) -> str:
    """Name an element by its series and time where it has them."""
    if made.series is None or made.time is None:
        return f"{name}{list(index)}"
    lead, rest = index[: made.time.ndim], index[made.time.ndim :]
    return f"{name}{list(rest) or ''} of {made.series[lead]} at {steps.iso(int(made.time[lead]))}"
