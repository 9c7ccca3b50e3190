"""What carrying the state is worth on prices, against windows from a zero state.

Comes in: prices. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from pipeline.study.arms import Arm, Sizes, compared
from pipeline.study.experiment import Conditions, Experiment, Finding

ARMS = [
    Arm(label="carried"),
    Arm(label="reset every 32 steps", settings={"training.state": "reset"}),
    Arm(label="reset, 32 steps of burn-in", settings={"training.state": "reset", "training.burn_in": 32}),
]


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Train with the state carried, reset, and reset with a burn-in; serve all with it carried."""
    return compared(ARMS, sizes, conditions, setting="state")


EXPERIMENT = Experiment(
    name="state",
    question="What is training with a carried state worth on prices?",
    about=(
        "Chunks begin at the state in which the one before ended, as serving does, or at zero, as a window does "
        "(`training.state`), with or without steps that bring the state up first (`training.burn_in`). All are served "
        "with the state carried, so this asks what the training is worth. What carrying it when served is worth is "
        "that a tick costs one step, whatever it does for the accuracy."
    ),
    sizes={"quick": Sizes(), "full": Sizes(epochs=25, seeds=3, levels=0)},
    run=run,
    on_prices=True,
)
