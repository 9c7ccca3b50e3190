"""How many lanes may be trained side by side on prices.

Comes in: prices. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from pipeline.study.arms import Arm, Sizes, compared
from pipeline.study.experiment import Conditions, Experiment, Finding

LANES = (48, 6, 12, 24, 96, 192)
"""The default first: the others are tested against it."""

ARMS = [Arm(label=str(n), settings={"training.lanes": n}) for n in LANES]


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Fit with every number of lanes."""
    return compared(ARMS, sizes, conditions, setting="lanes")


EXPERIMENT = Experiment(
    name="batch_size",
    question="How many lanes may be trained side by side?",
    about=(
        "A batch of a stateful network is a number of contiguous lanes (`training.lanes`). Fewer lanes mean more "
        "updates an epoch with noisier gradients, and slower epochs; more lanes mean shorter ones, each of which "
        "begins at a state that is an epoch old. Epochs are equal."
    ),
    sizes={"quick": Sizes(), "full": Sizes(epochs=25, seeds=2, levels=0)},
    run=run,
    on_prices=True,
)
