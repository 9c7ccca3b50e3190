"""Judge every recipe on what it has not seen: its latest fit waits, and the next retrain walks it over what came since.

A recipe is a model with its settings; a retrain fits it on everything known. Such a fit cannot be judged on prices
that it has seen, and the next one replaces it before much has happened since. So it is the *recipe* that is judged, by
what each of its fits forecast while it was the latest (Dawid 1984): rows are kept as they were made, round by round,
and grow into one record for each recipe, on identical origins, whatever the schedule.

    prequential/state.json                rounds so far: their data, what served after each, and who reigns
    prequential/round.json                the round that is being made: on the same data it goes on where it stopped
    prequential/rows/<model>/fold=0001/   forecasts of the fit of round 1; those of fold 0 are the first walk's
    prequential/fits/<model>/0001.safetensors
    prequential/served/0001.onnx          what served after round 1; its rows are the incumbent's

The first round is a comparison on the test split, as `judging.compare` makes it. Other settings, other models or other
series begin a new record.

Comes in: `Config`. Goes out: these files, and what `judging` tells of them. Imported by promotion and the flows.

References
----------
Dawid (1984), Present position and potential developments: some personal views: statistical theory: the prequential
approach, Journal of the Royal Statistical Society A 147, 278-292, doi:10.2307/2981683.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from models import checkpoint
from models.errors import ComparisonError, DataError, FitError
from models.forecaster import Forecaster
from pipeline import archive, champions, folds, judging, metrics, settings
from pipeline.atomic import replacing
from pipeline.backtest import seen, walk_forward, walk_session_forward
from pipeline.compare import Decision, champion, fewest_origins
from pipeline.compare import compare as tested
from pipeline.config import Config
from pipeline.forecasts import Forecasts
from pipeline.judging import INCUMBENT, Compared, on_scale
from pipeline.session import Session
from pipeline.steps import Data, fitted, load, move_scales, read_json, serving_path, write_json
from pipeline.training import EpochRecord
from pipeline.windows import Panel, Split


@dataclass(frozen=True, kw_only=True)
class Round:
    """A retrain.

    Attributes
    ----------
    last_time : int
        Time of the latest price that its fits have seen, microseconds since 1970.
    data_sha256 : str
        Digest of the prices.
    served : str or None
        Digest of the champion: of a round that is done, after it; of one that is being made, before it.
    """

    last_time: int
    data_sha256: str
    served: str | None


@dataclass(frozen=True, kw_only=True)
class Begun(Round):
    """A round that is being made, and the digest of the record to which it belongs."""

    record: str


@dataclass(frozen=True, kw_only=True)
class State:
    """The record so far.

    Attributes
    ----------
    record : str
        Digest of all that it depends on, but for the prices.
    scales : dict of float
        By series, the mean absolute move of the first train split: what losses are divided by.
    rounds : tuple of Round
        Those that are done; the fits of round k, counted from 1, forecast the rows of fold k.
    closed : int
        Number of the first fold whose outcomes are not all known.
    reign : int
        Number of the first fold in which a model of the champion's recipe served.
    """

    record: str
    scales: dict[str, float]
    rounds: tuple[Round, ...] = ()
    closed: int = 1
    reign: int = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The round to be made, counted from 1; `news` is False where the prices are those of the round before."""

    number: int
    news: bool


def begin(config: Config) -> Plan:
    """Begin a round, or go on with the one that was begun on the same prices.

    What a round left that was begun on other prices is removed: its rows have other outcomes than those to come.
    """
    data = load(config)
    record = _record(config, data)
    state, begun = _state(config), _this_round(config)
    if state is None or state.record != record:
        if begun is None or begun.record != record:
            shutil.rmtree(_folder(config), ignore_errors=True)
            begun = None
        state = State(record=record, scales=move_scales(data))
    if state.rounds and state.rounds[-1].data_sha256 == data.sha256:
        return Plan(number=len(state.rounds), news=False)
    if begun is None or begun.data_sha256 != data.sha256:
        for rows in (_folder(config) / "rows").glob("*"):
            archive.drop(rows, since=state.closed if state.rounds else 0)
        told = {"last_time": _last(data.panel), "data_sha256": data.sha256, "served": _serving(config)}
        write_json(_folder(config) / "round.json", told | {"record": record})
    return Plan(number=len(state.rounds) + 1, news=True)


def recipe(config: Config, data: Data) -> str:
    """Name all that the fits of a deployment depend on, but for the prices."""
    parts = [settings.digest(part) for part in (config.fit, config.split, config.backtest)]
    choice = [config.transform, config.block, config.past, config.ahead, config.due, data.panel.names]
    return hashlib.sha256(orjson.dumps([*parts, *choice])).hexdigest()


def _record(config: Config, data: Data) -> str:
    """Name all that a record depends on, but for the prices: the recipes, and which models there are."""
    return hashlib.sha256(orjson.dumps([recipe(config, data), config.models])).hexdigest()


# ------------------------------------------------------------------------------------------------ judging the waiting


