"""Heads give scipy's quantiles and losses, and quantiles that cannot cross."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from models.core import LEAST_DF
from models.errors import ConfigError
from models.heads import OF_ALL, CategoricalHead, PointHead, QuantileHead, StudentTHead
from models.observation import LEVELS, MEDIAN
from pipeline.threads import cpu_threads

HIDDEN, HORIZON, BLOCK, BATCH = 5, 3, 2, 7
AnyHead = StudentTHead | QuantileHead | PointHead | CategoricalHead
Kind = TypeVar("Kind", bound=AnyHead)


def wild(head: Kind, seed: int = 0) -> Kind:
    """Give the head large random weights in float64."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in (head.output.weight, head.output.bias):
            p.copy_(torch.randn(p.shape, generator=rng))
    return head.double()


def categorical(hidden: int, horizon: int, block: int, bins: int = 11) -> CategoricalHead:
    """Make a categorical head of eleven bins."""
    return CategoricalHead(hidden, horizon, block, bins)


def inputs(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw hidden vectors [B, H], running scales [B, M] and targets [B, S, M]."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(BATCH, HIDDEN, generator=rng, dtype=torch.float64)
    scale = torch.rand(BATCH, BLOCK, generator=rng, dtype=torch.float64) + 0.1
    return hidden, scale, torch.randn(BATCH, HORIZON, BLOCK, generator=rng, dtype=torch.float64) * 2


def distribution(
    head: AnyHead, hidden: torch.Tensor, scale: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], torch.Tensor]:
    """Give loc and scale [B, S, M], quantiles [B, S, M, Q], and df [B]."""
    shape = (len(hidden), head.horizon, head.block)
    with torch.no_grad():
        d = head.distribution(hidden, scale, torch.zeros(len(hidden), dtype=torch.int64))
    loc, spread = (x.reshape(shape).double().numpy() for x in (d.loc, d.scale))
    return loc, spread, d.quantile.reshape(*shape, len(LEVELS)).double().numpy(), d.df


@pytest.mark.parametrize("df", [2.5, 4.0, 30.0])
def test_student_quantiles_are_those_of_scipy_at_the_learned_df(df: float) -> None:
    """After freezing, quantiles are scipy's for loc, scale and df, whatever order steps and prices have."""
    head = wild(StudentTHead(HIDDEN, HORIZON, BLOCK))
    with torch.no_grad():
        head.log_df.fill_(np.log(df - LEAST_DF))
    head.freeze()
    hidden, scale, _ = inputs()
    loc, spread, quantile, frozen = distribution(head, hidden, scale)
    np.testing.assert_allclose(frozen, df, rtol=1e-6)
    expected = stats.t.ppf(np.array(LEVELS), df, loc[..., None], spread[..., None])
    np.testing.assert_allclose(quantile, expected, rtol=1e-6, atol=1e-6)


def test_location_and_scale_are_in_units_of_each_price_s_running_scale() -> None:
    """Doubling the running scale of one price of a block doubles its loc, scale and quantiles, and no other's."""
    hidden, scale, _ = inputs()
    larger = scale * torch.tensor([1.0, 2.0], dtype=torch.float64)
    for make in (StudentTHead, QuantileHead, PointHead, categorical):
        head = make(HIDDEN, HORIZON, BLOCK)
        before, after = (distribution(wild(head), hidden, s) for s in (scale, larger))
        for small, large in zip(before[:3], after[:3], strict=True):
            np.testing.assert_allclose(large[:, :, 0] / small[:, :, 0], 1, rtol=1e-12)
            np.testing.assert_allclose(large[:, :, 1] / small[:, :, 1], 2, rtol=1e-12)


@pytest.mark.parametrize("df", [2.5, 6.0, 50.0])
def test_the_student_loss_is_minus_scipys_log_density(df: float) -> None:
    """The loss of a target is -logpdf at the head's own loc, scale and df."""
    head = wild(StudentTHead(HIDDEN, HORIZON, BLOCK))
    with torch.no_grad():
        head.log_df.fill_(np.log(df - LEAST_DF))
    head.freeze()
    hidden, _, target = inputs()
    loc, scale, *_ = distribution(head, hidden, torch.ones(BATCH, BLOCK, dtype=torch.float64))
    expected = -stats.t.logpdf(target.numpy(), df, loc, scale)
    np.testing.assert_allclose(head.loss(hidden, target).detach(), expected, rtol=1e-6)


