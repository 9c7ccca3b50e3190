"""Figures of forecasts, of training, of states and of prices, for a reader and for the tracked run.

Comes in: `Forecasts`, losses by epoch, states over time. Goes out: matplotlib `Figure`, and image files by `save`.
Knows matplotlib, imported when a figure is made; imported by page, judging and
inventory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.errors import ComparisonError, ConfigError, unknown
from models.observation import LEVELS
from pipeline.alignment import aligned
from pipeline.drawing import (
    BLUE,
    FAN,
    GREEN,
    GREY,
    INK,
    LINES,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    canvas,
    focus,
    literal,
    moments,
    strokes,
    thinned,
    time_axis,
)
from pipeline.forecasts import Forecasts
from pipeline.metrics import by_model, by_origin, crps, pit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from models.observation import StateTensor
    from pipeline.inspection import StatePath

FORMATS = (".png", ".svg", ".pdf", ".eps", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
"""Suffixes of the files that a figure can be written to."""

FEW = 4
"""Most numbers of a state tensor that are drawn as lines."""


def calibration(forecasts: Forecasts) -> Figure:
    """Draw how often prices fell below each quantile, and the histogram of the PIT.

    Upper: above zero a quantile is too high, below too low. Lower: a calibrated density gives a flat histogram; a
    hump says too wide, a trough too narrow, a slope biased. Each band holds 95 % of calibrated forecasts, a point
    or a bar at a time, if rows are independent; those of several steps or of series that move together are not.
    """
    if len(forecasts) == 0:
        raise ComparisonError(f"a calibration figure needs rows; {forecasts.model} has none")
    figure, (upper, lower) = canvas(2, 1, width=4.4, height=5.8)
    _draw_reliability(upper, forecasts)
    _draw_pit(lower, forecasts)
    what = f"calibration of {len(forecasts):,} forecasts"
    figure.suptitle(f"{forecasts.model} on {_which(forecasts)}\n{what}", fontsize="large")
    figure.set_label(f"{forecasts.model}: {what}, reliability of its quantiles and histogram of its PIT")
    return figure


def loss_curves(
    records: Iterable[tuple[int, float, float]],
    *,
    model: str,
    series: str,
    loss: str,
) -> Figure:
    """Draw the loss on the train and the validation split after each epoch, and mark the best epoch.

    Parameters
    ----------
    records : iterable of (epoch, train loss, validation loss)
    model, series : str
        What was trained on what, for the title.
    loss : str
        Name of the loss with its unit.
    """
    epoch, train, validation = np.array(list(records), dtype=np.float64).reshape(-1, 3).T
    if len(epoch) == 0 or not np.isfinite(validation).any():
        raise ComparisonError(f"a loss curve of {model} needs at least one epoch with a finite validation loss")
    best = int(np.nanargmin(validation))
    from matplotlib.ticker import MaxNLocator

    figure, axes = canvas(1, 1, width=7.0, height=4.4)
    ax = axes[0]
    ax.plot(epoch, train, color=ORANGE, lw=1.6, marker="s", ms=3, label="train split")
    ax.plot(epoch, validation, color=BLUE, lw=1.6, marker="o", ms=3, label="validation split")
    ax.axvline(epoch[best], color=GREY, lw=0.8, ls="--", zorder=0)
    label = f"best: epoch {epoch[best]:g}, validation {validation[best]:.5g}"
    ax.plot(epoch[best], validation[best], "o", ms=9, mfc="none", mec=INK, ls="", label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.set_ylabel(loss)
    ax.set_title(f"{model} on {series}: training")
    ax.legend(loc="upper right")
    return figure


def skill_over_time(
    forecasts: Sequence[Forecasts], reference: str, refits: Mapping[str, Sequence[int]] | None = None
) -> Figure:
    """Draw how much CRPS each model has saved against `reference` since the first origin.

    A line that rises steadily is skill; one that rises in a single jump is an episode. Values at an origin time are
    means over its series and steps. Lines far below the others are cut off; the legend has their mean skill. Below,
    where there are any, the moments from which a new fit served.

    Parameters
    ----------
    refits : dict of lists of int, optional
        By model, microseconds since 1970, UTC.

    Raises
    ------
    ComparisonError
        The reference is not among the forecasts, there is no other model, or their rows differ.
    """
    models = by_model(forecasts)
    style = strokes(models)
    if reference not in models:
        raise ComparisonError(unknown("reference", reference, models))
    base = models.pop(reference)
    if not models or len(base) == 0:
        raise ComparisonError(f"skill over time needs rows of {reference} and of at least one other model")
    moved = {name: np.array(when) for name, when in (refits or {}).items() if name in models and len(when)}

    heights = (4.0, 0.4 + 0.16 * len(moved)) if moved else (4.0,)
    figure, axes = canvas(len(heights), 1, width=7.5, height=1.2 + sum(heights), sharex=True, heights=heights)
    _draw_saved(axes[0], models, base, style)
    axes[0].set_title(f"CRPS saved against {reference} on {_which(base)}: up is better")
    if moved:
        _draw_refits(axes[1], moved, style)
    time_axis(axes[-1], "origin time (UTC)")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small", frameon=False
    )
    figure.set_label(f"Sum over time of the CRPS that each model saved against {reference}; a line a model")
    return figure


def hidden_state(path: StatePath, last: int = 500) -> Figure:
    """Draw the prices of a series and, below, what they left in each tensor of its state.

    Up to four numbers are lines, more are a map: red above zero, blue below, white at zero. Hidden units have no order
    of their own; those that move together stand together. The last price, which the top shows, is left out; so is what
    does not change in the time drawn, which is named below.

    Parameters
    ----------
    path : StatePath
        The state at time t was made with data up to and including t.
    last : int
        Number of moments drawn, the latest ones.
    """
    since = max(len(path.time) - last, 0)
    others = [s for s in path.described if s.unit != "price" or math.prod(s.shape) > 1]
    drawn = [s for s in others if np.ptp(path.tensors[s.name][since:], axis=0).any()]
    rows = [math.prod(s.shape) for s in drawn]
    heights = [3.0, *(1.3 if n <= FEW else min(1.6 + 0.03 * n, 3.6) for n in rows)]
    figure, axes = canvas(len(heights), 1, width=9.5, height=0.6 + sum(heights), sharex=True, heights=heights)
    moment = moments(path.time[since:])
    axes[0].plot(moment, path.price[since:], color=INK, lw=1.0)
    axes[0].set_ylabel("price\n(units of the series)")
    axes[0].set_title(f"{path.model} on {path.series}: prices, and the state that they leave behind")
    for ax, tensor in zip(axes[1:], drawn, strict=True):
        value = np.asarray(path.tensors[tensor.name][since:], dtype=np.float64).reshape(len(moment), -1)
        (_draw_lines if value.shape[1] <= FEW else _draw_map)(ax, moment, value, tensor)
        ax.set_title(f"{tensor.name}: {tensor.meaning}", loc="left", fontsize="medium")
    axes[0].margins(x=0.01)
    still = ", ".join(s.name for s in others if s not in drawn)
    time_axis(axes[-1], f"time (UTC){f'; unchanged in it: {still}' if still else ''}")
    return figure


def attention_map(weights: np.ndarray, *, model: str, series: str) -> Figure:
    """Draw where a decoder looks back: a row for each place of the forecast, a column for each age of what it reads.

    Parameters
    ----------
    weights : float [S*M, W]
        The newest first; those of a row add up to 1.
    model, series : str
        What looks back on what, for the title.
    """
    places, window = weights.shape
    figure, (ax,) = canvas(1, 1, width=7.0, height=1.8 + min(0.25 * places, 4.0))
    mesh = ax.pcolormesh(
        np.arange(window), np.arange(1, places + 1), weights, cmap="Blues", vmin=0.0, shading="nearest", rasterized=True
    )
    ax.grid(visible=False)
    ax.invert_yaxis()
    ax.set_xlabel("age of the output that is read (moves before the origin)")
    ax.set_ylabel("place of the forecast")
    ax.set_title(f"{model} on {series}: where it looks back")
    figure.colorbar(mesh, ax=ax, label="weight", pad=0.01, aspect=12)
    figure.set_label(f"Weights of {model} on the last {window} outputs of its encoder, by place of the forecast")
    return figure


def price_history(name: str, time: np.ndarray, price: np.ndarray, marks: Mapping[str, np.ndarray]) -> Figure:
    """Draw the prices of a series and, below, its moves, with what the checks found marked in both.

    Parameters
    ----------
    name : str
    time : int64 [T]
        Microseconds since 1970, UTC, ascending.
    price : float64 [T]
        NaN where none was published.
    marks : dict of bool [T]
        By name of the fault: the rows where it was found.
    """
    figure, (level, moves) = canvas(2, 1, width=9.5, height=5.6, sharex=True, heights=(3, 2))
    moment, log = moments(time), bool((price[np.isfinite(price)] > 0).all())
    known = np.isfinite(price)
    change = np.full(len(price), np.nan)
    scale = np.log(price[known]) if log else price[known]
    change[np.flatnonzero(known)[1:]] = np.diff(scale)
    level.plot(moment[known], price[known], color=INK, lw=0.9)
    moves.vlines(moment, 0, change, color=BLUE, lw=0.6)
    for (fault, found), colour in zip(
        marks.items(), itertools.cycle((VERMILION, ORANGE, GREEN, PURPLE, SKY)), strict=False
    ):
        style = {"color": colour, "s": 22, "label": f"{fault} ({int(found.sum()):,})", "zorder": 3}
        level.scatter(moment[found], price[found], **style)
        moves.scatter(moment[found], change[found], **style)
    level.set_title(f"{name}: {int(known.sum()):,} prices")
    level.set_ylabel("price\n(units of the series)")
    moves.set_ylabel("log return" if log else "difference\n(units of the series)")
    if marks:
        level.legend(frameon=False, fontsize="small")
    time_axis(moves, "time (UTC)")
    return figure


def path_fans(title: str, names: Sequence[str], past: Sequence[np.ndarray], paths: np.ndarray) -> Figure:
    """Draw sampled paths of some series, a panel each: the last prices, the central 50, 80 and 95 %, a few paths.

    Parameters
    ----------
    past : sequence of float64
        Prices of each series up to and including the last one; as many are drawn as twice the steps.
    paths : float64 [N, n, H]
        Value h - 1 is for the h-th observation after the last price.
    """
    steps = paths.shape[2]
    figure, axes = canvas(len(names), 1, width=7.0, height=1.2 + 2.4 * len(names), sharex=True)
    for ax, name, before, of in zip(axes, names, past, paths, strict=True):
        shown = before[-2 * steps - 1 :]
        ahead = np.concatenate([np.full((len(of), 1), shown[-1]), of], axis=1)
        for percent, fill in FAN.items():
            low, high = np.percentile(ahead, [50 - percent / 2, 50 + percent / 2], axis=0)
            ax.fill_between(np.arange(steps + 1), low, high, color=fill, lw=0, label=f"{percent} %")
        ax.plot(np.arange(steps + 1), ahead[:FEW].T, color=GREY, lw=0.6)
        ax.plot(np.arange(steps + 1), np.median(ahead, axis=0), color=BLUE, lw=1.4, label="median")
        ax.plot(np.arange(1 - len(shown), 1), shown, color=INK, lw=1.0)
        ax.set_ylabel(f"{name}\n(units of the series)")
    axes[0].legend(frameon=False, fontsize="small", ncols=4, loc="upper left")
    axes[-1].set_xlabel("observations after the last price")
    figure.suptitle(title, fontsize="large")
    figure.set_label(f"{title}: central intervals, median and a few paths of {len(names)} series")
    return figure


def check_file(path: Path | None) -> None:
    """Refuse a file for a figure whose suffix names no format of pictures, before anything is computed."""
    if path is not None and path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: {unknown('format of a picture', path.suffix, FORMATS)}")


def save(figure: Figure, path: str | Path) -> Path:
    """Write the figure in the format of the suffix of `path`, such as png, svg or pdf; make its folder; give the path.

    Raises
    ------
    ConfigError
        The suffix names no format of pictures.
    """
    check_file(path := Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    literal(figure).savefig(path, dpi=130)
    return path


# -------------------------------------------------------------------------------------------------------- parts


def _draw_saved(ax: Axes, models: Mapping[str, Forecasts], base: Forecasts, style: Mapping[str, dict]) -> None:
    ax.axhline(0, color=INK, lw=1.0)
    times, base_crps = by_origin(base, crps(base))
    ours = {name: by_origin(aligned(f, base)[0], crps(f))[1] for name, f in models.items()}
    saved, shown = {name: np.cumsum(base_crps - loss) for name, loss in ours.items()}, thinned(len(times))
    for name, loss in ours.items():
        label = f"{name} ({1 - np.mean(loss) / np.mean(base_crps):+.2%})"
        ax.plot(moments(times)[shown], saved[name][shown], lw=1.4, ms=4, markevery=0.15, label=label, **style[name])
    focus(ax, saved.values())
    ax.margins(x=0.01)
    ax.set_ylabel("CRPS saved since the start\n(sum, transformed scale)")


def _draw_refits(ax: Axes, refits: Mapping[str, np.ndarray], style: Mapping[str, dict]) -> None:
    """Draw a row of ticks a model, one a refit."""
    for row, (name, when) in enumerate(refits.items()):
        ax.plot(moments(when), np.full(len(when), row), ls="", marker="|", ms=8, color=style[name]["color"])
    ax.set_yticks(range(len(refits)), list(refits), fontsize="small")
    ax.set_ylim(len(refits) - 0.4, -0.6)
    ax.set_ylabel("refits")


def _draw_reliability(ax: Axes, forecasts: Forecasts) -> None:
    level, place = np.array(LEVELS), np.arange(len(LEVELS))
    is_below = forecasts.actual[:, None] <= forecasts.quantile
    below = np.mean(np.where(np.isnan(forecasts.quantile), np.nan, is_below), axis=0)
    band = 1.96 * np.sqrt(level * (1 - level) / len(forecasts))
    ax.axhline(0, color=GREY, lw=1.0, ls="--")
    ax.fill_between(place, -100 * band, 100 * band, color=FAN[80], lw=0, label="95 % of calibrated")
    ax.plot(place, 100 * (below - level), color=BLUE, lw=1.4, marker="o", ms=4, label="observed")
    ax.set_xticks(place, [f"{100 * tau:g}" for tau in LEVELS], fontsize="small")
    ax.set_xlabel("quantile level (%)")
    ax.set_ylabel("share of prices below,\nless the level (% points)")
    ax.set_title("price quantiles")
    ax.margins(y=0.2)
    ax.legend()


def _draw_pit(ax: Axes, forecasts: Forecasts, bins: int = 20) -> None:
    value = pit(forecasts)
    known = value[np.isfinite(value)]
    ax.set_xlabel("probability integral transform")
    ax.set_ylabel("density (1 is calibrated)")
    ax.set_title("density on the transformed scale")
    if len(known) == 0:
        ax.set(xlim=(0, 1), yticks=())
        ax.text(0.5, 0.5, "this model gives quantiles only", ha="center", transform=ax.transAxes, color=GREY)
        return
    half = 1.96 * np.sqrt((bins - 1) / len(known))
    ax.axhspan(1 - half, 1 + half, color=FAN[80], lw=0, label="95 % of calibrated")
    ax.axhline(1, color=GREY, lw=1.0, ls="--")
    height, edge = np.histogram(known, bins=bins, range=(0, 1), density=True)
    ax.stairs(height, edge, color=BLUE, lw=1.4, label="observed")
    ax.set(xlim=(0, 1), ylim=(0, 1.25 * max(height.max(), 1 + half)))
    ax.legend(loc="upper left", ncols=2)


def _draw_lines(ax: Axes, moment: np.ndarray, value: np.ndarray, tensor: StateTensor) -> None:
    """Draw each number of a tensor as a line; squared returns on a logarithmic axis, as their root."""
    from matplotlib.ticker import LogLocator

    squared = tensor.unit == "return^2"
    for i, line in enumerate(np.sqrt(value).T if squared else value.T):
        label = f"{tensor.name}[{i}]" if value.shape[1] > 1 else tensor.name
        ax.plot(moment, line, color=LINES[i % len(LINES)], lw=1.2, label=label)
    if squared and (value > 0).all():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
    ax.set_ylabel("square root" if squared else tensor.unit)
    if value.shape[1] > 1:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=value.shape[1], fontsize="small", frameon=False)


def _draw_map(ax: Axes, moment: np.ndarray, value: np.ndarray, tensor: StateTensor) -> None:
    """Draw the numbers of a tensor as rows of colour, symmetric around zero."""
    value = value[:, _together(value)] if tensor.unit == "hidden" else value
    known = np.abs(value[np.isfinite(value)])
    limit = float(np.quantile(known, 0.995)) if known.size and known.any() else 1.0
    rows = np.arange(1, value.shape[1] + 1)
    mesh = ax.pcolormesh(
        moment, rows, value.T, cmap="RdBu_r", vmin=-limit, vmax=limit, shading="nearest", rasterized=True
    )
    ax.grid(visible=False)
    ax.set_ylabel("unit, by likeness" if tensor.unit == "hidden" else "place")
    assert ax.figure is not None
    ax.figure.colorbar(mesh, ax=ax, label=tensor.unit, pad=0.01, extend="both", aspect=12)


def _together(value: np.ndarray) -> np.ndarray:
    """Order units [T, H] by the angle of their weights in the two main components of how they move."""
    centred = value - value.mean(axis=0)
    spread = centred.std(axis=0)
    first, *others = np.linalg.svd(centred / np.where(spread > 0, spread, 1), full_matrices=False)[2]
    return np.argsort(np.arctan2(others[0], first), kind="stable")


def _which(forecasts: Forecasts) -> str:
    """Name the only series of the rows, or say how many there are."""
    present = np.unique(forecasts.series)
    return forecasts.names[present[0]] if len(present) == 1 else f"{len(present)} series"