def judge(config: Config, name: str) -> None:
    """Let the waiting fits of a model forecast from the origins that they have not seen, and keep the rows.

    A row belongs to the fit that was the latest when its origin's next price came. A fold is forecast when the
    outcomes of all its steps are known. For the incumbent, the file that served.
    """
    state, data, _ = _opened(config)
    for fold in range(state.closed, _complete(state, data.panel, config.fit.horizon)):
        if archive.holds(_rows(config, name), fold):
            continue
        begin_time, end_time = _span(state, fold, data.panel)
        wanted = between(data.panel, begin_time, end_time)
        made = _forecasts(config, data.panel, name, fold, wanted)
        with archive.writing(_rows(config, name), fold) as write:
            write(made)


def between(panel: Panel, begin: int, end: int) -> NDArray[np.bool_]:
    """Mark the origins [N, T] whose next price is later than `begin` and not later than `end`."""
    origins = Split(train_end_time=begin + 1, validation_end_time=begin + 1).origins(panel, "test")
    origins[:, :-1] &= panel.time[:, 1:] <= end
    return origins


def _forecasts(config: Config, panel: Panel, name: str, fold: int, wanted: NDArray[np.bool_]) -> Forecasts:
    if name != INCUMBENT:
        return walk_forward(checkpoint.load(fit_path(config, name, fold))[0], panel, wanted)
    transform = checkpoint.load(fit_path(config, config.models[0], fold))[0].transform
    session = Session.load(_folder(config) / "served" / f"{fold:04}.onnx")
    rows = walk_session_forward(session, INCUMBENT, transform, panel, wanted)
    return rows if session.metadata.transform == transform.describe() else on_scale(rows, transform)


def compare(config: Config) -> Compared:
    """Judge all recipes on their whole record, and decide on that of the reign; tell it as `judging.compare` does."""
    state, data, begun = _opened(config)
    record = [archive.load(_rows(config, name)) for name in config.models]
    latest = _complete(state, data.panel, config.fit.horizon) - 1
    fits = {name: fit_path(config, name, max(1, latest)) for name in config.models}
    return judging.tell(config, data, record, [], _decide(config, state, begun), fits)


def _decide(config: Config, state: State, begun: Begun) -> Decision:
    """Decide by the folds in which the champion's recipe has served, with no other put in its place by hand."""
    since = state.reign if begun.served == state.rounds[-1].served else len(state.rounds) + 1
    shared = [name for name in (*config.models, INCUMBENT) if archive.holds(_rows(config, name), since)]
    stays = partial(Decision, model=INCUMBENT, challenger=None)
    if INCUMBENT not in shared:
        return stays(reason=f"{INCUMBENT} keeps its place: nothing has come since it serves", numbers={"origins": 0.0})
    rows = [archive.load(_rows(config, name), since) for name in shared]
    origins, needed = len(np.unique(rows[0].origin_time)), fewest_origins(rows[0], config.compare)
    if origins < needed:
        reason = f"{INCUMBENT} keeps its place: {origins} origins since it serves, and a test needs {needed}"
        return stays(reason=reason, numbers={"origins": float(origins)})
    return champion(rows, INCUMBENT, config.compare, state.scales)


# ----------------------------------------------------------------------------------------------------- fits that wait


def refit(config: Config, name: str, on_epoch: Callable[[EpochRecord], None] = lambda _: None) -> str:
    """Fit a model on everything known, for the time to come; say what is to be said of it, or nothing.

    A fit that fails, or that is significantly worse than the one before on the latest prices, which it has seen, does
    not replace it: the one before goes on waiting.
    """
    state, data, _ = _opened(config)
    number = len(state.rounds) + 1
    path = fit_path(config, name, number)
    if path.exists() and checkpoint.load(path)[1]["round_sha256"] == data.sha256:
        return checkpoint.load(path)[1]["said"]
    judged = serving_path(config, name) if number == 1 else fit_path(config, name, number - 1)
    before, about_before = checkpoint.load(judged)
    panel, parts = seen(data.panel, _last(data.panel) + 1, config.backtest, config.split)
    progress = config.folder / "progress" / f"{name}-round-{number:04}-{data.sha256[:16]}.safetensors"
    start = before if config.backtest.start == "warm" else None
    try:
        made = fitted(config, replace(data, panel=panel), name, parts, before.transform, progress, on_epoch, start)
        said = _worse(made[0], before, panel, parts, config)
    except FitError as error:
        made, said = (before, about_before), f"{name} could not be fitted ({error})"
    forecaster, about = (before, about_before) if said else made
    said = said and f"{said}; the fit before goes on"
    checkpoint.save(forecaster, path, about | {"round_sha256": data.sha256, "said": said})
    for left in progress.parent.glob(f"{progress.stem}*"):
        left.unlink()
    return said


