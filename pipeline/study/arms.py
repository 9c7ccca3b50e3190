"""Networks fitted on prices with one setting changed, and compared: what the experiments on prices share.

An arm is a model's name and the settings that it changes, under the names that `--set` takes on the command line. Arms
are fitted on the same split with the same seeds, walked forward over the same test origins, and compared by the CRPS:
the mean over the seeds at each origin time, tested against the first arm.

Comes in: arms, prices. Goes out: a finding. Imported by the experiments on prices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.errors import FitError
from pipeline.backtest import walk_forward
from pipeline.drawing import GREY, INK, canvas
from pipeline.fitting import FitConfig, fit
from pipeline.metrics import by_origin, crps
from pipeline.settings import load
from pipeline.significance import block_bootstrap_skill, diebold_mariano, identical
from pipeline.study.experiment import Conditions, Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from models.forecaster import Forecaster
    from pipeline.steps import Data
    from pipeline.training import EpochRecord
    from pipeline.windows import Panel

LEVEL = 0.05
"""Of the tests."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to fit.

    Attributes
    ----------
    label : str
        What the table calls it.
    settings : dict
        By name below `fit`, such as `training.chunk`.
    model : str
        Name of the model.
    share : float
        Latest part of the training span that it may see, above 0 to 1.
    """

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = "lstm"
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large an experiment on prices is.

    Attributes
    ----------
    epochs : int
        Most epochs of a fit.
    seeds : int
        Fits of each arm.
    levels : int
        How many of the arms are run: 0 for all, otherwise evenly spread with the first and the last.
    """

    epochs: int = 8
    seeds: int = 1
    levels: int = 3

    def of(self, arms: Sequence[Arm]) -> list[Arm]:
        """Choose the arms that are run."""
        if not self.levels or len(arms) <= self.levels:
            return list(arms)
        return [arms[k] for k in np.linspace(0, len(arms) - 1, self.levels).round().astype(int)]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the fits of an arm gave.

    Attributes
    ----------
    crps : float64 [n] or None
        At each test origin time, the mean over seeds; None where a fit diverged.
    validation_loss : float
        Best one, mean over seeds.
    epochs, seconds : float
        Until the fit ended, means over seeds.
    parameters : int
        Numbers that are trained.
    """

    crps: NDArray[np.float64] | None
    validation_loss: float = float("nan")
    epochs: float = float("nan")
    seconds: float = float("nan")
    parameters: int = 0


def compared(arms: Sequence[Arm], sizes: Sizes, conditions: Conditions, *, setting: str) -> Finding:
    """Fit every arm, and test each against the first.

    Parameters
    ----------
    setting : str
        What the arms differ in, in words.
    """
    assert conditions.data is not None
    results = {arm.label: _result(arm, sizes, conditions, conditions.data) for arm in sizes.of(arms)}
    reference = next(iter(results))
    base = results[reference].crps
    if base is None:
        raise FitError(
            f"study: the arm {reference}, against which the others are tested, diverged. Change its settings"
        )
    rows = [_row(label, result, base, setting) for label, result in results.items()]
    return Finding(
        rows=rows,
        answer=_answer(rows, reference, setting, sizes),
        numbers={f"{what}.{row[setting]}": float(row[what]) for row in rows for what in ("CRPS saved", "p")},
        figure=partial(_figure, rows, setting, reference),
    )


def _result(arm: Arm, sizes: Sizes, conditions: Conditions, data: Data) -> Result:
    """Fit an arm with every seed, and walk it forward over the test origins."""
    losses, curves, count = [], [], 0
    origins = data.split.origins(data.panel, "test", 1)
    for seed in range(conditions.seed, conditions.seed + sizes.seeds):
        conditions.progress(f"{arm.label}, seed {seed}")
        try:
            forecaster, curve = fitted(arm, data, sizes.epochs, seed)
        except FitError:
            return Result(crps=None)
        rows = walk_forward(forecaster, data.panel, origins)
        losses.append(by_origin(rows, crps(rows))[1])
        curves.append(curve)
        count = sum(p.numel() for p in forecaster.parameters())
    return Result(
        crps=np.mean(losses, axis=0),
        validation_loss=float(np.mean([min(r.validation_loss for r in curve) for curve in curves])),
        epochs=float(np.mean([len(curve) for curve in curves])),
        seconds=float(np.mean([sum(r.seconds for r in curve) for curve in curves])),
        parameters=count,
    )


def fitted(arm: Arm, data: Data, epochs: int, seed: int) -> tuple[Forecaster, list[EpochRecord]]:
    """Fit one arm with one seed: the forecaster, and the record of each epoch.

    Raises
    ------
    FitError
        The loss is no number any more.
    """
    shared = {"training.epochs": epochs, "training.seed": seed, "training.device": "cpu", "conformal.track": "off"}
    config = load(FitConfig, {}, {**shared, **arm.settings})
    curve: list[EpochRecord] = []
    panel = latest(data.panel, data.split.train_end_time, arm.share)
    forecaster = fit(arm.model, panel, data.split, data.transform, config, on_epoch=curve.append)
    return forecaster, curve


def latest(panel: Panel, until: int, share: float) -> Panel:
    """Leave only the latest share of the span before `until`; what is older becomes holes, which teach nothing."""
    if share == 1.0:
        return panel
    begun = panel.time[panel.time < until].min()
    old = panel.time < until - share * (until - begun)
    gone = old.reshape(*old.shape, *(1,) * (panel.price.ndim - old.ndim))
    return replace(panel, price=np.where(gone, np.nan, panel.price), mask=panel.mask & ~gone)


def _row(label: str, result: Result, base: NDArray[np.float64], setting: str) -> dict[str, str | float]:
    """Tell the skill of an arm against the first one in percent, with its interval and p-value."""
    saved, low, high, p = _tested(result.crps, base)
    return {
        setting: label,
        "validation loss": result.validation_loss,
        "CRPS saved": 100 * saved,
        "low": 100 * low,
        "high": 100 * high,
        "p": p,
        "parameters": result.parameters,
        "epochs": result.epochs,
        "seconds": result.seconds,
    }


def _tested(loss: NDArray[np.float64] | None, base: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Give the share saved, its interval, and the p-value of no difference; NaN where a fit diverged."""
    if loss is None:
        nan = float("nan")
        return nan, nan, nan, nan
    if identical(loss, base):
        return 0.0, 0.0, 0.0, 1.0
    low, high = block_bootstrap_skill(loss, base, LEVEL)
    return 1 - float(loss.mean() / base.mean()), low, high, diebold_mariano(loss, base)[1]


