"""Regimes that nobody sees: how near a network comes to the best that can be said of them, with one eye and with two.

    r_t = σ_{s_t} ε_t        P(s_t = j | s_{t-1} = i) = p if i = j else 1 - p        ε_t standard normal

a two-state Markov switching volatility. What can be said of s_t from r_1 .. r_t is the filter of Hamilton (1989),
Econometrica 57(2), 357-384, from all returns the smoother of Kim (1994), Journal of Econometrics 60, 1-22: no label is
right more often than the likelier state of these, so their accuracy is that of Bayes.

Legend: N series, T time, two states.

Comes in: sizes. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.network import NetworkConfig
from models.transforms import LogReturn
from pipeline.classify import Question, fitted, probabilities
from pipeline.fitting import FitConfig
from pipeline.labels import Labels
from pipeline.steps import Data
from pipeline.study.experiment import Conditions, Experiment, Finding
from pipeline.training_config import TrainingConfig
from pipeline.windows import DAY, SplitConfig, panel, split

Floats = NDArray[np.float64]

ARMS = {
    "gru, last state": Question(target="volatility", cell="gru"),
    "gru, attention": Question(target="volatility", cell="gru", pooling="attention"),
    "gru, bidirectional": Question(target="volatility", cell="gru", bidirectional=True),
}
BOUND = {name: "smoother" if arm.bidirectional else "filter" for name, arm in ARMS.items()}
"""What bounds the accuracy of each."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the experiment is.

    Attributes
    ----------
    series, time : int
        N and T; the last fifth of the time is for the test.
    calm, wild : float
        Standard deviations of the log return in the two states.
    stay : float
        p, the probability of staying in a state.
    hidden, epochs : int
        Units, and most passes over the training span.
    """

    series: int = 8
    time: int = 2000
    calm: float = 0.01
    wild: float = 0.03
    stay: float = 0.98
    hidden: int = 16
    epochs: int = 30


def switching(sizes: Sizes, seed: int) -> tuple[NDArray[np.int64], Floats]:
    """Draw states and log returns, [N, T]; the first state is either."""
    rng = np.random.default_rng(seed)
    change = rng.random((sizes.series, sizes.time)) > sizes.stay
    change[:, 0] = rng.random(sizes.series) < 0.5
    state = np.cumsum(change, axis=1) % 2
    return state, np.array([sizes.calm, sizes.wild])[state] * rng.standard_normal(state.shape)


def bayes(move: Floats, sizes: Sizes) -> dict[str, Floats]:
    """Give the probability of the wild state, [N, T]: by the filter from the returns so far, by the smoother from all.

    With f_t the density of r_t in each state and P the transitions, a_t ∝ f_t (a_{t-1} P), b_t = P (f_{t+1} b_{t+1}),
    and the smoother is a_t b_t over its sum.
    """
    scale = np.array([sizes.calm, sizes.wild])
    density = np.exp(-0.5 * (move[..., None] / scale) ** 2) / scale
    transition = np.full((2, 2), 1 - sizes.stay) + np.eye(2) * (2 * sizes.stay - 1)
    ahead, behind = np.empty_like(density), np.ones_like(density)
    now = np.full((len(move), 2), 0.5)
    for t in range(move.shape[1]):
        now = density[:, t] * (now @ transition)
        now = ahead[:, t] = now / now.sum(axis=1, keepdims=True)
    for t in range(move.shape[1] - 2, -1, -1):
        back = (density[:, t + 1] * behind[:, t + 1]) @ transition.T
        behind[:, t] = back / back.sum(axis=1, keepdims=True)
    both = ahead * behind
    return {"filter": ahead[..., 1], "smoother": (both / both.sum(axis=2, keepdims=True))[..., 1]}


def market(sizes: Sizes, seed: int) -> tuple[Data, Labels, dict[str, Floats]]:
    """Build prices from the returns, label each with its own state, and give what Bayes says at each price."""
    state, move = switching(sizes, seed)
    price = 100 * np.exp(np.cumsum(np.pad(move, ((0, 0), (1, 0))), axis=1))
    names = np.repeat([f"series {k}" for k in range(sizes.series)], sizes.time + 1)
    prices = panel(names, np.tile(DAY * np.arange(sizes.time + 1), sizes.series), price.ravel())
    labels = Labels(classes=("calm", "wild"), index=np.pad(state, ((0, 0), (1, 0)), constant_values=-1))
    known = {name: np.pad(p, ((0, 0), (1, 0)), constant_values=0.5) for name, p in bayes(move, sizes).items()}
    data = Data(panel=prices, split=split(prices, SplitConfig()), transform=LogReturn(), sha256="simulated")
    return data, labels, known


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Teach every arm the states of the train split, and hold it against Bayes on the test split."""
    data, labels, known = market(sizes, conditions.seed)
    test = data.split.origins(data.panel, "test", labels.steps)
    happened = labels.index[test]
    config = FitConfig(
        network=NetworkConfig(hidden=sizes.hidden),
        training=TrainingConfig(
            lanes=sizes.series, epochs=sizes.epochs, patience=sizes.epochs, seed=conditions.seed, device="cpu"
        ),
    )
    best = {name: float(((p[test] > 0.5) == happened).mean()) for name, p in known.items()}
    rows, accuracy = [], {}
    for name, question in ARMS.items():
        conditions.progress(f"regimes: {name}")
        classifier = fitted(data, labels, question, config)
        called = probabilities(classifier, data.panel)[test].argmax(axis=1)
        accuracy[name] = float((called == happened).mean())
        bound = best[BOUND[name]]
        rows.append(
            {
                "network": name,
                "accuracy": accuracy[name],
                "of Bayes": bound,
                "points below": 100 * (bound - accuracy[name]),
            }
        )
    numbers = {f"accuracy.{name}": x for name, x in accuracy.items()} | {f"bayes.{k}": x for k, x in best.items()}
    return Finding(rows=rows, answer=_answer(accuracy, best), numbers=numbers)


def _answer(accuracy: dict[str, float], best: dict[str, float]) -> str:
    """Say how near each comes, and what attention and the future are worth."""
    near = "; ".join(f"{name} {x:.1%} of {best[BOUND[name]]:.1%}" for name, x in accuracy.items())
    last, pooled, both = accuracy.values()
    return (
        f"Accuracy, and that of Bayes: {near}. Attention over the last outputs changes {100 * (pooled - last):+.1f} "
        f"points, knowing the future {100 * (both - last):+.1f}."
    )


EXPERIMENT = Experiment(
    name="regimes",
    question="How near does a tagger come to the Bayes rate of regimes, and what are attention and the future worth?",
    about=(
        "Prices switch between a calm and a wild state that is not seen (Hamilton 1989). A network is told the state "
        "at each price of the train split, and tags those of the test split as they come, from its last state or with "
        "attention over its last outputs; a bidirectional one tags them from past and future, for archives only. The "
        "filter and the smoother with the true parameters are the best that either can do."
    ),
    sizes={"quick": Sizes(), "full": Sizes(series=16, time=4000, hidden=24, epochs=30)},
    run=run,
)
