"""Figures of a search for settings and of a learning-rate range test.

Comes in: trials, losses by rate. Goes out: matplotlib `Figure`. Knows matplotlib through `drawing.py`; imported by
search and rate_range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.drawing import BLUE, GREEN, GREY, ORANGE, VERMILION, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[Mapping[str, Any], float, bool]
"""Settings of a trial, its score, and whether it came to its end."""


def search(
    points: Mapping[int, Point], *, model: str, best: int, ranges: Mapping[str, bool], importance: Mapping[str, float]
) -> Figure:
    """Draw the score of each trial over each setting, those that matter most first.

    Parameters
    ----------
    points : dict of Point
        By the number of the trial.
    model : str
    best : int
        The trial that is marked.
    ranges : dict of bool
        Settings that were searched over a range, and whether by ratios; the others were chosen from a list.
    importance : dict of float
        Share of the variance of the score, by setting; may be empty.
    """
    names = sorted(points[best][0], key=lambda name: (-importance.get(name, 0.0), name))
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = canvas(rows, columns, width=3.0 * columns, height=2.8 * rows + 0.6, sharey=True)
    for ax, name in zip(axes, names, strict=False):
        _draw_setting(ax, name, points, best, ranges.get(name))
        share = f", {importance[name]:.0%} of the variance" if name in importance else ""
        ax.set_title(f"{name.rpartition('.')[2]}{share}", fontsize="medium")
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax in axes[::columns]:
        ax.set_ylabel("validation score")
    figure.suptitle(f"{model}: {len(points)} trials; filled to their end, hollow stopped, ringed the best")
    figure.set_label(f"{model}: validation score of {len(points)} trials over each setting")
    return figure


def _draw_setting(ax: Axes, name: str, points: Mapping[int, Point], best: int, log: bool | None) -> None:
    """Draw the trials over one setting: on an axis of numbers, or (log is None) a place for each choice."""
    choices = sorted({chosen[name] for chosen, _, _ in points.values()})
    place = {value: k if log is None else value for k, value in enumerate(choices)}
    for number, (chosen, score, ended) in points.items():
        at = place[chosen[name]]
        ax.plot(at, score, "o", ms=5, color=BLUE, mfc=BLUE if ended else "none", alpha=0.8)
        if number == best:
            ax.plot(at, score, "o", ms=11, mfc="none", mec=VERMILION, mew=1.6)
    if log is None:
        said = ["\n".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in choices]
        ax.set_xticks(range(len(choices)), said)
        ax.set_xlim(-0.5, len(choices) - 0.5)
    if log:
        _ratios(ax)


def rates(
    rate: np.ndarray, loss: np.ndarray, smoothed: np.ndarray, *, model: str, marks: Mapping[str, float | None]
) -> Figure:
    """Draw the loss over the learning rate, [R] each, raw and smoothed, with rates that are marked by name."""
    figure, (ax,) = canvas(1, 1, width=7.0, height=4.4)
    ax.plot(rate, loss, color=GREY, lw=0.8, label="loss of a chunk")
    ax.plot(rate, smoothed, color=BLUE, lw=1.8, label="smoothed")
    for colour, (name, at) in zip((GREEN, ORANGE), marks.items(), strict=True):
        if at is not None:
            ax.axvline(at, color=colour, lw=1.4, label=f"{name}: {at:.2g}")
    _ratios(ax)
    low, start = float(smoothed.min()), float(smoothed[0])
    ax.set_ylim(low - 0.2 * (start - low + 0.1), start + 1.5 * (start - low + 0.1))
    ax.set_xlabel("learning rate")
    ax.set_ylabel("train loss")
    ax.set_title(f"{model}: learning-rate range test")
    ax.legend()
    figure.set_label(f"{model}: loss over the learning rate")
    return figure


def _ratios(ax: Axes) -> None:
    """Let the horizontal axis be of ratios, labelled by plain numbers at the powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.xaxis.set_minor_formatter(NullFormatter())
    few = high < 30 * low
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 4.0) if few else (1.0,)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
