"""Labels say what they say they do, are known when they say, and read nothing after that."""

from __future__ import annotations

import numpy as np
import pytest
from panels import garbage_from, market, panel_of

from models.errors import ConfigError, DataError
from models.transforms import LogReturn
from pipeline.labels import NONE, direction, given, realised, volatility
from pipeline.windows import SplitConfig, split


def test_direction_is_the_sign_of_the_move_ahead() -> None:
    """Up where the price `steps` later is higher, not up where it is the same or lower, none at the end."""
    prices = panel_of([np.array([0.01, -0.02, 0.0, 0.03])])
    assert direction(prices, LogReturn(), 1).index.tolist() == [[1, 0, 0, 1, NONE]]
    assert direction(prices, LogReturn(), 2).index.tolist() == [[0, 0, 1, NONE, NONE]]


def test_a_hole_has_no_direction() -> None:
    """Neither the price that is missing nor the one before it is labelled."""
    prices, _ = market(300, holes=0.2)
    index, counted = direction(prices, LogReturn(), 1).index, prices.mask[..., 0]
    assert ((index == NONE)[:, :-1] == ~(counted[:, :-1] & counted[:, 1:])).all()


def test_regimes_are_as_frequent_in_train() -> None:
    """Two regimes are halves and three are thirds of the train origins of each series."""
    prices, parts = market(900, 700, holes=0.0)
    train = parts.origins(prices, "train", 10)
    for regimes in (2, 3):
        labels, _ = volatility(prices, LogReturn(), parts, window=10, regimes=regimes)
        for row in range(2):
            share = np.bincount(labels.index[row][train[row]], minlength=regimes) / train[row].sum()
            np.testing.assert_allclose(share, 1 / regimes, atol=0.01)


def test_the_present_regime_is_the_label_of_a_window_ago() -> None:
    """It is known at its moment: garbage after that leaves it, and the label of a window before."""
    prices, parts = market(600, holes=0.05)
    labels, present = volatility(prices, LogReturn(), parts, window=12, regimes=2)
    assert (present.index[:, 12:] == labels.index[:, :-12]).all()
    cut = int(prices.time[0, 450])
    wild, later = volatility(garbage_from(prices, cut), LogReturn(), parts, window=12, regimes=2)
    assert (later.index[:, :450] == present.index[:, :450]).all()
    assert (wild.index[:, :438] == labels.index[:, :438]).all()
    assert (wild.index != labels.index).any()


def test_realised_volatility_is_that_of_a_plain_loop() -> None:
    """Every window by itself gives the same, where at least half of it is known."""
    rng = np.random.default_rng(1)
    moves = np.where(rng.random((2, 60)) < 0.3, np.nan, rng.normal(size=(2, 60)))
    found = realised(moves, 7)
    for row in range(2):
        for i in range(60):
            part = moves[row, i : i + 7]
            known = part[np.isfinite(part)]
            expected = np.sqrt(np.mean(known**2)) if len(part) == 7 and len(known) >= 3.5 else np.nan
            np.testing.assert_allclose(found[row, i], expected)


def test_values_of_a_column_are_classes_and_none_is_no_label() -> None:
    """Each value is a class; where the column says nothing there is no label."""
    prices, _ = market(40, holes=0.0)
    column = np.where(np.arange(41) % 3 == 0, 2.0, -1.5)
    column[[4, 40]] = np.nan
    labels = given(prices, "regime", column[None])
    assert labels.classes == ("-1.5", "2")
    assert (labels.index[0] == np.where(np.isnan(column), NONE, column > 0)).all()


def test_what_cannot_be_labelled_is_refused() -> None:
    """The number of regimes, a column that has one value, and too short a train split are named."""
    prices, parts = market(200, holes=0.0)
    with pytest.raises(ConfigError, match="2 or 3"):
        volatility(prices, LogReturn(), parts, window=5, regimes=4)
    with pytest.raises(DataError, match="2 to 16 values at the times of the prices, got 1"):
        given(prices, "regime", np.ones((1, 201)))
    short, _ = market(30, holes=0.0)
    with pytest.raises(DataError, match="expected 100 moves"):
        volatility(short, LogReturn(), split(short, SplitConfig()), window=100, regimes=2)
