"""Scores of class probabilities equal their definitions, and calibration sees what is not calibrated."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from pipeline.classification import class_scores, reliability

RNG = np.random.default_rng(8)


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_those_of_scikit_learn(classes: int) -> None:
    """Log loss, accuracy and AUC are the library's; the Brier score is a mean over classes against the rest."""
    probability = RNG.dirichlet(np.ones(classes), 500)
    happened = np.array([RNG.choice(classes, p=p) for p in probability])
    found = class_scores(probability, happened)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(happened, probability))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(happened, probability.argmax(1)))
    given = probability[:, 1] if classes == 2 else probability
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(happened, given, multi_class="ovr"))
    each = [np.mean((probability[:, c] - (happened == c)) ** 2) for c in range(classes)]
    assert found["brier"] == pytest.approx(np.mean(each))


def test_true_probabilities_are_calibrated_and_bold_ones_are_not() -> None:
    """Outcomes drawn from the probabilities have an ECE of noise; doubling the log odds is seen."""
    up = RNG.random(20_000)
    happened = (RNG.random(20_000) < up).astype(np.int64)
    honest = class_scores(np.stack([1 - up, up], 1), happened)
    bold = up**3 / (up**3 + (1 - up) ** 3)
    assert honest["ece"] < 0.02
    assert class_scores(np.stack([1 - bold, bold], 1), happened)["ece"] > 0.1


def test_the_reliability_table_holds_every_row_once() -> None:
    """Counts add up, confidence lies in its bin, and certain rows are in the last one."""
    probability = np.array([[1.0, 0.0], [0.45, 0.55], [0.5, 0.5], [0.05, 0.95]])
    table = reliability(probability, np.array([0, 1, 0, 0]))
    assert sum(row.count for row in table) == 4
    assert all(row.low < row.confidence <= row.high for row in table)
    assert (table[-1].high, table[-1].count, table[-1].accuracy) == (1.0, 2, 0.5)


def test_no_rows_have_no_scores() -> None:
    """Every score of nothing is NaN."""
    assert all(np.isnan(x) for x in class_scores(np.empty((0, 2)), np.empty(0, np.int64)).values())
