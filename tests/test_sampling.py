"""Sampled paths: their marginals, their dependence on seed, batch and temperature, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from panels import clustered_moves, market
from scipy import stats

from models.core import Distribution, student_quantiles
from models.errors import ConfigError, DataError, ModelError
from models.forecaster import Forecaster, observe
from models.naive import fit_last_value
from models.observation import LEVELS, MEDIAN, Forecast
from models.sampling import block_correlation, drawn, in_torch, sample_paths
from models.transforms import LogReturn, fit_transform
from pipeline.fitting import FitConfig, fit
from pipeline.moves import observed_by

MOVES = [clustered_moves(np.random.default_rng(k), 600) for k in range(3)]
NAMES = ("AAA", "BBB", "CCC")


def last_value(horizon=1):
    """Fit the Gaussian random walk to three series."""
    return Forecaster("last_value", LogReturn(), fit_last_value(MOVES, horizon=horizon)).eval()


@pytest.fixture(scope="module")
def garch():
    """Fit GARCH with t innovations to three series of clustered moves, and calibrate its quantiles."""
    prices, parts = market(900, 900, 900, holes=0.0, late=0)
    return fit("garch", prices, parts, LogReturn(), FitConfig()), prices


def warmed(forecaster, prices):
    """Carry a forecaster over a panel: its last forecast in numpy, and the state."""
    with torch.no_grad():
        forecast, state = forecaster.forward(observed_by(forecaster, prices))
    last = {name: getattr(forecast, name)[:, -1].numpy() for name in ("quantile", "loc", "scale", "df")}
    return Forecast(**last), {name: x.numpy() for name, x in state.items()}


def paths_of(forecaster, state, price, **options):
    """Draw paths of the three series with their own parameters."""
    given = {"n": 50, "horizon": 6, "seed": 1, "names": NAMES, "series": np.arange(1, 4)} | options
    return sample_paths(in_torch(forecaster), state, price, **given)


def test_the_first_step_has_the_marginals_of_the_published_quantiles(garch):
    """Of each level, the share of draws below its calibrated quantile is the level, within binomial bounds."""
    forecaster, prices = garch
    published, state = warmed(forecaster, prices)
    n = 20_000
    first = paths_of(forecaster, state, state["price"], n=n, horizon=1)[:, :, 0, 0]
    below = (first[:, :, None] <= published.quantile[:, None, 0, 0]).mean(axis=1)
    level = np.array(LEVELS)
    assert np.all(np.abs(below - level) < 4.5 * np.sqrt(level * (1 - level) / n))
    density = LogReturn().invert(
        torch.from_numpy(state["price"]),
        torch.from_numpy(published.loc[:, 0, 0, None] + published.scale[:, 0, 0, None] * student_quantiles(5.0)),
        torch.zeros(3, dtype=torch.int64),
        (1, 1),
    )
    assert np.abs(density.numpy() - published.quantile[:, 0, 0]).max() > 0.01, "calibration moved nothing: no test"


@pytest.mark.parametrize("df", [2.5, 6.0, np.inf])
def test_a_student_t_is_drawn_as_it_is(df):
    """From its eleven quantiles alone the draws have the t's distribution, tails beyond the levels included."""
    normal = stats.norm.ppf((np.arange(4001) + 0.5) / 4001)
    score = stats.t.ppf(stats.norm.cdf(normal), df)
    knots = np.broadcast_to(student_quantiles(df), (len(score), len(LEVELS)))
    draws = drawn((0.3 + 2 * knots)[:, None], score[:, None], knots, 1.0)
    np.testing.assert_allclose(draws[:, 0], 0.3 + 2 * score, rtol=1e-9)


