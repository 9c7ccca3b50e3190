"""GARCH by the hour of the week divides by the pattern, carries the rest as GARCH, and multiplies again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.core import Tick, initial_state
from models.diurnal import HOURS, LEAST_FACTOR, SLOTS, Diurnal, factor_table, factors_of, fit_diurnal
from models.errors import FitError
from models.garch import Garch

Moves = NDArray[np.float64]
PARAMETERS = [1e-4, 2e-6, 0.06, 0.04, 0.88, 5.0]
HORIZON = 3


def pattern() -> Moves:
    """Give factors of a week with a busy afternoon and quiet weekends; their squares have mean one."""
    hour = np.arange(SLOTS) % HOURS
    factor = np.where((hour >= 12) & (hour < 18), 2.5, 0.5) * np.where(np.arange(SLOTS) >= 120, 0.4, 1.0)
    return factor / np.sqrt(np.mean(factor**2))


def simulate(weeks: int, seed: int) -> tuple[Moves, NDArray[np.int64]]:
    """Draw hourly moves with that pattern around a GARCH, and their hours of the week."""
    rng, slot = np.random.default_rng(seed), np.tile(np.arange(SLOTS), weeks)
    mu, omega, alpha, gamma, beta, nu = PARAMETERS
    shock = rng.standard_t(nu, size=len(slot)) * np.sqrt((nu - 2) / nu)
    variance, u = 4e-5, np.empty(len(slot))
    for t, z in enumerate(shock):
        e = np.sqrt(variance) * z
        u[t] = mu + e
        variance = omega + (alpha + gamma * (e < 0)) * e**2 + beta * variance
    return u * pattern()[slot], slot


def ticks(r: Moves, past: Moves, future: Moves) -> Tick:
    """Give moves of one series, row 1, with hours of the origins [T] and of the targets [T, S]."""
    change = torch.tensor(r, dtype=torch.float32)[None, :, None]
    return Tick(
        change=change,
        held=torch.zeros_like(change, dtype=torch.bool),
        series=torch.ones(1, dtype=torch.int64),
        past=torch.tensor(past, dtype=torch.float32)[None, :, None],
        future=torch.tensor(future, dtype=torch.float32)[None, :, :, None],
        elapsed=torch.ones(1, len(r)),
    )


def cores(factor: Moves) -> tuple[Diurnal, Garch]:
    """Make a core with factors, and the GARCH inside it."""
    garch = Garch(torch.tensor([PARAMETERS] * 2, dtype=torch.float64), HORIZON)
    return Diurnal(garch, torch.tensor(np.stack([factor, factor]))), garch


def weeks_of(slot: NDArray[np.int64]) -> tuple[Moves, Moves]:
    """Give hours of origins and of the targets after them."""
    return slot.astype(float), ((slot[:, None] + np.arange(1, HORIZON + 1)) % SLOTS).astype(float)


def test_without_a_pattern_it_is_garch() -> None:
    """With all factors one, location and scale of every step are those of GARCH."""
    r, slot = simulate(2, 1)
    diurnal, garch = cores(np.ones(SLOTS))
    given = ticks(r, *weeks_of(slot))
    ours, _ = diurnal.unroll(given, initial_state(diurnal.state_tensors(), 1, diurnal.df))
    theirs, _ = garch.unroll(given, initial_state(garch.state_tensors(), 1, garch.df))
    np.testing.assert_allclose(ours.scale, theirs.scale, rtol=2e-6)
    np.testing.assert_allclose(ours.loc, theirs.loc, rtol=2e-6)


def test_the_variance_of_many_steps_adds_up_what_each_hour_brings() -> None:
    """The squared scale of step s is the sum, over the steps up to it, of factor² times GARCH's own increment."""
    r, slot = simulate(2, 2)
    diurnal, garch = cores(pattern())
    past, future = weeks_of(slot)
    ours, _ = diurnal.unroll(ticks(r, past, future), initial_state(diurnal.state_tensors(), 1, diurnal.df))
    adjusted = ticks(r / pattern()[slot], past, future)
    theirs, _ = garch.unroll(adjusted, initial_state(garch.state_tensors(), 1, garch.df))
    total = theirs.scale[0, :, :, 0, 0].double().numpy() ** 2
    each = np.diff(total, axis=1, prepend=0.0)
    factor = pattern()[future.astype(int)]
    expected = np.sqrt(np.cumsum(each * factor**2, axis=1))
    np.testing.assert_allclose(ours.scale[0, :, :, 0, 0], expected, rtol=1e-4)
    np.testing.assert_allclose(ours.loc[0, :, :, 0, 0], PARAMETERS[0] * np.cumsum(factor, axis=1), rtol=1e-5)


