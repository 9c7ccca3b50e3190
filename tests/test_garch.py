"""The GARCH core is arch's own model, its variance carried step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from arch import arch_model
from arch.univariate.base import ARCHModelFixedResult, ARCHModelResult
from numpy.typing import NDArray

from models.core import Distribution, Tick, initial_state
from models.errors import FitError
from models.garch import COLUMNS, STARTS, Garch, fit_garch

TRUE = {"mu": 3e-4, "omega": 4e-6, "alpha": 0.04, "gamma": 0.10, "beta": 0.87, "nu": 6.0}
HORIZON = 5


def simulate(time: int, seed: int) -> NDArray[np.float64]:
    """Draw moves of the GJR-GARCH(1,1)-t above."""
    rng, p = np.random.default_rng(seed), TRUE
    shock = rng.standard_t(p["nu"], size=time + 500) * np.sqrt((p["nu"] - 2) / p["nu"])
    variance, r = 1e-4, np.zeros(time + 500)
    for t in range(len(r)):
        e = np.sqrt(variance) * shock[t]
        r[t] = p["mu"] + e
        variance = p["omega"] + (p["alpha"] + p["gamma"] * (e < 0)) * e**2 + p["beta"] * variance
    return r[500:]


def stood_still() -> NDArray[np.float64]:
    """Draw such moves, the first sixty of them zero."""
    moves = simulate(2000, seed=0)
    moves[:60] = 0
    return moves


@dataclass(frozen=True)
class Fitted:
    """Moves, our core, arch's own fit of them in units of their size, and arch held at our parameters."""

    moves: NDArray[np.float64]
    unit: float
    core: Garch
    result: ARCHModelResult
    fixed: ARCHModelFixedResult


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """Fit both on a long path."""
    moves = simulate(12_000, seed=1)
    unit = float(np.std(moves))
    model = arch_model(moves / unit, mean="Constant", vol="GARCH", p=1, o=1, q=1, dist="t", rescale=False)
    core = fit_garch([moves], horizon=HORIZON)
    ours = core.parameters_by_row[1].numpy() / np.array([unit, unit**2, 1, 1, 1, 1])
    return Fitted(moves, unit, core, model.fit(disp="off", show_warning=False), model.fix(ours))


def walk(core: Garch, moves: NDArray[np.float64], variance: float) -> tuple[Distribution, NDArray[np.float64]]:
    """Carry the core over moves from a variance; distributions [1, T], and the variances after each move."""
    change = torch.tensor(moves, dtype=core.df.dtype)[None, :, None]
    nothing = torch.zeros(1, len(moves), 0)
    tick = Tick(
        change=change,
        held=torch.zeros_like(change, dtype=torch.bool),
        series=torch.ones(1, dtype=torch.int64),
        past=nothing,
        future=nothing,
        elapsed=nothing,
    )
    state = initial_state(core.state_tensors(), 1, core.df) | {"variance": torch.tensor([[variance]]).to(change)}
    path, out = [], []
    for t in range(len(moves)):
        now = {f: getattr(tick, f)[:, t] for f in ("change", "held", "past", "future", "elapsed")}
        distribution, state = core.step(Tick(series=tick.series, **now), state)
        path.append(state["variance"].item())
        out.append(distribution)
    joined = {f: torch.stack([getattr(d, f) for d in out], 1) for f in Distribution.__dataclass_fields__}
    return Distribution(**joined), np.array(path)


def total_variance(distribution: Distribution) -> NDArray[np.float64]:
    """Turn the scales of Student ts into variances of the move to each step, [T, S]."""
    df = distribution.df[0, :, None].double().numpy()
    return distribution.scale[0].flatten(1).double().numpy() ** 2 * df / (df - 2)


def test_the_fit_is_archs_optimum_from_the_best_start(fitted: Fitted) -> None:
    """Our parameters are arch's to the optimiser's tolerance, and at least as likely as those of its own start."""
    scales = np.array([fitted.unit, fitted.unit**2, 1, 1, 1, 1])
    np.testing.assert_allclose(fitted.core.parameters_by_row[1], fitted.result.params * scales, rtol=0.02)
    assert fitted.fixed.loglikelihood >= fitted.result.loglikelihood - 1e-9


def test_several_starts_leave_a_poor_optimum_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A series that stood still for years is fitted with a far higher likelihood than from arch's own start alone."""
    moves = stood_still()
    several = fit_garch([moves], horizon=1).parameters_by_row[1].numpy()
    monkeypatch.setattr("models.garch.STARTS", ())
    single = fit_garch([moves], horizon=1).parameters_by_row[1].numpy()
    unit = float(np.std(moves))
    scales = np.array([unit, unit**2, 1, 1, 1, 1])
    model = arch_model(moves / unit, mean="Constant", vol="GARCH", p=1, o=1, q=1, dist="t", rescale=False)
    assert model.fix(several / scales).loglikelihood > model.fix(single / scales).loglikelihood + 10


def few_ticks() -> NDArray[np.float64]:
    """Draw moves of a cheap share quoted in sixteenths, on which the optimiser complains of a good optimum."""
    rng = np.random.default_rng(6)
    moves = rng.standard_t(3, size=1500) * 0.02 * np.exp(np.cumsum(rng.normal(size=1500) * 0.03))
    price = np.round(np.clip(2 * np.exp(np.cumsum(moves)), 0.5, 20) * 16) / 16
    return np.diff(np.log(price))


