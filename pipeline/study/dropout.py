"""Whether dropout between layers helps on prices.

Comes in: prices. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from pipeline.study.arms import Arm, Sizes, compared
from pipeline.study.experiment import Conditions, Experiment, Finding

SHARES = (0.0, 0.1, 0.25, 0.5)

ARMS = [Arm(label=f"{share:g}", settings={"network.layers": 2, "network.dropout": share}) for share in SHARES]


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Fit two layers with every share of dropout between them."""
    return compared(ARMS, sizes, conditions, setting="dropout")


EXPERIMENT = Experiment(
    name="dropout",
    question="Does dropout between the layers help?",
    about=(
        "Units are dropped between the two layers of an lstm and never along time, which would break the carried state "
        "(Zaremba, Sutskever & Vinyals 2014, arXiv:1409.2329; `network.dropout`)."
    ),
    sizes={"quick": Sizes(levels=2), "full": Sizes(epochs=25, seeds=2, levels=0)},
    run=run,
    on_prices=True,
)