def test_a_pattern_that_drew_the_moves_is_found_again() -> None:
    """From two years of hours the factors come near the true ones, half of them within a tenth; mean square one."""
    r, slot = simulate(104, 3)
    factor = factors_of(r, slot, 1)
    np.testing.assert_allclose(factor, pattern(), rtol=0.5)
    assert np.median(np.abs(factor / pattern() - 1)) < 0.1
    assert np.mean(factor[slot] ** 2) == pytest.approx(1.0)


def test_with_few_weeks_an_hour_of_the_week_is_drawn_to_the_hour_of_the_day() -> None:
    """After three weeks the factors of one hour differ far less over the days than raw means do."""
    r, slot = simulate(3, 4)
    weekday = slot < 120
    factor = factors_of(r[weekday], slot[weekday], 1)
    raw = np.array([np.abs(r[weekday][slot[weekday] == s]).mean() for s in range(120)]).reshape(-1, HOURS)
    ours = factor[:120].reshape(-1, HOURS)
    assert np.median(ours.std(0) / ours.mean(0)) < 0.4 * np.median(raw.std(0) / raw.mean(0))


def test_an_hour_of_a_closed_market_has_the_factor_of_the_opening() -> None:
    """Where no move ended on the train split, the next move will come in the next hour that has any."""
    r, slot = simulate(40, 5)
    weekday = (slot < 117) | (slot >= 166)
    factor = factors_of(r[weekday], slot[weekday], 1)
    assert (factor[117:166] == factor[166]).all()


def test_quiet_hours_keep_a_factor() -> None:
    """An hour in which nothing ever moved has the least factor, not zero."""
    r, slot = simulate(400, 6)
    factor = factors_of(np.where(slot % HOURS == 3, 0.0, r), slot, 1)
    assert (factor > LEAST_FACTOR / 3).all()
    assert factor[3] < 0.1


def test_a_series_that_stands_still_has_factors_of_one_and_no_say_in_those_of_others() -> None:
    """Beside series that move, one that does not has no hours, and leaves the row of series never seen as it was."""
    (one, slot), (two, _) = simulate(5, 10), simulate(5, 11)
    table = factor_table([one, np.zeros(len(slot)), two], [slot, slot, slot])
    assert (table[2] == 1).all()
    assert torch.equal(table[[0, 1, 3]], factor_table([one, two], [slot, slot]))


def test_the_adjusted_garch_is_more_likely_out_of_sample() -> None:
    """On moves with a pattern, the log score of the next move gains much over the same GARCH without factors."""
    r, slot = simulate(80, 7)
    cut = 50 * SLOTS
    fitted = fit_diurnal([r[:cut]], [slot[:cut]], horizon=HORIZON)
    flat = fit_diurnal([r[:cut]], [np.tile(np.arange(2), cut // 2)], horizon=HORIZON)
    flat.factors.factor.fill_(1.0)
    past, future = weeks_of(slot)
    scores = []
    for core in (fitted, flat):
        made, _ = core.unroll(ticks(r, past, future), initial_state(core.state_tensors(), 1, core.df))
        law = torch.distributions.StudentT(
            made.df[0, cut:-1], made.loc[0, cut:-1, 0, 0, 0], made.scale[0, cut:-1, 0, 0, 0]
        )
        scores.append(law.log_prob(torch.tensor(r[cut + 1 :])).mean().item())
    assert scores[0] > scores[1] + 0.1


def test_prices_of_one_hour_of_the_day_are_refused() -> None:
    """Daily prices have one slot: the error names the row, the hour and the kind to use instead."""
    r, slot = simulate(300, 8)
    daily = slot % HOURS == 16
    with pytest.raises(
        FitError, match=r"all moves of series row 1 end in hour 16 of the day; .*garch is the same"
    ) as caught:
        fit_diurnal([r[daily]], [slot[daily]], horizon=1)
    assert caught.value.row == 1


@pytest.mark.parametrize("bad", [np.zeros(0), np.ones(1), np.full(400, 0.01)])
def test_a_series_that_carries_no_fit_is_refused_by_row(bad: Moves) -> None:
    """No moves, one, or none that vary raise FitError that names the row and the need."""
    with pytest.raises(FitError, match=rf"series row 1 has {len(bad)} moves .* at least 250 moves that vary"):
        fit_diurnal([bad], [np.arange(len(bad)) % SLOTS], horizon=1)