def test_quantiles_of_any_form_are_met_and_never_cross():
    """At the score of a level the draw is its quantile, and a higher score gives a higher draw also past the ends."""
    rng = np.random.default_rng(4)
    quantile = np.sort(rng.standard_t(2, size=(200, 1, len(LEVELS))), axis=-1)
    knots = np.broadcast_to(student_quantiles(4.0), (200, len(LEVELS)))
    for place in range(len(LEVELS)):
        at = drawn(quantile, knots[:, place, None], knots, 1.0)
        np.testing.assert_allclose(at[:, 0], quantile[:, 0, place], rtol=1e-12, atol=1e-12)
    scores = np.linspace(-30, 30, 301)
    rising = np.stack([drawn(quantile, np.full((200, 1), s), knots, 1.0)[:, 0] for s in scores])
    assert (np.diff(rising, axis=0) >= -1e-12).all()


def test_paths_of_a_random_walk_have_its_direct_distribution_at_every_step():
    """Fed back ten times, the sampled price has the distribution that the model gives for step ten at once (KS)."""
    forecaster, start = last_value(horizon=10), np.full((3, 1), 100.0)
    _, state = forecaster.step(observe(torch.from_numpy(start), horizon=10), forecaster.init_state(3))
    series = torch.arange(1, 4)
    direct, _ = forecaster.step(observe(torch.full((3, 1), torch.nan), series=series, horizon=10), state)
    paths = np.log(paths_of(forecaster, {k: x.numpy() for k, x in state.items()}, start, n=4000, horizon=10) / 100)
    for b in range(3):
        for step in (1, 5, 10):
            law = stats.norm(direct.loc[b, step - 1, 0].item(), direct.scale[b, step - 1, 0].item())
            assert stats.kstest(paths[b, :, step - 1, 0], law.cdf).pvalue > 1e-3
    wider = stats.norm(0, 1.1 * direct.scale[0, 9, 0].item())
    assert stats.kstest(paths[0, :, 9, 0], wider.cdf).pvalue < 1e-3


def test_volatility_clusters_along_the_paths_of_garch(garch):
    """The state is carried: sizes of neighbouring moves of one path are related, those of a random walk are not."""
    forecaster, prices = garch
    _, state = warmed(forecaster, prices)

    def relation(model, state):
        paths = paths_of(model, state, np.full((3, 1), 100.0), n=400, horizon=40)[..., 0]
        size = np.abs(np.diff(np.log(paths), axis=-1))
        size = size - size.mean(axis=(1,), keepdims=True)
        return np.corrcoef(size[..., 1:].ravel(), size[..., :-1].ravel())[0, 1]

    flat = {name: x.numpy() for name, x in last_value().init_state(3).items()}
    assert relation(forecaster, state) > 0.1
    assert abs(relation(last_value(), flat)) < 0.03


def test_temperature_zero_is_the_path_of_medians_and_more_of_it_is_wider(garch):
    """At zero all paths are the chain of medians; the spread of the first step grows in proportion."""
    forecaster, prices = garch
    _, state = warmed(forecaster, prices)
    cold = paths_of(forecaster, state, state["price"], temperature=0.0)
    assert (cold == cold[:, :1]).all()
    carried, price = {k: torch.from_numpy(x) for k, x in state.items()}, torch.full((3, 1), torch.nan)
    for h in range(6):
        with torch.no_grad():
            forecast, carried = forecaster.step(observe(price.double(), series=torch.arange(1, 4)), carried)
        price = forecast.quantile[:, 0, :, MEDIAN]
        np.testing.assert_allclose(cold[:, 0, h], price.numpy(), rtol=1e-9)
    usual, hot = (np.log(paths_of(forecaster, state, state["price"], temperature=t)[:, :, 0]) for t in (1.0, 2.5))
    middle = np.log(cold[:, :, 0])
    np.testing.assert_allclose(hot - middle, 2.5 * (usual - middle), atol=1e-12)


def test_equal_seeds_give_equal_bits_and_others_do_not(garch):
    """The same arguments twice are the same paths; another seed is another set of them."""
    forecaster, prices = garch
    _, state = warmed(forecaster, prices)
    once, again, other = (paths_of(forecaster, state, state["price"], seed=seed) for seed in (3, 3, 4))
    assert once.tobytes() == again.tobytes()
    assert not np.isclose(once, other, rtol=1e-6).any()


