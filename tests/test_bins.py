"""Bins are equally full on the train targets, their quantiles invert a distribution function, their rows are mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bins import LEAST_WIDTH, Bins
from models.errors import FitError
from models.observation import LEVELS

RNG = np.random.default_rng(8)


def fitted(x: np.ndarray, count: int) -> Bins:
    """Fit bins of one price to targets that all count."""
    bins, target = Bins(1, 1, count), torch.tensor(x).reshape(1, -1, 1, 1)
    bins.fit(target, torch.ones_like(target))
    return bins


def test_bins_are_equally_full_and_the_outer_ones_have_the_mean_of_their_tail() -> None:
    """Each bin holds its share of the targets, and the middle of an outer one is the mean of the targets in it."""
    x = RNG.standard_t(4, size=4100)
    bins = fitted(x, 41)
    place = bins.of(torch.tensor(x).reshape(-1, 1, 1)).numpy().ravel()
    assert np.ptp(np.bincount(place, minlength=41)) <= 20
    middle = (bins.edges[0, 0, 1:] + bins.edges[0, 0, :-1]) / 2
    for outer in (0, 40):
        assert middle[outer].item() == pytest.approx(x[place == outer].mean(), abs=2e-2)


def test_each_step_and_price_has_edges_of_its_own_from_what_counts() -> None:
    """The edges scale with the targets of a step and a price, and targets of weight 0 change nothing."""
    x = torch.tensor(RNG.normal(size=(2, 300, 2, 2)))
    weight = (torch.arange(300) < 250).double()[None, :, None, None].expand_as(x)
    sizes = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    clean, dirty = Bins(2, 2, 5), Bins(2, 2, 5)
    clean.fit(x[:, :, :1, :1] * sizes, weight)
    dirty.fit(torch.where(weight > 0, x[:, :, :1, :1] * sizes, 1e9), weight)
    assert torch.equal(clean.edges, dirty.edges)
    torch.testing.assert_close(clean.edges[1, 1], 8 * clean.edges[0, 0], rtol=1e-2, atol=1e-2)


def test_moves_that_are_mostly_the_same_number_leave_bins_of_some_width() -> None:
    """Where nine in ten targets are zero the edges still rise, and every target has a bin."""
    x = np.where(RNG.random(1000) < 0.9, 0.0, RNG.normal(size=1000))
    bins = fitted(x, 21)
    assert (bins.edges.diff() > LEAST_WIDTH / 2).all()
    assert bins.of(torch.zeros(1, 1, 1)).item() in range(21)


def test_fewer_targets_than_bins_are_refused() -> None:
    """The message names both numbers and the setting."""
    with pytest.raises(FitError, match=r"got 20 for 41 bins of step 1\. Give more data, or lower fit\.network\.bins"):
        fitted(RNG.normal(size=20), 41)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([3, 11, 41]))
def test_quantiles_invert_the_piecewise_linear_distribution_function(seed: int, count: int) -> None:
    """They rise, and are numpy's interpolation of the edges at the cumulative probabilities."""
    rng = np.random.default_rng(seed)
    bins = Bins(2, 3, count).double()
    bins.edges.copy_(torch.tensor(rng.normal(size=(2, 3, count + 1))).sort(-1).values)
    share = rng.dirichlet(np.ones(count), size=(4, 2, 3)) * 0.99 + 0.01 / count
    q = bins.quantiles(torch.tensor(share)[..., None, :]).numpy()
    assert (np.diff(q) > 0).all()
    for place in np.ndindex(4, 2, 3):
        total = np.concatenate([[0.0], share[place].cumsum()])
        np.testing.assert_allclose(q[place], np.interp(bins.levels[:, 0], total, bins.edges[place[1:]]), atol=1e-6)
    assert q.shape[-1] == len(LEVELS)


def test_a_move_in_the_middle_of_a_bin_reads_the_row_of_that_bin() -> None:
    """Between two middles it reads a mixture, beyond the outer ones their rows, for each price of a block."""
    bins, table = Bins(1, 2, 5), torch.tensor(RNG.normal(size=(5, 3)), dtype=torch.float32)
    middle = (bins.edges[0, :, 1:] + bins.edges[0, :, :-1]) / 2
    for k in range(5):
        read = bins.rows(table, torch.stack([middle[0, k], middle[1, 4 - k]])[None])
        torch.testing.assert_close(read, torch.cat([table[k], table[4 - k]])[None])
    between = bins.rows(table, torch.stack([middle[0, :2].mean(), torch.tensor(99.0)])[None])
    torch.testing.assert_close(between, torch.cat([table[:2].mean(0), table[4]])[None])
