"""LSTM against GRU on prices: at equal width, at equal parameters, and over the amount of data.

Comes in: prices. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.study.arms import Arm, Sizes, compared
from pipeline.study.experiment import Conditions, Experiment, Finding

WIDTH = 24
SHARES = (1.0, 0.5, 0.25)


def equal_width(hidden: int, inputs: int) -> int:
    """Give the width at which a gru has about the weights of an lstm.

    A gru has 3, an lstm 4 blocks of h (h + inputs + 2) weights: 3 g (g + i + 2) = 4 h (h + i + 2), solved for g.

    >>> equal_width(24, 6)
    28
    """
    half = (inputs + 2) / 2
    return round((half**2 + 4 / 3 * hidden * (hidden + inputs + 2)) ** 0.5 - half)


def arms() -> list[Arm]:
    """List the three networks on each amount of data, the most first."""
    wide = equal_width(WIDTH, 6)
    networks = [
        Arm(label=f"lstm {WIDTH}", model="lstm", settings={"network.hidden": WIDTH}),
        Arm(label=f"gru {WIDTH}, equal width", model="gru", settings={"network.hidden": WIDTH}),
        Arm(label=f"gru {wide}, equal weights", model="gru", settings={"network.hidden": wide}),
        Arm(label=f"rnn {WIDTH}", model="rnn", settings={"network.hidden": WIDTH}),
    ]
    return [
        replace(arm, label=f"{arm.label}, {share:.0%} of the data", share=share) for share in SHARES for arm in networks
    ]


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Fit every network on every amount of data; in a smaller size the first of them, which are on all of it."""
    networks = arms()[: sizes.levels or None]
    return compared(networks, sizes, conditions, setting="network")


EXPERIMENT = Experiment(
    name="cells",
    question="LSTM or GRU: at equal width, at equal weights, and with less data?",
    about=(
        "An lstm has four blocks of weights where a gru has three, so that at equal width it is the larger one; both "
        "comparisons are made (Chung, Gulcehre, Cho & Bengio 2014, arXiv:1412.3555). Less data means the latest part "
        "of the training span; what is older becomes a hole. The test origins are the same for all."
    ),
    sizes={"quick": Sizes(levels=4), "full": Sizes(epochs=25, seeds=2, levels=0)},
    run=run,
    on_prices=True,
)
