"""Recurrent networks against a transformer of as many weights, over the amount of data.

Comes in: prices. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.study.arms import Arm, Sizes, compared
from pipeline.study.experiment import Conditions, Experiment, Finding

SHARES = (1.0, 0.3, 0.1)
NETWORKS = (
    Arm(label="lstm 24", model="lstm", settings={"network.hidden": 24}),
    Arm(label="gru 28", model="gru", settings={"network.hidden": 28}),
    Arm(
        label="transformer 12x2",
        model="transformer",
        settings={"network.hidden": 12, "network.layers": 2, "training.learning_rate": 2e-3},
    ),
)
"""About 3,000 weights each."""


def arms() -> list[Arm]:
    """List the networks on each amount of data, the most first."""
    return [
        replace(arm, label=f"{arm.label}, {share:.0%} of the data", share=share) for share in SHARES for arm in NETWORKS
    ]


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Fit every network on every amount of data."""
    return compared(arms(), sizes, conditions, setting="network")


EXPERIMENT = Experiment(
    name="transformer",
    question="Is a transformer of as many weights better than a recurrent network, and how much data does it need?",
    about=(
        "A recurrent network has its memory in one vector, a transformer keeps the last 32 moves of each layer and "
        "looks at all of them (Vaswani et al. 2017; the window carried from chunk to chunk as in Dai et al. 2019). It "
        "assumes less about time, which should cost it where data are few. All have about 3,000 weights; the rate of "
        "the transformer, 0.002, was found on the validation split, that of the others is the default. Less data "
        "means the latest part of the training span; what is older becomes a hole. The test origins are the same for "
        "all."
    ),
    sizes={"quick": Sizes(levels=0), "full": Sizes(epochs=25, seeds=2, levels=0)},
    run=run,
    on_prices=True,
)
