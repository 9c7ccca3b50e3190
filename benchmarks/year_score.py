"""What a simulated year was worth: what served live, against other ways to choose it, on identical origins.

    live     what the stream gave, tick by tick
    never    the first champion's file over the whole year: never retrained
    always   in each round the recipe of the lowest mean CRPS so far: promoted without evidence
    last     the last value

All are scored by their quantiles alone, for a stream gives no more, over the scale of the moves of each series.

Comes in: the data folder of a pool, the stream's forecasts. Goes out: scores, what differs, a figure. Imported by year.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from models import checkpoint
from models.observation import LEVELS
from pipeline import archive, drawing, prequential, steps
from pipeline.backtest import joined, walk_session_forward
from pipeline.config import Config
from pipeline.forecasts import Forecasts
from pipeline.judging import INCUMBENT
from pipeline.metrics import by_origin, scaled_crps
from pipeline.session import Session
from pipeline.significance import block_bootstrap_skill

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = ("live", "always", "last")
"""What is held against never retraining."""

TOLERANCE = 1e-4
"""Largest difference of a quantile that counts as none, in interquartile ranges of the forecast."""

FEWEST = 30
"""Fewest origins of an interval."""

Key = tuple[str, int]
"""Series and time of an origin."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """A forecast of the stream: the file it was made with, and its quantiles of the next price."""

    sha256: str
    version: int
    quantile: list[float]


def given(out: Path) -> tuple[dict[Key, Given], list[Key]]:
    """Read what a stream gave, and list the origins in the order in which they came."""
    kept, keys = {}, []
    for line in map(orjson.loads, out.read_bytes().splitlines()):
        key = (line["series"], int(np.datetime64(line["origin_time"].rstrip("Z"), "us").astype(np.int64)))
        keys.append(key)
        kept[key] = Given(sha256=line["sha256"], version=line["version"], quantile=line["quantiles"][0])
    return kept, keys


def gaps(fed: pl.DataFrame, keys: list[Key]) -> tuple[int, int]:
    """Count the ticks without a forecast, and the forecasts that no tick or not one alone has asked for."""
    asked = Counter(zip(fed["series"], fed["time"].to_physical().to_list(), strict=True))
    came = Counter(keys)
    return sum((asked - came).values()), sum((came - asked).values())


@dataclass(frozen=True, kw_only=True)
class Year:
    """The record of a pool over the year.

    Attributes
    ----------
    rows : dict of Forecasts
        By way, on identical origins; the rows of `never` among them.
    compared : int
        Forecasts of the stream that have a row of the record of the same file.
    farthest : float
        Largest difference between the two, in interquartile ranges.
    others : int
        Forecasts from the last tick before a swap: the record has them from the file that came then.
    strangers : int
        Forecasts of another file than the record's that no swap explains.
    restated : int
        Origins left out, for their prices were restated after they had been judged.
    """

    rows: dict[str, Forecasts]
    compared: int
    farthest: float
    others: int
    strangers: int
    restated: int
    scales: dict[str, float]


def reckon(config: Config, first: Path, live: Mapping[Key, Given]) -> Year:
    """Put the record of a pool and what its stream gave side by side."""
    state = orjson.loads((config.folder / "prequential" / "state.json").read_bytes())
    rounds, folds = state["rounds"], range(1, state["closed"])
    served = {fold: _fold(config, INCUMBENT, fold) for fold in folds}
    same = others = strangers = 0
    farthest = 0.0
    for fold, rows in served.items():
        for key, quantile in zip(_keys(rows), rows.quantile, strict=True):
            if key not in live:
                continue
            if rounds[fold - 1]["served"].startswith(live[key].sha256):
                same, farthest = same + 1, max(farthest, _apart(live[key].quantile, quantile))
            elif key[1] <= rounds[fold - 1]["last_time"]:
                others += 1
            else:
                strangers += 1
    rows, restated = _identical(
        {
            "live": _streamed(joined([*served.values()]), live),
            "never": _never(config, first, rounds[0]["last_time"]),
            "always": joined([_fold(config, _leader(config, state["scales"], fold), fold) for fold in folds]),
            "last": joined([_fold(config, config.compare.last_value, fold) for fold in folds]),
        }
    )
    counts = {"compared": same, "farthest": farthest, "others": others, "strangers": strangers, "restated": restated}
    return Year(rows=rows, scales=state["scales"], **counts)


def _fold(config: Config, name: str, fold: int) -> Forecasts:
    """Read the rows of a fold."""
    return joined(list(archive.blocks(config.folder / "prequential" / "rows" / name, fold)))


def _keys(rows: Forecasts) -> Iterable[Key]:
    return zip(np.asarray(rows.names)[rows.series].tolist(), rows.origin_time.tolist(), strict=True)


def _apart(ours: list[float], theirs: NDArray[np.float64]) -> float:
    """Give the largest difference of two forecasts, in interquartile ranges."""
    wide = theirs[LEVELS.index(0.75)] - theirs[LEVELS.index(0.25)]
    return float(np.abs(np.array(ours) - theirs).max() / wide)


def _streamed(rows: Forecasts, live: Mapping[Key, Given]) -> Forecasts:
    """Put the quantiles of the stream into the rows of the record; of what it did not forecast, nothing stays."""
    keys = list(_keys(rows))
    known = rows.where(np.array([key in live for key in keys]))
    quantile = np.array([live[key].quantile for key in keys if key in live])
    return replace(known, model="live", quantile=quantile)


def _never(config: Config, first: Path, since: int) -> Forecasts:
    """Walk the first champion's file over all that came after its fit."""
    data = steps.load(config)
    transform = checkpoint.load(config.folder / "models" / f"{config.models[0]}.safetensors")[0].transform
    wanted = prequential.between(data.panel, since, int(data.panel.time.max()))
    return walk_session_forward(Session.load(first), "never", transform, data.panel, wanted)