def test_other_series_and_more_paths_change_no_path(garch):
    """A series alone, or with more paths, draws what it draws beside others: its stream is that of its name."""
    forecaster, prices = garch
    _, state = warmed(forecaster, prices)
    whole = paths_of(forecaster, state, state["price"])
    alone = {k: x[1:2] for k, x in state.items()}
    one = paths_of(forecaster, alone, alone["price"], names=("BBB",), series=np.array([2]))
    np.testing.assert_allclose(one[0], whole[1], rtol=1e-6)
    more = paths_of(forecaster, state, state["price"], n=83)
    np.testing.assert_allclose(more[:, :50], whole, rtol=1e-6)


def test_a_state_for_each_path_is_taken_as_it_is(garch):
    """B·n rows of state are the starts of the paths, path by path within a series."""
    forecaster, prices = garch
    _, state = warmed(forecaster, prices)
    each = {name: np.repeat(x, 50, axis=0) for name, x in state.items()}
    both = [paths_of(forecaster, s, state["price"]) for s in (state, each)]
    assert both[0].tobytes() == both[1].tobytes()
    with pytest.raises(DataError, match=r"expected 3 rows, one a series, or 150, one a path"):
        paths_of(forecaster, {name: x[:2] for name, x in state.items()}, state["price"])


def test_a_wild_state_begins_wider_paths(garch):
    """After large moves GARCH draws wider paths than after small ones, from the same price."""
    forecaster, prices = garch
    spread = {}
    for name, factor in (("wild", 1.06), ("calm", 1.0)):
        swing = prices.price.copy()
        swing[:, -20:] = swing[:, -21:-20] * (factor ** (np.arange(20) % 2)).reshape(1, 20, *[1] * (swing.ndim - 2))
        _, state = warmed(forecaster, replace(prices, price=swing))
        spread[name] = np.log(paths_of(forecaster, state, np.full((3, 1), 100.0), n=300)[:, :, -1, 0]).std(axis=1)
    assert (spread["wild"] > 2 * spread["calm"]).all()


def test_prices_that_cross_zero_stay_on_their_own_scale():
    """With the asinh transform, paths at step 1 have the published quantiles, negative ones among them."""
    rng = np.random.default_rng(8)
    transform = fit_transform("asinh", [rng.normal(size=400).cumsum() for _ in range(3)])
    forecaster = Forecaster("last_value", transform, fit_last_value(MOVES, horizon=1)).eval()
    price = np.zeros((3, 1))
    _, state = forecaster.step(observe(torch.from_numpy(price), series=torch.arange(1, 4)), forecaster.init_state(3))
    published, _ = forecaster.step(observe(torch.full((3, 1), torch.nan), series=torch.arange(1, 4)), state)
    first = paths_of(forecaster, {k: x.numpy() for k, x in state.items()}, price, n=8000, horizon=1)[:, :, 0, 0]
    below = (first[:, :, None] <= published.quantile[:, None, 0, 0].numpy()).mean(axis=1)
    level = np.array(LEVELS)
    assert np.all(np.abs(below - level) < 4.5 * np.sqrt(level * (1 - level) / 8000))
    assert (first < 0).any(axis=1).all()


# ------------------------------------------------------------------------------------------------ blocks, covariates


class Blocks(torch.nn.Module):
    """A core of blocks of three prices: moves of a normal with scales 1, 2 and 3 percent, and a covariate as location.

    The location of step s is the covariate known ahead of that step.
    """

    kind, horizon, block, past, future, elapsed = "blocks", 1, 3, 0, 1, False

    def __init__(self):
        super().__init__()
        self.register_buffer("df", torch.tensor([float("inf")]))

    def state_tensors(self):
        """Carry nothing."""
        return ()

    def step(self, tick, state):
        """Forecast the covariate as location."""
        loc = tick.future[:, :, None, :].expand(-1, 1, 3, 1)
        scale = torch.tensor([0.01, 0.02, 0.03])[None, None, :, None].expand_as(loc)
        standard = torch.from_numpy(student_quantiles(np.inf)).float()
        df = self.df.expand(len(loc))
        return Distribution(loc=loc, scale=scale, quantile=loc + scale * standard, df=df), state