def _worse(new: Forecaster, old: Forecaster, panel: Panel, parts: Split, config: Config) -> str:
    """Say where a new fit is significantly worse than the old one on its own validation split; nothing where not."""
    origins = parts.origins(panel, "validation")
    ours, theirs = (replace(walk_forward(x, panel, origins), model=name) for x, name in ((new, "new"), (old, "old")))
    if np.isnan(metrics.crps(ours)).any():
        return f"the new fit of {new.name} forecasts no distribution on the latest prices"
    try:
        test = tested(ours, theirs, config=config.compare)
    except ComparisonError:
        return ""  # too few origins: nobody can say that it is worse
    if test.verdict != "worse":
        return ""
    return f"the new fit of {new.name} is {-test.skill:.1%} worse than the one before in CRPS over {test.n} origins"


def fit_path(config: Config, name: str, number: int) -> Path:
    """Give the file of the fit of a round."""
    return _folder(config) / "fits" / name / f"{number:04}.safetensors"


def waiting(config: Config, name: str) -> Path:
    """Give the file of the fit that the round which is being made has left."""
    state, _, _ = _opened(config)
    return fit_path(config, name, len(state.rounds) + 1)


# -------------------------------------------------------------------------------------------------------- the record


def close(config: Config) -> None:
    """End a round: note what serves, and let go of what no later round needs."""
    state, data, begun = _opened(config)
    number = len(state.rounds) + 1
    published = champions.current(config.folder / "champions", config.champion)
    served = _folder(config) / "served"
    served.mkdir(parents=True, exist_ok=True)
    with replacing(served / f"{number:04}.onnx") as file:
        file.write((config.folder / "champions" / published.file).read_bytes())
    if number == 1:
        _keep_first_walk(config)
    closed = _complete(state, data.panel, config.fit.horizon)
    this = Round(last_time=begun.last_time, data_sha256=begun.data_sha256, served=published.sha256)
    untouched = bool(state.rounds) and begun.served == state.rounds[-1].served
    reign = state.reign if untouched and judging.decided(config).model == INCUMBENT else number
    after = replace(state, rounds=(*state.rounds, this), closed=closed, reign=reign)
    write_json(_folder(config) / "state.json", asdict(after))
    _sweep(config, closed)


def _keep_first_walk(config: Config) -> None:
    """Begin the record with the rows on which the first champion was chosen."""
    for name in config.models:
        if not archive.holds(_rows(config, name), 0):
            walked = folds.rows_of(config.folder, name)
            with archive.writing(_rows(config, name), 0) as write:
                for fold in archive.numbers(walked):
                    for block in archive.blocks(walked, fold):
                        write(block)


def _sweep(config: Config, closed: int) -> None:
    """Remove the fits and files of folds that are judged, but for the last one, which can be promoted by hand."""
    for path in (*_folder(config).glob("fits/*/*.safetensors"), *_folder(config).glob("served/*.onnx")):
        if int(path.stem) < closed - 1:
            path.unlink()


def _complete(state: State, panel: Panel, horizon: int) -> int:
    """Give the number of the first fold that has outcomes still to come."""
    times = np.unique(panel.time[panel.published])
    ends = [*(r.last_time for r in state.rounds[1:]), int(times[-1])]
    whole = [len(times) - np.searchsorted(times, end, "right") >= horizon - 1 for end in ends[: len(state.rounds)]]
    return 1 + int(np.cumprod(whole, dtype=np.int64).sum())


def _span(state: State, fold: int, panel: Panel) -> tuple[int, int]:
    """Give the times after which and up to which the next prices of a fold's origins lie."""
    end = state.rounds[fold].last_time if fold < len(state.rounds) else _last(panel)
    return state.rounds[fold - 1].last_time, end


def _last(panel: Panel) -> int:
    return int(panel.time[panel.published].max())


def _serving(config: Config) -> str | None:
    folder = config.folder / "champions"
    there = champions.entry_of(folder, config.champion).exists()
    return champions.current(folder, config.champion).sha256 if there else None


def _opened(config: Config) -> tuple[State, Data, Begun]:
    """Give the record to which the round that is being made belongs, empty in the first round, and its prices."""
    data, begun, state = load(config), _this_round(config), _state(config)
    if begun is None or begun.data_sha256 != data.sha256:
        raise DataError(
            f"{config.folder}: prices came while a retrain was going on, so its steps do not fit together. "
            "Run `statecast retrain` again; nothing that serves has changed"
        )
    fits = state is not None and state.record == begun.record
    return state if state and fits else State(record=begun.record, scales=move_scales(data)), data, begun


def _state(config: Config) -> State | None:
    path = _folder(config) / "state.json"
    if not path.exists():
        return None
    plain = read_json(path, "retrain")
    return State(**plain | {"rounds": tuple(Round(**r) for r in plain["rounds"])})


def _this_round(config: Config) -> Begun | None:
    path = _folder(config) / "round.json"
    return Begun(**read_json(path, "retrain")) if path.exists() else None


def _rows(config: Config, name: str) -> Path:
    return _folder(config) / "rows" / name


def _folder(config: Config) -> Path:
    return config.folder / "prequential"
