"""Temperature: how bold the paths of a categorical head are, and at which temperature they resemble real prices.

Legend: N series, n paths a series, H steps, R paths or stretches.

Comes in: prices. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from models.heads import CategoricalHead
from models.network import Network
from models.sampling import in_torch, sample_paths
from pipeline.drawing import GREY, canvas, strokes
from pipeline.moves import moves, observed_by
from pipeline.study.arms import Arm, fitted
from pipeline.study.experiment import Conditions, Experiment, Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from models.forecaster import Forecaster
    from pipeline.steps import Data

Rows = NDArray[np.float64]

TEMPERATURES = (0.5, 0.8, 1.0, 1.2)
ACTS_ON = ("probabilities", "density", "spread")
MEASURES = ("entropy", "spread", "kurtosis", "memory")
LAGS = 5
"""Over how many lags the autocorrelation of squared moves is averaged."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the experiment is.

    Attributes
    ----------
    epochs : int
        Most epochs of the fit.
    paths, steps : int
        n and H.
    """

    epochs: int = 6
    paths: int = 8
    steps: int = 120


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Fit once; draw paths at every temperature, from the last state before the test split, in both meanings."""
    assert conditions.data is not None
    conditions.progress("categorical")
    forecaster, _ = fitted(
        Arm(label="categorical", model="categorical"), conditions.data, sizes.epochs, conditions.seed
    )
    real, unit = stretches(conditions.data, sizes.steps)
    edges = np.quantile(real, np.linspace(0, 1, 42)[1:-1])
    rows = [{"paths": "real", "temperature": float("nan"), **measured(real, edges)}]
    for on in ACTS_ON:
        for temperature in TEMPERATURES:
            conditions.progress(f"temperature {temperature} on the {on}")
            drawn = paths(forecaster, conditions.data, sizes, conditions.seed, on, temperature)
            told = measured((drawn / unit[:, None, None]).reshape(-1, sizes.steps), edges)
            rows.append({"paths": on, "temperature": temperature, **told})
    nearest = {on: {m: _nearest(rows, on, m) for m in MEASURES} for on in ACTS_ON}
    return Finding(
        rows=rows,
        answer=_answer(nearest),
        numbers={f"nearest.{on}.{m}": t for on, by_measure in nearest.items() for m, t in by_measure.items()},
        figure=partial(_figure, rows),
    )