def blocks(**options):
    """Draw paths of the block model; its covariate is 0.1 times the step."""
    model = in_torch(Forecaster("blocks", LogReturn(), Blocks(), (), ("load",)))

    def beside(h):
        return np.zeros((1, 0), np.float32), np.full((1, 1, 1), 0.1 * (h + 1), np.float32)

    given = {"n": 6000, "horizon": 2, "seed": 0, "names": ("A",), "beside": beside} | options
    return sample_paths(model, model.initial(1), np.full((1, 3), 50.0), **given)


def test_prices_of_a_block_are_drawn_together_by_the_correlation_given():
    """Without one they are independent; with one the correlation of log prices is that, and the marginals stay."""
    wanted = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, -0.3], [0.0, -0.3, 1.0]])
    apart, together = (np.log(blocks(correlation=c)[0, :, 0] / 50) for c in (None, wanted))
    np.testing.assert_allclose(np.corrcoef(apart, rowvar=False), np.eye(3), atol=0.05)
    np.testing.assert_allclose(np.corrcoef(together, rowvar=False), wanted, atol=0.05)
    for moves_of in (apart, together):
        np.testing.assert_allclose(moves_of.std(axis=0), [0.01, 0.02, 0.03], rtol=0.05)


def test_covariates_known_ahead_are_those_of_each_step():
    """Step h is located by what was known of it one step before."""
    move = np.log(blocks()[0, :, :, 0] / 50)
    np.testing.assert_allclose(move.mean(axis=0), [0.1, 0.1 + 0.2], atol=0.002)


def test_the_correlation_of_blocks_is_found_again_from_their_pits():
    """PITs of a Gaussian copula give back its correlation; rows with an unknown one are left out."""
    rng = np.random.default_rng(2)
    wanted = np.array([[1.0, 0.6], [0.6, 1.0]])
    pit = stats.norm.cdf(rng.multivariate_normal([0, 0], wanted, size=8000))
    pit[5] = np.nan
    np.testing.assert_allclose(block_correlation(pit), wanted, atol=0.03)
    with pytest.raises(DataError, match="came 3 whole rows"):
        block_correlation(pit[:4][:3])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"horizon": 0}, ConfigError, "horizon, steps of a path: expected at least 1, got 0"),
        ({"n": 0}, ConfigError, "n, paths a series: expected at least 1, got 0"),
        ({"temperature": -0.1}, ConfigError, "temperature: expected a finite number of at least 0"),
        ({"temperature": float("nan")}, ConfigError, "temperature: expected a finite number"),
        ({"seed": -1}, ConfigError, "seed: expected a whole number of at least 0, got -1"),
        ({"beside": None}, ModelError, "it reads load, whose future is not given"),
        ({"names": ("A", "B")}, DataError, r"expected start prices \[2, 3\]"),
        ({"correlation": np.full((3, 3), -0.9) + 1.9 * np.eye(3)}, DataError, "no negative eigenvalue"),
        ({"correlation": np.eye(2)}, DataError, r"expected \[3, 3\]"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_what_was_expected(options, error, said):
    """Ranges, covariates, names and correlations are checked before anything is drawn."""
    with pytest.raises(error, match=said):
        blocks(**options)


def test_a_start_outside_the_domain_is_refused_by_name():
    """The log of a price that is not positive has no path."""
    forecaster = last_value()
    state = {k: x.numpy() for k, x in forecaster.init_state(3).items()}
    with pytest.raises(DataError, match=r"BBB: a path of last_value cannot begin at \[0.0\]"):
        paths_of(forecaster, state, np.array([[1.0], [0.0], [3.0]]))
