"""The EGARCH core is arch's own model, its log variance carried step by step."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
import torch
from arch.univariate.base import ARCHModelFixedResult, ARCHModelResult
from numpy.typing import NDArray
from scipy import stats

from models.core import LEAST_DF, Distribution, Tick, initial_state
from models.egarch import COLUMNS, MOST, Egarch, fit_egarch, specification
from models.errors import FitError
from pipeline.sources import sample

TRUE = {"mu": 0.03, "omega": -0.002, "alpha": 0.18, "gamma": -0.08, "beta": 0.97, "nu": 6.0}
UNIT = 0.01
HORIZON = 5
OIL = (datetime(2016, 11, 6, tzinfo=UTC), datetime(2018, 11, 9, tzinfo=UTC))


def simulate(time: int, seed: int) -> NDArray[np.float64]:
    """Draw moves of the EGARCH(1,1)-t above, in units of about one percent."""
    rng, p = np.random.default_rng(seed), TRUE
    shock = rng.standard_t(p["nu"], size=time + 500) * np.sqrt((p["nu"] - 2) / p["nu"])
    h, r = 0.0, np.zeros(time + 500)
    for t, e in enumerate(shock):
        r[t] = p["mu"] + np.exp(h / 2) * e
        h = p["omega"] + p["alpha"] * (abs(e) - np.sqrt(2 / np.pi)) + p["gamma"] * e + p["beta"] * h
    return r[500:] * UNIT


@dataclass(frozen=True)
class Fitted:
    """Moves, our core, arch's own fit of them in units of their size, and arch held at our parameters."""

    moves: NDArray[np.float64]
    unit: float
    core: Egarch
    result: ARCHModelResult
    fixed: ARCHModelFixedResult


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """Fit both on a long path."""
    moves = simulate(8000, seed=1)
    unit = float(np.std(moves))
    core, model = fit_egarch([moves], horizon=HORIZON), specification(moves / unit)
    ours = core.parameters_by_row[1, :6].numpy()
    return Fitted(moves, unit, core, model.fit(disp="off", show_warning=False), model.fix(ours))


def walk(core: Egarch, moves: NDArray[np.float64], log_variance: float) -> tuple[Distribution, NDArray[np.float64]]:
    """Carry the core over moves; distributions [1, T, ...], and the log variance after each move."""
    change = torch.tensor(moves, dtype=core.df.dtype)[None, :, None]
    nothing, state, path, out = torch.zeros(1, 0), initial_state(core.state_tensors(), 1, core.df), [], []
    state["log_variance"].fill_(log_variance)
    beside = {"series": torch.ones(1, dtype=torch.int64), "past": nothing, "future": nothing, "elapsed": nothing}
    for t in range(len(moves)):
        held = torch.zeros(1, 1, dtype=torch.bool)
        distribution, state = core.step(Tick(change=change[:, t], held=held, **beside), state)
        path.append(state["log_variance"].item())
        out.append(distribution)
    joined = {f: torch.stack([getattr(d, f) for d in out], 1) for f in Distribution.__dataclass_fields__}
    return Distribution(**joined), np.array(path)


def test_the_fit_is_archs_optimum_from_the_best_start(fitted: Fitted) -> None:
    """Our parameters are arch's to the optimiser's tolerance, and at least as likely as those of its own start."""
    np.testing.assert_allclose(fitted.core.parameters_by_row[1, :6], fitted.result.params, rtol=0.03, atol=1e-3)
    assert fitted.fixed.loglikelihood >= fitted.result.loglikelihood - 1e-9


def test_parameters_of_a_long_simulated_path_are_recovered(fitted: Fitted) -> None:
    """Leverage, size effect, persistence and tails are within three and a half of arch's standard errors."""
    ours = fitted.core.parameters_by_row[1, :6].numpy()
    for name in ("alpha", "gamma", "beta", "nu"):
        k = COLUMNS.index(name)
        assert abs(ours[k] - TRUE[name]) < 3.5 * fitted.result.std_err.to_numpy()[k], name


def test_the_log_variance_path_is_archs_conditional_volatility(fitted: Fitted) -> None:
    """From arch's first variance the carried log variance follows its path to float32 for 1500 steps."""
    path = 2 * np.log(fitted.fixed.conditional_volatility)
    _, ours = walk(fitted.core, fitted.moves[:1500], path[0])
    np.testing.assert_allclose(ours[:-1], path[1:1500], rtol=0, atol=1e-4)


def test_the_scale_of_the_next_move_is_archs_forecast(fitted: Fitted) -> None:
    """At each origin the squared scale of step 1, as a variance, is arch's own forecast."""
    path = 2 * np.log(fitted.fixed.conditional_volatility)
    distribution, _ = walk(fitted.core, fitted.moves[:600], path[0])
    theirs = fitted.fixed.forecast(horizon=1, start=300, reindex=False).variance.to_numpy()[:300, 0]
    df = distribution.df[0, 300:].double().numpy()
    ours = distribution.scale[0, 300:, 0, 0, 0].double().numpy() ** 2 * df / (df - 2)
    np.testing.assert_allclose(ours, theirs * fitted.unit**2, rtol=2e-4)