def test_the_student_head_starts_without_drift_and_with_the_root_of_the_step() -> None:
    """Before training, at a hidden vector of zero, there is no move and the scale grows with the root of the step."""
    head = StudentTHead(HIDDEN, HORIZON, BLOCK)
    loc, scale, _, df = distribution(head, torch.zeros(1, HIDDEN), torch.ones(1, BLOCK))
    assert (loc == 0).all()
    np.testing.assert_allclose(scale[0, :, 0] / scale[0, 0, 0], np.sqrt([1, 2, 3]), rtol=1e-6)
    assert df.item() == pytest.approx(6.0)


def minimise(head: AnyHead, target: torch.Tensor, steps: int) -> None:
    """Fit a head without inputs to targets."""
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    with cpu_threads(1):
        for _ in range(steps):
            optimiser.zero_grad()
            head.loss(torch.zeros(len(target), 1), target).mean().backward()
            optimiser.step()


def test_degrees_of_freedom_are_learned_from_the_data() -> None:
    """Minimising the loss on t(3) targets moves the df from 6 to about 3, and freezing makes it the served one."""
    torch.manual_seed(0)
    head = StudentTHead(1, 1, 1)
    target = torch.tensor(np.random.default_rng(0).standard_t(3, size=(3000, 1, 1)), dtype=torch.float32)
    minimise(head, target, 150)
    assert head.df.item() == pytest.approx(6.0)
    head.freeze()
    assert 2.6 < head.df.item() < 3.5
    np.testing.assert_allclose(head.standard, stats.t.ppf(np.array(LEVELS), head.df.item()), rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.1, 30))
def test_quantiles_never_cross(seed: int, size: float) -> None:
    """Whatever the weights, no level lies below the one before it."""
    head = wild(QuantileHead(HIDDEN, HORIZON, BLOCK), seed)
    hidden, scale, _ = inputs(seed)
    assert (np.diff(distribution(head, hidden * size, scale)[2]) >= 0).all()


def test_quantiles_give_the_median_the_interquartile_scale_and_no_density() -> None:
    """The location is the median, scale the interquartile range over that of the standard normal, df NaN."""
    loc, scale, quantile, df = distribution(wild(QuantileHead(HIDDEN, HORIZON, BLOCK)), *inputs()[:2])
    np.testing.assert_array_equal(loc, quantile[..., MEDIAN])
    low, high = (quantile[..., LEVELS.index(level)] for level in (0.25, 0.75))
    np.testing.assert_allclose(scale, (high - low) / (2 * stats.norm.ppf(0.75)), rtol=1e-3)
    assert df.isnan().all()


def test_the_quantile_loss_is_the_pinball_loss_of_each_level() -> None:
    """The loss is the mean over the levels of (level - 1{target < q}) · (target - q)."""
    head = wild(QuantileHead(HIDDEN, HORIZON, BLOCK))
    hidden, _, target = inputs()
    q = distribution(head, hidden, torch.ones(BATCH, BLOCK, dtype=torch.float64))[2]
    error = target.numpy()[..., None] - q
    pinball = (np.array(LEVELS) - (error < 0)) * error
    np.testing.assert_allclose(head.loss(hidden, target).detach(), pinball.mean(-1), rtol=1e-6)


def test_the_pinball_loss_finds_the_quantiles_of_the_data() -> None:
    """Minimised on a normal sample, a quarter of the data lies below the level 0.25, and so on."""
    torch.manual_seed(0)
    head = QuantileHead(1, 1, 1)
    x = np.random.default_rng(1).normal(size=1500)
    target = torch.tensor(x, dtype=torch.float32)[:, None, None]
    minimise(head, target, 250)
    q = distribution(head, torch.zeros(1, 1), torch.ones(1, 1))[2][0, 0, 0]
    np.testing.assert_allclose([(x < level).mean() for level in q], LEVELS, atol=0.02)


def test_a_point_head_gives_a_normal() -> None:
    """Quantiles are scipy's of the normal with loc and scale, and the df is infinite."""
    loc, scale, quantile, df = distribution(wild(PointHead(HIDDEN, HORIZON, BLOCK)), *inputs()[:2])
    np.testing.assert_allclose(quantile, stats.norm.ppf(LEVELS, loc[..., None], scale[..., None]), rtol=1e-6, atol=1e-6)
    assert df.isinf().all()