def test_the_most_likely_proper_fit_is_taken_whatever_the_optimiser_says_of_it() -> None:
    """Where starts end in complaints and integrated variances, the most likely of them is taken, not refused."""
    moves = few_ticks()
    unit = float(np.std(moves))
    model = arch_model(moves / unit, mean="Constant", vol="GARCH", p=1, o=1, q=1, dist="t", rescale=False)
    starts = (None, *map(np.array, STARTS))
    results = [model.fit(disp="off", show_warning=False, starting_values=s) for s in starts]
    assert any(r.convergence_flag for r in results)
    taken = fit_garch([moves], horizon=1).parameters_by_row[1].numpy() / np.array([unit, unit**2, 1, 1, 1, 1])
    assert model.fix(taken).loglikelihood == pytest.approx(max(r.loglikelihood for r in results), abs=1e-6)


def test_parameters_of_a_long_simulated_path_are_recovered(fitted: Fitted) -> None:
    """Each true parameter is within three and a half of arch's standard errors of the estimate."""
    scales = np.array([fitted.unit, fitted.unit**2, 1, 1, 1, 1])
    errors = fitted.result.std_err.to_numpy() * scales
    off = (fitted.core.parameters_by_row[1].numpy() - np.array([TRUE[c] for c in COLUMNS])) / errors
    assert (np.abs(off) < 3.5).all(), dict(zip(COLUMNS, off, strict=True))


def test_the_variance_path_is_archs_conditional_volatility(fitted: Fitted) -> None:
    """From arch's first variance the carried variance follows its path to float32 for 1500 steps."""
    path = (fitted.fixed.conditional_volatility * fitted.unit) ** 2
    _, ours = walk(fitted.core, fitted.moves[:1500], path[0])
    np.testing.assert_allclose(ours[:-1], path[1:1500], rtol=2e-5)


def test_variance_forecasts_of_one_and_many_steps_are_archs(fitted: Fitted) -> None:
    """The variance of the move to step s is the sum of arch's forecasts of the steps up to s, at each origin."""
    path = (fitted.fixed.conditional_volatility * fitted.unit) ** 2
    distribution, _ = walk(fitted.core, fitted.moves[:600], path[0])
    theirs = fitted.fixed.forecast(horizon=HORIZON, start=300, reindex=False).variance.to_numpy()[:300]
    expected = np.cumsum(theirs, axis=1) * fitted.unit**2
    np.testing.assert_allclose(total_variance(distribution)[300:], expected, rtol=2e-5)
    mean = np.arange(1, HORIZON + 1) * fitted.core.parameters_by_row[1, 0].item()
    np.testing.assert_allclose(distribution.loc[0, 0].flatten(), mean, rtol=1e-6)


def test_a_series_starts_at_its_long_run_variance(fitted: Fitted) -> None:
    """Before the first move step s has s times the long-run variance, and the first move updates from there."""
    mu, omega, alpha, gamma, beta, _ = fitted.core.parameters_by_row[1].tolist()
    long_run = omega / (1 - alpha - gamma / 2 - beta)
    nothing = torch.zeros(1, 0)
    first = Tick(
        change=torch.zeros(1, 1),
        held=torch.ones(1, 1, dtype=torch.bool),
        series=torch.ones(1, dtype=torch.int64),
        past=nothing,
        future=nothing,
        elapsed=nothing,
    )
    distribution, state = fitted.core.step(first, initial_state(fitted.core.state_tensors(), 1, fitted.core.df))
    one = Distribution(**{f: getattr(distribution, f)[:, None] for f in Distribution.__dataclass_fields__})
    np.testing.assert_allclose(total_variance(one)[0], long_run * np.arange(1, HORIZON + 1), rtol=1e-5)
    assert state["variance"].isnan().all()
    _, path = walk(fitted.core, np.array([-0.03]), float("nan"))
    expected = omega + (alpha + gamma) * (-0.03 - mu) ** 2 + beta * long_run
    np.testing.assert_allclose(path, expected, rtol=1e-5)


def test_the_pooled_row_is_the_median_over_the_series() -> None:
    """Row 0 takes the median of each parameter, and the df differ by row."""
    core = fit_garch([simulate(1500, seed=s) for s in (2, 3, 4)], horizon=1)
    rows = core.parameters_by_row.numpy()
    np.testing.assert_array_equal(rows[0], np.median(rows[1:], axis=0))
    assert core.df.shape == (4,)
    assert len(set(core.df[1:].tolist())) == 3


def test_an_integrated_variance_keeps_finite_forecasts() -> None:
    """Parameters whose variance has no long run give finite scales that rise with the step."""
    core = Garch(torch.tensor([[0.0, 1e-6, 0.1, 0.1, 0.9, 5.0]]).repeat(2, 1), 50)
    distribution, _ = walk(core, np.array([0.01, -0.02, 0.0]), float("nan"))
    assert torch.isfinite(distribution.quantile).all()
    assert (distribution.scale[0].flatten(1).diff(dim=-1) > 0).all()


@pytest.mark.parametrize("bad", [np.ones(249), np.full(400, 0.01)], ids=["short", "still"])
def test_a_series_that_carries_no_fit_is_refused_by_row(bad: NDArray[np.float64]) -> None:
    """A short series or one that does not vary raises FitError that names its row and what to do."""
    with pytest.raises(FitError, match=rf"series row 1 has {len(bad)} moves .* at least 250 moves that vary\. Leave"):
        fit_garch([bad], horizon=1)