@pytest.mark.parametrize("start", [-1.0, 0.5, 1.5])
def test_intervals_of_many_steps_hold_as_said_in_simulated_futures(start: float) -> None:
    """Of 100,000 futures about the said share lies within the intervals of step 10, whatever the variance now."""
    rng, p, count, steps = np.random.default_rng(5), TRUE, 100_000, 10
    core = Egarch(torch.tensor([[*p.values(), UNIT]] * 2, dtype=torch.float64), steps)
    h, total = np.full(count, start), np.zeros(count)
    for _ in range(steps):
        e = rng.standard_t(p["nu"], size=count) * np.sqrt((p["nu"] - 2) / p["nu"])
        total += (p["mu"] + np.exp(h / 2) * e) * UNIT
        h = p["omega"] + p["alpha"] * (np.abs(e) - np.sqrt(2 / np.pi)) + p["gamma"] * e + p["beta"] * h
    distribution = core._distribution(torch.tensor([[start]], dtype=torch.float32), torch.tensor([1]))
    z = np.abs(total - distribution.loc[0, -1].item()) / distribution.scale[0, -1].item()
    for share, within in ((0.5, 0.04), (0.9, 0.02), (0.98, 0.01)):
        assert abs(np.mean(z < stats.t.ppf((1 + share) / 2, p["nu"])) - share) < within


def test_a_series_starts_at_its_long_run(fitted: Fitted) -> None:
    """Before the first move the state is empty, and the first move steps from the mean of the log variance."""
    core = fitted.core
    _, omega, alpha, gamma, beta, nu, unit = core.parameters_by_row[1].tolist()
    size = stats.t.expect(np.abs, args=(nu,)) * np.sqrt((nu - 2) / nu)
    long_run = (omega + alpha * (size - np.sqrt(2 / np.pi))) / (1 - beta)
    assert core.long_run[1].item() == pytest.approx(long_run, rel=1e-4)
    _, path = walk(core, np.array([-0.03]), float("nan"))
    e = (-0.03 / unit - core.parameters_by_row[1, 0].item()) / np.exp(long_run / 2)
    expected = omega + alpha * (abs(e) - np.sqrt(2 / np.pi)) + gamma * e + beta * long_run
    np.testing.assert_allclose(path, expected, rtol=1e-4)


def test_a_wild_move_leaves_a_finite_scale(fitted: Fitted) -> None:
    """A move of many thousand scales brings the log variance to its bound, from where it comes back."""
    _, path = walk(fitted.core, np.array([1000.0, *np.zeros(600)]), 0.0)
    assert path[0] == MOST
    assert abs(path[-1] - path[-2]) < 0.1
    assert path[-1] < 1


def test_a_large_move_never_calms() -> None:
    """Three hundred days of oil prefer a negative size effect, which would let the scale collapse: it is refused."""
    prices = sample().filter(pl.col("series_id") == "WTI", pl.col("time").is_between(*OIL))["price"].to_numpy()
    moves = np.diff(np.log(prices[np.isfinite(prices)]))
    core = fit_egarch([moves[:300]], horizon=1)
    assert core.parameters_by_row[1, COLUMNS.index("alpha")] >= 0
    _, path = walk(core, moves, float("nan"))
    assert abs(path).max() < MOST / 4


def test_tails_without_a_variance_are_fitted_at_the_bound() -> None:
    """Moves of a t of 1.5, as of a pegged currency, have the least degrees of freedom and are not refused."""
    core = fit_egarch([np.random.default_rng(8).standard_t(1.5, size=1500) * UNIT], horizon=1)
    assert core.df[1].item() == pytest.approx(LEAST_DF, abs=1e-3)


def test_the_pooled_row_is_the_median_over_the_series() -> None:
    """Row 0 takes the median of each parameter, and the size of the moves with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        core = fit_egarch([simulate(1200, seed=s) * u for s, u in ((2, 1), (3, 10), (4, 100))], horizon=1)
    rows = core.parameters_by_row.numpy()
    np.testing.assert_array_equal(rows[0], np.median(rows[1:], axis=0))
    assert rows[3, -1] > 50 * rows[1, -1]


@pytest.mark.parametrize("bad", [np.zeros(0), np.ones(1), np.ones(249), np.full(400, 0.01)])
def test_a_series_that_carries_no_fit_is_refused_by_row(bad: NDArray[np.float64]) -> None:
    """No moves, one, too few or none that vary raise FitError that names the row, the need and the way out."""
    with pytest.raises(
        FitError, match=rf"EGARCH: series row 1 has {len(bad)} moves .* at least 250 .* leave egarch out"
    ):
        fit_egarch([bad], horizon=1)
