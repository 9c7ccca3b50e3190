"""Figures that set models beside each other, and the moments at which one model did worst.

Comes in: verdicts, scores of slices, `Forecasts`. Goes out: matplotlib `Figure`. Knows matplotlib through drawing;
imported by page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.errors import ComparisonError, unknown
from models.observation import MEDIAN
from pipeline.drawing import BLUE, FAN, GREY, INK, PAPER, VERMILION, canvas, floor, focus, moments, strokes, time_axis
from pipeline.metrics import INTERVALS, crps
from pipeline.verdicts import references_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.forecasts import Forecasts
    from pipeline.metrics import Scores
    from pipeline.verdicts import Comparison, Verdict

LOOKS = {"better": (BLUE, "o", BLUE), "worse": (VERMILION, "s", VERMILION)}
"""Colour, marker and fill of a comparison; all others are grey, hollow diamonds."""
BESIDE = (GREY, "D", PAPER)

LABELS = 40
"""Most labels of a slice that are drawn."""

AXES = {"step": "step ahead", "hour": "hour of the target (UTC)", "regime": "regime at the origin"}
"""What the labels of a slice are, where its name does not say it."""


def ranking(verdicts: Sequence[Verdict], members: Collection[str], alpha: float) -> Figure:
    """Draw the CRPS skill of each model against each reference, with its interval.

    What lies far below the rest is drawn as an arrow at the edge with its number, so that the rest can be told apart.

    Parameters
    ----------
    verdicts : sequence of Verdict
        Of one series, set or "pooled"; drawn from the top in this order.
    members : collection of str
        Models of the best set, marked with a star.
    alpha : float
        Level of the tests and of the set; intervals hold 1 - alpha.

    Raises
    ------
    ComparisonError
        No model was compared with a reference by CRPS.
    """
    references = references_of(verdicts)
    if not references:
        raise ComparisonError("a ranking needs comparisons by CRPS with at least one reference; none came")
    height = 1.5 + 0.3 * len(verdicts)
    figure, axes = canvas(1, len(references), width=7.5, height=height, sharey=True)
    for ax, reference in zip(axes, references, strict=True):
        rows = {row: c for row, v in enumerate(verdicts) for c in v.against if c.reference == reference}
        _draw_skill(ax, rows)
        for row, v in enumerate(verdicts):
            if v.model == reference:
                place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
                ax.annotate("reference", (0, row), **place, color=GREY, fontsize="small")
        ax.set_xlabel(f"CRPS skill against\n{reference} (%)")
    axes[0].set_yticks(range(len(verdicts)), [f"{'★ ' if v.model in members else ''}{v.model}" for v in verdicts])
    axes[0].set_ylim(len(verdicts) - 0.5, -0.5)
    axes[0].set_ylabel("model, lowest CRPS first")
    what = f"Skill by CRPS with its {100 * (1 - alpha):g} % interval, {verdicts[0].series}"
    figure.suptitle(f"{what}: right is better", fontsize="large")
    for label, (colour, marker, fill) in {**LOOKS, "not told apart": BESIDE}.items():
        axes[0].plot([], [], ls="", marker=marker, ms=7, color=colour, mfc=fill, mew=1.6, label=label)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    figure.set_label(f"{what}, against {', '.join(references)}; a star marks the models of the best set")
    return figure


def _draw_skill(ax: Axes, rows: Mapping[int, Comparison]) -> None:
    """Draw a dot and an interval, in percent, at the place of each model."""
    edge = min(floor(100 * c.skill for c in rows.values()), -1.0)
    ax.axvline(0, color=INK, lw=1.0)
    for row, c in rows.items():
        colour, marker, fill = LOOKS.get(c.verdict, BESIDE)
        if 100 * c.skill < edge:
            ax.plot(edge, row, marker="<", ms=7, ls="", color=colour)
            ax.annotate(
                f"{c.skill:+.0%}", (edge, row), (7, 0), textcoords="offset points", va="center", fontsize="small"
            )
            continue
        ax.plot([100 * max(c.low, edge / 100), 100 * c.high], [row, row], color=colour, lw=2.0, solid_capstyle="butt")
        ax.plot(100 * c.skill, row, marker=marker, ms=7, ls="", color=colour, mfc=fill, mew=1.6)
    ax.grid(visible=False, axis="y")


def skill_by_slice(slices: Mapping[str, Mapping[str, Scores]], by: str, reference: str) -> Figure:
    """Draw the CRPS skill of each model against the reference within each slice, such as each hour.

    The picture ends at `floor`; the legend names models that lie below it.

    Parameters
    ----------
    slices : dict of dict of Scores
        By model, then by label, all models with the same labels; labels that are numbers are sorted as numbers, others
        stay in their order.
    by : str
        What the rows were sliced by, for the axis.

    Raises
    ------
    ComparisonError
        The reference is not among the models.
    """
    if reference not in slices:
        raise ComparisonError(unknown("reference", reference, slices))
    labels = list(slices[reference])
    labels = sorted(labels, key=float) if all(label.isdecimal() for label in labels) else labels
    shown, style = labels[:LABELS], strokes(slices)
    figure, (ax,) = canvas(1, 1, width=7.5, height=4.4)
    ax.axhline(0, color=INK, lw=1.0)
    base = np.array([slices[reference][label]["crps"] for label in shown])
    skills = {name: 100 * (1 - np.array([of[label]["crps"] for label in shown]) / base) for name, of in slices.items()}
    lowest = focus(ax, (skill for name, skill in skills.items() if name != reference))
    for name, skill in skills.items():
        if name != reference:
            label = f"{name} (below what is drawn)" if (skill < lowest).all() else name
            ax.plot(range(len(shown)), skill, lw=1.2, ms=5, label=label, **style[name])
    ax.set_xticks(range(len(shown)), shown, fontsize="small")
    axis = AXES.get(by, by)
    ax.set_xlabel(axis if len(labels) == len(shown) else f"{axis} (the first {LABELS} of {len(labels)})")
    ax.set_ylabel("CRPS skill (%)")
    what = f"CRPS skill against {reference} by {by}"
    ax.set_title(f"{what}: up is better", fontsize="large")
    figure.legend(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    figure.set_label(f"{what}; a line a model")
    return figure


# --------------------------------------------------------------------------------------------- single moments


def episodes(forecasts: Forecasts, count: int, apart: int = 30) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Choose origins at which the model did worst, and such at which it did as usual: (series, origin time) each.

    By the CRPS of each series and origin, the mean over its steps: the highest, and those nearest to the median.

    Parameters
    ----------
    count : int
        Most origins of each kind.
    apart : int
        Fewest origins of one series between two that are chosen, so that no episode is shown twice.
    """
    changes = (np.diff(forecasts.series) != 0) | (np.diff(forecasts.origin_time) != 0)
    first = np.flatnonzero(np.concatenate([[True], changes]))
    loss = np.add.reduceat(crps(forecasts), first) / np.diff(np.append(first, len(forecasts)))
    known = np.flatnonzero(np.isfinite(loss))
    away = np.abs(loss[known] - np.median(loss[known])) if len(known) else loss[known]
    series, times = forecasts.series[first], forecasts.origin_time[first]
    worst, usual = (
        [(forecasts.names[series[k]], int(times[k])) for k in _spread(known[order], series, count, apart)]
        for order in (np.argsort(-loss[known], kind="stable"), np.argsort(away, kind="stable"))
    )
    return worst, usual


