"""Whether clipping the gradient matters on prices.

Comes in: prices. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from pipeline.study.arms import Arm, Sizes, compared
from pipeline.study.experiment import Conditions, Experiment, Finding

ARMS = [
    Arm(label="norm 1"),
    Arm(label="norm 5", settings={"training.clip": 5.0}),
    Arm(label="value 0.5", settings={"training.clip_by": "value", "training.clip": 0.5}),
    Arm(label="off", settings={"training.clip_by": "off"}),
]


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Fit with every kind of clipping."""
    return compared(ARMS, sizes, conditions, setting="clipping")


EXPERIMENT = Experiment(
    name="clipping_on_prices",
    question="Does clipping the gradient matter on prices?",
    about=(
        "The same kinds of clipping as above, now for an lstm on prices under AdamW (`training.clip_by`, "
        "`training.clip`). The loss of an outlier under a Student t grows with the logarithm only, which bounds its "
        "gradient already."
    ),
    sizes={"quick": Sizes(levels=2), "full": Sizes(epochs=25, seeds=2, levels=0)},
    run=run,
    on_prices=True,
)
