"""Forecasters put together are the average of their quantiles, and a density where all have one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from test_contract import KINDS, MOVES, ensemble, recurrent

from models.checks import prices
from models.ensemble import Ensemble, EnsembleConfig, common_df
from models.errors import ConfigError, ModelError
from models.forecaster import Forecaster
from models.garch import fit_garch
from models.observation import LEVELS
from models.transforms import LogReturn


@torch.no_grad()
def test_quantiles_location_and_scale_are_weighted_averages() -> None:
    """On the transformed scale each published number is the weighted mean of the members' own."""
    cores = [recurrent("lstm"), recurrent("gru"), fit_garch(MOVES, horizon=1)]
    o = prices(Forecaster("one", LogReturn(), cores[0]), np.random.default_rng(1))
    whole, _, _ = (f := Forecaster("mix", LogReturn(), ensemble(*cores))).unroll(o, f.init_state(3))
    for part in ("quantile", "loc", "scale"):
        own = [
            getattr(g.unroll(o, g.init_state(3))[0], part) for g in (Forecaster("one", LogReturn(), c) for c in cores)
        ]
        expected = (own[0] + 2 * own[1] + 3 * own[2]) / 6
        np.testing.assert_allclose(getattr(whole, part), expected, rtol=2e-5, atol=1e-8)


@torch.no_grad()
def test_of_equal_degrees_of_freedom_quantiles_are_those_of_the_density() -> None:
    """Networks of one df average to a Student t of that df, whatever their locations and scales."""
    core = ensemble(recurrent("lstm"), recurrent("gru"), recurrent("rnn"))
    f = Forecaster("mix", LogReturn(), core)
    made, _, _ = f.unroll(prices(f, np.random.default_rng(2)), f.init_state(3))
    assert core.df.tolist() == pytest.approx([6.0])
    standard = torch.tensor(stats.t.ppf(LEVELS, 6.0))
    np.testing.assert_allclose(made.quantile, made.loc + made.scale * standard, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("members", "bound"), [((5.0, 6.5, 8.0), 0.02), ((4.0, float("inf")), 0.05)])
def test_of_unequal_degrees_of_freedom_the_density_is_near(members: tuple[float, ...], bound: float) -> None:
    """No published quantile is further than a few hundredths of a scale from that of the density, in between in df."""
    weights = torch.full((len(members),), 1 / len(members))
    (df,) = common_df([torch.tensor([m]) for m in members], weights.double()).tolist()
    assert min(members) < df < max(members)
    average = np.mean([stats.t.ppf(LEVELS, m) for m in members], axis=0)
    assert np.abs(stats.t.ppf(LEVELS, df) - average).max() < bound


def test_a_row_of_parameters_keeps_its_own_degrees_of_freedom() -> None:
    """A member of a row a series and one of a single row give a row a series; NaN of one is NaN of all."""
    one, two = torch.tensor([6.0]), torch.tensor([6.0, 4.0, float("inf")])
    half = torch.tensor([0.5, 0.5]).double()
    df = common_df([one, two], half)
    assert df[0] == 6
    assert 4 < df[1] < 6 < df[2] < 30
    assert common_df([one, torch.tensor([float("nan")])], half).isnan().all()


def test_members_that_read_other_covariates_are_refused() -> None:
    """Two of two past covariates and one without go together; one of three does not."""
    reads = {n: recurrent("gru", past=n) for n in (0, 2, 3)}
    assert ensemble(reads[0], reads[2]).past == 2
    with pytest.raises(ModelError, match=r"same past covariates, or none; they read \[2, 3\]"):
        ensemble(reads[2], reads[3])
    with pytest.raises(ModelError, match=r"one horizon and block, got \[\(1, 1\), \(2, 1\)\]"):
        ensemble(reads[0], recurrent("gru", horizon=2))


def test_every_tensor_of_the_state_says_whose_it_is() -> None:
    """State tensors are the members' own behind their number, and none is lost."""
    core = KINDS["mix"]()
    assert isinstance(core, Ensemble)
    expected = [f"{k}.{s.name}" for k, member in enumerate(core.members) for s in member.state_tensors()]
    assert [s.name for s in core.state_tensors()] == expected
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("settings", [{"members": 1}, {"mix": ("ar",)}, {"mix": ("ar", "ar")}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    """One member is none, and no kind stands twice in a mix."""
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}: expected"):
        EnsembleConfig(**settings)