def _spread(order: np.ndarray, series: np.ndarray, count: int, apart: int) -> list[int]:
    """Take the first of `order` that are not near another one that was taken."""
    taken: list[int] = []
    for k in order:
        if len(taken) == count:
            break
        if all(series[k] != series[t] or abs(k - t) >= apart for t in taken):
            taken.append(int(k))
    return taken


def origin_fan(forecasts: Forecasts, series: str, origin_time: int, around: int = 30) -> Figure:
    """Draw the forecast made at one origin among the prices around it.

    Forecasts of one step make no fan of their own: those of the origins around are drawn beside it.

    Parameters
    ----------
    series : str
    origin_time : int
        Microseconds since 1970, UTC. The fan at target time t was made with data up to its origin, before t.
    around : int
        Number of prices before and after that are drawn.
    """
    rows = forecasts.of(series)
    nearest = rows.where(rows.step == rows.step.min())
    place = int(np.searchsorted(nearest.origin_time, origin_time))
    window = nearest.where(np.abs(np.arange(len(nearest)) - place) <= around)
    own = rows.where(rows.origin_time == origin_time)
    figure, (ax,) = canvas(1, 1, width=4.4, height=3.4)
    ax.plot(moments(window.target_time), window.actual, color=INK, lw=0.8, marker=".", ms=4, label="actual")
    _draw_intervals(ax, own if len(own) > 1 else window)
    ax.axvline(moments(own.target_time)[0], color=VERMILION, lw=1.0, ls="--", label="first target")
    time_axis(ax, "target time (UTC)")
    ax.set_ylabel("price (units of the series)")
    when = str(np.datetime_as_string(moments(np.array(origin_time)), unit="m")).replace("T", " ")
    ax.set_title(f"{series}, made {when}\nCRPS {np.mean(crps(own)):.4g}", fontsize="medium")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    figure.set_label(f"{forecasts.model} on {series}: intervals of the forecast made at {when} UTC, and the prices")
    return figure


def _draw_intervals(ax: Axes, rows: Forecasts) -> None:
    """Draw the intervals, below the prices, and the median."""
    time = moments(rows.target_time)
    for percent, colour in FAN.items():
        lower, upper = (rows.quantile[:, k] for k in INTERVALS[percent])
        ax.fill_between(time, lower, upper, color=colour, lw=0, zorder=0.5, label=f"{percent} %")
    ax.plot(time, rows.quantile[:, MEDIAN], color=BLUE, lw=1.0, label="median")
