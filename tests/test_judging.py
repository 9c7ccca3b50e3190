"""The decision who serves, on what the fit of the incumbent has not seen; the rest of judging is in test_steps."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import HOUR, START, forecast_returns

from pipeline.backtest import BacktestConfig
from pipeline.judging import INCUMBENT, decide, refit_rule
from pipeline.refit import RefitConfig


@pytest.fixture
def models():
    """Give a challenger and an incumbent that is perfect in the first 300 of 400 hours, and bad after that."""
    returns = 0.01 * np.random.default_rng(20260104).normal(size=(2, 400))
    seen = np.arange(400) < 300
    served = forecast_returns(INCUMBENT, returns, loc=np.where(seen, returns, 0.0), scale=np.where(seen, 1e-4, 0.05))
    return [forecast_returns("ar", returns, scale=0.01)], [served]


def test_an_incumbent_is_not_judged_on_what_its_fit_has_seen(models):
    """What a fit knows by heart wins nothing: only later targets count, and the reason says how many."""
    assert decide(*models, seen=START).model == INCUMBENT
    decision = decide(*models, seen=START + 301 * HOUR)
    assert (decision.model, decision.numbers["origins"]) == ("ar", 100)
    assert decision.reason.endswith(
        "only 100 of 400 origins lie after all that the fit of incumbent has seen, and only these count"
    )


def test_an_incumbent_that_has_seen_nearly_all_keeps_its_place(models):
    """Where too few origins are left for a test there is no promotion, and no error."""
    for hours, left in ((380, 21), (1000, 0)):
        decision = decide(*models, seen=START + hours * HOUR)
        assert decision.model == INCUMBENT
        assert f"{left} of 400 origins lie after" in decision.reason


def test_without_an_incumbent_the_last_value_is_the_one_to_beat(models):
    """A first comparison is decided on all origins."""
    last_value = replace(models[1][0], model="last_value")
    assert decide([*models[0], last_value], [], seen=START + 301 * HOUR).model == "last_value"


def test_the_rule_of_refits_is_told_in_words():
    """The page says when models were fitted again, with its number, and where networks began."""
    assert refit_rule(BacktestConfig()) == "never"
    every = BacktestConfig(refit=RefitConfig(when="every", every=1500), start="warm")
    assert refit_rule(every) == "every 1,500 origin times, networks from the weights before"
    assert refit_rule(BacktestConfig(refit=RefitConfig(when="drift"))) == "on drift, networks from scratch"