def stretches(data: Data, steps: int) -> tuple[Rows, NDArray[np.float64]]:
    """Cut the real moves before the test split into stretches [R, H], in the deviations [N] of their series."""
    found = moves(data.panel, data.transform, data.split.validation_end_time)
    unit = np.array([x.std() for x in found])
    cut = [(x[: len(x) // steps * steps] / u).reshape(-1, steps) for x, u in zip(found, unit, strict=True)]
    return np.concatenate(cut), unit


@torch.no_grad()
def paths(f: Forecaster, data: Data, sizes: Sizes, seed: int, on: str, temperature: float) -> Rows:
    """Draw the moves [N, n, H] of paths."""
    seen = data.panel.before(data.split.validation_end_time)
    _, state = f.forward(observed_by(f, seen))
    start = {name: x.numpy() for name, x in state.items()}
    if on != "spread":
        f = copy.deepcopy(f)
        assert isinstance(f.core, Network)
        assert isinstance(f.core.head, CategoricalHead)
        f.core.head.temper(temperature, density=on == "density")
    names, rows = data.panel.names, np.arange(1, len(data.panel.names) + 1)
    spread = temperature if on == "spread" else 1.0
    shape = {"n": sizes.paths, "horizon": sizes.steps, "seed": seed, "names": names}
    drawn = sample_paths(in_torch(f), start, start["price"], series=rows, temperature=spread, **shape)
    whole = np.concatenate([np.broadcast_to(start["price"][:, None, None], (*drawn.shape[:2], 1, 1)), drawn], axis=2)
    priced = torch.from_numpy(whole[..., 0])
    before, after = (priced[..., cut].reshape(-1, 1) for cut in (slice(None, -1), slice(1, None)))
    of_rows = torch.from_numpy(rows).repeat_interleave(sizes.paths * sizes.steps)
    return data.transform.difference(after, before, of_rows).reshape(drawn.shape[:3]).numpy()


def measured(x: Rows, edges: NDArray[np.float64]) -> dict[str, float]:
    """Measure moves [R, H] over the deviation of the real ones.

    entropy: of the moves over bins that are equally full of real ones, in nats; spread: their standard deviation;
    kurtosis: in excess of a normal's; memory: mean autocorrelation of the squares along a path, over `LAGS` lags.
    """
    share = np.bincount(np.searchsorted(edges, x.ravel()), minlength=len(edges) + 1) / x.size
    square = x**2 - (x**2).mean()
    memory = [(square[:, lag:] * square[:, :-lag]).mean() for lag in range(1, LAGS + 1)]
    return {
        "entropy": float(stats.entropy(share)),
        "spread": float(x.std()),
        "kurtosis": float(stats.kurtosis(x.ravel())),
        "memory": float(np.mean(memory) / (square**2).mean()),
    }


def _nearest(rows: Sequence[Mapping[str, str | float]], on: str, measure: str) -> float:
    """Give the temperature at which a measure is nearest to that of the real moves."""
    real = float(rows[0][measure])
    mine = [row for row in rows if row["paths"] == on]
    return float(min(mine, key=lambda row: abs(float(row[measure]) - real))["temperature"])


def _answer(nearest: Mapping[str, Mapping[str, float]]) -> str:
    """Say at which temperature paths are nearest to real moves, in each meaning."""
    told = [
        f"with T on the {on}, {', '.join(f'{measure} at {t:g}' for measure, t in by_measure.items())}"
        for on, by_measure in nearest.items()
    ]
    return f"Paths are nearest to real moves in these at these temperatures: {'; '.join(told)}."


def _figure(rows: Sequence[Mapping[str, str | float]]) -> Figure:
    """Draw every measure against the temperature, the real one as a line."""
    figure, axes = canvas(1, len(MEASURES), width=10.5, height=3.0)
    for ax, measure in zip(axes, MEASURES, strict=True):
        ax.axhline(float(rows[0][measure]), color=GREY, lw=1.0, ls="--")
        for on, style in strokes(ACTS_ON).items():
            ax.plot(TEMPERATURES, [r[measure] for r in rows if r["paths"] == on], lw=1.4, ms=4, label=on, **style)
        ax.set(xlabel="temperature", ylabel=measure)
    axes[0].legend(fontsize="small", frameon=False)
    figure.set_label("Entropy, spread, kurtosis and memory of paths against the temperature; dashed are real moves")
    return figure


EXPERIMENT = Experiment(
    name="temperature",
    question="At which temperature do the paths of a categorical head resemble real prices?",
    about=(
        "A categorical head treats moves as a text of tokens, and a path is written token by token, each read before "
        "the next is drawn. The temperature T makes its probabilities p^(1/T), normalised (Ackley, Hinton & Sejnowski "
        "1985). Bins are equally full of train targets, so that this leads towards what all moves have in common, or "
        "away from it; on the density p/w instead, w the width of a bin, it leads towards the peak. The third meaning, "
        "that of `statecast scenarios`, multiplies the distance from the median by T. Paths start from the state "
        "before the test split. Measured, in deviations of each series' real moves: the entropy over 41 bins equally "
        "full of real moves (ln 41 = 3.71 at most), the spread, the excess kurtosis, and the memory of volatility, the "
        "mean autocorrelation of squared moves over five lags. Real moves are those before the test split, cut into "
        "stretches as long as the paths."
    ),
    sizes={"quick": Sizes(), "full": Sizes(epochs=25, paths=32, steps=250)},
    run=run,
    on_prices=True,
)