def _leader(config: Config, scales: Mapping[str, float], until: int) -> str:
    """Name the recipe of the lowest mean CRPS on all that was known before a fold."""
    kept = {name: joined([_fold(config, name, fold) for fold in range(until)]) for name in config.models}
    return min(kept, key=lambda name: float(scaled_crps(kept[name], scales).mean()))


def _identical(ways: Mapping[str, Forecasts]) -> tuple[dict[str, Forecasts], int]:
    """Take the origins that all ways have with the same prices, in one order; count those whose prices differ."""
    placed = {way: {key: k for k, key in enumerate(_keys(rows))} for way, rows in ways.items()}
    shared = sorted(set.intersection(*map(set, placed.values())), key=lambda key: (key[1], key[0]))
    taken = {way: _taken(rows, [placed[way][key] for key in shared]) for way, rows in ways.items()}
    reference = taken["live"]
    equal = np.logical_and.reduce(
        [(f.actual == reference.actual) & (f.origin == reference.origin) for f in taken.values()]
    )
    return {way: f.where(equal) for way, f in taken.items()}, int((~equal).sum())


def _taken(rows: Forecasts, index: list[int]) -> Forecasts:
    """Take rows in an order, to be scored by their quantiles."""
    arrays = {k: v[index] for k, v in vars(rows).items() if isinstance(v, np.ndarray)}
    return replace(rows, **arrays | {"df": np.full(len(index), np.nan)})


# ---------------------------------------------------------------------------------------------------------- to be told


def losses(year: Year) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Give the times of the origins, and for each way the mean loss of each."""
    found = {way: by_origin(rows, scaled_crps(rows, year.scales)) for way, rows in year.rows.items()}
    return found["live"][0], {way: loss for way, (_, loss) in found.items()}


def skills(year: Year) -> dict[str, Any]:
    """Score every way: mean CRPS over the scale of moves, and what it saves against another one, with its interval."""
    times, loss = losses(year)
    told: dict[str, Any] = {"origins": len(times), "forecasts": len(year.rows["live"])}
    told["crps"] = {way: float(x.mean()) for way, x in loss.items()}
    told["against_never"] = {way: _skill(loss[way], loss["never"]) for way in WAYS}
    told["live_against_always"] = _skill(loss["live"], loss["always"])
    return told


def _skill(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> list[float]:
    """Give one less the ratio of the mean losses, and its interval, where there are origins enough for one."""
    interval = block_bootstrap_skill(ours, theirs) if len(ours) >= FEWEST else (np.nan, np.nan)
    return [float(1 - ours.mean() / theirs.mean()), *interval]


def figure(years: Mapping[str, Year], promoted: Mapping[str, list[int]]) -> Figure:
    """Draw what each way has saved against never retraining, summed up over the year, a panel a pool."""
    drawn, axes = drawing.canvas(1, len(years), width=5.2 * len(years), height=3.4)
    labels = {"live": "served live", "always": "promoting always", "last": "last value"}
    for ax, (pool, year) in zip(axes, years.items(), strict=True):
        times, loss = losses(year)
        lines = {way: np.cumsum(loss["never"] - loss[way]) for way in WAYS}
        for way, stroke in drawing.strokes(WAYS).items():
            stroke["marker"] = ""
            at = drawing.thinned(len(times))
            ax.plot(drawing.moments(times[at]), lines[way][at], label=labels[way], lw=1.2, **stroke)
        for moment in drawing.moments(np.array(promoted[pool], np.int64)):
            ax.axvline(moment, color=drawing.GREY, lw=0.8, ls=":")
        ax.set_ylim(*_span([lines["live"], lines["always"]]))
        drawing.time_axis(ax, "origin (UTC)")
        ax.set_ylabel("CRPS saved, summed (mean moves)")
        ax.set_title(pool, fontsize="medium")
    handles = axes[0].get_legend_handles_labels()
    drawn.legend(*handles, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    drawn.set_label("CRPS saved against never retraining in a simulated year; dotted: another recipe was promoted")
    return drawn


def _span(lines: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Show all of the lines that are near each other: the last value may be far below."""
    low, high = min(x.min() for x in lines), max(x.max() for x in lines)
    room = 0.1 * max(high - low, 1e-9)
    return low - room, high + room
