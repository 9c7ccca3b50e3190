"""The sentence of a verdict follows from its tests."""

import pytest

from pipeline.verdicts import Comparison, Outcome, Verdict, worded


@pytest.mark.parametrize(
    ("outcome", "skill", "said"),
    [
        ("better", 0.05, "has skill on the price (+5.0 % [+3.0, +7.0], p < 0.001)"),
        ("worse", -0.05, "has no skill on the price (-5.0 % [-7.0, -3.0], p < 0.001, worse than last_value)"),
        ("indistinguishable", 0.05, "has no skill on the price (+5.0 % [+3.0, +7.0], p < 0.001)"),
        ("identical", 0.0, "has no skill on the price (the last value)"),
    ],
)
def test_no_skill_that_is_significant_says_that_it_is_worse(outcome: Outcome, skill: float, said: str) -> None:
    """A small p beside "no skill" is explained: the difference is real, and to the other side."""
    price = Comparison(
        model="garch",
        reference="last_value",
        series="pooled",
        loss="scaled_error",
        skill=skill,
        low=skill - 0.02,
        high=skill + 0.02,
        statistic=0.0,
        p_value=1e-5,
        p_adjusted=1e-5,
        n=100,
        verdict=outcome,
    )
    verdict = Verdict(model="garch", series="pooled", against=(), price=price, direction=None, text="")
    assert worded(verdict).text == f"garch {said}"
