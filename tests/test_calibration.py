"""Offsets and gains are fitted on the validation origins, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from panels import DAY, garbage_from, market, panel_of
from scipy import stats

from models.conformal import ConformalConfig
from models.errors import FitError
from models.forecaster import Forecaster
from models.naive import fit_last_value
from models.observation import LEVELS, MEDIAN
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.calibration import LEAST_GAIN, calibrated, offsets, slopes
from pipeline.metrics import covered
from pipeline.windows import SplitConfig, split

PANEL, SPLIT = market(900, 800)
LEVEL = np.asarray(LEVELS)


def too_wide(horizon: int = 1) -> Forecaster:
    """Make the last value with a spread that is three times that of the panel's moves."""
    moves = [np.random.default_rng(0).normal(size=500) * 0.05] * 2
    return Forecaster("last_value", LogReturn(), fit_last_value(moves, horizon=horizon)).eval()


def test_nothing_from_the_test_split_on_is_read() -> None:
    """Garbage at and after the end of validation leaves offsets and gains bit for bit."""
    clean, dirty = (
        calibrated(too_wide(2), prices, SPLIT, ConformalConfig(track="all")).core
        for prices in (PANEL, garbage_from(PANEL, SPLIT.validation_end_time))
    )
    assert torch.equal(clean.start, dirty.start)
    assert torch.equal(clean.gain, dirty.gain)


def test_the_last_validation_price_is_read() -> None:
    """A change of the last validation prices changes the offsets: the test above can fail."""
    inside = PANEL.mask & (PANEL.time >= SPLIT.validation_end_time - 30 * DAY)[..., None]
    moved = replace(PANEL, price=np.where(inside, PANEL.price * 1.5, PANEL.price))
    first, second = (calibrated(too_wide(), p, SPLIT, ConformalConfig()).core.start for p in (PANEL, moved))
    assert not torch.equal(first, second)


def test_split_offsets_make_the_validation_split_hold_its_share() -> None:
    """With fixed offsets each interval holds its share of the prices that they were fitted on."""
    fitted = calibrated(too_wide(), PANEL, SPLIT, ConformalConfig(track="split"))
    rows = walk_forward(fitted, PANEL, SPLIT.origins(PANEL, "validation"))
    for percent in (50, 80, 95):
        assert covered(rows, percent).mean() == pytest.approx(percent / 100, abs=0.02)
    raw = walk_forward(too_wide(), PANEL, SPLIT.origins(PANEL, "validation"))
    assert covered(raw, 80).mean() > 0.95


def test_tracked_offsets_hold_through_a_change_that_came_after_the_fit() -> None:
    """Where moves double at the test split, fixed offsets fail and tracked ones hold 80 % within three points."""
    rng = np.random.default_rng(6)
    moves = rng.normal(size=6000) * np.where(np.arange(6000) < 3000, 0.01, 0.02)
    prices = panel_of([moves])
    cut = split(prices, SplitConfig(validation=0.15, test=0.5))
    share = {}
    for track in ("split", "first"):
        fitted = calibrated(too_wide(), prices, cut, ConformalConfig(track=track, memory=200))
        share[track] = covered(walk_forward(fitted, prices, cut.origins(prices, "test")), 80).mean()
    assert share["split"] < 0.55, share
    assert share["first"] == pytest.approx(0.8, abs=0.03), share


def test_off_leaves_the_forecaster_as_it_is() -> None:
    """Without calibration the very forecaster comes back."""
    forecaster = too_wide()
    assert calibrated(forecaster, PANEL, SPLIT, ConformalConfig(track="off")) is forecaster


def test_the_median_is_left_alone() -> None:
    """Offset and gain of the point forecast are zero."""
    core = calibrated(too_wide(2), PANEL, SPLIT, ConformalConfig(track="all")).core
    assert not core.start[..., MEDIAN].any()
    assert not core.gain[..., MEDIAN].any()


def test_offsets_are_ranks_of_split_conformal_prediction() -> None:
    """Of 99 gaps the levels take the ranks floor(100 τ) below and ceil(100 τ) above the median."""
    gap = np.tile(np.arange(1.0, 100.0)[:, None], (1, len(LEVELS)))
    assert offsets(gap).tolist() == pytest.approx([1, 2, 5, 10, 25, 50, 75, 90, 95, 98, 99])


def test_slopes_are_those_of_the_quantile_function() -> None:
    """On many normal gaps a slope is near 1 / density at the level."""
    gap = np.tile(np.random.default_rng(7).normal(size=(200_000, 1)), (1, len(LEVELS)))
    expected = 1 / stats.norm.pdf(stats.norm.ppf(LEVEL))
    np.testing.assert_allclose(slopes(gap), expected, rtol=0.2)


def test_slopes_stay_above_zero_where_gaps_are_all_the_same() -> None:
    """A series that stands still does not lame the tracking."""
    floor = LEAST_GAIN / stats.norm.pdf(stats.norm.ppf(LEVEL))
    np.testing.assert_allclose(slopes(np.zeros((500, len(LEVELS)))), floor)


def test_a_validation_split_without_outcomes_is_refused() -> None:
    """A validation split of holes alone is refused with what to do."""
    hole = (PANEL.time >= SPLIT.train_end_time) & (PANEL.time < SPLIT.validation_end_time)
    holes = replace(PANEL, mask=PANEL.mask & ~hole[..., None], price=np.where(hole[..., None], np.nan, PANEL.price))
    with pytest.raises(FitError, match=r"got none from step 1 on\..* give more data or a larger validation split"):
        calibrated(too_wide(), holes, SPLIT, ConformalConfig())


def test_a_horizon_beyond_the_data_is_told_from_which_step_on() -> None:
    """The first step that no validation origin reaches is named, and the setting, whatever the number of steps."""
    seen = PANEL.before(SPLIT.validation_end_time)
    first = next(s for s in range(1, 900) if not SPLIT.origins(seen, "validation", s).any())
    said = rf"every step of fit\.horizon = 900, got none from step {first} on\. Lower fit\.horizon"
    with pytest.raises(FitError, match=said) as caught:
        calibrated(too_wide(900), PANEL, SPLIT, ConformalConfig())
    assert len(str(caught.value)) < 300