def test_the_squared_error_alone_teaches_location_and_body() -> None:
    """What reaches the hidden vector and the weights of the location is the gradient of the squared error, no more."""
    head = wild(PointHead(HIDDEN, HORIZON, BLOCK))
    hidden, _, target = inputs()
    hidden.requires_grad_()
    of_the_loss = torch.autograd.grad(head.loss(hidden, target).sum(), [hidden, head.output.weight])
    size = HORIZON * BLOCK
    location = torch.nn.functional.linear(hidden, head.output.weight[:size], head.output.bias[:size])
    error = (target - location.reshape(target.shape)).square().sum()
    of_the_error = torch.autograd.grad(error, [hidden, head.output.weight])
    torch.testing.assert_close(of_the_loss[0], of_the_error[0])
    torch.testing.assert_close(of_the_loss[1][:size], of_the_error[1][:size])
    assert (of_the_loss[1][size:] != 0).all()


def test_a_point_head_finds_mean_and_standard_deviation() -> None:
    """Minimised on skewed targets, the location is their mean (not their median), the scale their deviation."""
    torch.manual_seed(0)
    head, x = PointHead(1, 1, 1), np.random.default_rng(2).exponential(size=1500)
    minimise(head, torch.tensor(x, dtype=torch.float32)[:, None, None], 300)
    loc, scale, *_ = distribution(head, torch.zeros(1, 1), torch.ones(1, 1))
    assert loc.item() == pytest.approx(x.mean(), abs=0.01)
    assert scale.item() == pytest.approx(x.std(), rel=0.02)


def test_the_categorical_loss_is_the_cross_entropy_of_the_bin() -> None:
    """It is -log of the softmax at the bin of the target, mixed with a small share of all bins."""
    head = wild(categorical(HIDDEN, HORIZON, BLOCK))
    hidden, _, target = inputs()
    logits = (hidden @ head.output.weight.T + head.output.bias).reshape(*target.shape, 11)
    share = (1 - OF_ALL) * logits.softmax(-1) + OF_ALL / 11
    edges, expected = head.bins.edges.numpy(), np.empty(target.shape)
    for b, s, m in np.ndindex(*target.shape):
        bin_of = np.searchsorted(edges[s, m, 1:-1], target[b, s, m].item())
        expected[b, s, m] = -np.log(share[b, s, m, bin_of].item())
    np.testing.assert_allclose(head.loss(hidden, target).detach(), expected, rtol=1e-6)


def test_the_categorical_head_learns_two_peaks() -> None:
    """Minimised on targets at -1 and 1, a quarter lies below each quarter quantile and next to nothing between."""
    torch.manual_seed(0)
    rng = np.random.default_rng(3)
    x = rng.choice([-1.0, 1.0], size=2000, p=[0.3, 0.7]) + 0.1 * rng.normal(size=2000)
    head, target = categorical(1, 1, 1, 41), torch.tensor(x, dtype=torch.float32)[:, None, None]
    minimise(head, target, 200)
    q = distribution(head, torch.zeros(1, 1), torch.ones(1, 1))[2][0, 0, 0]
    np.testing.assert_allclose([(x < level).mean() for level in q], LEVELS, atol=0.03)
    assert q[LEVELS.index(0.25)] < -0.8
    assert q[LEVELS.index(0.5)] > 0.8


def test_tempered_probabilities_are_a_power_of_them() -> None:
    """At temperature T they, or their density, are raised to 1/T and normalised; T must be a positive number."""
    head, (hidden, *_) = wild(categorical(HIDDEN, HORIZON, BLOCK)), inputs()
    before = (head.share(hidden).detach() - OF_ALL / 11) / (1 - OF_ALL)
    head.temper(0.5)
    after = (head.share(hidden).detach() - OF_ALL / 11) / (1 - OF_ALL)
    torch.testing.assert_close(after, before**2 / (before**2).sum(-1, keepdim=True))
    width = head.bins.edges.mul_(torch.linspace(1, 2, 12)).diff()[:, :, None]
    head.temper(2.0, density=True)
    flat = (head.share(hidden).detach() - OF_ALL / 11) / (1 - OF_ALL)
    flatter = (after / width).sqrt() * width
    torch.testing.assert_close(flat, flatter / flatter.sum(-1, keepdim=True))
    with pytest.raises(ConfigError, match="temperature of bins: expected a finite number above 0, got 0"):
        head.temper(0.0)
