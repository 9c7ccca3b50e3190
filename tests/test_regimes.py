"""The filter and the smoother are those of statsmodels, and networks come within two points of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

from pipeline.study.experiment import Conditions, Finding
from pipeline.study.regimes import EXPERIMENT, Sizes, bayes, switching

SMALL = Sizes(series=8, time=1500, hidden=12, epochs=25)


def test_the_filter_and_the_smoother_are_those_of_statsmodels() -> None:
    """With the true parameters both probabilities are the ones of its Markov switching regression."""
    sizes = Sizes(series=1, time=400, calm=0.5, wild=1.5, stay=0.95)
    _, move = switching(sizes, 3)
    model = MarkovRegression(move[0], k_regimes=2, trend="n", switching_variance=True)
    oracle = model.smooth([sizes.stay, 1 - sizes.stay, sizes.calm**2, sizes.wild**2])
    ours = bayes(move, sizes)
    np.testing.assert_allclose(ours["filter"][0], oracle.filtered_marginal_probabilities[:, 1], atol=1e-10)
    np.testing.assert_allclose(ours["smoother"][0], oracle.smoothed_marginal_probabilities[:, 1], atol=1e-10)


def test_states_stay_as_long_as_they_should() -> None:
    """The share of changes is 1 - p within three standard errors, and so is the size of the moves in each state."""
    sizes = Sizes(series=20, time=2000)
    state, move = switching(sizes, 1)
    changed, n = float((np.diff(state, axis=1) != 0).mean()), 20 * 1999
    assert abs(changed - 0.02) < 3 * np.sqrt(0.02 * 0.98 / n)
    for k, size in enumerate((sizes.calm, sizes.wild)):
        drawn = move[state == k]
        assert abs(drawn.std() / size - 1) < 3 / np.sqrt(2 * len(drawn))


@pytest.fixture(scope="module")
def finding() -> Finding:
    """Run the experiment once, small."""
    return EXPERIMENT.run(SMALL, Conditions(seed=1))


def test_networks_come_within_two_points_of_bayes(finding: Finding) -> None:
    """Held-out accuracy is above 80 %, and at most two points below that of the filter, or of the smoother."""
    for row in finding.rows:
        assert float(row["accuracy"]) > 0.8, row
        assert -0.5 < float(row["points below"]) < 2.0, row


def test_the_future_tells_more_than_the_past_alone(finding: Finding) -> None:
    """The bidirectional tagger is above both that read the past only, as the smoother is above the filter."""
    accuracy = {row["network"]: float(row["accuracy"]) for row in finding.rows}
    assert accuracy["gru, bidirectional"] > max(accuracy["gru, last state"], accuracy["gru, attention"]) + 0.01
    assert finding.numbers["bayes.smoother"] > finding.numbers["bayes.filter"]
    assert f"{accuracy['gru, bidirectional']:.1%}" in finding.answer


def test_a_lower_persistence_lowers_what_bayes_can_say() -> None:
    """Regimes that last longer are told better, by filter and smoother."""
    rates = []
    for stay in (0.9, 0.98):
        sizes = replace(SMALL, stay=stay)
        state, move = switching(sizes, 2)
        rates.append([float(((p > 0.5) == state).mean()) for p in bayes(move, sizes).values()])
    assert (np.array(rates[0]) < np.array(rates[1])).all()
