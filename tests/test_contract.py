"""The step contract on every forecaster: models/checks.py run on each kind, fitted or freshly made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.autoregressive import AutoregressiveConfig, fit_autoregressive
from models.checks import CHECKS, Check
from models.conformal import Conformal
from models.core import Core, Tick
from models.dayahead import DayAhead, DayAheadConfig
from models.decoder import DecoderConfig
from models.diurnal import fit_diurnal
from models.egarch import fit_egarch
from models.ensemble import Ensemble
from models.errors import DataError
from models.forecaster import Forecaster, observe
from models.garch import fit_garch
from models.har import HarConfig, fit_har
from models.linear import ArxConfig, LearConfig, fit_linear, shape_of
from models.naive import fit_drift, fit_last_value
from models.network import Network, NetworkConfig
from models.observation import LEVELS
from models.seasonal import Seasonal
from models.transformer import TransformerConfig
from models.transforms import AsinhDifference, LogReturn

MOVES = list(np.random.default_rng(7).standard_t(5, size=(3, 600)) * 0.01)


def autoregressive(*phi: list[float]) -> Core:
    """Fit on moves that are autoregressive with these coefficients, a list a series."""
    moves = [r.copy() for r in MOVES]
    for r, coefficients in zip(moves, phi, strict=True):
        for t in range(len(coefficients), len(r)):
            r[t] += r[t - len(coefficients) : t][::-1] @ coefficients
    return fit_autoregressive(moves, horizon=3, config=AutoregressiveConfig(max_lags=5, residuals="t"))


LEAR = LearConfig(lags=(1, 2), targets_back=(1, 3), windows=(60, 200))


def linear(config: ArxConfig | LearConfig, *, horizon: int = 1, block: int = 1, past: int = 0, **ahead: int) -> Core:
    """Fit on simulated moves of three series with covariates, of which the last ahead may be the weekday."""
    rng, shape = np.random.default_rng(4), {"horizon": horizon, "block": block, "past": past, "future": 0} | ahead
    change = torch.tensor(rng.standard_t(5, size=(3, 300, block)) * 0.01, dtype=torch.float32)
    ticks = Tick(
        change=change,
        held=torch.zeros_like(change, dtype=torch.bool),
        series=torch.tensor([1, 2, 3]),
        past=torch.tensor(rng.normal(size=(3, 300, past)), dtype=torch.float32),
        future=torch.tensor(rng.normal(size=(3, 300, horizon, shape["future"])), dtype=torch.float32),
        elapsed=torch.ones(3, 300),
    )
    targets = torch.tensor(rng.normal(size=(3, 300, horizon, block)) * 0.01)
    return fit_linear(ticks, targets, shape_of(config, **shape), config)


def recurrent(kind: str, **settings: object) -> Core:
    """Make a network with random weights."""
    shape = {k: settings.pop(k) for k in ("horizon", "block", "past", "future", "series", "columns") if k in settings}
    torch.manual_seed(3)
    return Network(kind, NetworkConfig(hidden=8, **settings), unit=0.01, **shape)  # type: ignore[arg-type]


HOURLY = torch.tensor(np.random.default_rng(6).uniform(0.3, 3.0, size=(4, 168)))
"""Factors of the hour of the week."""


def conformal(core: Core, tracked: int) -> Core:
    """Calibrate a core by offsets that are not zero and gains that are felt."""
    shape = (core.horizon, core.block, len(LEVELS))
    start = torch.tensor(np.random.default_rng(5).normal(size=shape)).sort(-1).values * 0.1
    return Conformal(core, start, torch.full((tracked, *shape[1:]), 0.05))


def dayahead(**settings: object) -> Core:
    """Make an ensemble for blocks of four prices with two covariates and the weekday, with random weights."""
    torch.manual_seed(3)
    return DayAhead(DayAheadConfig(hidden=6, width=8, **settings), block=4, future=3, series=3)  # type: ignore[arg-type]


def ensemble(*cores: Core) -> Core:
    """Put cores together by unequal weights."""
    return Ensemble("mix", cores, torch.arange(1.0, len(cores) + 1))


KINDS: dict[str, Callable[[], Core]] = {
    "last_value": lambda: fit_last_value(MOVES, horizon=1),
    "drift": lambda: fit_drift(MOVES, horizon=3),
    "ar_none": lambda: autoregressive([], [], []),
    "ar_one": lambda: autoregressive([0.4], [-0.3], []),
    "ar": lambda: autoregressive([0.4, -0.3], [0.3, 0.2, -0.3], [0.5]),
    "garch": lambda: fit_garch(MOVES, horizon=2),
    "egarch": lambda: fit_egarch(MOVES, horizon=3),
    "egarch_next": lambda: fit_egarch(MOVES, horizon=1),
    "har": lambda: fit_har(MOVES, horizon=2, config=HarConfig(averages=(1, 3, 7))),
    "har_next": lambda: fit_har(MOVES, horizon=1, config=HarConfig(averages=(1,))),
    "diurnal": lambda: fit_diurnal(MOVES, [np.arange(600) % 168] * 3, horizon=2),
    "seasonal": lambda: Seasonal(recurrent("gru", horizon=3, past=1, future=2), HOURLY),
    "seasonal_next": lambda: Seasonal(recurrent("lstm"), HOURLY),
    "seasonal_calibrated": lambda: conformal(Seasonal(recurrent("gru"), HOURLY), 1),
    "diurnal_next": lambda: fit_diurnal(MOVES, [np.arange(600) % 168] * 3, horizon=1),
    "arx": lambda: linear(ArxConfig(lags=3, seasons=(5,)), past=2, future=2, horizon=2),
    "arx_alone": lambda: linear(ArxConfig(lags=1)),
    "arx_constant": lambda: linear(ArxConfig(lags=0, residuals="normal"), horizon=2),
    "lear": lambda: linear(LEAR, block=3, past=1, future=3, weekday=True),
    "lear_steps": lambda: linear(LEAR, future=2, horizon=2, weekday=True),
    "lear_weekday": lambda: linear(LEAR, future=1, horizon=2, weekday=True),
    "rnn": lambda: recurrent("rnn"),
    "lstm": lambda: recurrent("lstm"),
    "gru": lambda: recurrent("gru"),
    "stacked": lambda: recurrent("lstm", layers=2, dropout=0.3, horizon=3),
    "quantile_head": lambda: recurrent("gru", head="quantile", horizon=2),
    "covariates": lambda: recurrent("gru", past=2, future=3, horizon=2, elapsed=True),
    "block_of_hours": lambda: recurrent("lstm", block=4, future=2),
    "one_memory": lambda: recurrent("rnn", memories=(20,)),
    "embedding": lambda: recurrent("gru", embedding=2, series=3, layers=2),
    "transformer": lambda: recurrent("transformer", transformer=TransformerConfig(heads=2, window=6)),
    "transformer_stacked": lambda: recurrent(
        "transformer", layers=2, horizon=2, past=2, future=2, transformer=TransformerConfig(heads=4, window=3)
    ),
    "decoder": lambda: recurrent("seq2seq", decoder=DecoderConfig(window=5)),
    "decoder_steps": lambda: recurrent(
        "seq2seq", horizon=5, past=1, future=2, layers=2, decoder=DecoderConfig(attention="additive", window=7)
    ),
    "decoder_quantiles": lambda: recurrent(
        "seq2seq", head="quantile", horizon=3, decoder=DecoderConfig(cell="lstm", attention="none")
    ),
    "decoder_block": lambda: recurrent(
        "seq2seq", horizon=2, block=4, future=3, decoder=DecoderConfig(window=3, ahead="bidirectional")
    ),
    "dayahead": lambda: dayahead(members=3),
    "point": lambda: recurrent("point"),
    "point_block": lambda: recurrent("point", block=2, horizon=2),
    "categorical": lambda: recurrent("categorical"),
    "categorical_steps": lambda: recurrent("categorical", bins=21, token=3, horizon=3, past=2, future=2),
    "categorical_block": lambda: recurrent("categorical", block=4, embedding=2, series=3),
    "decoder_point": lambda: recurrent("seq2seq", head="point", horizon=2, decoder=DecoderConfig(window=3)),
    "ensemble": lambda: ensemble(recurrent("lstm"), recurrent("lstm", memories=(5, 50))),
    "mix": lambda: ensemble(fit_garch(MOVES, horizon=2), recurrent("gru", past=2, future=3, horizon=2, elapsed=True)),
    "mix_without_density": lambda: ensemble(
        recurrent("gru", head="quantile", horizon=3), autoregressive([0.4, -0.3], [0.3, 0.2, -0.3], [0.5])
    ),
    "calibrated_ensemble": lambda: conformal(ensemble(recurrent("gru"), recurrent("transformer")), 1),
    "calibrated_dayahead": lambda: conformal(dayahead(members=2, levels=(7,)), 1),
    "calibrated_once": lambda: conformal(recurrent("gru", horizon=2), 0),
    "calibrated_plain": lambda: conformal(recurrent("gru"), 1),
    "calibrated_first": lambda: conformal(recurrent("gru", horizon=3), 1),
    "calibrated_all": lambda: conformal(recurrent("lstm", horizon=3), 3),
    "calibrated_block": lambda: conformal(recurrent("gru", block=4, future=2), 1),
    "calibrated_quantiles": lambda: conformal(recurrent("gru", head="quantile"), 1),
}


@pytest.mark.parametrize(("kind", "lags"), [("ar_none", 0), ("ar_one", 1), ("ar", 3)])
def test_the_kinds_cover_autoregressions_without_and_with_a_ring(kind: str, lags: int) -> None:
    """The fits below carry no move, one move, and a ring of several."""
    assert KINDS[kind]().lags == lags  # type: ignore[attr-defined]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_contract(kind: str, check: Check) -> None:
    """Each check of the contract holds for each kind, on the log transform."""
    check(Forecaster(kind, LogReturn(), KINDS[kind]()).eval(), np.random.default_rng(11))


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_the_asinh_transform_keeps_the_contract(check: Check) -> None:
    """Each check of the contract holds on the transform for prices that may be negative."""
    transform = AsinhDifference(torch.tensor([50.0]), torch.tensor([20.0]))
    check(Forecaster("asinh", transform, recurrent("gru")).eval(), np.random.default_rng(12))


def test_the_checks_catch_a_forecaster_that_looks_ahead() -> None:
    """A core whose forecast depends on the last tick of the sequence fails the causality check."""
    core = recurrent("gru")
    honest = core.unroll

    def peeking(ticks, state):
        distribution, after = honest(ticks, state)
        distribution.quantile.add_(ticks.change[:, -1:])
        return distribution, after

    core.unroll = peeking  # type: ignore[method-assign]
    causality = next(c for c in CHECKS if c.__name__ == "check_future_never_changes_past")
    with pytest.raises(AssertionError, match="before the garbage"):
        causality(Forecaster("peeking", LogReturn(), core).eval(), np.random.default_rng(1))


@pytest.mark.parametrize("given", ["state", "series"])
def test_time_in_the_place_of_the_series_is_refused(given: str) -> None:
    """Prices [T, B, M] beside a state or rows of B series are refused with the axes that are expected."""
    forecaster = Forecaster("gru", LogReturn(), recurrent("gru")).eval()
    price = torch.full((50, 3, 1), 5.0)
    state = forecaster.init_state(3) if given == "state" else None
    series = torch.tensor([0, 0, 1]) if given == "series" else None
    with pytest.raises(DataError, match=r"expected prices \[B, T, 1\] .* got prices \(50, 3, 1\).* swap the axes"):
        forecaster(observe(price, series=series, mask=price > 0), state)