def _answer(rows: Sequence[Mapping[str, Any]], reference: str, setting: str, sizes: Sizes) -> str:
    """Say which arms the test tells apart from the first one."""
    groups = {
        "better": [r for r in rows[1:] if r["p"] < LEVEL and r["CRPS saved"] > 0],
        "worse": [r for r in rows[1:] if r["p"] < LEVEL and r["CRPS saved"] < 0],
        "not told apart": [r for r in rows[1:] if r["p"] >= LEVEL],
        "diverged": [r for r in rows[1:] if np.isnan(r["CRPS saved"])],
    }
    told = [
        f"{verdict}: {', '.join(_named(row, setting) for row in members)}"
        for verdict, members in groups.items()
        if members
    ]
    fits = f"{sizes.seeds} fit{'s' * (sizes.seeds > 1)} each"
    return f"Against {setting} {reference}, by the CRPS on the test origins ({fits}): {'; '.join(told)}."


def _named(row: Mapping[str, Any], setting: str) -> str:
    saved = row["CRPS saved"]
    return f"{row[setting]}" if np.isnan(saved) else f"{row[setting]} ({saved:+.2f} %)"


def _figure(rows: Sequence[Mapping[str, Any]], setting: str, reference: str) -> Figure:
    """Draw the skill of every arm with its interval."""
    figure, (ax,) = canvas(1, 1, width=7.0, height=1.4 + 0.34 * len(rows))
    shown = [row for row in rows if np.isfinite(row["CRPS saved"])]
    place = np.arange(len(shown))
    saved = np.array([row["CRPS saved"] for row in shown])
    ends = np.array([[row["low"], row["high"]] for row in shown])
    ax.hlines(place, ends[:, 0], ends[:, 1], color=GREY, lw=2.0)
    ax.plot(saved, place, "o", ms=6, color=INK)
    ax.axvline(0, color=GREY, lw=1.0, ls="--")
    ax.set_yticks(place, [str(row[setting]) for row in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlabel(f"CRPS saved against {reference} (%), with its 95 % interval; right is better")
    ax.set_ylabel(setting)
    figure.set_label(f"CRPS saved by {setting} against {reference}, with intervals")
    return figure
