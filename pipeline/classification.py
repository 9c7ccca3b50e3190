"""How good class probabilities are: log loss, Brier score, AUC, accuracy, and whether they mean what they say.

With more than two classes Brier score and AUC are means over the classes, each against the rest; with two they are
those of either class.

Legend: n rows, C classes.

Comes in: probabilities [n, C] and what happened [n]. Goes out: scores. Knows numpy; imported by classify.

References
----------
Guo, Pleiss, Sun & Weinberger (2017), On calibration of modern neural networks, ICML: reliability and ECE. The scores
themselves are those of `pipeline/direction.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.direction import CERTAIN, auc, brier

Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """A row of the reliability table: where the largest probability lay in (low, high], and how often it was right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def log_losses(probability: Matrix, happened: Indices) -> Matrix:
    """Give -log of the probability given to what happened, [n], in nats; kept `CERTAIN` away from infinity."""
    return -np.log(np.clip(probability[np.arange(len(happened)), happened], CERTAIN, 1.0))


def class_scores(probability: Matrix, happened: Indices) -> dict[str, float]:
    """Score probabilities, under names that serve as metric keys; NaN over no rows."""
    if not len(happened):
        return dict.fromkeys(("log_loss", "brier", "auc", "accuracy", "ece"), float("nan"))
    each = [(probability[:, c], happened == c) for c in range(probability.shape[1])]
    return {
        "log_loss": float(log_losses(probability, happened).mean()),
        "brier": float(np.mean([brier(p, was) for p, was in each])),
        "auc": float(np.mean([auc(p, was) for p, was in each])),
        "accuracy": float((probability.argmax(axis=1) == happened).mean()),
        "ece": calibration_error(reliability(probability, happened)),
    }


def reliability(probability: Matrix, happened: Indices) -> list[Reliability]:
    """Table the largest probability against how often its class happened, in ten equal bins; empty ones left out."""
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == happened
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        Reliability(
            low=b / BINS,
            high=(b + 1) / BINS,
            count=int((place == b).sum()),
            confidence=float(confidence[place == b].mean()),
            accuracy=float(right[place == b].mean()),
        )
        for b in np.unique(place).tolist()
    ]


def calibration_error(table: list[Reliability]) -> float:
    """Give the mean distance of confidence and accuracy over the rows of a table (ECE), 0 to 1."""
    total = sum(row.count for row in table)
    return sum(row.count * abs(row.confidence - row.accuracy) for row in table) / total
