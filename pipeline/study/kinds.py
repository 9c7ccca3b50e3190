"""Every kind of model on the same prices: what it is for, what it forecasts, and what it costs.

Comes in: prices. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, FitError, StatecastError
from models.forecaster import Forecaster
from pipeline.backtest import walk_forward
from pipeline.cost import Cost, measure
from pipeline.fitting import KINDS, FitConfig, fit
from pipeline.metrics import by_origin, crps, scores
from pipeline.settings import load
from pipeline.significance import diebold_mariano
from pipeline.steps import Data, naive_scales
from pipeline.study.arms import LEVEL
from pipeline.study.experiment import Conditions, Experiment, Finding

REFERENCE = "garch"
"""Against which the others are tested; `last_value` where it does not fit."""

USES = {
    "last_value": "what every other kind has to beat",
    "drift": "a steady trend",
    "week_ago": "prices that repeat by the week",
    "ar": "moves that depend on the last ones",
    "ar_t": "the same, with heavy tails",
    "arx": "a linear answer to covariates",
    "lear": "the hours of an auctioned day, linearly",
    "har": "volatility over days, weeks and months, directly",
    "garch": "volatility that comes in clusters",
    "egarch": "the same, in logarithms, where falls weigh more",
    "garch_diurnal": "volatility that follows the hour of the week",
    "rnn": "the plainest memory",
    "lstm": "a memory that gates keep",
    "gru": "the same with fewer weights",
    "transformer": "a memory that can be looked at move by move",
    "seq2seq": "many steps ahead, each from the one before",
    "point": "the mean of the next move, by squared error",
    "categorical": "moves as tokens, a distribution of any shape",
    "dayahead": "the hours of an auctioned day, by networks",
    "ensemble": "one network from several seeds",
    "mix": "kinds that err differently",
}
"""What each kind is for."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the experiment is.

    Attributes
    ----------
    epochs : int
        Most epochs of each network.
    members : int
        Networks of an ensemble.
    kinds : tuple of str
        Which kinds are fitted.
    """

    epochs: int = 3
    members: int = 2
    kinds: tuple[str, ...] = tuple(KINDS)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a kind gave on the test origins.

    Attributes
    ----------
    crps : float64 [n]
        At each origin time, on the transformed scale.
    rmae : float
        Mean absolute error over that of the last value.
    cost : Cost
    """

    crps: NDArray[np.float64]
    rmae: float
    cost: Cost


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Fit each kind with its default settings, and walk it over the same test origins."""
    assert conditions.data is not None
    settings = {"epochs": sizes.epochs, "seed": conditions.seed, "device": "cpu"}
    overrides = {f"training.{k}": v for k, v in settings.items()} | {"ensemble.members": sizes.members}
    config = load(FitConfig, {}, overrides)
    found: dict[str, Result] = {}
    refused: dict[str, str] = {}
    for name in sizes.kinds:
        conditions.progress(name)
        try:
            found[name] = _result(name, conditions.data, config)
        except (ConfigError, FitError) as error:
            refused[name] = wanted(error)
    base = REFERENCE if REFERENCE in found else "last_value"
    rows = [_row(name, found.get(name), found[base].crps, refused.get(name, "")) for name in sizes.kinds]
    numbers = {f"{what}.{row['kind']}": float(row[what]) for row in rows for what in ("of reference", "p")}
    return Finding(rows=rows, answer=_answer(rows, base), numbers=numbers)


def _result(name: str, data: Data, config: FitConfig) -> Result:
    """Fit one kind and score it."""
    began = time.perf_counter()
    forecaster: Forecaster = fit(name, data.panel, data.split, data.transform, config)
    seconds = time.perf_counter() - began
    rows = walk_forward(forecaster, data.panel, data.split.origins(data.panel, "test", config.horizon))
    return Result(
        crps=by_origin(rows, crps(rows))[1],
        rmae=scores(rows, naive_scales(data))["rmae"],
        cost=measure(forecaster, seconds, refits=0),
    )


def wanted(error: StatecastError) -> str:
    """Take what was expected out of an error; all of it where it does not say.

    >>> wanted(StatecastError("SP500: expected prices within the day, got days. Leave it out"))
    'prices within the day'
    """
    found = re.search(r"expected (.+?)(?:, got|; |\. |$)", str(error))
    return found[1] if found else str(error)


def _row(name: str, result: Result | None, base: NDArray[np.float64], needs: str) -> dict[str, str | float]:
    """Tell one kind; numbers are NaN where it does not fit these prices."""
    nan = float("nan")
    cost = result.cost if result else Cost(seconds=nan, refits=0, microseconds=nan, state_bytes=0, parameters=0)
    return {
        "kind": name,
        "for": USES[name],
        "CRPS": 100 * float(result.crps.mean()) if result else nan,
        "of reference": float(result.crps.mean() / base.mean()) if result else nan,
        "p": diebold_mariano(result.crps, base)[1] if result else nan,
        "MAE of last value": result.rmae if result else nan,
        "fit (s)": cost.seconds,
        "parameters": cost.parameters if result else nan,
        "state (bytes)": cost.state_bytes if result else nan,
        "tick (µs)": cost.microseconds,
        "needs instead": needs,
    }


def _answer(rows: Sequence[Mapping[str, str | float]], base: str) -> str:
    """Say which kinds the test tells apart from the reference, and which do not fit these prices."""
    fitted = [row for row in rows if not row["needs instead"] and row["kind"] != base]
    apart = [row for row in fitted if float(row["p"]) < LEVEL]
    groups = {
        "better": [row for row in apart if float(row["of reference"]) < 1],
        "worse": [row for row in apart if float(row["of reference"]) > 1],
        "not told apart": [row for row in fitted if row not in apart],
    }
    told = [f"{verdict}: {', '.join(map(_named, members))}" for verdict, members in groups.items() if members]
    absent = [str(row["kind"]) for row in rows if row["needs instead"]]
    other = f" Not for these prices: {', '.join(absent)}." * bool(absent)
    return f"Against {base}, by the CRPS on the test origins: {'; '.join(told)}.{other}"


def _named(row: Mapping[str, str | float]) -> str:
    return f"{row['kind']} ({100 * (1 - float(row['of reference'])):+.1f} %)"


EXPERIMENT = Experiment(
    name="kinds",
    question="What is each kind for, what does it forecast, and what does it cost?",
    about=(
        "Every kind by its name, with its default settings, fitted on the same split and walked over the same test "
        "origins. CRPS is the mean on the scale of log returns, in percent; of it stand the ratio to garch, where that "
        "fits, and the p-value of Diebold & Mariano (1995) that both are equal. Below 1 the median is nearer than the "
        "last value. Parameters are all numbers that the fit has set, buffers such as scales among them; the tick is "
        "one call of the exported step in the runtime, on one thread. A kind that refuses these prices says what it "
        "expects instead; it has its figures where it is at home (docs/benchmarks.md)."
    ),
    sizes={"quick": Sizes(), "full": Sizes(epochs=60, members=5)},
    run=run,
    on_prices=True,
)
